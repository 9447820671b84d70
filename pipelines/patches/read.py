"""Exact windows of a scene's files through GDAL: the second backend, and the one for JPEG 2000 and object stores."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray
from rasterio.windows import Window

from pipelines.patches.config import PatchConfig
from pipelines.patches.file_reader import FileReader
from pipelines.patches.together import read_together
from pipelines.patches.windows import FileGrid, FileWindow, Grid, PatchWindow, ReadTally
from pipelines.sampling.catalog import Catalog


@dataclass(frozen=True)
class _BandWindow:
    """A window of one band on the scene's 10 m grid."""

    href: str
    band: str
    grid: Grid
    window: PatchWindow

    @property
    def told(self) -> str:
        return f"a window of {self.window.size_px} px"

    def read(self, source: Any) -> NDArray[Any]:  # noqa: ANN401
        part = FileWindow.of(self.window, _file_grid(source).factor(self.href, self.band, self.grid))
        rows, cols = part.last_row - part.first_row, part.last_col - part.first_col
        values = source.read(1, window=Window(part.first_col, part.first_row, cols, rows))
        return part.replicate(values, self.window)

    def pixels(self, source: Any) -> tuple[range, range]:  # noqa: ANN401
        part = FileWindow.of(self.window, max(round(source.transform.a / self.grid.resolution_m), 1))
        return range(part.first_row, part.last_row), range(part.first_col, part.last_col)


class WindowReader(FileReader):
    """Reads windows of the files of a scene."""

    def read_band(
        self, href: str, band: str, grid: Grid, window: PatchWindow, tally: ReadTally | None = None
    ) -> NDArray[Any]:
        """One band in the window, replicated to the 10 m grid where it is coarser.

        Args:
            href: Address relative to the catalog.
            band: Name for messages.
            grid: The scene's 10 m grid; the file must share its corner and cover it.
            window: Which pixels.
            tally: Grows with the reader's own.

        Returns:
            Values as delivered, shape (size_px, size_px).

        Raises:
            SceneContentError: missing_file, unreadable or grid_mismatch.
            SceneReadError: the file cannot be read now.
        """
        return self.read_file(href, band, _BandWindow(href, band, grid, window), tally)


class RasterioReader:
    """Reads windows with a `WindowReader` in threads: ``band_workers`` for each of the ``num_workers`` places.

    Args:
        catalog: Resolves and signs addresses.
        config: Bounds and persistence.
    """

    def __init__(self, catalog: Catalog, config: PatchConfig) -> None:
        self._reader = WindowReader(catalog, max_attempts=config.max_attempts, backoff_s=config.backoff_s)
        self._num_threads = config.num_workers * config.band_workers

    async def __aenter__(self) -> Self:
        """Prepares the threads; each starts with its first read."""
        self._pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="rasterio")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the reads that GDAL is in; begins no other."""
        self._reader.stopping.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._pool.shutdown)

    async def read_bands(
        self, hrefs: Mapping[str, str], grid: Grid, window: PatchWindow, tally: ReadTally
    ) -> dict[str, NDArray[Any]]:
        """See `PatchReader.read_bands`."""
        return await read_together({band: self.read_band(hrefs[band], band, grid, window, tally) for band in hrefs})

    async def read_band(self, href: str, band: str, grid: Grid, window: PatchWindow, tally: ReadTally) -> NDArray[Any]:
        """One band in the window; see `WindowReader.read_band`."""
        own = ReadTally()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, self._reader.read_band, href, band, grid, window, own)
        finally:
            tally.add(own)


def _file_grid(source: Any) -> FileGrid:  # noqa: ANN401
    transform = source.transform
    return FileGrid(
        epsg=source.crs.to_epsg() if source.crs else None,
        x_ul_m=transform.c,
        y_ul_m=transform.f,
        pixel_width_m=transform.a,
        pixel_height_m=-transform.e,
        width_px=source.width,
        height_px=source.height,
    )
