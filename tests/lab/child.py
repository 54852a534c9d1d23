"""Run a host program in a process of its own."""

import json
import os
import pathlib
import signal
import subprocess
import textwrap

from . import paths

PREAMBLE = "import os, sys, json, sqlite3, time, threading\nfrom lab.host import *\n"


class Part(str):
    """A piece of a host program; pieces that are added may be indented differently."""

    def __add__(self, other):
        return Part(textwrap.dedent(self) + textwrap.dedent(other))


def _environment(variables):
    return paths.environment(
        PYTHONPATH=paths.ROOT / "tests", LAB_EXTENSION=paths.EXTENSION,
        PYTHONDONTWRITEBYTECODE="1", **variables,
    )


def _program(script, values):
    assignments = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    return PREAMBLE + assignments + textwrap.dedent(script)


def plain(value):
    return str(value) if isinstance(value, pathlib.Path) else value


def start(script, env=None, python=paths.PYTHON, **values):
    """Start a host program; `values` become its global variables."""
    values = {name: plain(value) for name, value in values.items()}
    return subprocess.Popen(
        [python, "-c", _program(script, values)], env=_environment(env or {}), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )


class HostFailed(Exception):
    """The host program did not end with exit code 0, or it printed to stderr."""


def finish(process, timeout=120):
    """Wait for a host program; returns the values that it said, merged."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise HostFailed(f"still running after {timeout} s\n{out}{err}") from None
    if process.returncode != 0 or err:
        raise HostFailed(f"exit {process.returncode}\n{out}{err}")
    said = {}
    for line in out.splitlines():
        said.update(json.loads(line))
    return said


def host(script, env=None, timeout=120, python=paths.PYTHON, **values):
    """Run a host program to its end; returns what it said."""
    return finish(start(script, env, python, **values), timeout)


def hear(process):
    """The next line that a running host program says."""
    line = process.stdout.readline()
    if not line:
        raise HostFailed(f"ended early: {process.stderr.read()}")
    return json.loads(line)


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
