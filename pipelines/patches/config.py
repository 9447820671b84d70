"""Settings of the patches stage."""

from pydantic import BaseModel, ConfigDict, Field


class PatchConfig(BaseModel):
    """How patches are read and which are accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_unclear_fraction: float = Field(
        default=0.01, ge=0, le=1, description="Largest share of the window in SCL classes 1, 3, 8, 9, 10."
    )
    max_nodata_fraction: float = Field(default=0.10, gt=0, le=1, description="The share of nodata must be below this.")
    clear_test: str = Field(
        default="scl",
        pattern="^(scl|none)$",
        description="scl reads the scene classification first; none accepts scenes that have none.",
    )
    num_workers: int = Field(default=4, ge=1, le=128, description="Places read at the same time.")
    band_workers: int = Field(default=2, ge=1, le=16, description="Bands of one place read at the same time.")
    max_attempts: int = Field(default=5, ge=1, le=20, description="Attempts at one file before the shard gives up.")
    backoff_s: float = Field(
        default=0.5, ge=0, le=60, description="Wait after the first failed attempt; doubles each time."
    )
