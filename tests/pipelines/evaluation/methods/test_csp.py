from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.errors import ArtefactError
from pipelines.evaluation.methods import open_method
from pipelines.evaluation.methods.csp import CSPNetwork
from tests.pipelines.evaluation.methods.published import write_csp

PLACES = np.array([[13.4, 52.5], [-60.0, -3.0], [180.0, 90.0]])


def by_hand(path: Path, slope: float) -> np.ndarray:
    state = {name: each.double().numpy() for name, each in torch.load(path)["state_dict"].items()}
    wavelength = 0.1 * (360.0 / 0.1) ** (np.arange(32) / 31)
    angles = PLACES[:, :, None] / wavelength
    encoded = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(len(PLACES), -1)

    def layer(x, name):
        x = x @ state[f"spa_enc.ffn.layers.{name}.linear.weight"].T + state[f"spa_enc.ffn.layers.{name}.linear.bias"]
        return np.where(x > 0, x, slope * x)

    hidden = layer(encoded, 0)
    hidden = (hidden - hidden.mean(axis=1, keepdims=True)) / np.sqrt(hidden.var(axis=1, keepdims=True) + 1e-5)
    hidden = hidden * state["spa_enc.ffn.layers.0.layernorm.weight"] + state["spa_enc.ffn.layers.0.layernorm.bias"]
    return layer(hidden, 1)


def test_embeddings_are_those_of_the_paper_step_by_step(tmp_path: Path) -> None:
    path = write_csp(tmp_path / "model_inat_2018_grid_leakyrelu.pth.tar")
    method = open_method(f"csp:{path}")
    np.testing.assert_allclose(method.features(PLACES), by_hand(path, 0.2), atol=2e-4)
    assert len(method.target) == 64


def test_there_are_as_many_parameters_as_write_csp() -> None:
    assert sum(each.numel() for each in CSPNetwork("gelu").parameters()) == 198_400


def test_the_activation_is_told_by_the_record_or_the_name(tmp_path: Path) -> None:
    named = open_method(f"csp:{write_csp(tmp_path / 'fmow_gelu.pth.tar')}")
    recorded = write_csp(tmp_path / "model.pth.tar", "loc_enc.spa_enc.ffn.", params={"spa_f_act": "gelu"})
    np.testing.assert_array_equal(named.features(PLACES), open_method(f"csp:{recorded}").features(PLACES))
    with pytest.raises(ArtefactError, match="tells no activation"):
        open_method(f"csp:{write_csp(tmp_path / 'unknown.pth.tar')}").features(PLACES)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    path = write_csp(tmp_path / "gelu.pth.tar", "other.")
    with pytest.raises(ArtefactError, match=r"expected layers\.0\.linear\.weight \(512, 128\)"):
        open_method(f"csp:{path}").features(PLACES)


def test_weights_over_another_encoding_are_refused(tmp_path: Path) -> None:
    published = {"spa_f_act": "gelu", "frequency_num": 32, "max_radius": 360.0, "min_radius": 0.1}
    same = write_csp(tmp_path / "same.pth.tar", params=published)
    assert open_method(f"csp:{same}").features(PLACES).shape == (3, 256)
    other = write_csp(tmp_path / "other.pth.tar", params=published | {"min_radius": 0.001})
    with pytest.raises(ArtefactError, match=r"min_radius 0\.001, expected 0\.1$"):
        open_method(f"csp:{other}").features(PLACES)
