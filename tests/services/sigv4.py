#!/usr/bin/env python3
"""sigv4.py HOST PORT BUCKET: make a bucket on a local S3 server and wait until it takes objects.

Keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Standard library only.
"""
import datetime
import hashlib
import hmac
import http.client
import os
import sys
import time
import urllib.parse

REGION = "us-east-1"


def digest(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def signed_headers(method, host, path, body, key_id, secret):
    now = datetime.datetime.now(datetime.timezone.utc)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    body_hash = hashlib.sha256(body).hexdigest()
    headers = {"host": host, "x-amz-content-sha256": body_hash, "x-amz-date": stamp}
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = "\n".join([method, urllib.parse.quote(path), "", lines, names, body_hash])
    scope = f"{day}/{REGION}/s3/aws4_request"
    request_hash = hashlib.sha256(request.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, request_hash])
    key = ("AWS4" + secret).encode()
    for part in (day, REGION, "s3", "aws4_request"):
        key = digest(key, part)
    signature = digest(key, text).hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={key_id}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return headers


def put(host, port, path, body=b""):
    key_id, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    connection = http.client.HTTPConnection(host, port, timeout=10)
    headers = signed_headers("PUT", f"{host}:{port}", path, body, key_id, secret)
    try:
        connection.request("PUT", path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def main():
    host, port, bucket = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            put(host, port, f"/{bucket}")
            if put(host, port, f"/{bucket}/.ready", b"ok") == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit(f"no bucket on {host}:{port} after 60 s")


main()
