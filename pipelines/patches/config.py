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
    reader: str = Field(
        default="auto",
        pattern="^(auto|async|rasterio)$",
        description="auto: asynchronous range reads, rasterio for what they cannot open (JPEG 2000, s3://, strips); "
        "async: range reads alone; rasterio: GDAL alone.",
    )
    num_workers: int = Field(default=8, ge=1, le=128, description="Places in flight; each holds about 15 MB.")
    band_workers: int = Field(
        default=2, ge=1, le=16, description="Bands of one place that rasterio reads at the same time."
    )
    max_connections: int = Field(default=96, ge=1, le=512, description="HTTP requests at the same time, per shard.")
    decode_threads: int = Field(default=0, ge=0, le=64, description="Threads that decompress; 0 takes one per core.")
    header_cache_files: int = Field(
        default=1024, ge=0, le=65_536, description="Files whose first 16 kB are kept, so that they are asked for once."
    )
    timeout_s: float = Field(default=60, gt=0, le=600, description="Longest wait for one answer of a file server.")
    max_attempts: int = Field(default=5, ge=1, le=20, description="Attempts at one file before the shard gives up.")
    backoff_s: float = Field(
        default=0.5, ge=0, le=60, description="Wait after the first failed attempt; doubles each time."
    )
