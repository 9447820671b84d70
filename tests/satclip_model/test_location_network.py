import math
from pathlib import Path

import pytest
import torch
from torch import nn

from satclip_model.config import FCNetConfig, LinearConfig, LocationNetworkConfig, MLPConfig, SirenConfig
from satclip_model.location_network import MLP, FCNet, Siren, affine, build_location_network

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "satclip_reference"
CONFIGS: dict[str, LocationNetworkConfig] = {
    "siren": SirenConfig(hidden_dim=48, num_hidden_layers=3, dropout=0.5),
    "fcnet": FCNetConfig(hidden_dim=48),
    "mlp": MLPConfig(hidden_dim=48, num_hidden_layers=3),
    "tied_mlp": MLPConfig(hidden_dim=48, num_hidden_layers=3, tie_hidden_layers=True),
    "linear": LinearConfig(),
}


def num_parameters(network: nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_reference_under_its_weights(name: str) -> None:
    golden = torch.load(GOLDEN / ("siren.pt" if name == "siren" else "location_networks.pt"), weights_only=True)
    weights = golden[name.removeprefix("tied_")]
    network = build_location_network(CONFIGS[name], in_dim=100, out_dim=64).double().eval()
    network.load_state_dict(weights["state_dict"])
    assert list(network.state_dict()) == list(weights["state_dict"])
    torch.testing.assert_close(network(golden["x"]), weights["y"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_of_every_network_learns(name: str) -> None:
    torch.manual_seed(3)
    network = build_location_network(CONFIGS[name], in_dim=6, out_dim=4).eval()
    output = network(torch.randn(7, 6))
    assert output.shape == (7, 4)
    output.square().sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert float(parameter.grad.abs().max()) > 0, parameter_name


@pytest.mark.parametrize("bias", [None, torch.tensor([0.5, -1.0, 2.0])])
def test_affine_scales_product_and_bias_with_and_without_gradients(bias: torch.Tensor | None) -> None:
    generator = torch.Generator().manual_seed(4)
    x, weight = torch.randn(5, 4, generator=generator), torch.randn(3, 4, generator=generator)
    expected = 2.5 * (x @ weight.T + (0.0 if bias is None else bias))
    torch.testing.assert_close(affine(x, weight, bias, 2.5), expected)
    with torch.no_grad():
        torch.testing.assert_close(affine(x, weight, bias, 2.5), expected)
        torch.testing.assert_close(affine(x.T.contiguous().T, weight, bias, 2.5, torch.empty(5, 3)), expected)


def test_layers_do_not_share_weights() -> None:
    siren = Siren(in_dim=5, out_dim=3, hidden_dim=7, num_layers=3)
    assert num_parameters(siren) == (5 * 7 + 7) + 2 * (7 * 7 + 7) + (7 * 3 + 3)
    fcnet = FCNet(in_dim=5, out_dim=3, hidden_dim=7)
    assert num_parameters(fcnet) == (5 * 7 + 7) + 4 * 2 * (7 * 7 + 7) + 7 * 3


@pytest.mark.parametrize(("num_hidden_layers", "separate", "tied"), [(0, 0, 0), (1, 1, 1), (3, 3, 1)])
def test_hidden_layers_of_an_mlp_share_weights_only_when_tied(num_hidden_layers: int, separate: int, tied: int) -> None:
    for is_tied, num_distinct in ((False, separate), (True, tied)):
        network = MLP(5, 3, hidden_dim=7, num_hidden_layers=num_hidden_layers, tie_hidden_layers=is_tied)
        assert num_parameters(network) == (5 * 7 + 7) + num_distinct * (7 * 7 + 7) + (7 * 3 + 3)
        assert network(torch.randn(2, 5)).shape == (2, 3)


def test_tied_layers_stay_one_layer_through_a_step() -> None:
    network = MLP(5, 3, hidden_dim=7, num_hidden_layers=3, tie_hidden_layers=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(torch.randn(4, 5)).square().sum().backward()
    optimizer.step()
    state = network.state_dict()
    assert torch.equal(state["features.2.weight"], state["features.6.weight"])


def test_fcnet_without_residuals_is_a_relu_layer_and_a_projection() -> None:
    network = FCNet(in_dim=5, out_dim=3, hidden_dim=7).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".w2." in name:
                parameter.zero_()
    x = torch.randn(4, 5)
    first = network.feats[0]
    torch.testing.assert_close(network(x), torch.relu(first(x)) @ network.class_emb.weight.T)


def test_initial_weights_fill_their_ranges() -> None:
    torch.manual_seed(0)
    network = Siren(in_dim=50, out_dim=64, hidden_dim=96, num_layers=2)
    bounds = {"layers.0": 1 / 50, "layers.1": math.sqrt(6 / 96), "last_layer": math.sqrt(6 / 96)}
    for name, parameter in network.named_parameters():
        bound = bounds[name.rpartition(".")[0]]
        assert 0.9 * bound < float(parameter.detach().abs().max()) <= bound, name


def test_first_frequency_scales_the_first_layer_only() -> None:
    torch.manual_seed(1)
    slow = Siren(in_dim=4, out_dim=2, hidden_dim=6, num_layers=2, w0_initial=3.0)
    fast = Siren(in_dim=4, out_dim=2, hidden_dim=6, num_layers=2, w0_initial=6.0)
    fast.load_state_dict(slow.state_dict())
    with torch.no_grad():
        fast.layers[0].weight /= 2
        fast.layers[0].bias /= 2
    x = torch.randn(5, 4)
    torch.testing.assert_close(slow(x), fast(x))


@pytest.mark.parametrize(("dropout", "differs"), [(0.0, False), (0.5, True)])
@pytest.mark.parametrize("family", [SirenConfig, FCNetConfig])
def test_dropout_acts_in_training_only(
    family: type[SirenConfig] | type[FCNetConfig], dropout: float, differs: bool
) -> None:
    torch.manual_seed(2)
    network = build_location_network(family(hidden_dim=32, dropout=dropout), in_dim=4, out_dim=2)
    x = torch.randn(3, 4)
    assert torch.equal(network(x), network(x)) is not differs
    network.eval()
    assert torch.equal(network(x), network(x))
