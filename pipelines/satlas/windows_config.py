"""Settings of windows and mosaics; importing them imports nothing heavy."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Box = tuple[float, float, float, float]


class WindowsConfig(BaseModel):
    """Which tiles are looked at, and with which images.

    Attributes:
        boxes: West, south, east and north in degrees; west above east crosses the antimeridian.
        area: GeoJSON of polygons instead of, or beside, the boxes.
        tile_px: Side of a tile in pixels of 10 m, a multiple of 32.
        margin_px: Pixels around a tile that models see and predict nothing in, a multiple of 16.
        cell_px: Side of the squares of a fixed grid that choose their images each; None: of a tile.
        grid_shift_px: Moves the grid of tiles east and south.
        num_periods: Periods that a month looks back on.
        period_days: Length of a period; the last ends with the month.
        max_images: Most images of a period's mosaic.
        max_candidates: Most images of a period whose scene classification is read, the least cloudy scenes first.
        min_clear: Share of a tile that a period's mosaic must cover, or the period is missing.
        collection: Of the catalog; empty: the profile's.
        num_workers: Tiles at the same time.
        max_attempts: At one file before the tile gives up.
        backoff_s: Wait after the first failed attempt; doubles each time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    boxes: tuple[Box, ...] = ()
    area: str = ""
    tile_px: int = Field(default=2048, ge=32, le=8192, multiple_of=32)
    margin_px: int = Field(default=64, ge=0, le=1024, multiple_of=16)
    cell_px: int | None = Field(default=None, ge=32, le=8192, multiple_of=32)
    grid_shift_px: int = Field(default=0, ge=0)
    num_periods: int = Field(default=4, ge=1, le=24)
    period_days: int = Field(default=30, ge=1, le=366)
    max_images: int = Field(default=3, ge=1, le=16)
    max_candidates: int = Field(default=12, ge=1, le=200)
    min_clear: float = Field(default=0.05, gt=0, le=1)
    collection: str = ""
    num_workers: int = Field(default=4, ge=1, le=64)
    max_attempts: int = Field(default=5, ge=1, le=20)
    backoff_s: float = Field(default=0.5, ge=0, le=60)

    @model_validator(mode="after")
    def _there_is_an_area(self) -> Self:
        if not self.boxes and not self.area:
            raise ValueError("neither boxes nor area is set; expected west, south, east, north, or a GeoJSON file")
        for west, south, east, north in self.boxes:
            if not (-180 <= west <= 180 and -180 <= east <= 180 and -80 <= south < north <= 84 and west != east):
                raise ValueError(
                    f"box {west}, {south}, {east}, {north}: expected west, south, east, north in degrees, within 80 S "
                    "and 84 N, south below north"
                )
        return self

    @property
    def cell_side_px(self) -> int:
        """Side of the squares that choose their images."""
        return self.cell_px or self.tile_px

    @property
    def content(self) -> dict[str, object]:
        """The settings that decide what a window holds; how many are made at a time does not."""
        return self.model_dump(mode="json", exclude={"boxes", "area", "num_workers", "max_attempts", "backoff_s"})
