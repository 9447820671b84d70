"""Whether an object is there in each month: a hidden Markov model over what was detected, decoded by Viterbi."""

from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

NO_IMAGE: Final = 0
NOT_DETECTED: Final = 1
DETECTED: Final = 2
"""What a month says of a place; the codes of observations."""

ABSENT: Final = 0
PRESENT: Final = 1


class SmoothingConfig(BaseModel):
    """A hidden Markov model of two states, absent and present, with a step of one month.

    The defaults follow the published recipe for solar farms: transitions 0.9 / 0.1 and 0.02 / 0.98, and for an object
    that is present 0.75, 0.2 and 0.05 for detected, not detected and no image. What an absent object emits is not
    published; here 0.05, 0.9 and 0.05. That a month without an image is equally probable in both states makes it
    tell nothing, which `no_image_probability` guarantees.

    Attributes:
        construction_probability: Absent this month, present the next.
        removal_probability: Present this month, absent the next.
        detection_probability: Detected where present.
        false_detection_probability: Detected where absent.
        no_image_probability: No image, in either state.
        initial_probability: Present before anything is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    construction_probability: float = Field(default=0.1, gt=0, lt=1)
    removal_probability: float = Field(default=0.02, gt=0, lt=1)
    detection_probability: float = Field(default=0.75, gt=0, lt=1)
    false_detection_probability: float = Field(default=0.05, gt=0, lt=1)
    no_image_probability: float = Field(default=0.05, gt=0, lt=1)
    initial_probability: float = Field(default=0.5, gt=0, lt=1)

    @model_validator(mode="after")
    def _detections_tell_something(self) -> Self:
        if self.detection_probability <= self.false_detection_probability:
            raise ValueError("detection_probability must be above false_detection_probability")
        if self.detection_probability + self.no_image_probability >= 1:
            raise ValueError("detection_probability and no_image_probability must leave room for not detected")
        return self

    def transitions(self) -> NDArray[np.float64]:
        """Probability of the next state (column) after a state (row): absent, present."""
        built, gone = self.construction_probability, self.removal_probability
        return np.array([[1 - built, built], [gone, 1 - gone]])

    def emissions(self) -> NDArray[np.float64]:
        """Probability of an observation (column: no image, not detected, detected) in a state (row)."""
        detected = np.array([self.false_detection_probability, self.detection_probability])
        no_image = np.full(2, self.no_image_probability)
        return np.column_stack([no_image, 1 - no_image - detected, detected])


def decode_presence(observations: NDArray[np.uint8], config: SmoothingConfig) -> NDArray[np.bool_]:
    """The most probable course of states of every object, shape (objects, months), True where present.

    Among equally probable courses that with the later change to present, or the earlier change to absent, is taken.

    Args:
        observations: Codes `NO_IMAGE`, `NOT_DETECTED`, `DETECTED`, uint8, shape (objects, months), months in order.
        config: The model.

    Raises:
        ValueError: A code that is none of the three, or an array of another shape.
    Source: Viterbi 1967, doi:10.1109/TIT.1967.1054010; Rabiner 1989, doi:10.1109/5.18626, equations 32 to 35.
    """
    if observations.ndim != 2 or (observations.size and observations.max() > DETECTED):
        raise ValueError(f"observations have shape {observations.shape}; expected (objects, months) of codes 0, 1, 2")
    num_objects, num_months = observations.shape
    if num_months == 0:
        return np.zeros((num_objects, 0), dtype=bool)
    step, emission = np.log(config.transitions()), np.log(config.emissions())
    start = np.log([1 - config.initial_probability, config.initial_probability])
    best = start + emission.T[observations[:, 0]]
    came_from = np.zeros((num_objects, num_months, 2), dtype=np.uint8)
    for month in range(1, num_months):
        reached = best[:, :, None] + step
        came_from[:, month] = reached.argmax(axis=1)
        best = reached.max(axis=1) + emission.T[observations[:, month]]
    states = np.zeros((num_objects, num_months), dtype=np.uint8)
    states[:, -1] = best.argmax(axis=1)
    rows = np.arange(num_objects)
    for month in range(num_months - 1, 0, -1):
        states[:, month - 1] = came_from[rows, month, states[:, month]]
    present: NDArray[np.bool_] = states == PRESENT
    return present
