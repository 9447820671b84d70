"""Items of earlier searches on disk, so that an interrupted or repeated search asks only for what it lacks."""

import gzip
import json
import logging
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.atomic import replacing
from pipelines.provenance import content_hash

logger = logging.getLogger(__name__)

SECONDS_PER_DAY = 86_400.0
FORMAT = 1
DROPPED = ("links",)

Item = dict[str, Any]


@dataclass(frozen=True)
class ItemCache:
    """A folder with one file per search: what a catalog answered, and when.

    Addresses of files are kept as ``relative_href`` gives them: without the catalog's own host, and without what signs
    them. A file that is damaged or too old is no entry.

    Attributes:
        folder: Where the files lie.
        identity: What names the catalog: its address and the collection.
        relative_href: See `Catalog.relative_href`; applying it twice changes nothing.
        max_age_days: Entries older than this are asked for anew.
    """

    folder: Path
    identity: tuple[str, str]
    relative_href: Callable[[str], str]
    max_age_days: float

    def read(self, search: dict[str, Any]) -> list[Item] | None:
        """The items of a search, in the order of the answer, or None where the cache has none."""
        path = self._path(search)
        try:
            header, *lines = gzip.decompress(path.read_bytes()).decode().splitlines()
            known = json.loads(header)
            if known["search"] != self._key(search) or known["num_items"] != len(lines):
                raise ValueError("it holds another search, or a part of one")
            items: list[Item] = [json.loads(line) for line in lines]
            age_days = (time.time() - float(known["searched_at"])) / SECONDS_PER_DAY
        except FileNotFoundError:
            return None
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
            logger.warning("%s: damaged entry of the item cache (%s); its search is repeated", path, error)
            return None
        return items if 0 <= age_days <= self.max_age_days else None

    def line(self, item: Item) -> str:
        """An item as the cache keeps it."""
        kept = self._without_secrets({name: value for name, value in item.items() if name not in DROPPED})
        return json.dumps(kept, separators=(",", ":"))

    def write(self, search: dict[str, Any], lines: Sequence[str]) -> None:
        """Keeps what a search answered, whole or not at all; each line from `line`."""
        header = {"search": self._key(search), "num_items": len(lines), "searched_at": time.time()}
        text = "\n".join([json.dumps(header), *lines])
        with replacing(self._path(search)) as partial:
            partial.write_bytes(gzip.compress(text.encode(), compresslevel=4, mtime=0))

    def prune(self) -> None:
        """Removes entries that are too old to be read, and what interrupted writes left."""
        oldest = time.time() - self.max_age_days * SECONDS_PER_DAY
        for path in self.folder.glob("*/*.ndjson.gz*"):
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)

    def _key(self, search: dict[str, Any]) -> str:
        return content_hash([FORMAT, *self.identity, search])

    def _path(self, search: dict[str, Any]) -> Path:
        key = self._key(search)
        return self.folder / key[:2] / f"{key}.ndjson.gz"

    def _without_secrets(self, value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, dict):
            return {
                name: self.relative_href(inner) if name == "href" and isinstance(inner, str)
                else self._without_secrets(inner)
                for name, inner in value.items()
            }  # fmt: skip
        return [self._without_secrets(inner) for inner in value] if isinstance(value, list) else value
