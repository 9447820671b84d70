"""Settings of the sampling stage, one class per step."""

from datetime import date
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class PlacesConfig(BaseModel):
    """Which places are drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_places: int = Field(default=100_000, ge=1, description="Places to draw.")
    seed: int = Field(default=0, ge=0, description="Seed of the draw.")
    bbox: list[float] = Field(
        default=[-180.0, -56.0, 180.0, 84.0],
        description="West, south, east, north in degrees; west > east crosses the antimeridian.",
    )
    min_distance_m: float = Field(
        default=0.0, ge=0, le=2_000_000, description="Smallest distance of two places; 0 sets none."
    )

    @model_validator(mode="after")
    def _validate(self) -> Self:
        if len(self.bbox) != 4:
            raise ValueError(f"bbox {self.bbox}: expected four numbers: west, south, east, north")
        west, south, east, north = self.bbox
        if not (-180 <= west <= 180 and -180 <= east <= 180 and west != east):
            raise ValueError(f"bbox {self.bbox}: west and east must differ and lie in [-180, 180]")
        if not -90 <= south < north <= 90:
            raise ValueError(f"bbox {self.bbox}: need -90 <= south < north <= 90")
        return self


class SearchConfig(BaseModel):
    """Which scenes are candidates, and how the catalog is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    collection: str = Field(default="sentinel-2-l2a", description="STAC collection id.")
    start_date: str = Field(default="2021-01-01", description="First acquisition date, ISO 8601, inclusive.")
    end_date: str = Field(default="2023-05-17", description="Last acquisition date, ISO 8601, inclusive.")
    max_cloud_cover_percent: float = Field(
        default=20.0, gt=0, le=101, description="Scenes at or above this eo:cloud_cover are no candidates."
    )
    search_cell_deg: float = Field(
        default=10.0, gt=0, le=30, description="Places in one cell of this height may share a search."
    )
    max_places_per_search: int = Field(default=16, ge=1, le=500, description="Upper bound of places in one search.")
    search_area: str = Field(
        default="auto",
        pattern="^(auto|places|box)$",
        description="What a search asks for: its places, a box around them, or what the catalog is found to answer.",
    )
    page_size: int | None = Field(
        default=None, ge=1, le=10_000, description="Items per page asked for; what suits the catalog by default."
    )
    cache_max_age_days: float = Field(
        default=14.0, ge=0, description="Answers older than this are asked for anew; 0 asks always."
    )
    source: str = Field(
        default="auto",
        pattern="^(auto|search|bulk)$",
        description="Searches, or the collection's table of all items; auto takes a fresh table for many places.",
    )
    bulk_href: str = Field(
        default="",
        description="Where that table lies, if not where the collection says: abfs, http(s), file or a path.",
    )
    bulk_min_places: int = Field(default=50_000, ge=1, description="From this number of places on, auto looks for it.")

    @model_validator(mode="after")
    def _validate(self) -> Self:
        if date.fromisoformat(self.start_date) > date.fromisoformat(self.end_date):
            raise ValueError(f"start_date {self.start_date} is after end_date {self.end_date}")
        return self


class PlanConfig(BaseModel):
    """How many candidates a place keeps, and which window is cut."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0, description="Seed of the order of candidate scenes.")
    max_candidates: int = Field(default=8, ge=1, description="Candidate scenes kept per place.")
    allowed_resolutions_m: list[float] = Field(
        default=[10.0], min_length=1, description="Pixel sizes of B02 that are accepted."
    )
    patch_size_px: int = Field(default=256, ge=8, description="Side of a patch on the grid of the 10 m bands.")
    align_px: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Windows begin at multiples of this; 256 keeps them inside single tiles of a file and saves 40 % "
        "of the bytes, but shifts patches by up to 1.3 km from their places.",
    )
    edge_margin_m: float = Field(
        default=500.0, ge=0, description="Candidates whose patch comes closer to the edge of the scene's data go last."
    )
    season_balance: bool = Field(
        default=False, description="Prefer for each place a quarter of the year drawn for it, so that seasons balance."
    )
    refresh: bool = Field(
        default=False,
        description="Plan only what the latest dataset lacks: new places, places without a patch, and old ones.",
    )
    max_age_days: int | None = Field(
        default=None, ge=1, description="A refresh renews patches acquired more than this before end_date."
    )

    @model_validator(mode="after")
    def _validate(self) -> Self:
        if self.align_px > self.patch_size_px:
            raise ValueError(
                f"align_px {self.align_px}: expected at most patch_size_px {self.patch_size_px}, or places between "
                "windows would have none"
            )
        return self
