"""A stand-in for Google Cloud Storage: its XML interface over HTTP, as far as a registry uses it."""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

import pytest


class _Bucket(ThreadingHTTPServer):
    """Objects by `/bucket/path`. conditions: the `If-Match` kind of headers that requests carried."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.num_conditional = 0


class _Handler(BaseHTTPRequestHandler):
    server: _Bucket
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: else each answer waits for an acknowledgement

    def do_PUT(self) -> None:  # the base class calls it so
        data = self.rfile.read(int(self.headers.get("content-length") or 0))
        with self.server.lock:
            # https://docs.cloud.google.com/storage/docs/request-preconditions: 0 means that there is no such object.
            if self.headers.get("x-goog-if-generation-match") == "0":
                self.server.num_conditional += 1
                if self._key in self.server.objects:
                    return self._send(412)
            self.server.objects[self._key] = data
        return self._send(200)

    def do_GET(self) -> None:
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        if "list-type" in query:
            return self._send(200, self._listing(query.get("prefix", ""), query.get("delimiter", "")))
        data = self.server.objects.get(self._key)
        return self._send(404) if data is None else self._send(200, data)

    do_HEAD = do_GET  # noqa: N815

    def do_DELETE(self) -> None:
        with self.server.lock:
            return self._send(404 if self.server.objects.pop(self._key, None) is None else 204)

    @property
    def _key(self) -> str:
        return urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)

    def _listing(self, prefix: str, delimiter: str) -> bytes:
        start = f"{self._key.rstrip('/')}/"
        names = [key.removeprefix(start) for key in self.server.objects if key.startswith(start + prefix)]
        inside = {name: name[len(prefix) :].partition(delimiter)[0] for name in names}
        folders = sorted({f"{prefix}{first}/" for name, first in inside.items() if name != prefix + first})
        files = sorted(name for name, first in inside.items() if name == prefix + first)
        contents = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>2026-01-01T00:00:00Z</LastModified>"
            f"<Size>{len(self.server.objects[start + name])}</Size><ETag>e</ETag></Contents>"
            for name in files
        )
        common = "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders)
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}{common}</ListBucketResult>".encode()

    def _send(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("etag", "e")
        self.send_header("x-goog-generation", "1")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class calls it so
        pass


@contextmanager
def running() -> Iterator[_Bucket]:
    """The server; the environment leads `gs://` to it."""
    bucket = _Bucket()
    thread = threading.Thread(target=bucket.serve_forever, daemon=True)
    thread.start()
    account = {
        "gcs_base_url": f"http://127.0.0.1:{bucket.server_port}", "disable_oauth": True, "client_email": "",
        "private_key": "", "private_key_id": "",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(account))
        patch.setenv("GOOGLE_ALLOW_HTTP", "true")
        yield bucket
    bucket.shutdown()
    thread.join()
    bucket.server_close()
