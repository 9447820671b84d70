"""A range server for a folder of COGs; beside it the Planetary Computer's token endpoint and a STAC API."""

import base64
import hashlib
import os
import re
import urllib.request
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from multiprocessing import get_context, parent_process
from multiprocessing.managers import BaseManager
from pathlib import Path
from threading import Lock, Thread
from typing import Self
from urllib.error import HTTPError
from urllib.parse import quote

from tests.loopback.faults import Exchange, LoopbackServer, Request

TOKEN_PATH = "/sas/token"
DENIED = b'<?xml version="1.0" encoding="utf-8"?><Error><Code>AuthenticationFailed</Code></Error>'


class Tokens:
    """Shared access tokens as the Planetary Computer hands them out; numbered from 1."""

    def __init__(self, lifetime_s: float) -> None:
        self.lifetime_s = lifetime_s
        self._lock = Lock()
        self._expiries: dict[str, datetime] = {}
        self._revoked: set[str] = set()

    @property
    def signatures(self) -> list[str]:
        """Every signature ever issued, in order: what must be found in no file and in no log."""
        with self._lock:
            return list(self._expiries)

    def issue(self) -> dict[str, str]:
        """A new token, in the JSON shape of ``/sas/v1/token/{account}/{container}``."""
        now = datetime.now(UTC)
        expiry = now + timedelta(seconds=self.lifetime_s)
        with self._lock:
            digest = hashlib.sha256(f"{id(self)} {len(self._expiries)}".encode()).digest()
            # "+", "/" and "=" as in real signatures: one who encodes twice, or not at all, is refused.
            signature = "a+b/" + base64.b64encode(digest).decode()
            self._expiries[signature] = expiry
        start = (now - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        end = expiry.strftime("%Y-%m-%dT%H:%M:%SZ")
        fields = {"st": start, "se": end, "sp": "rl", "sv": "2025-07-05", "sr": "c", "sig": signature}
        token = "&".join(f"{name}={quote(value, safe='')}" for name, value in fields.items())
        return {"msft:expiry": end, "token": token}

    def revoke_all(self) -> None:
        """Every token issued so far is dead from now on."""
        with self._lock:
            self._revoked.update(self._expiries)

    def number(self, signature: str) -> int | None:
        """Which token this is, counted from 1; None for one that was never issued."""
        with self._lock:
            return list(self._expiries).index(signature) + 1 if signature in self._expiries else None

    def is_live(self, signature: str) -> bool:
        """Whether the token was issued, not revoked, and has not expired."""
        with self._lock:
            expiry = self._expiries.get(signature)
            return expiry is not None and signature not in self._revoked and datetime.now(UTC) < expiry


class CogService(LoopbackServer):
    """The server itself; tests use ``CogServer``, which runs it in a process of its own."""

    def __init__(self, folder: Path, needs_token: bool, token_lifetime_s: float, stac_server: str | None) -> None:
        super().__init__()
        self._folder = folder.resolve()
        self._needs_token = needs_token
        self._stac_server = stac_server
        self._tokens = Tokens(token_lifetime_s)

    def start(self) -> None:
        """Begins to answer; the process ends with its parent."""
        super().start()
        Thread(target=_end_with_parent, daemon=True).start()

    def require_token(self, needs_token: bool) -> None:
        """Whether files are refused without a live token."""
        self._needs_token = needs_token

    def hand_on_to(self, stac_server: str | None) -> None:
        """The STAC API behind ``/stac``."""
        self._stac_server = stac_server

    def live_for(self, lifetime_s: float) -> None:
        """Lifetime of the tokens to come."""
        self._tokens.lifetime_s = lifetime_s

    def revoke_tokens(self) -> None:
        """Every token issued so far is dead from now on."""
        self._tokens.revoke_all()

    def signatures(self) -> list[str]:
        """Every signature ever issued."""
        return self._tokens.signatures

    def answer(self, exchange: Exchange) -> None:
        """Answers token, STAC and file requests."""
        if re.fullmatch(rf"{TOKEN_PATH}/[^/]+/[^/]+", exchange.route):
            exchange.reply_json(self._tokens.issue())
            return
        if exchange.route == "/stac" or exchange.route.startswith("/stac/"):
            self._hand_on(exchange)
            return
        signature = exchange.query.get("sig", "")
        exchange.token = self._tokens.number(signature)
        if self._needs_token and not self._tokens.is_live(signature):
            exchange.reply(403, DENIED, {"Content-Type": "application/xml"})
            return
        path = (self._folder / exchange.route.removeprefix("/cog/")).resolve()
        if not path.is_relative_to(self._folder) or not path.is_file():
            exchange.reply(404, b"no such file")
            return
        _reply_file(exchange, path.read_bytes()[: exchange.keep_bytes])

    def _hand_on(self, exchange: Exchange) -> None:
        if self._stac_server is None:
            exchange.reply(404, b"no STAC API here")
            return
        request = urllib.request.Request(
            self._stac_server + (exchange.path.removeprefix("/stac") or "/"),
            data=exchange.body or None,
            headers={"Content-Type": exchange.headers.get("Content-Type", "application/json")},
            method=exchange.command,
        )
        try:
            response = urllib.request.urlopen(request, timeout=60)
        except HTTPError as error:
            response = error
        with response:
            body = response.read().replace(self._stac_server.encode(), f"{self.url}/stac".encode())
            exchange.reply(response.status, body, {"Content-Type": response.headers["Content-Type"]})


class CogServer:
    """Serves ``folder`` under ``/cog/`` with single byte ranges, and tokens under ``/sas/token/``.

    With ``stac_server`` set, at first or by ``hand_on_to``, ``/stac/`` hands on to that STAC API: items and pixels have
    one origin, and faults can be scripted in front of a real API.

    It runs in a process of its own, because GDAL reads some headers while it holds the interpreter's lock: a server of
    the same interpreter could never answer.

    Args:
        folder: Its files are read at every request, so that a test may change them.
        needs_token: Whether a file is refused (403) without a live ``sig`` in the query.
        token_lifetime_s: The Planetary Computer gives 45 minutes; its client renews when less than a minute is left.
        stac_server: Address of a STAC API, without a slash at the end.
    """

    def __init__(
        self,
        folder: Path,
        *,
        needs_token: bool = False,
        token_lifetime_s: float = 2700.0,
        stac_server: str | None = None,
    ) -> None:
        self.folder = folder
        self._arguments = (folder, needs_token, token_lifetime_s, stac_server)
        self._manager = _Manager(ctx=get_context("spawn"))

    def __enter__(self) -> Self:
        self._manager.start()
        self._service: CogService = self._manager.CogService(*self._arguments)  # type: ignore[attr-defined]
        self._service.start()
        self.url = f"http://127.0.0.1:{self._service.port()}"
        self.cog_url = f"{self.url}/cog"
        self.stac_url = f"{self.url}/stac"
        self.sas_url = f"{self.url}{TOKEN_PATH}"
        self.script = self._service.script
        self.num_answered = self._service.num_answered
        self.heal = self._service.heal
        self.forget_requests = self._service.forget_requests
        self.require_token = self._service.require_token
        self.hand_on_to = self._service.hand_on_to
        self.live_for = self._service.live_for
        self.revoke_tokens = self._service.revoke_tokens
        return self

    def __exit__(self, *error: object) -> None:
        self._service.stop()
        self._manager.shutdown()

    @property
    def requests(self) -> list[Request]:
        """All answered requests, in order of their answers."""
        return self._service.answered()

    @property
    def signatures(self) -> list[str]:
        """Every signature ever issued, in order: what must be found in no file and in no log."""
        return self._service.signatures()

    def count(self, pattern: str = "*", status: int | None = None, method: str | None = None) -> int:
        """Number of requests whose path matches the shell ``pattern``."""
        return sum(
            fnmatchcase(request.path, pattern) and status in (None, request.status) and method in (None, request.method)
            for request in self.requests
        )


class _Manager(BaseManager):
    pass


_Manager.register("CogService", CogService)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def _reply_file(exchange: Exchange, content: bytes) -> None:
    headers = {"Accept-Ranges": "bytes", "Content-Type": "image/tiff"}
    fault = exchange.fault.kind if exchange.fault else None
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", exchange.headers.get("Range") or "")
    if match is None or match[0] == "bytes=-" or fault == "whole":
        exchange.reply(200, content, headers)
        return
    first = int(match[1]) if match[1] else max(0, len(content) - int(match[2]))
    last = min(int(match[2]), len(content) - 1) if match[1] and match[2] else len(content) - 1
    if first > last:
        exchange.reply(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
        return
    if fault == "short":
        last = first + (last - first) // 2
    elif fault == "other_range":
        length = last - first + 1
        first = first + length if first + 2 * length <= len(content) else max(0, first - length)
        last = min(first + length, len(content)) - 1
    exchange.reply(206, content[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(content)}"})
