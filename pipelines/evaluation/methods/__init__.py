"""What embeddings are compared with, and what turns places into features: by name, and by checkpoint."""

from pipelines.evaluation.methods.base import EncoderFeatures, LocationFeatures
from pipelines.evaluation.methods.baselines import EncodingAlone, SinCosCoordinates, UntrainedEncoder
from pipelines.evaluation.methods.opening import BASELINES, method_names, open_method, released_config

__all__ = [
    "BASELINES",
    "EncoderFeatures",
    "EncodingAlone",
    "LocationFeatures",
    "SinCosCoordinates",
    "UntrainedEncoder",
    "method_names",
    "open_method",
    "released_config",
]
