"""A copy of the part of a file that matters, every byte of which is known to have arrived: the last word on damage."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import requests

TIMEOUT_S: Final = 20
PIECE_BYTES: Final = 8 << 20
MAX_WHOLE_BYTES: Final = 1 << 30
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class NotArrivedError(Exception):
    """The server did not send what was asked for: no verdict on the file can be given."""


@dataclass
class SparseCopy:
    """A file of the length of the original that holds the bytes fetched so far, and zeros elsewhere.

    Attributes:
        path: The copy.
        sign: Gives the address to ask, signed.
        size_bytes: Length of the original, once it is known.
    """

    path: Path
    sign: Callable[[], str]
    size_bytes: int | None = None

    def fetch(self, start: int, length: int) -> None:
        """Fetches one range; what lies beyond the original's end is left out.

        Raises:
            NotArrivedError: the answer is not exactly the range that was asked for.
        """
        if self.size_bytes is not None:
            length = min(length, self.size_bytes - start)
        if length <= 0:
            return
        header = {"Range": f"bytes={start}-{start + length - 1}"}
        try:
            with requests.get(self.sign(), headers=header, timeout=TIMEOUT_S, allow_redirects=False) as response:
                content = self._checked(response, start, length)
        except requests.RequestException as error:
            raise NotArrivedError(type(error).__name__) from None
        with self.path.open("r+b" if self.path.exists() else "w+b") as copy:
            copy.truncate(self.size_bytes)
            os.pwrite(copy.fileno(), content, start)

    def fetch_whole(self) -> None:
        """Fetches all of the original.

        Raises:
            NotArrivedError: see `fetch`; or the file is too large to be worth it.
        """
        if self.size_bytes is None or self.size_bytes > MAX_WHOLE_BYTES:
            raise NotArrivedError(f"the file has {self.size_bytes} bytes, expected at most {MAX_WHOLE_BYTES}")
        for start in range(0, self.size_bytes, PIECE_BYTES):
            self.fetch(start, PIECE_BYTES)

    def _checked(self, response: requests.Response, start: int, length: int) -> bytes:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status_code != 206 or match is None:
            raise NotArrivedError(f"server status {response.status_code} without a range")
        first, last, size = (int(each) for each in match.groups())
        if self.size_bytes not in (None, size):
            raise NotArrivedError(f"the file's size changed from {self.size_bytes} to {size} bytes")
        content = response.content
        if first != start or last + 1 != min(start + length, size) or len(content) != last + 1 - first:
            raise NotArrivedError(f"server sent {len(content)} bytes from {first}, expected {length} from {start}")
        self.size_bytes = size
        return content
