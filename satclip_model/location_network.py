"""Networks that turn a positional encoding into a location embedding."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from satclip_model.config import LocationNetworkConfig, SirenConfig

_HIDDEN_W0 = 1.0
_HIDDEN_GAIN = 6.0


class LocationNetwork(nn.Module, ABC):
    """A network that begins with a linear layer, so that callers may compute that layer in their own way."""

    @property
    @abstractmethod
    def out_dim(self) -> int:
        """Length of an embedding."""

    @abstractmethod
    def first_layer(self) -> tuple[Float[Tensor, "hidden channel"], Float[Tensor, " hidden"]]:
        """Weight and bias of the linear map that `after_first_layer` goes on from."""

    @abstractmethod
    def after_first_layer(self, linear: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch embed"]:
        """Embeddings from the result of `first_layer`, which is overwritten where no gradient needs it."""

    def forward(self, x: Float[Tensor, "batch channel"]) -> Float[Tensor, "batch embed"]:
        """Embeddings of positional encodings, not normalised."""
        weight, bias = self.first_layer()
        return self.after_first_layer(functional.linear(x, weight, bias))


class SineLayer(nn.Module):
    """A linear layer followed by sin(w0 x), with dropout on the pre-activation in training.

    Weights and biases start uniform in +-1/in for the first layer of a network and in +-sqrt(6/in)/w0 after it.

    Source: Sitzmann et al. (2020), Implicit neural representations with periodic activation functions, section 3.2.
    """

    def __init__(self, in_dim: int, out_dim: int, w0: float, is_first: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.w0, self.dropout = w0, dropout
        bound = 1.0 / in_dim if is_first else math.sqrt(_HIDDEN_GAIN / in_dim) / w0
        self.weight = nn.Parameter(torch.empty(out_dim, in_dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_dim).uniform_(-bound, bound))

    def forward(self, x: Float[Tensor, "batch channel"]) -> Float[Tensor, "batch hidden"]:
        """sin(w0 (W x + b))."""
        return self.activate(self.scaled(x))

    def scaled(self, x: Float[Tensor, "batch channel"]) -> Float[Tensor, "batch hidden"]:
        """w0 (W x + b)."""
        return torch.addmm(self.bias, x, self.weight.T, beta=self.w0, alpha=self.w0)

    def activate(self, scaled: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch hidden"]:
        """The sine of w0 (W x + b), which is overwritten where no gradient needs it."""
        if self.training and self.dropout > 0:
            scaled = functional.dropout(scaled, self.dropout)
        return torch.sin(scaled) if scaled.requires_grad else scaled.sin_()


class Siren(LocationNetwork):
    """Sine layers and a linear output layer.

    Parameters are named ``layers.i.weight``, ``layers.i.bias``, ``last_layer.weight`` and ``last_layer.bias``, as in
    the released location encoders.

    Args:
        in_dim: Length of an input vector.
        out_dim: Length of an output vector.
        hidden_dim: Width of the sine layers.
        num_layers: Number of sine layers.
        w0_initial: Frequency factor of the first sine layer; later ones have 1.
        dropout: Probability of dropping a pre-activation in training.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden_dim: int = 512,
        num_layers: int = 2,
        w0_initial: float = 30.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            SineLayer(
                in_dim=in_dim if index == 0 else hidden_dim,
                out_dim=hidden_dim,
                w0=w0_initial if index == 0 else _HIDDEN_W0,
                is_first=index == 0,
                dropout=dropout,
            )
            for index in range(num_layers)
        )
        bound = math.sqrt(_HIDDEN_GAIN / hidden_dim) / _HIDDEN_W0
        self.last_layer = nn.Linear(hidden_dim, out_dim)
        nn.init.uniform_(self.last_layer.weight, -bound, bound)
        nn.init.uniform_(self.last_layer.bias, -bound, bound)

    @property
    def out_dim(self) -> int:
        """Length of an embedding."""
        return self.last_layer.out_features

    def forward(self, x: Float[Tensor, "batch channel"]) -> Float[Tensor, "batch embed"]:
        """Embeddings of positional encodings, not normalised."""
        return self.after_first_layer(self._sine_layer(0).scaled(x))

    def first_layer(self) -> tuple[Float[Tensor, "hidden channel"], Float[Tensor, " hidden"]]:
        """Weight and bias of the first sine layer, times its w0."""
        first = self._sine_layer(0)
        return first.w0 * first.weight, first.w0 * first.bias

    def after_first_layer(self, linear: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch embed"]:
        """Embeddings from the result of `first_layer`, which is overwritten where no gradient needs it."""
        x = self._sine_layer(0).activate(linear)
        for index in range(1, len(self.layers)):
            x = self._sine_layer(index)(x)
        output: Tensor = self.last_layer(x)
        return output

    def _sine_layer(self, index: int) -> SineLayer:
        layer = self.layers[index]
        assert isinstance(layer, SineLayer)
        return layer


def build_location_network(config: LocationNetworkConfig, in_dim: int, out_dim: int) -> LocationNetwork:
    """The untrained network that a configuration describes, from (n, ``in_dim``) to (n, ``out_dim``)."""
    if isinstance(config, SirenConfig):
        return Siren(
            in_dim=in_dim,
            out_dim=out_dim,
            hidden_dim=config.hidden_dim,
            num_layers=config.num_hidden_layers,
            w0_initial=config.w0_initial,
            dropout=config.dropout,
        )
    raise ValueError(f"location network {config.kind!r} is not built yet")
