import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import SceneContentError, SceneReadError
from pipelines.patches.ranges import (
    MERGED_GAP_BYTES,
    DamagedFileError,
    RangeFile,
    RangeSettings,
    RangeSource,
    merged_ranges,
)
from pipelines.patches.windows import ReadTally
from pipelines.sampling.catalog import NoSigner

CONTENT = bytes(range(256)) * 40
SECRET = "sig=a%2Bb%2FverySecret"
QUICK = RangeSettings(max_attempts=3, backoff_s=0.0, timeout_s=0.5)

pytestmark = pytest.mark.network


@dataclass
class TokenSigner:
    """Signs with a numbered token; blocks a little, as a token endpoint does."""

    number: int = 0
    signed: list[str] = field(default_factory=list)

    def sign(self, href: str) -> str:
        self.signed.append(href)
        return f"{href}?{SECRET}{self.number}"

    def renew(self) -> None:
        self.number += 1


@dataclass
class Script:
    """A server's answers, one after another; afterwards it answers rightly. A tuple is (head, body)."""

    answers: list[Any] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.lines.append(head)
                answer = self.answers.pop(0) if self.answers else right(head)
                if answer is None:
                    break
                if answer == "silence":
                    await asyncio.sleep(5)
                    break
                writer.write(answer)
                await writer.drain()
                if b"Connection: close" in answer:
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


