"""A Hugging Face Hub on loopback: what its client asks of a dataset, and a storage on another origin."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Self
from urllib.parse import quote

from tests.loopback.faults import Exchange, LoopbackServer

COMMIT = "c0ffee" + "0" * 34


@dataclass
class HubFileStub:
    """A file of the stub: what it serves, and what it says of it."""

    body: bytes
    lfs: bool = True
    sha256: str = ""

    @property
    def told_sha256(self) -> str:
        return self.sha256 or hashlib.sha256(self.body).hexdigest()

    @property
    def blob_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.body) + self.body).hexdigest()


@dataclass
class Storage(LoopbackServer):
    """Where the Hub's answers point to: refuses what has no signature, and remembers tokens that leaked to it."""

    files: dict[str, HubFileStub]
    signature: str = "SIGNATURE-OF-STORAGE"
    leaked: list[str] = field(default_factory=list)
    bytes_per_s: float | None = None
    ignore_ranges: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def answer(self, exchange: Exchange) -> None:
        if (token := exchange.headers.get("Authorization")) is not None:
            self.leaked.append(token)
        stub = self.files.get(exchange.route.removeprefix("/blob/"))
        if stub is None or exchange.query.get("sig") != self.signature:
            exchange.reply(403)
            return
        serve(exchange, stub.body, {"ETag": f'"{stub.told_sha256}"'}, self.bytes_per_s, ranges=not self.ignore_ranges)


class HubServer(LoopbackServer):
    """Serves one dataset, or one model; a token is asked for where ``token`` is set."""

    def __init__(
        self,
        repo: str,
        files: dict[str, HubFileStub],
        commit: str = COMMIT,
        token: str | None = None,
        kind: Literal["dataset", "model"] = "dataset",
    ) -> None:
        super().__init__()
        self.prefix = "/datasets/" if kind == "dataset" else "/"
        self.repo, self.files, self.commit, self.token_wanted = repo, files, commit, token
        self.revisions = {commit, "main"}
        self.storage = Storage(files)
        self.page_size = 3

    def __enter__(self) -> Self:
        self.storage.start()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.storage.stop()

    def answer(self, exchange: Exchange) -> None:
        if self.token_wanted and exchange.headers.get("Authorization") != f"Bearer {self.token_wanted}":
            exchange.reply_json({"error": "Invalid username or password."}, 401)
            return
        api, resolve = f"/api/datasets/{self.repo}/", f"{self.prefix}{self.repo}/resolve/"
        if exchange.route.startswith(api):
            kind, _, revision = exchange.route.removeprefix(api).partition("/")
            self._api(exchange, kind, revision.strip("/"))
        elif exchange.route.startswith(resolve):
            revision, _, path = exchange.route.removeprefix(resolve).partition("/")
            self._resolve(exchange, revision, path)
        else:
            exchange.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _api(self, exchange: Exchange, kind: str, revision: str) -> None:
        if revision not in self.revisions:
            exchange.reply(404, b'{"error": "Invalid rev id"}', {"X-Error-Code": "RevisionNotFound"})
        elif kind == "revision":
            exchange.reply_json({"id": self.repo, "sha": self.commit, "tags": ["license:mit", "region:us"]})
        else:
            self._tree(exchange, revision)

    def _tree(self, exchange: Exchange, revision: str) -> None:
        """One page; the next is named by a Link header, as the Hub does."""
        paths = sorted(self.files)
        start = int(exchange.query.get("cursor", 0))
        entries = [{"type": "directory", "path": "data", "oid": "0" * 40, "size": 0}] if not start else []
        for path in paths[start : start + self.page_size]:
            stub = self.files[path]
            entry: dict[str, object] = {"type": "file", "path": path, "size": len(stub.body), "oid": stub.blob_id}
            if stub.lfs:
                entry["lfs"] = {"oid": stub.told_sha256, "size": len(stub.body), "pointerSize": 134}
            entries.append(entry)
        headers = {"Content-Type": "application/json"}
        if start + self.page_size < len(paths):
            query = f"recursive=true&cursor={start + self.page_size}"
            headers["Link"] = f'<{self.url}/api/datasets/{self.repo}/tree/{revision}?{query}>; rel="next"'
        exchange.reply(200, json.dumps(entries).encode(), headers)

    def _resolve(self, exchange: Exchange, revision: str, path: str) -> None:
        stub = self.files.get(path)
        if revision not in self.revisions or stub is None:
            code = "EntryNotFound" if revision in self.revisions else "RevisionNotFound"
            exchange.reply(404, b"", {"X-Error-Code": code})
            return
        headers = {"X-Repo-Commit": self.commit, "ETag": f'"{stub.blob_id}"'}
        if not stub.lfs:
            serve(exchange, stub.body, headers, None)
            return
        location = f"http://localhost:{self.storage.port()}/blob/{quote(path)}?sig={self.storage.signature}"
        linked = {"X-Linked-Etag": f'"{stub.told_sha256}"', "X-Linked-Size": str(len(stub.body)), "Location": location}
        exchange.reply(302, b"", headers | linked)


def serve(
    exchange: Exchange, body: bytes, headers: dict[str, str], bytes_per_s: float | None, *, ranges: bool = True
) -> None:
    """Answers with a file or a range of it, slowly where asked for; a truncation fault cuts it."""
    declared = len(body)
    body = body if exchange.keep_bytes is None else body[: exchange.keep_bytes]
    code, start, end = 200, 0, declared
    if ranges and (text := exchange.headers.get("Range")):
        first, _, last = text.removeprefix("bytes=").partition("-")
        code, start, end = 206, int(first), min(int(last or declared) + 1, declared)
        headers = headers | {"Content-Range": f"bytes {start}-{end - 1}/{declared}"}
    exchange._record(code)
    exchange.send_response(code)
    for name, value in headers.items():
        exchange.send_header(name, value)
    exchange.send_header("Content-Length", str(end - start))
    exchange.end_headers()
    if exchange.command == "HEAD":
        return
    sent = body[start:end]
    piece = len(sent) if bytes_per_s is None else 16_384
    for at in range(0, len(sent), max(piece, 1)):
        exchange.wfile.write(sent[at : at + piece])
        if bytes_per_s is not None and exchange.server.owner._closing.wait(piece / bytes_per_s):
            break
    if len(sent) < end - start:
        exchange.close_connection = True


def wait_for(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Waits until ``condition()`` holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the condition did not come true")
        time.sleep(0.02)
