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
    """What happens to the next ``times`` requests of a path (None: to all of them) in place of, or to, the answer.

    The first ``skip`` requests of the path pass unharmed.
    """

    kind: Literal[
        "status",
        "reset",
        "slow",
        "truncate",
        "cut",
        "drop",
        "dribble",
        "short",
        "other_range",
        "whole",
        "refuse",
        "revoke",
    ]
    times: int | None = 1
    status: int = 503
    retry_after_s: int | None = None
    delay_s: float = 0.0
    keep_bytes: int = 0
    method: str | None = None
    skip: int = 0


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


def cut(times: int | None = 1) -> Fault:
    """Announces the whole body, sends half of it and closes the connection in good order."""
    return Fault("cut", times)


def drop(times: int | None = 1) -> Fault:
    """Announces the whole body, sends half of it and resets the connection."""
    return Fault("drop", times)


def dribble(delay_s: float, times: int | None = 1) -> Fault:
    """Sends the right body in pieces over ``delay_s``."""
    return Fault("dribble", times, delay_s=delay_s)


def short(times: int | None = 1) -> Fault:
    """Half of the range asked for, in an answer that says so and whose lengths agree; the file's size is right."""
    return Fault("short", times)


def other_range(times: int | None = 1) -> Fault:
    """Other bytes than asked for, as many; ``Content-Range`` names the bytes that are sent."""
    return Fault("other_range", times)


def whole(times: int | None = 1) -> Fault:
    """200 with the whole file where a range was asked for."""
    return Fault("whole", times)


def refuse(delay_s: float, times: int | None = 1) -> Fault:
    """A reset, and for ``delay_s`` every new connection is refused."""
    return Fault("refuse", times, delay_s=delay_s)


def revoke(times: int | None = 1) -> Fault:
    """Every token issued so far is dead from this request on; for servers that issue tokens."""
    return Fault("revoke", times)


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
        self._awake = threading.Event()
        self._http = _Http(self)
        self._thread = self._new_thread()
        self._refusal: threading.Thread | None = None

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
        """Forgets all faults and answers now what was being answered slowly."""
        with self._lock:
            self._faults.clear()
            self._awake.set()
            self._awake = threading.Event()

    def forget_requests(self) -> None:
        """Empties the record of requests."""
        with self._lock:
            self._requests.clear()

    def num_answered(self) -> int:
        """How many requests were answered so far."""
        with self._lock:
            return len(self._requests)

    def answer(self, exchange: "Exchange") -> None:
        """Answers one request; called from many threads."""
        raise NotImplementedError

    def revoke_tokens(self) -> None:
        """Every token issued so far is dead from now on; nothing where none are issued."""

    def refuse_for(self, delay_s: float) -> None:
        """Closes the port for a moment; connections that are open go on."""
        with self._lock:
            if self._closing.is_set() or (self._refusal is not None and self._refusal.is_alive()):
                return
            self._refusal = threading.Thread(target=self._refuse, args=(delay_s,))
            self._refusal.start()

    def _refuse(self, delay_s: float) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.socket.close()
        # Bound but not listening: the kernel refuses connections, and no other program gets the port.
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(self._http.server_address)
        self._closing.wait(delay_s)
        bound.listen(_Http.request_queue_size)
        self._http.socket = bound
        self._thread = self._new_thread()
        self._thread.start()

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})

    def take_fault(self, method: str, path: str) -> Fault | None:
        """The fault that is due, counted down."""
        with self._lock:
            for pattern, fault in self._faults:
                if fnmatchcase(path, pattern) and fault.times != 0 and fault.method in (None, method):
                    if fault.skip:
                        fault.skip -= 1
                        continue
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
        self._awake.set()
        if self._refusal is not None:
            self._refusal.join()
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
        self.fault = fault = owner.take_fault(self.command, self.route)
        if fault is None:
            owner.answer(self)
        elif fault.kind in ("reset", "refuse"):
            self._record(0)
            self._reset()
            if fault.kind == "refuse":
                owner.refuse_for(fault.delay_s)
        elif fault.kind == "status":
            headers = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
            self.reply(fault.status, b"scripted fault", headers)
        else:
            self.keep_bytes = fault.keep_bytes if fault.kind == "truncate" else None
            if fault.kind == "revoke":
                owner.revoke_tokens()
            if fault.kind == "slow":
                owner._awake.wait(fault.delay_s)
            if not owner._closing.is_set():
                owner.answer(self)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

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
            self._send(body)

    def _send(self, body: bytes) -> None:
        kind = self.fault.kind if self.fault else None
        if kind in ("cut", "drop"):
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            if kind == "drop":
                self._reset()
        elif kind == "dribble":
            for piece in range(5):
                self.wfile.write(body[len(body) * piece // 5 : len(body) * (piece + 1) // 5])
                self.server.owner._closing.wait(self.fault.delay_s / 5)
        else:
            self.wfile.write(body)

    def reply_json(self, value: object, code: int = 200, media_type: str = "application/json") -> None:
        """Sends ``value`` as JSON."""
        self.reply(code, json.dumps(value).encode(), {"Content-Type": media_type})

    def _record(self, code: int) -> None:
        byte_range = self.headers.get("Range")
        self.server.owner.record(Request(self.command, self.route, code, self.token, byte_range, self.body))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing on stderr: the record of requests is what tests look at."""
