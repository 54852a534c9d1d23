#!/usr/bin/python3
"""Check licences, banned crates and sources of every dependency against deny.toml.

Works offline: `cargo metadata` on the locked graph is the only input.
"""

import json
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]


def metadata():
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"]
    out = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    return json.loads(out)


def tokens(expression):
    """Split an SPDX expression; the old "A/B" form means OR, WITH binds to its licence."""
    expression = expression.replace("/", " OR ")
    words = re.findall(r"\(|\)|[^\s()]+", expression)
    joined = []
    for word in words:
        if joined and (word == "WITH" or joined[-1].endswith(" WITH")):
            joined[-1] += " " + word
        else:
            joined.append(word)
    return joined


def allowed(expression, allow):
    """Evaluate an SPDX expression: OR needs one side allowed, AND needs both."""
    words = tokens(expression)

    def either():
        result = both()
        while words and words[0] == "OR":
            words.pop(0)
            result = both() or result
        return result

    def both():
        result = one()
        while words and words[0] == "AND":
            words.pop(0)
            result = one() and result
        return result

    def one():
        word = words.pop(0)
        if word == "(":
            result = either()
            words.pop(0)
            return result
        return word in allow

    return either()


def problems(config, packages):
    allow = set(config["licenses"]["allow"])
    banned = {entry["crate"] for entry in config["bans"]["deny"]}
    registries = {"registry+" + url for url in config["sources"]["allow-registry"]}
    for package in packages:
        name = f"{package['name']} {package['version']}"
        licence = package["license"]
        if not licence or not allowed(licence, allow):
            yield f"{name}: licence {licence!r} is not in the allow list"
        if package["name"] in banned:
            yield f"{name}: this crate is banned"
        if package["source"] is not None and package["source"] not in registries:
            yield f"{name}: source {package['source']} is not allowed"


def main():
    config = tomllib.loads((ROOT / "deny.toml").read_text())
    packages = metadata()["packages"]
    found = list(problems(config, packages))
    for line in found:
        print(f"deny: {line}")
    print(f"deny: {len(packages)} packages, {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
