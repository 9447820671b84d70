"""Settings of the features stage; importing them does not import PyTorch."""

from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

PUBLISHED: Final = "published"
_DEFAULT_FILTERS: Final = 64


class ImageBackboneSettings(BaseModel):
    """Which frozen image backbone, and where its weights come from; see `pipelines.features.backbones`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["random_convolutional", "moco_resnet18", "moco_resnet50", "moco_vit16"] = Field(
        default="random_convolutional", description="Family of the backbone."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the random filters, or of weights that are not loaded.")
    num_filters: int = Field(
        default=_DEFAULT_FILTERS, ge=1, le=1024, description="Filters per scale of random_convolutional."
    )
    weights: str | None = Field(
        default=None,
        description="Weights of a MoCo backbone: a path, OWNER/NAME:FILE on the Hugging Face Hub, or 'published' for "
        "those of its kind; without, they are random.",
    )
    download: bool = Field(default=False, description="Whether weights that are not on this machine may be fetched.")

    @model_validator(mode="after")
    def _settings_belong_to_the_kind(self) -> Self:
        if self.kind == "random_convolutional":
            if self.weights is not None:
                raise ValueError(
                    f"weights are {self.weights!r}, but random_convolutional has none to load; choose a MoCo kind, or "
                    "leave weights out"
                )
        elif self.num_filters != _DEFAULT_FILTERS:
            raise ValueError(f"num_filters is {self.num_filters}, but {self.kind} has its own; leave it out")
        elif self.weights is not None and self.seed:
            raise ValueError(f"seed is {self.seed}, but the weights {self.weights!r} replace what it draws; leave it 0")
        return self


class ViewsConfig(BaseModel):
    """Views of a patch: view 0 is the patch itself, the others are augmented; see `pipelines.features.views`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_views: int = Field(default=1, ge=1, le=256, description="Views per patch, the plain one among them.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of the augmentations.")
    flips: bool = Field(
        default=True, description="Whether rows and columns are each reversed with a probability of one half."
    )
    min_crop_fraction: float = Field(
        default=0.75,
        gt=0,
        le=1,
        description="Smallest side of a crop as a fraction of the patch's side, uniform up to 1; the crop is "
        "resampled to the patch's size.",
    )
    max_blur_sigma_px: float = Field(
        default=1.0,
        ge=0,
        le=16,
        description="Largest standard deviation of the Gaussian blur in pixels, uniform from 0.",
    )
    max_band_jitter: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Largest relative change of a band's reflectance, uniform in both directions, per band and view.",
    )
