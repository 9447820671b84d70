"""Makes small sources in the layout of S2-100K for tests."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.patches.s2_100k_image import PatchGrid, encode_patch

SIZE_PX = 48


def pixels(number: int, size_px: int = SIZE_PX) -> NDArray[np.uint16]:
    """Noise, another for every number, shape (12, size, size)."""
    return np.random.default_rng(number).integers(1, 12_000, (12, size_px, size_px), dtype=np.uint16)


def patch_bytes(number: int, size_px: int = SIZE_PX) -> bytes:
    """The GeoTIFF of ``pixels(number)``."""
    return encode_patch(
        pixels(number, size_px), PatchGrid(32601 + number % 60, 500_000.0 + number * 10, 4_000_000.0, 10.0)
    )


def index_row(number: int) -> tuple[str, float, float]:
    """Name, lon, lat of a patch, with all digits of a float."""
    rng = np.random.default_rng([7, number])
    return f"patch_{number}.tif", float(rng.uniform(-180, 180)), float(rng.uniform(-80, 80))


def index_text(numbers: Iterable[int]) -> str:
    """An index in the order lat, lon, url, fn."""
    rows = [index_row(number) for number in numbers]
    return "lat,lon,url,fn\n" + "".join(f"{lat!r},{lon!r},https://host.test/{fn}?sig=1,{fn}\n" for fn, lon, lat in rows)


def write_loose(folder: Path, numbers: Iterable[int], size_px: int = SIZE_PX) -> Path:
    """A folder with index.csv and images/."""
    numbers = list(numbers)
    (folder / "images").mkdir(parents=True)
    (folder / "index.csv").write_text(index_text(numbers))
    for number in numbers:
        (folder / "images" / f"patch_{number}.tif").write_bytes(patch_bytes(number, size_px))
    return folder


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    """A tar with the given members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_sharded(folder: Path, numbers: Iterable[int], num_tars: int) -> Path:
    """A folder with index.csv and data/shard-NNN.tar."""
    numbers = list(numbers)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.csv").write_text(index_text(numbers))
    for tar in range(num_tars):
        held = numbers[tar * len(numbers) // num_tars : (tar + 1) * len(numbers) // num_tars]
        write_tar(folder / "data" / f"shard-{tar:03d}.tar", [(f"patch_{n}.tif", patch_bytes(n)) for n in held])
    return folder
