"""A local S3 server (ministack) that can be stopped, hung and started again."""

import datetime
import hashlib
import hmac
import http.client
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time
import urllib.parse

from . import paths


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _hmac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _signed_headers(method, host, path, query, body):
    """Headers of one AWS signature version 4 request with an unencrypted body."""
    now = datetime.datetime.now(datetime.timezone.utc)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    digest = hashlib.sha256(body).hexdigest()
    headers = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": stamp}
    names = ";".join(headers)
    lines = "".join(f"{k}:{v}\n" for k, v in headers.items())
    request = "\n".join([method, path, query, lines, names, digest])
    scope = f"{day}/{paths.REGION}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = ("AWS4" + paths.SECRET_KEY).encode()
    for part in (day, paths.REGION, "s3", "aws4_request"):
        key = _hmac(key, part)
    signature = _hmac(key, text).hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={paths.ACCESS_KEY}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return headers


class S3Server:
    """ministack on a free port of the loopback.

    Objects survive stop() and start(), unless they are kept in memory only.
    """

    def __init__(self, persist=True):
        self.persist = "1" if persist else "0"
        self.port = free_port()
        self.data = tempfile.TemporaryDirectory(prefix="litestream-s3-")
        self.process = None

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        self.start()
        status, _ = self.request("PUT", f"/{paths.BUCKET}")
        if status not in (200, 409):
            raise RuntimeError(f"create bucket: HTTP {status}")
        return self

    def __exit__(self, *_):
        self.stop()
        self.data.cleanup()

    def start(self):
        env = paths.environment(
            GATEWAY_PORT=self.port, BIND_HOST="127.0.0.1", MINISTACK_HOST="localhost",
            S3_PERSIST=self.persist, S3_DATA_DIR=self.data.name, AUTH="true",
        )
        log = open(pathlib.Path(self.data.name).with_suffix(".log"), "ab")
        self.process = subprocess.Popen(
            [paths.MINISTACK], env=env, stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )
        log.close()
        self._wait_until_up()

    def _wait_until_up(self):
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"ministack ended with {self.process.returncode}")
            try:
                if self.request("GET", "/")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise RuntimeError("ministack did not answer within 30 s")

    def stop(self):
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def hang(self):
        """Answers nothing until resume()."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self):
        os.killpg(self.process.pid, signal.SIGCONT)

    def request(self, method, path, query="", body=b""):
        """One signed request; returns (status, body)."""
        host = f"127.0.0.1:{self.port}"
        headers = _signed_headers(method, host, urllib.parse.quote(path), query, body)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            target = urllib.parse.quote(path) + (f"?{query}" if query else "")
            connection.request(method, target, body=body, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def parameters(self):
        """Options of a replica URL on this server, for our URI and for peers' URLs."""
        return {"endpoint": self.endpoint, "region": paths.REGION, "forcePathStyle": "true"}

    def url(self, path):
        """URL with all options in its query, as both command lines take it."""
        return f"s3://{paths.BUCKET}/{path}?" + urllib.parse.urlencode(self.parameters())
