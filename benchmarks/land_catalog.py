"""The sandbox's items for every land tile, written once, and a small STAC API over them.

    python benchmarks/land_catalog.py FOLDER

`rustac serve` scans all items for each search and holds them in memory: too slow and too large for 200,000 of them.
Here items lie in files, and a tree of footprints finds them. The API is that of the Planetary Computer as far as a
search needs it: POST /search with intersects, bbox, datetime, query, ids, limit, and paging by token.
"""

import argparse
import json
import logging
import mmap
import operator
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from shapely.geometry import shape

from pipelines.sandbox.catalog import ORIGIN, collection, item, land_tiles
from pipelines.sandbox.fields import Planet
from pipelines.sandbox.rendering import Renderer
from pipelines.sandbox.scenes import tile_scenes
from pipelines.sandbox.tiling import tile_from_id

logger = logging.getLogger(__name__)

TILES_PER_PART = 500
MAX_PAGE = 1000
CORE = "https://api.stacspec.org/v1.0.0"
OPERATORS = {"lt": operator.lt, "lte": operator.le, "gt": operator.gt, "gte": operator.ge, "eq": operator.eq}


def build_catalog(folder: Path, seed: int = 0, max_acquisitions: int = 12, num_processes: int = 2) -> dict[str, float]:
    """Writes the items of all land tiles, each part once, and tells how many of them there are.

    Args:
        folder: Receives tiles.json, and per 500 tiles items-NNN.ndjson and its index; what is there already is kept.
        seed: Of the planet.
        max_acquisitions: Most acquisitions of one tile.
        num_processes: Processes that render the items' cloud cover.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "recipe.json"
    wanted = {"seed": seed, "max_acquisitions": max_acquisitions}
    if recipe.exists() and json.loads(recipe.read_text()) != wanted:
        raise SystemExit(f"{folder}: holds the items of {recipe.read_text()}, expected {wanted}; choose another folder")
    recipe.write_text(json.dumps(wanted))
    tiles_path = folder / "tiles.json"
    if not tiles_path.exists():
        tiles_path.write_text(json.dumps([tile.tile_id for tile in land_tiles(Renderer(Planet(seed)))]))
    tiles = json.loads(tiles_path.read_text())
    starts = range(0, len(tiles), TILES_PER_PART)
    parts = [(folder / f"items-{number:03d}", tiles[start : start + TILES_PER_PART], seed, max_acquisitions)
             for number, start in enumerate(starts)]  # fmt: skip
    todo = [part for part in parts if not part[0].with_suffix(".parquet").exists()]
    started = time.monotonic()
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
        written = sum(pool.map(_write_part, todo))
    seconds = time.monotonic() - started
    counts = np.concatenate([
        pq.read_table(part[0].with_suffix(".parquet"), columns=["tile"]).column("tile").to_numpy(zero_copy_only=False)
        for part in parts
    ])  # fmt: skip
    per_tile = np.unique(counts, return_counts=True)[1]
    return {
        "num_tiles": len(tiles),
        "num_items": len(counts),
        "min_items_per_tile": int(per_tile.min()) if len(per_tile) == len(tiles) else 0,
        "tiles_below_10_items": int((per_tile < 10).sum() + len(tiles) - len(per_tile)),
        "items_per_s": written / seconds if written else 0.0,
        "seconds": seconds,
    }


@cache
def _renderer(seed: int) -> Renderer:
    return Renderer(Planet(seed))


def _write_part(part: tuple[Path, list[str], int, int]) -> int:
    path, tile_ids, seed, max_acquisitions = part
    rows: list[dict[str, Any]] = []
    with path.with_suffix(".ndjson").open("wb") as handle:
        for tile_id in tile_ids:
            for scene in tile_scenes(tile_from_id(tile_id), seed, max_acquisitions):
                described = item(scene, _renderer(seed))
                line = json.dumps(described, separators=(",", ":")).encode()
                properties = described["properties"]
                rows.append(
                    {
                        "id": described["id"],
                        "tile": tile_id,
                        "datetime": properties["datetime"],
                        "cloud": properties["eo:cloud_cover"],
                        "offset": handle.tell(),
                        "length": len(line),
                        "wkb": shapely.to_wkb(shape(described["geometry"])),
                    }
                )
                handle.write(line + b"\n")
    pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".parquet"), compression="zstd")
    return len(rows)


@dataclass
class LandStac:
    """The index of a folder written by `build_catalog`, newest item first, and counters of what was asked."""

    folder: Path
    num_requests: int = 0
    num_returned: int = 0
    num_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        parts = sorted(self.folder.glob("items-*.parquet"))
        tables = [pq.read_table(part) for part in parts]
        part = np.repeat(np.arange(len(parts)), [len(table) for table in tables])
        rows = pa.concat_tables(tables).to_pandas()
        order = np.lexsort((rows["id"], rows["datetime"]))[::-1]
        rows, self.part = rows.iloc[order].reset_index(drop=True), part[order]
        self.ids, self.datetimes = rows["id"].to_numpy(object), rows["datetime"].to_numpy(object).astype("U27")
        self.cloud, self.offset, self.length = (rows[name].to_numpy() for name in ("cloud", "offset", "length"))
        self.footprints = shapely.from_wkb(rows["wkb"].to_numpy())
        self.tree = shapely.STRtree(self.footprints)
        self.files = []
        for each in parts:
            with each.with_suffix(".ndjson").open("rb") as handle:
                self.files.append(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))

    def search(self, body: dict[str, Any]) -> tuple[list[int], int]:
        """Rows of one page, and where the next begins (0 for none)."""
        if "ids" in body:
            found = np.flatnonzero(np.isin(self.ids, body["ids"]))
        else:
            area = shape(body["intersects"]) if "intersects" in body else None
            if "bbox" in body:
                area = shapely.box(*body["bbox"])
            found = np.arange(len(self.ids)) if area is None else np.sort(self.tree.query(area, predicate="intersects"))
        if "datetime" in body:
            first, _, last = body["datetime"].partition("/")
            times = self.datetimes[found]
            found = found[(times >= first.rstrip("Z")) & (times <= (last or first).rstrip("Z") + "~")]
        for name, conditions in (body.get("query") or {}).items():
            if name != "eo:cloud_cover":
                raise ValueError(f"query by {name}")
            for condition, bound in conditions.items():
                found = found[OPERATORS[condition](self.cloud[found], bound)]
        start = int(body.get("token", "0"))
        stop = start + min(int(body.get("limit", 10)), MAX_PAGE)
        return found[start:stop].tolist(), stop if stop < len(found) else 0

    def page(self, body: dict[str, Any], url: str) -> bytes:
        """The answer to a search."""
        rows, following = self.search(body)
        items = [self.files[self.part[row]][self.offset[row] : self.offset[row] + self.length[row]] for row in rows]
        link = {"rel": "next", "href": f"{url}/search", "method": "POST", "type": "application/geo+json"}
        links = [link | {"body": body | {"token": str(following)}}] if following else []
        answer = b'{"type":"FeatureCollection","links":%b,"features":[%b]}' % (
            json.dumps(links).encode(),
            b",".join(items).replace(ORIGIN.encode(), url.encode()),
        )
        with self._lock:
            self.num_requests += 1
            self.num_returned += len(rows)
            self.num_bytes += len(answer)
        return answer


@contextmanager
def serve_catalog(folder: Path) -> Iterator[tuple[str, LandStac]]:
    """Serves the items of a folder on loopback; yields the API's address and its counters."""
    stac = LandStac(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Says nothing."""

        @property
        def url(self) -> str:
            return f"http://127.0.0.1:{self.server.server_address[1]}"

        def do_GET(self) -> None:
            """Landing page, collections, collection."""
            path = self.path.partition("?")[0]
            answers: dict[str, Any] = {
                "/": _landing_page(self.url),
                "/collections": {"collections": [collection()], "links": []},
                f"/collections/{collection()['id']}": collection(),
            }
            found = answers.get(path)
            self._reply(json.dumps(found or {"code": "NotFoundError"}).encode(), 200 if found else 404)

        def do_POST(self) -> None:
            """A search."""
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                self._reply(stac.page(body, self.url))
            except (ValueError, KeyError, shapely.errors.ShapelyError) as error:
                self._reply(json.dumps({"code": "BadRequest", "description": str(error)}).encode(), 400)

        def _reply(self, body: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", stac
        finally:
            server.shutdown()


def _landing_page(url: str) -> dict[str, Any]:
    kinds = ("core", "collections", "ogcapi-features", "item-search", "item-search#query")
    return {
        "type": "Catalog",
        "stac_version": "1.0.0",
        "id": "land",
        "description": "The sandbox's items of all land tiles.",
        "conformsTo": [f"{CORE}/{kind}" for kind in kinds],
        "links": [
            {"rel": "self", "href": f"{url}/", "type": "application/json"},
            {"rel": "root", "href": f"{url}/", "type": "application/json"},
            {"rel": "data", "href": f"{url}/collections", "type": "application/json"},
            {"rel": "search", "href": f"{url}/search", "type": "application/geo+json", "method": "POST"},
        ],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--max-acquisitions", type=int, default=12)
    options = parser.parse_args()
    print(json.dumps(build_catalog(options.folder, max_acquisitions=options.max_acquisitions)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
