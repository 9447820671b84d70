"""One origin in front of everything: /stac, /cog, /sas/token, /tables, /health, /stats."""

import http.client
import json
import logging
import re
import socketserver
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BufferedIOBase
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl

from pipelines.sandbox import catalog
from pipelines.sandbox.bounded_cache import BoundedCache
from pipelines.sandbox.cogs import CogStore
from pipelines.sandbox.fields import Planet
from pipelines.sandbox.land_cover import LAND_COVER_CONTAINER
from pipelines.sandbox.tables import NUM_POINTS, table_csv
from pipelines.sandbox.tokens import TokenIssuer

logger = logging.getLogger(__name__)

MAX_HEADER_LINES: Final = 100
MAX_LINE_BYTES: Final = 65_536
MAX_BODY_BYTES: Final = 16 << 20
CONTAINERS: Final = (catalog.STORAGE_CONTAINER, LAND_COVER_CONTAINER)
IDLE_TIMEOUT_S: Final = 60.0
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_REASONS: Final = {
    200: "OK", 206: "Partial Content", 400: "Bad Request", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 416: "Range Not Satisfiable", 502: "Bad Gateway",
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """One HTTP request; header names in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Response:
    """One HTTP response; ``pieces`` yields ``length`` bytes and is not touched for HEAD."""

    status: int
    content_type: str
    length: int
    pieces: Iterator[bytes]
    headers: dict[str, str] = field(default_factory=dict)


def _answer(status: int, body: bytes | str, content_type: str = "text/plain", **headers: str) -> Response:
    data = body.encode() if isinstance(body, str) else body
    return Response(
        status, content_type, len(data), iter((data,)), {k.replace("_", "-"): v for k, v in headers.items()}
    )


class SandboxServer(socketserver.ThreadingTCPServer):
    """The front server; bound on construction, serving after ``serve_forever``.

    Args:
        port: Port on loopback, 0 for a free one.
        store: The virtual files.
        planet: The fields behind the tables.
        issuer: The tokens; None serves files to everyone.
        stac_port: Port of the STAC server behind /stac, or None while there is none.
        files_root: Folder served under /files.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self,
        port: int,
        store: CogStore,
        planet: Planet,
        issuer: TokenIssuer,
        *,
        require_token: bool,
        stac_port: int | None,
        files_root: Path | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", port), _Connection)
        self.store = store
        self.planet = planet
        self.issuer = issuer
        self.require_token = require_token
        self.stac_port = stac_port
        self.files_root = files_root
        self.local = threading.local()
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._tables: BoundedCache[str] = BoundedCache(16)

    @property
    def origin(self) -> str:
        """Scheme, host and port every address of the sandbox begins with."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def count(self, name: str, amount: int = 1) -> None:
        """Adds to a counter shown by /stats."""
        with self._lock:
            self._counts[name] += amount

    def respond(self, request: Request) -> Response:
        """Answers one request."""
        section, _, rest = request.path.lstrip("/").partition("/")
        if section == "stac":
            return self._proxy(request, rest)
        if request.method not in ("GET", "HEAD"):
            return _answer(405, f"{request.method} is not allowed here; use GET or HEAD\n")
        if section == "cog":
            return self._file(request, rest)
        if section == "files" and self.files_root is not None:
            return self._real_file(request, rest)
        if section == "sas":
            return self._token(rest)
        if section == "tables":
            return self._table(rest, request.query)
        if section == "health":
            return _answer(200, '{"status":"ok"}', "application/json")
        if section == "stats":
            with self._lock:
                return _answer(200, json.dumps(self._counts, sort_keys=True), "application/json")
        return _answer(404, f"nothing at {request.path}; try /stac, /cog, /sas/token, /tables or /health\n")

    def _file(self, request: Request, path: str) -> Response:
        container = LAND_COVER_CONTAINER if path.startswith("land-cover/") else catalog.STORAGE_CONTAINER
        if self.require_token and not self.issuer.is_live(request.query, container, datetime.now(UTC)):
            self.count("cog_forbidden")
            return _answer(
                403, "the address carries no token that is valid now; ask /sas/token for one and sign anew\n"
            )
        try:
            cog = self.store.open(path)
        except FileNotFoundError as error:
            return _answer(404, f"no such scene or band: {error}\n")
        return self._ranged(
            request, cog.layout.size, lambda start, stop: cog.layout.read_range(start, stop, cog.render_tile)
        )

    def _real_file(self, request: Request, path: str) -> Response:
        assert self.files_root is not None
        file = (self.files_root / path).resolve()
        if not file.is_relative_to(self.files_root.resolve()) or not file.is_file():
            return _answer(404, f"no such file: {path}\n")
        content = file.read_bytes()
        return self._ranged(request, len(content), lambda start, stop: iter((content[start:stop],)))

    def _ranged(self, request: Request, size: int, read: Callable[[int, int], Iterator[bytes]]) -> Response:
        common = {"Accept-Ranges": "bytes", "Last-Modified": "Wed, 17 May 2023 00:00:00 GMT"}
        match = _RANGE.fullmatch(request.headers.get("range", "").strip())
        if match is None or (not match[1] and not match[2]):
            return Response(200, catalog.COG_TYPE, size, read(0, size), common)
        if match[1]:
            start, stop = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
        else:
            start, stop = max(0, size - int(match[2])), size
        if start >= stop:
            return _answer(416, "", **{"Content-Range": f"bytes */{size}"})
        common["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return Response(206, catalog.COG_TYPE, stop - start, read(start, stop), common)

    def _token(self, path: str) -> Response:
        known = {f"token/{catalog.STORAGE_ACCOUNT}/{name}": name for name in CONTAINERS}
        if path not in known:
            wanted = " or ".join(f"/sas/{each}" for each in known)
            return _answer(404, f"no such account or container: /sas/{path}; expected {wanted}\n")
        token = self.issuer.issue(known[path], datetime.now(UTC))
        return _answer(200, json.dumps(token), "application/json")

    def _table(self, path: str, query: str) -> Response:
        """A table; ``?points=N`` asks for another number of points than the usual."""
        name = path.removesuffix(".csv")
        try:
            num_points = int(dict(parse_qsl(query)).get("points", NUM_POINTS))
            key = f"{name} {num_points}"
            return _answer(200, self._tables.get(key, lambda: table_csv(self.planet, name, num_points)), "text/csv")
        except ValueError as error:
            return _answer(404, f"{error}\n")

    def _proxy(self, request: Request, path: str) -> Response:
        if self.stac_port is None:
            return _answer(502, "the STAC server has not been started\n")
        target = f"/{path}" + (f"?{request.query}" if request.query else "")
        headers = {k: v for k, v in request.headers.items() if k in ("accept", "content-type")}
        for attempt in range(2):
            upstream: http.client.HTTPConnection | None = getattr(self.local, "upstream", None)
            if upstream is None:
                upstream = self.local.upstream = http.client.HTTPConnection("127.0.0.1", self.stac_port, timeout=120)
            try:
                upstream.request(request.method, target, body=request.body or None, headers=headers)
                answer = upstream.getresponse()
                body = answer.read()
                break
            except (OSError, http.client.HTTPException) as error:
                upstream.close()
                self.local.upstream = None
                if attempt:
                    return _answer(502, f"the STAC server does not answer: {error}\n")
        body = body.replace(catalog.STAC_ORIGIN.encode(), f"{self.origin}/stac".encode())
        body = body.replace(catalog.ORIGIN.encode(), self.origin.encode())
        kind = answer.getheader("Content-Type") or "application/json"
        return Response(answer.status, kind, len(body), iter((body,)))


class _Connection(socketserver.StreamRequestHandler):
    """One client connection, kept alive until the client closes it."""

    server: SandboxServer
    timeout = IDLE_TIMEOUT_S
    disable_nagle_algorithm = True
    wbufsize = 0

    def handle(self) -> None:
        try:
            while True:
                request = self._read_request(self.rfile)
                if request is None:
                    return
                response = self.server.respond(request)
                self._write(request, response)
                if request.headers.get("connection", "").lower() == "close":
                    return
        except (ConnectionError, TimeoutError):
            logger.debug("connection of %s ended", self.client_address)

    def _read_request(self, stream: BufferedIOBase) -> Request | None:
        line = stream.readline(MAX_LINE_BYTES)
        if not line.strip():
            return None
        parts = line.decode("latin-1").split()
        if len(parts) != 3:
            return None
        headers: dict[str, str] = {}
        for _ in range(MAX_HEADER_LINES):
            line = stream.readline(MAX_LINE_BYTES)
            if line in (b"\r\n", b"\n", b""):
                break
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        length = int(headers.get("content-length", "0") or "0")
        body = stream.read(min(length, MAX_BODY_BYTES)) if length else b""
        path, _, query = parts[1].partition("?")
        return Request(parts[0], path, query, headers, body)

    def _write(self, request: Request, response: Response) -> None:
        section = request.path.lstrip("/").partition("/")[0] or "root"
        self.server.count(f"{section}_requests")
        head = [f"HTTP/1.1 {response.status} {_REASONS.get(response.status, 'Status')}"]
        fields = {"Content-Type": response.content_type, "Content-Length": str(response.length), **response.headers}
        head += [f"{name}: {value}" for name, value in fields.items()]
        data = ("\r\n".join(head) + "\r\n\r\n").encode("latin-1")
        if request.method == "HEAD":
            self.request.sendall(data)
            return
        sent = 0
        for piece in response.pieces:
            self.request.sendall(data + piece if data else piece)
            data = b""
            sent += len(piece)
        if data:
            self.request.sendall(data)
        self.server.count(f"{section}_bytes", sent)
