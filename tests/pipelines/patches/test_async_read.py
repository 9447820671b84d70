"""The asynchronous reader gives what rasterio gives, pixel for pixel and verdict for verdict."""

import asyncio
import threading
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.shutil import copy as copy_raster
from rasterio.transform import from_origin
from rasterio.windows import Window

from pipelines.errors import ConfigurationError, SceneContentError, SceneReadError
from pipelines.patches.async_read import AsyncReader, open_reader
from pipelines.patches.config import PatchConfig
from pipelines.patches.windows import Grid, PatchWindow, ReadTally
from pipelines.sampling.catalog import NoSigner
from tests.loopback.cog import CogServer
from tests.loopback.coordinate_scene import BANDS, CoordinateScene
from tests.loopback.faults import reset, slow, status, truncate

SCENE = CoordinateScene(epsg=32632, x_ul_m=399960, y_ul_m=5300040, mgrs_tile="32TLT")
GRID = Grid(32632, 399_960.0, 5_300_040.0, 1098, 1098, 10.0)
SMALL = Grid(32632, 399_960.0, 5_300_040.0, 300, 204, 10.0)
QUICK = PatchConfig(max_attempts=2, backoff_s=0.0, num_workers=2)
WINDOWS = [PatchWindow(0, 0, 256), PatchWindow(842, 842, 256), PatchWindow(301, 417, 256), PatchWindow(509, 3, 64)]


class Anywhere:
    """A catalog whose addresses are absolute and open to all."""

    signer = NoSigner()

    @staticmethod
    def absolute_href(href: str) -> str:
        return href


def read_bands(
    hrefs: dict[str, str], window: PatchWindow, config: PatchConfig = QUICK, grid: Grid = GRID
) -> tuple[dict[str, NDArray[Any]], ReadTally]:
    tally = ReadTally()

    async def main() -> dict[str, NDArray[Any]]:
        async with open_reader(Anywhere(), config) as reader:  # type: ignore[arg-type]
            return await reader.read_bands(hrefs, grid, window, tally)

    return asyncio.run(main()), tally


def both(path: Path, window: PatchWindow, grid: Grid = SMALL, reader: str = "async") -> list[NDArray[Any]]:
    return [
        read_bands({"B04": str(path)}, window, QUICK.model_copy(update={"reader": name}), grid)[0]["B04"]
        for name in (reader, "rasterio")
    ]


