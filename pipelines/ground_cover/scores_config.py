"""Settings of ground-cover scores; importing them does not import PyTorch."""

from pydantic import BaseModel, ConfigDict, Field


class GroundCoverScoresConfig(BaseModel):
    """How places are divided, and what is scored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell_deg: float = Field(default=10.0, gt=0, le=90, description="Side of the spatial blocks in degrees.")
    num_folds: int = Field(default=5, ge=3, description="Folds of whole blocks.")
    seeds: list[int] = Field(default=[0, 1, 2], min_length=1, description="Seeds of folds and weights.")
    multi_label_threshold: float = Field(
        default=0.1, gt=0, le=1, description="Share of a patch from which a class counts as there."
    )
    leave_one_class_out: bool = Field(
        default=True, description="Whether each class is left out of training and then asked for by its text."
    )
    leave_one_out_folds: int = Field(default=3, ge=3, description="Folds of whole blocks for that.")
