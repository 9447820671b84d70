"""Settings of inference; importing them imports nothing heavy."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

WINDOW_MULTIPLE_PX = 32
_GPU_BATCH_SIZE = 8


class InferenceConfig(BaseModel):
    """How a tile is gone over.

    Attributes:
        window_px: Side of a window, a multiple of 32.
        overlap_px: Shared by neighbouring windows, an even number.
        batch_size: Windows at a time; None: one on a CPU, whose caches hold no more, eight on a GPU.
        min_score: Points below are left out.
        threshold: Pixels above belong to a polygon.
        min_area_px: Smaller polygons are left out.
        merge_distance_m: Points of a category no further apart are one.
        min_present: Share of a window that an image must cover to count in it.
        precision: Of the computation; ``auto`` is bfloat16 on a GPU, else float32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_px: int = Field(default=512, ge=32, le=4096, multiple_of=WINDOW_MULTIPLE_PX)
    overlap_px: int = Field(default=128, ge=0, multiple_of=2)
    batch_size: int | None = Field(default=None, ge=1)
    min_score: float = Field(default=0.1, ge=0, le=1)
    threshold: float = Field(default=0.5, gt=0, lt=1)
    min_area_px: int = Field(default=8, ge=1)
    merge_distance_m: float = Field(default=50.0, gt=0)
    min_present: float = Field(default=0.25, gt=0, le=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def batch_size_on(self, device: str) -> int:
        """Windows at a time on ``cpu`` or ``cuda``."""
        return self.batch_size or (1 if device == "cpu" else _GPU_BATCH_SIZE)

    @model_validator(mode="after")
    def _windows_move(self) -> Self:
        if self.overlap_px >= self.window_px:
            raise ValueError(f"overlap_px is {self.overlap_px}; expected less than window_px, {self.window_px}")
        return self
