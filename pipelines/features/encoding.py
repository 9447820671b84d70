"""Patches of a dataset to features of their views, on a device, with bounded memory."""

import copy
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipelines.errors import ConfigurationError
from pipelines.features.config import ViewsConfig
from pipelines.features.views import augment, reflectance_tensor
from satclip_model.image_encoder import ImageBackbone

_BATCH_BYTES: Final = {"cpu": 48 * 2**20}
_BATCH_BYTES_ON_ACCELERATOR: Final = 384 * 2**20
_BYTES_PER_VALUE: Final = 4


class ViewEncoder:
    """A frozen encoder on a device, and the views that it sees; the encoder that is given stays where it is.

    Attributes:
        views: The views.
        device: Where encoding happens.
        feature_dim: Length of a feature vector.
    """

    def __init__(self, backbone: ImageBackbone, views: ViewsConfig, device: torch.device, batch_size: int = 0) -> None:
        self.views, self.device, self.feature_dim = views, device, backbone.feature_dim
        self._batch_size = batch_size
        self._backbone = copy.deepcopy(backbone)
        if isinstance(self._backbone, nn.Module):
            self._backbone.to(device).eval()

    def batch_size(self, patch_shape: tuple[int, ...]) -> int:
        """Patches per batch: as asked for, or as many as keep their reflectance below 48 MiB (384 MiB on a GPU)."""
        if self._batch_size:
            return self._batch_size
        limit = _BATCH_BYTES.get(self.device.type, _BATCH_BYTES_ON_ACCELERATOR)
        return max(1, limit // (_BYTES_PER_VALUE * int(np.prod(patch_shape))))

    @torch.no_grad()
    def encode(
        self, dn: NDArray[np.uint16], boa_add_offset: NDArray[np.int64], place_ids: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Features of all views of some patches, shape (n, view, feature).

        Args:
            dn: Digital numbers as delivered, shape (n, band, height, width).
            boa_add_offset: Offset per patch (0 or -1000).
            place_ids: Ids of their places.

        Raises:
            ConfigurationError: They do not fit into the device's memory.
        """
        features = np.empty((len(dn), self.views.num_views, self.feature_dim), dtype=np.float32)
        try:
            pixels, offsets = (
                torch.from_numpy(np.require(each, requirements="W")).to(self.device) for each in (dn, boa_add_offset)
            )
            reflectance = reflectance_tensor(pixels, offsets)
            for view in range(self.views.num_views):
                encoded = self._backbone(augment(reflectance, place_ids, view, self.views))
                features[:, view] = encoded.float().cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise ConfigurationError(
                f"{len(dn)} patches of {' x '.join(map(str, dn.shape[1:]))} do not fit into the memory of "
                f"{self.device}; set batch_size below {len(dn)}. Finished shards are kept"
            ) from error
        return features


def choose_device(device: str) -> torch.device:
    """The device of a name; ``auto`` is a CUDA device where there is one, else the CPU.

    Raises:
        ConfigurationError: A CUDA device is wanted and PyTorch finds none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError(
            f"device is {device!r}, but PyTorch {torch.__version__} finds no CUDA device; set device to 'auto' or 'cpu'"
        )
    return torch.device(device)
