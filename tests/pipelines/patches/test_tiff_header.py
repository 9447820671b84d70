import asyncio
import struct
from pathlib import Path

import numpy as np
import pytest
import rasterio
from async_tiff import TIFF
from rasterio.transform import from_origin

from pipelines.patches.async_read import _Arrived
from pipelines.patches.ranges import DamagedFileError
from pipelines.patches.tiff_header import (
    MAX_HEADER_BYTES,
    TiledImage,
    UnsupportedFileError,
    first_directory,
    tiled_image,
)


def cog(path: Path, **options: object) -> bytes:
    values = (np.arange(600 * 500, dtype=np.uint32) % 60_000).astype(np.uint16).reshape(600, 500)
    with rasterio.open(
        path, "w", driver="COG", count=1, dtype="uint16", nodata=0, crs="EPSG:32722", height=600, width=500,
        transform=from_origin(600_000, 7_400_020, 20, 20), blocksize=128, compress="DEFLATE", **options,
    ) as target:  # fmt: skip
        target.write(values, 1)
    return path.read_bytes()


def opened(content: bytes) -> tuple[int, TiledImage]:
    async def main() -> tuple[int, TiledImage]:
        directory = first_directory(content)
        head = directory.alone(content)
        tiff = await TIFF.open("file", store=_Arrived(head), prefetch=len(head))
        return len(tiff.ifds), tiled_image(directory, content[: directory.end])

    return asyncio.run(main())


@pytest.mark.parametrize("big", ["NO", "YES"])
def test_the_library_sees_the_full_image_and_no_overview(tmp_path: Path, big: str) -> None:
    content = cog(tmp_path / "B05.tif", BIGTIFF=big)
    num_directories, image = opened(content)
    assert num_directories == 1
    with rasterio.open(tmp_path / "B05.tif") as source:
        assert source.overviews(1)
        assert image.grid.factor("B05.tif", "B05", _grid()) == 2
        assert (image.grid.width_px, image.grid.height_px) == (source.width, source.height)
        for number in (0, 3, 19):
            row, col = divmod(number, 4)
            tags = [
                int(source.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE")
            ]
            assert [image.offsets[number], image.sizes[number]] == tags


def _grid() -> object:
    from pipelines.patches.windows import Grid

    return Grid(32722, 600_000.0, 7_400_020.0, 1000, 1200, 10.0)


@pytest.mark.parametrize("big", ["NO", "YES"])
def test_a_short_head_says_how_much_is_needed(tmp_path: Path, big: str) -> None:
    content = cog(tmp_path / "B05.tif", BIGTIFF=big)
    end = first_directory(content).end
    for length in (16, 200, end - 1):
        asked = first_directory(content[:length]).end
        assert length < asked <= end
    assert first_directory(content[:end]).end == end


def test_what_is_no_tiff_is_not_ours() -> None:
    for content in (b"", b"II*\0", b"\x89PNG" + bytes(60), bytes(400), b"\0\0\0\x0cjP  " + bytes(40)):
        with pytest.raises(UnsupportedFileError, match="no TIFF"):
            first_directory(content)


def test_absurd_claims_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    content = bytearray(cog(tmp_path / "B05.tif", BIGTIFF="NO"))
    (offset,) = struct.unpack_from("<I", content, 4)
    far, unknown, none = bytearray(content), bytearray(content), bytearray(content)
    struct.pack_into("<I", far, 4, MAX_HEADER_BYTES + 9)
    struct.pack_into("<H", unknown, offset + 4, 999)
    struct.pack_into("<I", none, offset + 6, 0)
    with pytest.raises(UnsupportedFileError, match="beyond the first"):
        first_directory(bytes(far))
    for damaged in (unknown, none):
        with pytest.raises(DamagedFileError, match="a tag of type"):
            first_directory(bytes(damaged))
    struct.pack_into("<I", content, offset + 6, 2**31)
    with pytest.raises(UnsupportedFileError, match="beyond the first"):
        first_directory(bytes(content))
