"""Settings of the sandbox."""

from pydantic import BaseModel, ConfigDict, Field


class SandboxConfig(BaseModel):
    """What planet to serve, and how.

    Attributes:
        seed: Seed of the planet, its clouds and its acquisitions.
        num_places: Items are made for the tiles around this many points on land.
        places_seed: Seed those points are drawn with; the same as the sampling stage's.
        all_land: Items of all land tiles instead (some 180,000 items; minutes, and 4 GB for the STAC server).
        max_acquisitions: Most acquisitions of one tile; a few of them are there twice, processed again.
        port: Port on loopback; 0 takes a free one.
        require_token: Answer 403 to a scene's address without a live token.
        objects: Plant objects, and serve the tiles they stand in through 18 months (`pipelines.sandbox.planted`).
        catalog: Folder with collection.json, items.ndjson (addresses of files relative to the folder) and the files;
            served instead of the planet's own items.
        token_lifetime_s: Seconds a token lives; planetary-computer renews those with less than a minute left.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0)
    num_places: int = Field(default=1280, ge=1)
    places_seed: int = Field(default=0, ge=0)
    all_land: bool = False
    max_acquisitions: int = Field(default=8, ge=1, le=100)
    objects: bool = False
    catalog: str | None = None
    port: int = Field(default=0, ge=0, le=65_535)
    require_token: bool = True
    token_lifetime_s: float = Field(default=2_700.0, gt=0)
