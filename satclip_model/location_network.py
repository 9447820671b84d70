"""Networks that turn a positional encoding into a location embedding."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from satclip_model.config import FCNetConfig, LocationNetworkConfig, MLPConfig, SirenConfig

_HIDDEN_W0 = 1.0
_HIDDEN_GAIN = 6.0
_NUM_RESIDUAL_LAYERS = 4


class LocationNetwork(nn.Module, ABC):
    """A network that begins with a linear layer, so that callers may compute that layer in their own way.

    Where it says ``out``: a tensor to write the embeddings to, which only calls without gradients may give.
    """

    @property
    @abstractmethod
    def out_dim(self) -> int:
        """Length of an embedding."""

    @abstractmethod
    def first_layer(self) -> tuple[Float[Tensor, "hidden channel"], Float[Tensor, " hidden"], float]:
        """Weight W, bias b and factor s of the linear map s (W x + b) that `after_first_layer` goes on from."""

    @abstractmethod
    def after_first_layer(
        self, linear: Float[Tensor, "batch hidden"], out: Float[Tensor, "batch embed"] | None = None
    ) -> Float[Tensor, "batch embed"]:
        """Embeddings from the result of `first_layer`, which is overwritten where no gradient needs it."""

    def forward(
        self, x: Float[Tensor, "batch channel"], out: Float[Tensor, "batch embed"] | None = None
    ) -> Float[Tensor, "batch embed"]:
        """Embeddings of positional encodings, not normalised."""
        return self.after_first_layer(affine(x, *self.first_layer()), out)


def affine(
    x: Float[Tensor, "batch channel"],
    weight: Float[Tensor, "hidden channel"],
    bias: Float[Tensor, " hidden"] | None,
    scale: float = 1.0,
    out: Float[Tensor, "batch hidden"] | None = None,
) -> Float[Tensor, "batch hidden"]:
    """Scale (W x + b), without gradients written to ``out`` or in the memory order of ``x``."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        if bias is None:
            return scale * functional.linear(x, weight)
        return torch.addmm(bias, x, weight.T, beta=scale, alpha=scale)
    if out is None:
        shape = len(x), len(weight)
        is_column_major = x.stride(0) == 1 and len(x) > 1
        out = x.new_empty(shape[::-1]).T if is_column_major else x.new_empty(shape)
    torch.addmm(out, x, weight.T, beta=0.0, alpha=scale, out=out)
    return out if bias is None else out.add_(scale * bias)


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
        return self.activate(affine(x, self.weight, self.bias, self.w0))

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

    def first_layer(self) -> tuple[Float[Tensor, "hidden channel"], Float[Tensor, " hidden"], float]:
        """Weight, bias and w0 of the first sine layer."""
        first = self._sine_layer(0)
        return first.weight, first.bias, first.w0

    def after_first_layer(
        self, linear: Float[Tensor, "batch hidden"], out: Float[Tensor, "batch embed"] | None = None
    ) -> Float[Tensor, "batch embed"]:
        """Embeddings from the result of `first_layer`, which is overwritten where no gradient needs it."""
        x = self._sine_layer(0).activate(linear)
        for index in range(1, len(self.layers)):
            x = self._sine_layer(index)(x)
        return affine(x, self.last_layer.weight, self.last_layer.bias, out=out)

    def _sine_layer(self, index: int) -> SineLayer:
        layer = self.layers[index]
        assert isinstance(layer, SineLayer)
        return layer


