"""Settings of the monthly products; importing them imports nothing heavy."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from pipelines.satlas.smoothing import SmoothingConfig

PUBLISHED_CATEGORIES: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "solar_farm": MappingProxyType({"solar_farm": "solar_farm"}),
        "wind_turbine": MappingProxyType({"wind_turbine": "wind_turbine"}),
        "marine_infrastructure": MappingProxyType(
            {"turbine": "offshore_wind_turbine", "platform": "offshore_platform"}
        ),
    }
)
"""What a model's category is called in products. Others, such as vessels, are confusers and are not published."""
UNPUBLISHED_CATEGORIES: Final = ("vessel",)


DEFAULT_MIN_SCORE: Final = 0.5
"""Where neither the settings nor the training of the weights name one."""


class ProductConfig(BaseModel):
    """How predictions become products.

    Attributes:
        min_score: Objects below are left out; None: what the training of the weights says, else 0.5.
        merge_distance_m: Points of a month no further apart are one object; polygons are not concerned.
        gap_m: Widest gap that is closed between polygons of a month, about a pixel.
        min_area_m2: Smaller polygons are left out; the published recipe has 8 pixels of 10 m.
        track_distance_m: Furthest that a point moves between months; the published recipe groups within 200 m.
        smoothing: The hidden Markov model of presence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_score: float | None = Field(default=None, ge=0, le=1)
    merge_distance_m: float = Field(default=50.0, gt=0, le=5000)
    gap_m: float = Field(default=10.0, ge=0, le=1000)
    min_area_m2: float = Field(default=800.0, ge=0)
    track_distance_m: float = Field(default=200.0, gt=0, le=5000)
    smoothing: SmoothingConfig = SmoothingConfig()
