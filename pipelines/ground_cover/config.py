"""Settings of labels from a land-cover map."""

from pydantic import BaseModel, ConfigDict, Field

from pipelines.provenance import content_hash

_DECISIVE = {
    "collection", "classes", "max_years_apart", "minimum_valid_fraction", "maximum_unknown_fraction", "keep_maps",
}  # fmt: skip
_FINGERPRINT_DIGITS = 16


class LabelsConfig(BaseModel):
    """Which map the labels are from, and which of them are accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    collection: str = Field(
        default="esa-worldcover", min_length=1, description="Land-cover collection of the STAC API."
    )
    classes: str = Field(
        default="esa_worldcover", min_length=1, description="Mapping of its codes: a name, or the path of a YAML file."
    )
    max_years_apart: float = Field(
        default=1.0, ge=0, description="Most years between a patch's date and the time that its map stands for."
    )
    minimum_valid_fraction: float = Field(
        default=0.5, gt=0, le=1, description="Share of a patch's pixels that need a class."
    )
    maximum_unknown_fraction: float = Field(
        default=0.01, ge=0, le=1, description="Most pixels of a patch with codes that the mapping does not name."
    )
    keep_maps: bool = Field(default=False, description="Whether the class of every pixel is kept, as Zarr.")
    num_workers: int = Field(default=4, ge=1, le=64, description="Patches that are read at once.")
    max_attempts: int = Field(default=5, ge=1, le=20, description="Attempts at a file before its shard fails.")
    backoff_s: float = Field(default=0.5, ge=0, le=60, description="Wait after the first failed attempt; doubles.")

    def decisive(self) -> dict[str, object]:
        """The settings that decide what the labels are."""
        return self.model_dump(mode="json", include=_DECISIVE)

    def fingerprint(self, classes_sha256: str, dataset_content_sha256: str) -> str:
        """Id of the labels of a dataset under these settings."""
        return content_hash([self.decisive(), classes_sha256, dataset_content_sha256])[:_FINGERPRINT_DIGITS]