class ResidualLayer(nn.Module):
    """x + relu(W2 dropout(relu(W1 x + b1)) + b2), with dropout in training only."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, dim)
        self.w2 = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch hidden"]:
        """The sum of the input and its two-layer residual."""
        residual = self.dropout(functional.relu(self.w1(x)))
        return x + functional.relu(self.w2(residual))


class FCNet(LocationNetwork):
    """A linear layer with ReLU, four residual layers, and a linear output layer without bias.

    Parameters are named ``class_emb.weight``, ``feats.0.*`` and ``feats.2.w1.*`` to ``feats.5.w2.*``, in this
    order, as in SatCLIP.

    Args:
        in_dim: Length of an input vector.
        out_dim: Length of an output vector.
        hidden_dim: Width.
        dropout: Probability of dropping a unit inside a residual layer in training.

    Source: Mac Aodha et al. (2019), Presence-only geographical priors for fine-grained image classification.
    """

    def __init__(self, in_dim: int, out_dim: int, hidden_dim: int = 256, dropout: float = 0.5) -> None:
        super().__init__()
        self.class_emb = nn.Linear(hidden_dim, out_dim, bias=False)
        residual_layers = [ResidualLayer(hidden_dim, dropout) for _ in range(_NUM_RESIDUAL_LAYERS)]
        self.feats = nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.ReLU(), *residual_layers)

    @property
    def out_dim(self) -> int:
        """Length of an embedding."""
        return self.class_emb.out_features

    def first_layer(self) -> tuple[Float[Tensor, "hidden channel"], Float[Tensor, " hidden"], float]:
        """Weight and bias of the input layer."""
        return *_weight_and_bias(self.feats[0]), 1.0

    def after_first_layer(
        self, linear: Float[Tensor, "batch hidden"], out: Float[Tensor, "batch embed"] | None = None
    ) -> Float[Tensor, "batch embed"]:
        """Embeddings from the result of `first_layer`."""
        return affine(self.feats[1:](linear), self.class_emb.weight, None, out=out)


class MLP(LocationNetwork):
    """An input layer and hidden layers with ReLU, and a linear output layer.

    Parameters are named ``features.0.*``, ``features.2.*`` and so on, as in SatCLIP. Its hidden layers are one layer
    applied ``num_hidden_layers`` times, whose weights its state dicts repeat under each name. Such a state dict loads
    into tied and into separate layers; of unequal weights tied layers keep the last.

    Args:
        in_dim: Length of an input vector.
        out_dim: Length of an output vector.
        hidden_dim: Width.
        num_hidden_layers: Hidden layers after the input layer.
        tie_hidden_layers: Whether the hidden layers share their weights, as in SatCLIP.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden_dim: int = 256,
        num_hidden_layers: int = 2,
        tie_hidden_layers: bool = False,
    ) -> None:
        super().__init__()
        num_distinct = min(num_hidden_layers, 1) if tie_hidden_layers else num_hidden_layers
        distinct = [nn.Linear(hidden_dim, hidden_dim) for _ in range(num_distinct)]
        layers: list[nn.Module] = [nn.Linear(in_dim, hidden_dim), nn.ReLU()]
        for index in range(num_hidden_layers):
            layers += [distinct[index % num_distinct], nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.Linear(hidden_dim, out_dim))

        self._out_dim = out_dim

    @property
    def out_dim(self) -> int:
        """Length of an embedding."""
        return self._out_dim

    def first_layer(self) -> tuple[Float[Tensor, "hidden channel"], Float[Tensor, " hidden"], float]:
        """Weight and bias of the input layer."""
        return *_weight_and_bias(self.features[0]), 1.0

    def after_first_layer(
        self, linear: Float[Tensor, "batch hidden"], out: Float[Tensor, "batch embed"] | None = None
    ) -> Float[Tensor, "batch embed"]:
        """Embeddings from the result of `first_layer`."""
        weight, bias = _weight_and_bias(self.features[-1])
        return affine(self.features[1:-1](linear), weight, bias, out=out)


class Linear(LocationNetwork):
    """One linear layer, whose parameters are named ``weight`` and ``bias``.

    Args:
        in_dim: Length of an input vector.
        out_dim: Length of an output vector.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        initialised = nn.Linear(in_dim, out_dim)
        self.weight, self.bias = initialised.weight, initialised.bias

    @property
    def out_dim(self) -> int:
        """Length of an embedding."""
        return len(self.bias)

    def first_layer(self) -> tuple[Float[Tensor, "hidden channel"], Float[Tensor, " hidden"], float]:
        """Weight and bias."""
        return self.weight, self.bias, 1.0

    def after_first_layer(
        self, linear: Float[Tensor, "batch hidden"], out: Float[Tensor, "batch embed"] | None = None
    ) -> Float[Tensor, "batch embed"]:
        """The result of `first_layer` itself."""
        return linear if out is None else out.copy_(linear)


def _weight_and_bias(layer: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, nn.Linear)
    return layer.weight, layer.bias


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
    if isinstance(config, FCNetConfig):
        return FCNet(in_dim=in_dim, out_dim=out_dim, hidden_dim=config.hidden_dim, dropout=config.dropout)
    if isinstance(config, MLPConfig):
        return MLP(
            in_dim=in_dim,
            out_dim=out_dim,
            hidden_dim=config.hidden_dim,
            num_hidden_layers=config.num_hidden_layers,
            tie_hidden_layers=config.tie_hidden_layers,
        )
    return Linear(in_dim, out_dim)
