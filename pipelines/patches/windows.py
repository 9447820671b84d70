"""What is read: a window of a scene on the scene's own grid, and what reading it took."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from numpy.typing import NDArray

from pipelines.errors import SceneContentError


@dataclass(frozen=True)
class Grid:
    """The grid of a patch's 10 m bands: CRS, upper-left corner of the scene, size and resolution."""

    epsg: int
    x_ul_m: float
    y_ul_m: float
    width_px: int
    height_px: int
    resolution_m: float


@dataclass(frozen=True)
class PatchWindow:
    """A square of pixels on a scene's 10 m grid: upper-left row and column, side."""

    row_px: int
    col_px: int
    size_px: int


@dataclass
class ReadTally:
    """What reading took.

    Attributes:
        num_reads: Windows of a file that were read.
        num_requests: HTTP requests for bytes of files; those that GDAL makes are not counted.
        num_bytes: Bytes that they brought.
        num_retries: Attempts that failed and were followed by another, or by an error.
    """

    num_reads: int = 0
    num_requests: int = 0
    num_bytes: int = 0
    num_retries: int = 0

    def add(self, other: "ReadTally") -> None:
        """Adds the counts of ``other``."""
        self.num_reads += other.num_reads
        self.num_requests += other.num_requests
        self.num_bytes += other.num_bytes
        self.num_retries += other.num_retries


@dataclass(frozen=True)
class FileGrid:
    """The grid of one file: EPSG code (None for none), upper-left corner, pixel size, size."""

    epsg: int | None
    x_ul_m: float
    y_ul_m: float
    pixel_width_m: float
    pixel_height_m: float
    width_px: int
    height_px: int

    def factor(self, href: str, band: str, grid: Grid) -> int:
        """Pixels of the 10 m grid per pixel of the file along one axis.

        Raises:
            SceneContentError: reason ``grid_mismatch``, where corner, size, CRS or pixels differ from the item's.
        """
        factor = round(self.pixel_width_m / grid.resolution_m)
        found = (self.epsg, self.x_ul_m, self.y_ul_m, self.width_px * factor, self.height_px * factor)
        expected = (grid.epsg, grid.x_ul_m, grid.y_ul_m, grid.width_px, grid.height_px)
        square = self.pixel_width_m == factor * grid.resolution_m and self.pixel_height_m == self.pixel_width_m
        if factor < 1 or not square or found != expected:
            raise SceneContentError(
                f"grid_mismatch:{band}",
                f"{href}: grid (EPSG, x, y, width, height at {grid.resolution_m:g} m) is {found} with pixels of "
                f"{self.pixel_width_m:g} m, the item says {expected}; rewrite the item's proj fields to the file's",
            )
        return factor


@dataclass(frozen=True)
class FileWindow:
    """The pixels of a file that hold a window: rows and columns from first to last, exclusive.

    Attributes:
        factor: Pixels of the 10 m grid per pixel of the file along one axis.
    """

    first_row: int
    first_col: int
    last_row: int
    last_col: int
    factor: int

    @classmethod
    def of(cls, window: PatchWindow, factor: int) -> Self:
        """The pixels of a file with ``factor`` that cover the window."""
        return cls(
            first_row=window.row_px // factor,
            first_col=window.col_px // factor,
            last_row=-(-(window.row_px + window.size_px) // factor),
            last_col=-(-(window.col_px + window.size_px) // factor),
            factor=factor,
        )

    def replicate(self, values: NDArray[Any], window: PatchWindow) -> NDArray[Any]:
        """The window on the 10 m grid, shape (size_px, size_px), of values of all these pixels."""
        if self.factor > 1:
            values = values.repeat(self.factor, axis=0).repeat(self.factor, axis=1)
        row, col = window.row_px - self.first_row * self.factor, window.col_px - self.first_col * self.factor
        cut: NDArray[Any] = values[row : row + window.size_px, col : col + window.size_px]
        return cut


class PatchReader(Protocol):
    """Reads windows of a scene's files; used as an asynchronous context manager on one event loop."""

    async def read_bands(
        self, hrefs: Mapping[str, str], grid: Grid, window: PatchWindow, tally: ReadTally
    ) -> dict[str, NDArray[Any]]:
        """The window of several bands, read together.

        Args:
            hrefs: Address relative to the catalog, by band.
            grid: The scene's 10 m grid; each file must share its corner and cover it.
            window: Which pixels.
            tally: Grows by what the reading takes, whether it succeeds or not.

        Returns:
            By band the values as delivered, shape (size_px, size_px), replicated to the 10 m grid where coarser.

        Raises:
            SceneReadError: a file cannot be read now; comes before any verdict, because it may hide another.
            SceneContentError: missing_file, unreadable or grid_mismatch of the first band, in the order of ``hrefs``.
        """
        ...

    async def __aenter__(self) -> Self:
        """Opens what reading needs."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends every read, and leaves no connection and no thread of its own behind."""
        ...
