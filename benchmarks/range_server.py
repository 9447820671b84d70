"""A byte-range server with added latency, in a process of its own: what benchmarks read from.

Paths are ``/DELAY_MS/LABEL/UNIQUE/NAME``: NAME is a file of the folder, UNIQUE makes an address that nobody has seen,
requests and bytes are counted by LABEL and told under ``/counts``.
"""

import asyncio
import json
import mmap
import multiprocessing
import re
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import unquote

_RANGE = re.compile(rb"(?im)^range: *bytes=(\d*)-(\d*)")


class _Exchange(asyncio.Protocol):
    def __init__(self, files: dict[str, mmap.mmap], counts: dict[str, Counter[str]]) -> None:
        self._files, self._counts = files, counts
        self._pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while b"\r\n\r\n" in self._pending:
            head, _, self._pending = self._pending.partition(b"\r\n\r\n")
            method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            parts = unquote(path.partition("?")[0]).strip("/").split("/")
            if len(parts) != 4:
                body = json.dumps(self._counts).encode()
                self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                continue
            count = self._counts.setdefault(parts[1], Counter())
            count["requests"] += method == "GET"
            count["heads"] += method == "HEAD"
            loop = asyncio.get_running_loop()
            loop.call_later(int(parts[0]) / 1000, self._answer, method, parts[3], head, count)

    def _answer(self, method: str, name: str, head: bytes, count: Counter[str]) -> None:
        if self._transport.is_closing():
            return
        content = self._files.get(name)
        if content is None:
            self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        match = _RANGE.search(head)
        size = len(content)
        first = int(match[1]) if match and match[1] else 0
        last = min(int(match[2]), size - 1) if match and match[2] else size - 1
        status = b"206 Partial Content\r\nContent-Range: bytes %d-%d/%d" % (first, last, size) if match else b"200 OK"
        self._transport.write(
            b"HTTP/1.1 %s\r\nAccept-Ranges: bytes\r\nContent-Type: image/tiff\r\nContent-Length: %d\r\n\r\n"
            % (status, last - first + 1)
        )
        if method == "GET":
            count["bytes"] += last - first + 1
            self._transport.write(memoryview(content)[first : last + 1])


async def _serve(folder: Path, told: Connection) -> None:
    files = {}
    for path in folder.iterdir():
        with path.open("rb") as source:
            files[path.name] = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)
    counts: dict[str, Counter[str]] = {}
    server = await asyncio.get_running_loop().create_server(
        lambda: _Exchange(files, counts), "127.0.0.1", 0, backlog=512
    )
    told.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _run(folder: Path, told: Connection) -> None:
    asyncio.run(_serve(folder, told))


class RangeServer:
    """Where the server is, and what it counted."""

    def __init__(self, port: int) -> None:
        self.origin = f"http://127.0.0.1:{port}"

    def base(self, label: str, delay_ms: int) -> str:
        """Address before ``/UNIQUE/NAME``."""
        return f"{self.origin}/{delay_ms}/{label}"

    def counts(self, label: str) -> dict[str, int]:
        """GET and HEAD requests and bytes of a label."""
        with urllib.request.urlopen(f"{self.origin}/counts", timeout=60) as response:
            found = json.load(response).get(label, {})
        return {name: found.get(name, 0) for name in ("requests", "heads", "bytes")}


@contextmanager
def range_server(folder: Path) -> Iterator[RangeServer]:
    """Serves the files of a folder until the block ends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(folder, theirs), daemon=True)
    process.start()
    try:
        yield RangeServer(ours.recv())
    finally:
        process.terminate()
        process.join()
