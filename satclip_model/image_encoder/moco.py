"""Networks of the shape of those pre-trained by momentum contrast on SSL4EO-S12, and their weights."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from jaxtyping import Float
from torch import Tensor

from satclip_model.checkpoint.archive import read_archive
from satclip_model.checkpoint.weights import load_weights
from satclip_model.config import MoCoConfig
from satclip_model.errors import CheckpointError
from satclip_model.image_encoder.image_input import center_crop
from satclip_model.image_encoder.learned import LearnedImageBackbone

MOCO_WEIGHTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "moco_resnet18": (
            "torchgeo/resnet18_sentinel2_all_moco@5b8cddc9a14f3844350b7f40b85bcd32aed75918:"
            "resnet18_sentinel2_all_moco-59bfdff9.pth"
        ),
        "moco_resnet50": (
            "torchgeo/resnet50_sentinel2_all_moco@da4f3c9dbe09272eb902f3b37f46635fa4726879:"
            "resnet50_sentinel2_all_moco-df8b932e.pth"
        ),
        "moco_vit16": (
            "torchgeo/vit_small_patch16_224_sentinel2_all_moco@1cb683f6c14739634cdfaaceb076529adf898c74:"
            "vit_small_patch16_224_sentinel2_all_moco-67c9032d.pth"
        ),
    }
)
"""Per kind the published weights on the Hugging Face Hub, ``repo@commit:file``, for the 13 bands of Level-1C.

Source: torchgeo 0.10, ``SENTINEL2_ALL_MOCO`` of ResNet18_Weights, ResNet50_Weights and ViTSmall16_Weights; Wang et al.
(2023), SSL4EO-S12: A large-scale multimodal, multitemporal dataset for self-supervised learning in Earth observation.
"""

_TIMM_NAMES: Final = MappingProxyType(
    {"moco_resnet18": "resnet18", "moco_resnet50": "resnet50", "moco_vit16": "vit_small_patch16_224"}
)
_VIT_SIZE_PX: Final = 224
_CLASSIFIERS: Final = ("fc.", "head.")
_NAMES_IN_MESSAGE: Final = 5


class MoCoBackbone(LearnedImageBackbone[MoCoConfig]):
    """ResNet18, ResNet50 or ViT-S/16 without a classifier; ``network`` is timm's module, with random weights.

    ResNets take any size and average over the image. The vision transformer takes the middle 224 x 224 pixels.
    """

    def __init__(self, config: MoCoConfig) -> None:
        import timm

        super().__init__(config)
        self.network = timm.create_model(
            _TIMM_NAMES[config.kind], pretrained=False, in_chans=config.in_channels, num_classes=0
        )
        self.freeze_unless_trainable()

    def encode(self, reflectance: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch feature"]:
        """Features of images that have the channels and the type of the weights."""
        if self.config.kind == "moco_vit16":
            reflectance = center_crop(reflectance, _VIT_SIZE_PX)
        features: Tensor = self.network(reflectance)
        return features


def load_moco_weights(backbone: MoCoBackbone, source: str | Path, *, download: bool = False) -> None:
    """Loads pre-trained weights in timm's names; a classifier among them (``fc.*``, ``head.*``) is left out.

    Args:
        backbone: The network to fill; frozen or not.
        source: A local file, or ``repo:file`` on the Hugging Face Hub, such as a value of `MOCO_WEIGHTS`.
        download: Whether a file that is not on this machine may be fetched.

    Raises:
        CheckpointError: The file is missing, cannot be read as plain tensors, or its weights do not fit the network;
            every weight that is missing, unexpected or of another shape is named.
    """
    from satclip_model.hub import resolve

    path = resolve(source, download=download)
    content = read_archive(path)
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise CheckpointError(f"{path}: holds {_describe(content)}; expected a state_dict of a timm network")
    weights = {name: tensor for name, tensor in content.items() if not name.startswith(_CLASSIFIERS)}
    load_weights(path, backbone.network, weights)


def _describe(content: object) -> str:
    if isinstance(content, dict):
        return f"a dictionary of {', '.join(sorted(map(str, content))[:_NAMES_IN_MESSAGE])}"
    return f"a {type(content).__name__}"