def response(status: str, body: bytes = b"", **headers: str) -> bytes:
    headers = {"Content_Length": str(len(body))} | headers
    lines = [f"HTTP/1.1 {status}"] + [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def part(first: int, last: int, total: int | str = len(CONTENT), body: bytes | None = None, **headers: str) -> bytes:
    body = CONTENT[first : last + 1] if body is None else body
    return response("206 Partial Content", body, Content_Range=f"bytes {first}-{last}/{total}", **headers)


def right(head: str) -> bytes:
    match = re.search(r"(?i)range: bytes=(\d+)-(\d+)", head)
    assert match
    return part(int(match[1]), min(int(match[2]), len(CONTENT) - 1))


@asynccontextmanager
async def site(script: Script, signer: Any = None, settings: RangeSettings = QUICK) -> AsyncIterator[Any]:
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    address = f"http://127.0.0.1:{port}/B04.tif"
    try:
        async with RangeSource(signer or NoSigner(), settings) as source:
            yield source, RangeFile("catalog:/B04.tif", address, "B04", ReadTally())
    finally:
        server.close()


def run[T](script: Script, use: Callable[[RangeSource, RangeFile], Awaitable[T]], **options: Any) -> T:
    async def main() -> T:
        async with site(script, **options) as (source, file):
            return await use(source, file)

    return asyncio.run(main())


def read(start: int = 10, length: int = 20) -> Callable[[RangeSource, RangeFile], Coroutine[Any, Any, Any]]:
    async def use(source: RangeSource, file: RangeFile) -> tuple[bytes, ReadTally]:
        return await source.read(file, start, length), file.tally

    return use


@pytest.mark.parametrize(
    "answer",
    [
        response("503 Service Unavailable"),
        response("429 Too Many Requests"),
        response("408 Request Timeout"),
        None,
        "silence",
        part(10, 29, body=CONTENT[10:15], Content_Length="20", Connection="close"),
        part(10, 29, body=CONTENT[10:15]),
        part(10, 14),
        part(11, 30),
        response("200 OK", CONTENT),
        response("206 Partial Content", CONTENT[10:30]),
        part(10, 29, Content_Encoding="gzip"),
    ],
    ids=[
        "503", "429", "408", "dropped", "silent", "cut", "short", "clipped", "shifted", "whole file", "no range told",
        "encoded",
    ],
)  # fmt: skip
def test_a_fault_is_tried_again_and_counted(answer: Any) -> None:
    content, tally = run(Script([answer, answer]), read())
    assert content == CONTENT[10:30]
    if answer is None:  # aiohttp repeats a request once by itself where the server closed the connection
        assert tally.num_retries >= 1
    else:
        assert (tally.num_requests, tally.num_retries) == (3, 2)


def test_a_lasting_fault_is_told_and_is_no_verdict() -> None:
    with pytest.raises(SceneReadError, match=r"B04 could not be read in 3 attempts \(server status 503\)"):
        run(Script([response("503 Down")] * 3), read())


@pytest.mark.parametrize("status", ["404 Not Found", "410 Gone"])
def test_a_missing_file_is_a_verdict_at_once(status: str) -> None:
    script = Script([response(status)])
    with pytest.raises(SceneContentError, match=r"the server says 4\d\d, expected the file of B04") as caught:
        run(script, read())
    assert (caught.value.reason, len(script.lines)) == ("missing_file:B04", 1)


def test_a_token_is_renewed_once_for_all_and_costs_no_attempt() -> None:
    signer = TokenSigner()
    script = Script([response("403 Forbidden")] * 4)

    async def use(source: RangeSource, file: RangeFile) -> list[bytes]:
        return await asyncio.gather(*(source.read(file, start, 20) for start in (0, 20, 40, 60)))

    found = run(script, use, signer=signer, settings=RangeSettings(max_attempts=1, backoff_s=0))
    assert b"".join(found) == CONTENT[:80]
    assert (signer.number, len(signer.signed)) == (1, 8)


def test_access_that_stays_denied_is_told() -> None:
    with pytest.raises(SceneReadError, match=r"access denied \(401\) with a fresh token"):
        run(Script([response("401 Unauthorized")] * 2), read(), signer=TokenSigner())


def test_no_token_reaches_a_message_a_log_or_a_cause(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for answers in ([response("500 Oops")] * 3, [None] * 9, [response("403 No")] * 2, [response("404 No")]):
        with pytest.raises((SceneReadError, SceneContentError)) as caught:
            run(Script(list(answers)), read(), signer=TokenSigner())
        error: BaseException | None = caught.value
        while error is not None:
            assert "verySecret" not in repr(error) + str(error)
            error = error.__cause__ or error.__context__
    assert "verySecret" not in caplog.text
    assert "failed: server status 500" in caplog.text


def test_retry_after_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await real_sleep(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    date = "Wed, 01 Jan 2020 00:00:00 GMT"
    script = Script([response("429 Slow", Retry_After="7"), response("503 Slow", Retry_After=date)])
    assert run(script, read(), settings=RangeSettings(backoff_s=0.25))[0] == CONTENT[10:30]
    assert waits[0] == 7
    assert 0.25 <= waits[1] <= 0.75


def test_a_file_that_ends_early_is_told_apart_from_a_fault() -> None:
    async def use(source: RangeSource, file: RangeFile) -> list[bytes]:
        return await source.read_ranges(file, [(40, 20)])

    for answer in (part(40, 49, total=50), response("416 Range Not Satisfiable", Content_Range="bytes */30")):
        with pytest.raises(DamagedFileError, match=r"the file (has 50 bytes, expected 60|ends before byte 40)"):
            run(Script([answer]), use)


def test_a_file_that_changes_its_size_between_two_reads_is_refused() -> None:
    async def use(source: RangeSource, file: RangeFile) -> None:
        await source.read(file, 0, 10)
        await source.read(file, 10, 10)

    with pytest.raises(DamagedFileError, match="size changed from 10240 to 9999"):
        run(Script([part(0, 9), part(10, 19, total=9999)]), use)


def test_near_ranges_are_one_request_and_come_back_in_the_order_asked() -> None:
    script = Script()

    async def use(source: RangeSource, file: RangeFile) -> list[bytes]:
        return await source.read_ranges(file, [(500, 20), (100, 30), (130, 10)])

    assert run(script, use) == [CONTENT[500:520], CONTENT[100:130], CONTENT[130:140]]
    assert len(script.lines) == 1


def test_ranges_far_apart_are_not_merged() -> None:
    far = 10 + 5 + MERGED_GAP_BYTES + 1
    assert merged_ranges([(far, 5), (10, 5)]) == [(10, 5), (far, 5)]
    assert merged_ranges([(far - 1, 5), (10, 5)]) == [(10, far + 4 - 10)]


def test_a_header_is_asked_for_once_and_the_cache_is_bounded() -> None:
    script = Script()

    async def use(source: RangeSource, file: RangeFile) -> None:
        for name in ("a", "b", "a", "c", "b"):
            other = RangeFile(name, f"{file.address}/{name}", "B04", ReadTally())
            assert (await source.read_header(other)).content == CONTENT

    run(script, use, settings=RangeSettings(header_cache_files=2))
    assert [line.split()[1][-1] for line in script.lines] == ["a", "b", "c", "b"]


def test_connections_are_bounded() -> None:
    open_now, most = 0, 0

    class Slow(Script):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal open_now, most
            open_now += 1
            most = max(most, open_now)
            await super().serve(reader, writer)
            open_now -= 1

    async def use(source: RangeSource, file: RangeFile) -> list[bytes]:
        return await asyncio.gather(*(source.read(file, 7 * number, 7) for number in range(40)))

    assert b"".join(run(Slow(), use, settings=RangeSettings(max_connections=3))) == CONTENT[:280]
    assert most == 3


def test_a_cancelled_read_leaves_no_task_behind() -> None:
    async def use(source: RangeSource, file: RangeFile) -> int:
        reading = asyncio.ensure_future(source.read_ranges(file, [(0, 5), (5_000_000, 5)]))
        await asyncio.sleep(0.05)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        return sum("_read_whole" in repr(task) for task in asyncio.all_tasks())

    assert run(Script(["silence", "silence"]), use, settings=RangeSettings()) == 0


def test_local_files_are_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "B04.tif"
    path.write_bytes(CONTENT)

    async def main(address: str, start: int) -> bytes:
        async with RangeSource(NoSigner(), QUICK) as source:
            return await source.read(RangeFile("B04.tif", address, "B04", ReadTally()), start, 100)

    assert asyncio.run(main(str(path), 10_200)) == CONTENT[10_200:]
    assert asyncio.run(main(path.as_uri(), 5)) == CONTENT[5:105]
    with pytest.raises(DamagedFileError, match="has 10240 bytes, expected more than 20000"):
        asyncio.run(main(str(path), 20_000))
    with pytest.raises(SceneContentError, match="no such file") as caught:
        asyncio.run(main(str(tmp_path / "B05.tif"), 0))
    assert caught.value.reason == "missing_file:B04"
    with pytest.raises(SceneReadError, match=r"3 attempts \(IsADirectoryError"):
        asyncio.run(main(str(tmp_path), 0))
