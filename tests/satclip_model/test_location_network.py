import math
from pathlib import Path

import pytest
import torch

from satclip_model.location_network import Siren

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "satclip_reference" / "siren.pt"


def test_equals_the_reference_under_its_weights() -> None:
    golden = torch.load(GOLDEN, weights_only=True)
    network = Siren(in_dim=100, out_dim=64, hidden_dim=48, num_layers=3, dropout=0.5).double().eval()
    network.load_state_dict(golden["siren"]["state_dict"])
    torch.testing.assert_close(network(golden["x"]), golden["siren"]["y"], rtol=0, atol=1e-12)


def test_layers_do_not_share_weights() -> None:
    network = Siren(in_dim=5, out_dim=3, hidden_dim=7, num_layers=3)
    assert sum(each.numel() for each in network.parameters()) == (5 * 7 + 7) + 2 * (7 * 7 + 7) + (7 * 3 + 3)


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
def test_dropout_acts_in_training_only(dropout: float, differs: bool) -> None:
    torch.manual_seed(2)
    network = Siren(in_dim=4, out_dim=2, hidden_dim=32, num_layers=1, dropout=dropout)
    x = torch.randn(3, 4)
    assert torch.equal(network(x), network(x)) is not differs
    network.eval()
    assert torch.equal(network(x), network(x))
