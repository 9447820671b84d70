"""Settings of Satlas training; importing them imports nothing heavy."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.satlas.inference_config import InferenceConfig
from satclip_model.satlas.config import SatlasConfig


class SatlasTrainingConfig(BaseModel):
    """How a model is trained. The defaults are the published recipe.

    Attributes:
        model: What is trained, with one head.
        num_examples: Crops that the model sees in all.
        examples_per_epoch: Crops between two validations.
        batch_size: Crops per step.
        crop_px: Least side of a crop, a multiple of 32.
        max_crop_px: Greatest side; each step has one of the multiples of 32 between. None: always the least.
        centered_share: Chance that a crop is laid around an object, of examples that hold one.
        light_spread: How much channels are made brighter or darker at random, see `crops.vary`; 0: not at all.
        min_present: Share of a crop that an image must cover to be used.
        learning_rate: Of Adam, after the warm-up.
        warmup_examples: Crops through which the learning rate rises from zero.
        warmup_delay_examples: Crops before, through which it is as it is; the published recipe warms up what it thaws.
        freeze_examples: Crops through which backbone and pyramid stay as they are; 0 from scratch.
        schedule: ``plateau`` lowers the rate where the training loss stops falling; ``cosine`` lets it fall to zero.
        plateau_factor: Multiplies the rate.
        plateau_patience: Epochs without a lower loss that are let pass.
        plateau_cooldown: Epochs after a change in which nothing is counted.
        min_learning_rate: The rate does not fall below on a plateau.
        max_gradient_norm: Longer gradients are cut to this.
        validation: Windows and thresholds of validation.
        match_distance_m: How near a detected point must lie to a known one.
        time_limit_s: Ends the training early, after an epoch; None: no limit.
        precision: ``auto`` is bfloat16 on a GPU, else float32.
        seed: Of weights, crops and sampling.

    Source: allenai/satlas, configs/satlas_explorer_*.txt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: SatlasConfig
    num_examples: int = Field(default=2_000_000, ge=1)
    examples_per_epoch: int = Field(default=32_768, ge=1)
    batch_size: int = Field(default=16, ge=1)
    crop_px: int = Field(default=416, ge=32, multiple_of=32)
    max_crop_px: int | None = Field(default=None, ge=32, multiple_of=32)
    centered_share: float = Field(default=0.0, ge=0, le=1)
    light_spread: float = Field(default=0.0, ge=0, le=1)
    min_present: float = Field(default=0.25, gt=0, le=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    warmup_examples: int = Field(default=65_536, ge=0)
    warmup_delay_examples: int = Field(default=0, ge=0)
    freeze_examples: int = Field(default=65_536, ge=0)
    schedule: Literal["plateau", "cosine"] = "plateau"
    plateau_factor: float = Field(default=0.5, gt=0, lt=1)
    plateau_patience: int = Field(default=1, ge=0)
    plateau_cooldown: int = Field(default=10, ge=0)
    min_learning_rate: float = Field(default=1e-6, ge=0)
    max_gradient_norm: float = Field(default=10.0, gt=0)
    validation: InferenceConfig = InferenceConfig()
    match_distance_m: float = Field(default=100.0, gt=0)
    time_limit_s: float | None = Field(default=None, gt=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one_head(self) -> Self:
        if len(self.model.heads) != 1 or self.model.heads[0].kind in ("classification", "multilabel_classification"):
            kinds = ", ".join(head.kind for head in self.model.heads)
            raise ValueError(f"model.heads are {kinds}; expected one head of segmentation, regression or detection")
        if self.max_crop_px is not None and self.max_crop_px < self.crop_px:
            raise ValueError(f"max_crop_px is {self.max_crop_px}; expected at least crop_px, {self.crop_px}")
        return self

    @property
    def num_steps(self) -> int:
        """Steps of the whole training."""
        return -(-self.num_examples // self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Steps between two validations."""
        return max(1, self.examples_per_epoch // self.batch_size)
