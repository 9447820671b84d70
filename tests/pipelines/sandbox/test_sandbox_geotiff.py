import struct
from datetime import UTC, datetime

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

from pipelines.sandbox.cogs import CogStore, cog_layout
from pipelines.sandbox.fields import Planet
from pipelines.sandbox.geotiff import GeoTiffLayout
from pipelines.sandbox.rendering import Renderer
from pipelines.sandbox.scenes import Scene, covering_orbits
from pipelines.sandbox.tiling import tile_from_id


@pytest.fixture(scope="module")
def renderer():
    return Renderer(Planet(0))


def _scene(tile_id):
    tile = tile_from_id(tile_id)
    day = datetime(2022, 7, 16, 10, 30, tzinfo=UTC)
    return Scene("S2A", day, covering_orbits(tile)[0], tile, "04.00", day)


def _small(dtype="uint16", num_samples=1, width=1100):
    return GeoTiffLayout(width, 60.0, dtype, num_samples, 32632, 399_960.0, 5_000_040.0)


def _numbered(layout):
    def render(level, row, col):
        shape = (256, 256, layout.num_samples) if layout.num_samples > 1 else (256, 256)
        y, x = np.meshgrid(np.arange(256) + 256 * row, np.arange(256) + 256 * col, indexing="ij")
        values = (level.factor * 7 + y * 3 + x) % 251
        return (
            np.broadcast_to(values.reshape(shape[:2] + (1,) * (len(shape) - 2)), shape).astype(layout.dtype).tobytes()
        )

    return render


def _write(layout, path, render):
    with path.open("wb") as handle:
        for piece in layout.read_range(0, layout.size, render):
            handle.write(piece)


@pytest.mark.parametrize(("dtype", "num_samples"), [("uint16", 1), ("uint8", 1), ("uint8", 3)])
def test_gdal_reads_what_was_rendered(tmp_path, dtype, num_samples):
    layout = _small(dtype, num_samples)
    _write(layout, tmp_path / "a.tif", _numbered(layout))
    assert (tmp_path / "a.tif").stat().st_size == layout.size
    with rasterio.open(tmp_path / "a.tif") as source:
        assert source.crs.to_epsg() == 32632
        assert source.transform[:6] == (60.0, 0.0, 399_960.0, 0.0, -60.0, 5_000_040.0)
        assert source.nodata == 0
        assert source.block_shapes[0] == (256, 256)
        assert source.overviews(1) == [2, 4]
        pixels = source.read()
    y, x = np.meshgrid(np.arange(1100), np.arange(1100), indexing="ij")
    np.testing.assert_array_equal(pixels, np.broadcast_to((7 + y * 3 + x) % 251, pixels.shape))
    with rasterio.open(tmp_path / "a.tif", overview_level=1) as source:
        assert source.shape == (275, 275)
        np.testing.assert_array_equal(source.read(1), ((28 + y * 3 + x) % 251)[:275, :275])


def test_layout_is_that_of_a_cog(tmp_path):
    layout = _small()
    header = layout.header
    assert header[:4] == b"II*\0"
    offset = struct.unpack("<I", header[4:8])[0]
    directories, firsts = [], []
    while offset:
        directories.append(offset)
        (count,) = struct.unpack_from("<H", header, offset)
        entries = {}
        for k in range(count):
            tag, kind, number, value = struct.unpack_from("<HHII", header, offset + 2 + 12 * k)
            entries[tag] = (kind, number, value)
        assert list(entries) == sorted(entries)
        assert (254 in entries) == (len(directories) > 1)
        _, number, position = entries[324]
        firsts.append(struct.unpack_from("<I", header, position)[0] if number > 1 else position)
        (offset,) = struct.unpack_from("<I", header, offset + 2 + 12 * count)
    assert len(directories) == 3
    assert directories == sorted(directories)
    assert directories[0] < 300
    assert firsts == sorted(firsts, reverse=True)
    assert min(firsts) == layout.header_size
    assert b"LAYOUT=IFDS_BEFORE_DATA" in header


def test_any_range_is_a_slice_of_the_whole():
    layout = _small("uint8", width=600)
    render = _numbered(layout)
    whole = b"".join(layout.read_range(0, layout.size, render))
    rng = np.random.default_rng(0)
    for _ in range(40):
        start, stop = np.sort(rng.choice(layout.size + 1, 2, replace=False)).tolist()
        assert b"".join(layout.read_range(start, stop, render)) == whole[start:stop]
    for start, stop in ((5, 5), (-1, 4), (0, layout.size + 1)):
        with pytest.raises(ValueError, match="bytes"):
            list(layout.read_range(start, stop, render))


def test_sizes_are_those_of_a_scene():
    scene = _scene("32UNA")
    full = cog_layout(scene, "B02")
    assert [level.width for level in full.levels] == [10_980, 5_490, 2_745, 1_373, 687, 344]
    assert full.levels[0].num_tiles * full.tile_bytes == 242_352_128
    assert 2**31 > cog_layout(scene, "visual").size > full.size
    assert [level.width for level in cog_layout(scene, "B01").levels] == [1_830, 915, 458]


@pytest.mark.parametrize("tile_id", ["32UNA", "35LNE", "01WCN", "27XVN"])
@pytest.mark.parametrize("band", ["B01", "SCL"])
def test_files_hold_the_rendered_pixels(tmp_path, renderer, tile_id, band):
    """The whole 60 m file, and of the 20 m file its overviews, through GDAL."""
    scene = _scene(tile_id)
    cog = CogStore(renderer).open(f"{scene.product_name}/{band}.tif")
    path = tmp_path / "scene.tif"
    with path.open("wb") as handle:
        sparse_start = cog.layout.levels[0].data_offset if band == "SCL" else cog.layout.size
        for piece in cog.layout.read_range(0, sparse_start, cog.render_tile):
            handle.write(piece)
        handle.truncate(cog.layout.size)
    with rasterio.open(path) as source:
        assert source.crs.to_epsg() == scene.tile.epsg
        assert (source.transform.c, source.transform.f) == (scene.tile.x_ul_m, scene.tile.y_ul_m)
        if band == "B01":
            direct = np.block([[renderer.render(scene, band, r, c) for c in (5, 6, 7)] for r in (5, 6, 7)])
            window = source.read(1, window=Window(1400, 1390, 430, 440))
            np.testing.assert_array_equal(window, direct[110 : 110 + 440, 120 : 120 + 430])
    with rasterio.open(path, overview_level=1) as source:
        factor = 4
        resolution = cog.layout.resolution_m * factor
        direct = renderer.render(scene, band, 0, 0, resolution)
        np.testing.assert_array_equal(source.read(1, window=Window(0, 0, 256, 256)), direct)


def test_unknown_files_are_not_found(renderer):
    store = CogStore(renderer)
    name = _scene("32UNA").product_name
    for path in (f"{name}/B10.tif", f"{name}/B02.jp2", "x/B02.tif", name.replace("T32UNA", "T32UAA") + "/B02.tif"):
        with pytest.raises(FileNotFoundError):
            store.open(path)
