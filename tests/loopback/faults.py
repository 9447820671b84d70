"""An HTTP/1.1 server on loopback whose faults are scripted and whose requests are recorded."""

import json
import socket
import struct
import threading
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Fault:
    """What happens to the next ``times`` requests of a path (None: to all of them) in place of, or to, the answer."""

    kind: Literal["status", "reset", "slow", "truncate"]
    times: int | None = 1
    status: int = 503
    retry_after_s: int | None = None
    delay_s: float = 0.0
    keep_bytes: int = 0
    method: str | None = None


def status(code: int, times: int | None = 1, retry_after_s: int | None = None, method: str | None = None) -> Fault:
    """Answers ``code`` (403, 404, 429, 503, 504 ...), with ``Retry-After`` when asked for."""
    return Fault("status", times, status=code, retry_after_s=retry_after_s, method=method)


def reset(times: int | None = 1) -> Fault:
    """Closes the connection with a TCP reset before any answer."""
    return Fault("reset", times)


def slow(delay_s: float, times: int | None = 1) -> Fault:
    """Answers rightly, but only after ``delay_s``."""
    return Fault("slow", times, delay_s=delay_s)


def truncate(keep_bytes: int, times: int | None = None) -> Fault:
    """Serves the first ``keep_bytes`` of a file as if it were no longer; lengths and ranges agree with that."""
    return Fault("truncate", times, keep_bytes=keep_bytes)


@dataclass(frozen=True)
class Request:
    """One answered request; ``path`` is without query, ``status`` 0 means reset, ``token`` is the token's number."""

    method: str
    path: str
    status: int
    token: int | None = None
    byte_range: str | None = None
    body: bytes = field(default=b"", repr=False)


class LoopbackServer:
    """Base of the test servers: a context manager on a free port of 127.0.0.1; subclasses define ``answer``."""

    def __init__(self) -> None:
        self._faults: list[tuple[str, Fault]] = []
        self._requests: list[Request] = []
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._closing = threading.Event()
        self._http = _Http(self)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """Origin of the server, without a slash at the end."""
        return f"http://127.0.0.1:{self.port()}"

    def port(self) -> int:
        """Port on 127.0.0.1."""
        return int(self._http.server_address[1])

    def answered(self) -> list[Request]:
        """All answered requests, in order of their answers."""
        with self._lock:
            return list(self._requests)

    def script(self, pattern: str, *faults: Fault) -> None:
        """Faults for paths that match the shell ``pattern``, used up one after another."""
        with self._lock:
            self._faults.extend((pattern, fault) for fault in faults)

    def heal(self) -> None:
        """Forgets all faults."""
        with self._lock:
            self._faults.clear()

    def forget_requests(self) -> None:
        """Empties the record of requests."""
        with self._lock:
            self._requests.clear()

    def answer(self, exchange: "Exchange") -> None:
        """Answers one request; called from many threads."""
        raise NotImplementedError

    def take_fault(self, method: str, path: str) -> Fault | None:
        """The fault that is due, counted down."""
        with self._lock:
            for pattern, fault in self._faults:
                if fnmatchcase(path, pattern) and fault.times != 0 and fault.method in (None, method):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None

    def record(self, request: Request) -> None:
        """Adds to the record of requests."""
        with self._lock:
            self._requests.append(request)

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Breaks off all connections and ends all threads."""
        self._closing.set()
        self._http.shutdown()
        with self._lock:
            sockets = list(self._sockets)
        for connection in sockets:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


class _Http(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, owner: LoopbackServer) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), Exchange)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.owner._lock:
            self.owner._sockets.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self.owner._lock:
            self.owner._sockets.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of the server."""


class Exchange(BaseHTTPRequestHandler):
    """One connection: applies the faults, lets the server answer, records."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def _handle(self) -> None:
        owner = self.server.owner
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.token: int | None = None
        self.keep_bytes: int | None = None
        fault = owner.take_fault(self.command, self.route)
        if fault is None:
            owner.answer(self)
        elif fault.kind == "reset":
            self._record(0)
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif fault.kind == "status":
            headers = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
            self.reply(fault.status, b"scripted fault", headers)
        else:
            self.keep_bytes = fault.keep_bytes if fault.kind == "truncate" else None
            if not owner._closing.wait(fault.delay_s):
                owner.answer(self)

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    @property
    def route(self) -> str:
        """Path without query, decoded."""
        return unquote(urlsplit(self.path).path)

    @property
    def query(self) -> dict[str, str]:
        """Query parameters, decoded; the last of each name."""
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}

    def reply(self, code: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """Sends an answer and records the request."""
        self._record(code)
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_json(self, value: object, code: int = 200, media_type: str = "application/json") -> None:
        """Sends ``value`` as JSON."""
        self.reply(code, json.dumps(value).encode(), {"Content-Type": media_type})

    def _record(self, code: int) -> None:
        byte_range = self.headers.get("Range")
        self.server.owner.record(Request(self.command, self.route, code, self.token, byte_range, self.body))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing on stderr: the record of requests is what tests look at."""
