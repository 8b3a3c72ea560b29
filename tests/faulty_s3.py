"""A bucket as S3 speaks of it, in this process, that can be made to hang, to refuse, to break off, and to do what it is
asked without saying so.

It knows what this project asks of a bucket: HEAD, GET with a range, PUT (also under `If-None-Match: *`), DELETE,
listing, uploads in parts, and copies. What it answers was compared with a real server's (SeaweedFS 4.48).
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

HANG, REFUSE, RESET, SLOW, ABSENT = "hang", "refuse", "reset", "slow", "absent"
# It is done; what is answered is a 503, or nothing.
DENY, DROP = "deny", "drop"
# How long a request hangs at most, so that a test that fails ends.
LONGEST_HANG = 30.0


@dataclass
class Fault:
    """What happens to requests: those of one operation ("head", "get", "put", "delete", "list", "copy", "begin",
    "part", "finish"), to keys that have `key` in them, from the `first` such request on (counted from 1), `times`
    times."""

    what: str
    operation: str | None = None
    key: str = ""
    first: int = 1
    times: int | None = None
    seen: int = 0

    def strikes(self, operation: str, key: str) -> bool:
        if (self.operation not in (None, operation)) or self.key not in key:
            return False
        self.seen += 1
        return self.seen >= self.first and (self.times is None or self.seen < self.first + self.times)


@dataclass
class Bucket:
    """What is in it, what was asked of it, and what is to go wrong."""

    name: str
    url: str = ""
    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which it is found under `s3://<name>`."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }

    @contextlib.contextmanager
    def failing(self, what: str, operation: str | None = None, **which: Any) -> Iterator[Fault]:
        """Meanwhile there is this fault; at the end, what hangs is let go."""
        fault = Fault(what, operation, **which)
        self.faults.append(fault)
        try:
            yield fault
        finally:
            self.faults.remove(fault)
            self.over.set()
            self.over = threading.Event()


@contextlib.contextmanager
def serving(name: str = "bucket") -> Iterator[Bucket]:
    """An empty bucket on loopback."""
    bucket = Bucket(name)
    handler = type("Bound", (Handler,), {"bucket": bucket})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    bucket.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield bucket
    finally:
        bucket.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests look at `asked`."""

    def do_HEAD(self) -> None:
        self._serve("head")

    def do_GET(self) -> None:
        self._serve("get")

    def do_PUT(self) -> None:
        self._serve("put")

    def do_POST(self) -> None:
        self._serve("post")

    def do_DELETE(self) -> None:
        self._serve("delete")

    def _serve(self, method: str) -> None:
        address = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(address.query, keep_blank_values=True).items()}
        _, name, *rest = unquote(address.path).split("/", 2)
        self.key = rest[0] if rest else ""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        operation = self._operation(method)
        with self.bucket.lock:
            about = self.key or self.query.get("prefix", "")
            self.bucket.asked.append((operation, about))
            struck = [fault.what for fault in self.bucket.faults if fault.strikes(operation, about)]
        self.slow = SLOW in struck
        if HANG in struck:
            self.bucket.over.wait(LONGEST_HANG)
            self.close_connection = True
            return
        if {DENY, DROP} & {*struck} and name == self.bucket.name:
            with self.bucket.lock:
                getattr(self, f"_{operation}")(body)
        if RESET in struck or DROP in struck:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        if REFUSE in struck or DENY in struck:
            return self._error(503, "SlowDown")
        if ABSENT in struck or name != self.bucket.name:
            return self._error(404, "NoSuchBucket")
        with self.bucket.lock:
            status, headers, answer = getattr(self, f"_{operation}")(body)
        self._send(status, headers, answer)

    def _operation(self, method: str) -> str:
        if method == "get" and "list-type" in self.query:
            return "list"
        if method == "put" and "partNumber" in self.query:
            return "part"
        if method == "put" and "x-amz-copy-source" in self.headers:
            return "copy"
        if method == "post":
            return "delete" if "delete" in self.query else "begin" if "uploads" in self.query else "finish"
        return method

    def _head(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self.key not in self.bucket.objects:
            return _fault(404, "NoSuchKey")
        data, written = self.bucket.objects[self.key]
        return 200, _facts(data, written), data

    def _get(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        status, headers, data = self._head(body)
        kind, _, span = self.headers.get("Range", "").partition("=")
        if status != 200 or kind != "bytes":
            return status, headers, data
        first, last = span.split("-")
        start, stop = int(first), min(int(last) + 1 if last else len(data), len(data))
        if start >= len(data):
            return _fault(416, "InvalidRange")
        return 206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}, data[start:stop]

    def _put(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self.headers.get("If-None-Match") == "*" and self.key in self.bucket.objects:
            return _fault(412, "PreconditionFailed")
        self.bucket.objects[self.key] = body, time.time()
        return 200, {"ETag": _tag(body)}, b""

    def _copy(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        data = self._source()
        if data is None:
            return _fault(404, "NoSuchKey")
        self.bucket.objects[self.key] = data, time.time()
        return 200, {}, f"<CopyObjectResult><ETag>{_tag(data)}</ETag></CopyObjectResult>".encode()

    def _source(self) -> bytes | None:
        _, _, key = unquote(self.headers["x-amz-copy-source"]).lstrip("/").partition("/")
        return self.bucket.objects.get(key, (None, 0.0))[0]

    def _begin(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        id = uuid.uuid4().hex
        self.bucket.uploads[id] = {}
        return (
            200,
            {},
            f"<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>".encode(),
        )

    def _part(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        copied = "x-amz-copy-source" in self.headers
        data = self._source() if copied else body
        upload = self.bucket.uploads.get(self.query["uploadId"])
        if data is None or upload is None:
            return _fault(404, "NoSuchKey" if data is None else "NoSuchUpload")
        upload[int(self.query["partNumber"])] = data
        answer = f"<CopyPartResult><ETag>{_tag(data)}</ETag></CopyPartResult>".encode() if copied else b""
        return 200, {"ETag": _tag(data)}, answer

    def _finish(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self.headers.get("If-None-Match") == "*" and self.key in self.bucket.objects:
            return _fault(412, "PreconditionFailed")
        parts = self.bucket.uploads.pop(self.query["uploadId"], None)
        if parts is None:
            return _fault(404, "NoSuchUpload")
        data = b"".join(parts[number] for number in sorted(parts))
        self.bucket.objects[self.key] = data, time.time()
        found = f"<Key>{escape(self.key)}</Key><ETag>{_tag(data)}</ETag>"
        return 200, {}, f"<CompleteMultipartUploadResult>{found}</CompleteMultipartUploadResult>".encode()

    def _delete(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if "uploadId" in self.query:
            self.bucket.uploads.pop(self.query["uploadId"], None)
            return 204, {}, b""
        if not body:
            self.bucket.objects.pop(self.key, None)
            return 204, {}, b""
        keys = [each.text or "" for each in ElementTree.fromstring(body).iter() if each.tag.endswith("Key")]
        for key in keys:
            self.bucket.objects.pop(key, None)
        found = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        return 200, {}, f"<DeleteResult>{found}</DeleteResult>".encode()

    def _list(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter")
        contents, folders = [], set()
        for key, (data, written) in sorted(self.bucket.objects.items()):
            if not key.startswith(prefix):
                continue
            if delimiter and delimiter in key[len(prefix) :]:
                folders.add(prefix + key[len(prefix) :].split(delimiter)[0] + delimiter)
            else:
                stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(written)) + f".{int(written % 1 * 1000):03}Z"
                contents.append(
                    f"<Contents><Key>{escape(key)}</Key><LastModified>{stamp}</LastModified>"
                    f"<ETag>{escape(_tag(data))}</ETag><Size>{len(data)}</Size></Contents>"
                )
        common = (f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>" for each in sorted(folders))
        head = f"<Name>{self.bucket.name}</Name><Prefix>{escape(prefix)}</Prefix><IsTruncated>false</IsTruncated>"
        return 200, {}, f"<ListBucketResult>{head}{''.join(contents)}{''.join(common)}</ListBucketResult>".encode()

    def _error(self, status: int, code: str) -> None:
        self._send(*_fault(status, code))

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            for start in range(0, len(body), 64 * 1024 if self.slow else len(body) or 1):
                self.wfile.write(body[start : start + 64 * 1024] if self.slow else body)
                if self.slow:
                    time.sleep(0.05)


def _fault(status: int, code: str) -> tuple[int, dict[str, str], bytes]:
    return (
        status,
        {"Content-Type": "application/xml"},
        f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode(),
    )


def _facts(data: bytes, written: float) -> dict[str, str]:
    return {"ETag": _tag(data), "Last-Modified": formatdate(written, usegmt=True), "Accept-Ranges": "bytes"}


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
