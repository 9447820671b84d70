"""From the backbone's maps to maps of equal depth, the finest of them at full resolution."""

from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from satclip_model.satlas.backbone import STRIDES


class Pyramid(nn.Module):
    """Feature pyramid network (Lin et al. 2017): each map informed by the coarser ones, all with ``dim`` channels."""

    def __init__(self, map_dims: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.fpn = FeaturePyramidNetwork(list(map_dims), dim)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """As many maps, of the same resolutions."""
        named = OrderedDict((str(index), each) for index, each in enumerate(maps))
        return list(self.fpn(named).values())


class Upsampling(nn.Module):
    """The finest map doubled until it has the image's resolution; it goes before the others."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        doublings = STRIDES[0].bit_length() - 1
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(dim, dim, 3, padding=1),
                    nn.ReLU(inplace=True),
                    nn.ConvTranspose2d(dim, dim, 4, stride=2, padding=1),
                    nn.ReLU(inplace=True),
                )
                for _ in range(doublings)
            )
        )

    def forward(self, maps: list[Float[Tensor, "batch dim row column"]]) -> list[Tensor]:
        """The map at full resolution, then those given."""
        return [self.layers(maps[0]), *maps]