def small_file(path: Path, dtype: str = "uint16", gsd_m: int = 10, **options: Any) -> NDArray[Any]:
    rng = np.random.default_rng(3)
    high = 2**14 if dtype != "uint8" else 200
    values = np.cumsum(rng.integers(0, 9, (204 * 10 // gsd_m, 300 * 10 // gsd_m)), axis=1) % high
    values = values.astype(dtype)
    layout = {"tiled": True, "blockxsize": 64, "blockysize": 48, "nodata": 0, "driver": "GTiff"} | options
    with rasterio.open(
        path, "w", count=1, dtype=dtype, crs="EPSG:32632", height=len(values), width=values.shape[1],
        transform=from_origin(399_960, 5_300_040, gsd_m, gsd_m), **layout,
    ) as target:  # fmt: skip
        target.write(values, 1)
    return values


@pytest.mark.network
@pytest.mark.parametrize("reader", ["async", "rasterio"])
@pytest.mark.parametrize("window", WINDOWS)
def test_bands_hold_their_own_coordinates(cog_server: CogServer, reader: str, window: PatchWindow) -> None:
    SCENE.write(cog_server.folder)
    hrefs = {band: f"{cog_server.cog_url}/{SCENE.file_name(band)}" for band in (*BANDS, "SCL")}
    found, tally = read_bands(hrefs, window, QUICK.model_copy(update={"reader": reader}))
    expected = SCENE.expected_patch(window.row_px, window.col_px, window.size_px)
    np.testing.assert_array_equal(np.stack([found[band] for band in BANDS]), expected)
    assert found["SCL"].dtype == np.uint8
    assert tally.num_reads == 13
    if reader == "async":
        assert tally.num_requests == sum(cog_server.count(f"*{SCENE.file_name(band)}") for band in hrefs)
        assert tally.num_bytes > 13 * 1000


@pytest.mark.parametrize("predictor", [1, 2])
@pytest.mark.parametrize("compress", ["DEFLATE", "LZW", "ZSTD", "NONE"])
@pytest.mark.parametrize("dtype", ["uint16", "uint8", "int16"])
def test_codecs_and_predictors_agree_with_rasterio(tmp_path: Path, compress: str, predictor: int, dtype: str) -> None:
    options = {} if compress == "NONE" else {"compress": compress, "predictor": predictor}
    values = small_file(tmp_path / "B04.tif", dtype=dtype, **options)
    for window in (PatchWindow(0, 0, 50), PatchWindow(140, 236, 64), PatchWindow(47, 63, 130)):
        ours, theirs = both(tmp_path / "B04.tif", window)
        assert ours.dtype == theirs.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(ours, theirs)
        rows, cols = slice(window.row_px, window.row_px + 50), slice(window.col_px, window.col_px + 50)
        np.testing.assert_array_equal(ours[:50, :50], values[rows, cols])


@pytest.mark.parametrize(
    "options",
    [
        {"blockxsize": 16, "blockysize": 256, "compress": "DEFLATE"},
        {"compress": "DEFLATE", "BIGTIFF": "YES"},
        {"compress": "DEFLATE", "predictor": 2, "ENDIANNESS": "BIG"},
        {"compress": "LZW", "predictor": 2, "ENDIANNESS": "BIG"},
        {"compress": "DEFLATE", "dtype": "float32", "predictor": 3},
        {"compress": "DEFLATE", "dtype": "float32"},
        {"compress": "DEFLATE", "gsd_m": 20},
        {"compress": "DEFLATE", "gsd_m": 60},
        {"driver": "COG", "blocksize": 128, "compress": "DEFLATE", "predictor": "YES"},
    ],
)
def test_layouts_agree_with_rasterio(tmp_path: Path, options: dict[str, Any]) -> None:
    if options.get("driver") == "COG":
        options = options | {"tiled": None, "blockxsize": None, "blockysize": None}
        options = {name: value for name, value in options.items() if value is not None}
        base = tmp_path / "plain.tif"
        small_file(base)
        copy_raster(base, tmp_path / "B04.tif", **options)
    else:
        small_file(tmp_path / "B04.tif", **options)
    for window in (PatchWindow(1, 2, 50), PatchWindow(140, 236, 64)):
        np.testing.assert_array_equal(*both(tmp_path / "B04.tif", window))


def test_strips_and_jpeg2000_are_left_to_rasterio(tmp_path: Path) -> None:
    small_file(tmp_path / "strips.tif", tiled=False, blockxsize=300, blockysize=7, compress="DEFLATE")
    small_file(tmp_path / "plain.tif")
    copy_raster(tmp_path / "plain.tif", tmp_path / "B04.jp2", driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    for name in ("strips.tif", "B04.jp2"):
        np.testing.assert_array_equal(*both(tmp_path / name, PatchWindow(11, 12, 90), reader="auto"))
        with pytest.raises(ConfigurationError, match="set reader to auto or rasterio"):
            both(tmp_path / name, PatchWindow(11, 12, 90))


@pytest.mark.parametrize("nodata", [0, 7])
@pytest.mark.parametrize("compress", ["DEFLATE", "LZW"])
def test_tiles_that_were_never_written_are_nodata(tmp_path: Path, nodata: int, compress: str) -> None:
    path = tmp_path / "B04.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=1, dtype="uint16", crs="EPSG:32632", height=204, width=300, tiled=True,
        blockxsize=64, blockysize=64, sparse_ok=True, compress=compress, nodata=nodata,
        transform=from_origin(399_960, 5_300_040, 10, 10),
    ) as target:  # fmt: skip
        target.write(np.full((64, 64), 4321, np.uint16), 1, window=Window(64, 64, 64, 64))
    ours, theirs = both(path, PatchWindow(30, 40, 120))
    np.testing.assert_array_equal(ours, theirs)
    assert set(np.unique(ours)) == {nodata, 4321}
    np.testing.assert_array_equal(*both(path, PatchWindow(140, 140, 60)))


@pytest.mark.parametrize("reader", ["auto", "async", "rasterio"])
@pytest.mark.parametrize(
    "grid",
    [
        replace(SMALL, epsg=32633), replace(SMALL, x_ul_m=399_970.0), replace(SMALL, width_px=301),
        replace(SMALL, resolution_m=20.0),
    ],
    ids=["zone", "corner", "size", "pixel"],
)  # fmt: skip
def test_another_grid_is_a_verdict(tmp_path: Path, grid: Grid, reader: str) -> None:
    small_file(tmp_path / "B04.tif", compress="DEFLATE")
    config = QUICK.model_copy(update={"reader": reader})
    with pytest.raises(SceneContentError, match="rewrite the item's proj fields") as caught:
        read_bands({"B04": str(tmp_path / "B04.tif")}, PatchWindow(0, 0, 50), config, grid)
    assert caught.value.reason == "grid_mismatch:B04"


@pytest.mark.parametrize("reader", ["auto", "async", "rasterio"])
@pytest.mark.parametrize("compress", ["DEFLATE", "LZW"])
def test_a_damaged_tile_is_a_verdict_and_never_other_pixels(tmp_path: Path, compress: str, reader: str) -> None:
    path = tmp_path / "B04.tif"
    small_file(path, compress=compress)
    content = bytearray(path.read_bytes())
    with rasterio.open(path) as source:
        offset, size = (int(source.get_tag_item(f"BLOCK_{what}_0_0", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE"))
    content[offset + size // 2 : offset + size // 2 + 40] = bytes(40)
    path.write_bytes(content)
    config = QUICK.model_copy(update={"reader": reader})
    with pytest.raises(SceneContentError, match="truncated or damaged") as caught:
        read_bands({"B04": str(path)}, PatchWindow(0, 0, 50), config, SMALL)
    assert caught.value.reason == "unreadable:B04"


def test_every_flipped_bit_of_a_deflated_tile_is_found(tmp_path: Path) -> None:
    """The checksum at the end of the stream is checked although the window's pixels come before it."""
    path = tmp_path / "B04.tif"
    small_file(path, compress="DEFLATE")
    whole = path.read_bytes()
    with rasterio.open(path) as source:
        offset, size = (int(source.get_tag_item(f"BLOCK_{what}_0_0", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE"))
    right, config = None, QUICK.model_copy(update={"reader": "async", "max_attempts": 1})
    for position in (None, *range(offset + 2, offset + size, 97), offset + size - 1):
        content = bytearray(whole)
        if position is not None:
            content[position] ^= 16
        path.write_bytes(content)
        if position is None:
            right = read_bands({"B04": str(path)}, PatchWindow(0, 0, 8), config, SMALL)[0]["B04"]
            continue
        with pytest.raises(SceneContentError):
            read_bands({"B04": str(path)}, PatchWindow(0, 0, 8), config, SMALL)
    assert right is not None
    assert len(zlib.decompress(whole[offset : offset + size])) == 64 * 48 * 2


def test_a_damaged_directory_gives_right_pixels_or_an_error_of_ours(tmp_path: Path) -> None:
    """The library alone would end the process on some of these."""
    path = tmp_path / "B04.tif"
    values = small_file(path, compress="DEFLATE")
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    config = QUICK.model_copy(update={"reader": "async", "max_attempts": 1})
    outcomes = set()
    for _ in range(150):
        content = bytearray(whole)
        for position in rng.integers(0, 600, rng.integers(1, 4)):
            content[position] = rng.integers(256)
        path.write_bytes(content)
        try:
            found = read_bands({"B04": str(path)}, PatchWindow(0, 0, 50), config, SMALL)[0]["B04"]
        except (SceneContentError, ConfigurationError, SceneReadError) as error:
            outcomes.add(type(error))
        else:
            if found.dtype == values.dtype:
                np.testing.assert_array_equal(found, values[:50, :50])
            outcomes.add(np.ndarray)
    assert {SceneContentError, np.ndarray} <= outcomes


@pytest.mark.network
def test_a_long_directory_is_fetched_whole(cog_server: CogServer) -> None:
    path = cog_server.folder / "B04.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=1, dtype="uint16", crs="EPSG:32632", height=2048, width=2048, tiled=True,
        blockxsize=16, blockysize=16, compress="DEFLATE", transform=from_origin(399_960, 5_300_040, 10, 10),
    ) as target:  # fmt: skip
        values = (np.arange(2048 * 2048, dtype=np.uint32) % 64_000).astype(np.uint16).reshape(2048, 2048)
        target.write(values, 1)
    config = QUICK.model_copy(update={"reader": "async"})
    grid = replace(GRID, width_px=2048, height_px=2048)
    found, tally = read_bands({"B04": f"{cog_server.cog_url}/B04.tif"}, PatchWindow(1000, 900, 64), config, grid)
    np.testing.assert_array_equal(found["B04"], values[1000:1064, 900:964])
    assert tally.num_retries == 0


@pytest.mark.network
def test_a_second_window_of_a_file_asks_for_no_header(cog_server: CogServer) -> None:
    SCENE.write(cog_server.folder)
    hrefs = {"B04": f"{cog_server.cog_url}/{SCENE.file_name('B04')}"}
    tallies = [ReadTally(), ReadTally()]

    async def main() -> None:
        async with AsyncReader(Anywhere(), QUICK) as reader:  # type: ignore[arg-type]
            for tally, row in zip(tallies, (0, 600), strict=True):
                found = await reader.read_bands(hrefs, GRID, PatchWindow(row, 0, 256), tally)
                np.testing.assert_array_equal(found["B04"], SCENE.expected_patch(row, 0)[BANDS.index("B04")])

    asyncio.run(main())
    assert [tally.num_requests for tally in tallies] == [2, 1]


@pytest.mark.network
@pytest.mark.parametrize("reader", ["auto", "async"])
@pytest.mark.parametrize(
    "fault", [status(503), status(429), reset(), truncate(9_000, times=1), truncate(50, times=1), status(500, times=1)]
)
def test_a_passing_fault_changes_no_pixel(cog_server: CogServer, fault: Any, reader: str) -> None:
    SCENE.write(cog_server.folder)
    cog_server.script("*_B05_*", fault)
    hrefs = {band: f"{cog_server.cog_url}/{SCENE.file_name(band)}" for band in BANDS}
    found, tally = read_bands(hrefs, WINDOWS[2], QUICK.model_copy(update={"reader": reader, "max_attempts": 4}))
    np.testing.assert_array_equal(np.stack([found[band] for band in BANDS]), SCENE.expected_patch(301, 417))
    assert tally.num_retries == 1 or fault.kind == "reset"  # aiohttp repeats a request once on a closed connection


@pytest.mark.network
def test_a_fault_comes_before_a_verdict_and_ends_the_other_reads(cog_server: CogServer) -> None:
    SCENE.write(cog_server.folder)
    (cog_server.folder / SCENE.file_name("B02")).unlink()
    cog_server.script("*_B05_*", status(503, times=None))
    cog_server.script("*_B06_*", slow(20.0))
    hrefs = {band: f"{cog_server.cog_url}/{SCENE.file_name(band)}" for band in ("B02", "B05", "B06")}
    with pytest.raises(SceneReadError, match="B05 could not be read in 2 attempts"):
        read_bands(hrefs, WINDOWS[0])


@pytest.mark.network
@pytest.mark.parametrize("reader", ["auto", "rasterio"])
def test_a_cancelled_read_ends_soon_and_leaves_no_thread(cog_server: CogServer, reader: str) -> None:
    SCENE.write(cog_server.folder)
    cog_server.script("*_B05_*", slow(1.0, times=None))
    hrefs = {band: f"{cog_server.cog_url}/{SCENE.file_name(band)}" for band in BANDS}
    before = set(threading.enumerate())

    async def main() -> None:
        async with asyncio.timeout(0.3), open_reader(Anywhere(), QUICK.model_copy(update={"reader": reader})) as source:  # type: ignore[arg-type]
            await source.read_bands(hrefs, GRID, WINDOWS[0], ReadTally())

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert set(threading.enumerate()) <= before


@pytest.mark.real_data
@pytest.mark.parametrize("band", ["B02", "B8A", "SCL"])
def test_a_real_scene_reads_alike(shared_data: Path, band: str) -> None:
    folder = shared_data / "s2_l2a_scene_29RKH" / "S2A_29RKH_20200219_0_L2A"
    path = folder / f"{band}.tif"
    with rasterio.open(path) as source:
        side = source.width * round(source.transform.a / 100)
        grid = Grid(source.crs.to_epsg(), source.transform.c, source.transform.f, side, side, 100.0)
    for window in (PatchWindow(0, 0, 256), PatchWindow(401, 333, 256), PatchWindow(side - 256, side - 256, 256)):
        np.testing.assert_array_equal(*both(path, window, grid))
