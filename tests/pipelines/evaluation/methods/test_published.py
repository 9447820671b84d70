"""Methods over weights that others published: order of coordinates, shapes, and what is said without weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.errors import ArtefactError, MissingWeightsError, TableError
from pipelines.evaluation.methods import method_names, open_method
from pipelines.evaluation.methods.sinr import sinr_inputs
from satclip_model.location_network import FCNet

PLACES = np.array([[13.4, 52.5], [-60.0, -3.0], [139.7, 35.7], [-179.9, 10.0]])


@pytest.fixture(scope="module")
def sinr_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("sinr") / "model.pt"
    torch.save({"state_dict": FCNet(4, 30, 256).state_dict(), "params": {"depth": 4}}, path)
    return path


def test_geoclip_is_that_of_its_package_which_takes_latitude_first() -> None:
    location_encoder = pytest.importorskip("geoclip.model.location_encoder").LocationEncoder()
    with torch.no_grad():
        theirs = location_encoder(torch.tensor(PLACES[:, ::-1].copy()).float()).numpy()
    ours = open_method("geoclip").features(PLACES)
    assert ours.shape == (4, 512)
    np.testing.assert_allclose(ours, theirs, atol=2e-3 * np.abs(theirs).max())


def test_geoclip_finds_near_places_alike() -> None:
    pytest.importorskip("geoclip")
    berlin, potsdam, swapped = np.array([[13.4, 52.5], [13.06, 52.4], [52.5, 13.4]])
    features = open_method("geoclip").features(np.stack([berlin, potsdam, swapped]))
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert units[0] @ units[1] > units[0] @ units[2] + 0.2


def test_sinr_reads_published_names(sinr_path: Path) -> None:
    method = open_method(f"sinr:{sinr_path}")
    features = method.features(PLACES)
    assert features.shape == (4, 256)
    assert len(method.target) == 64
    assert sum(each.numel() for each in method.encoder.feats.parameters()) == 527_616


def test_inputs_of_sinr_close_at_the_antimeridian() -> None:
    inputs = sinr_inputs(torch.tensor([[180.0, 45.0], [-180.0, 45.0], [0.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(inputs[0], inputs[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(inputs[0], torch.tensor([0.0, 1.0, -1.0, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(inputs[2], torch.tensor([0.0, 0.0, 1.0, 1.0]))


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(ArtefactError, match=r"expected feats\.0\.weight"):
        open_method(f"sinr:{path}").features(PLACES)
    with pytest.raises(ArtefactError, match="no weights of GeoCLIP"):
        open_method(f"geoclip:{path}").features(PLACES)


@pytest.mark.parametrize(
    "name",
    [
        "sinr",
        "torchgeo",
        "csp",
        "gps2vec",
        "csp:nowhere.pth.tar",
        "gps2vec:nowhere",
        "sinr:nowhere.pt",
        "geoclip:nowhere.pth",
        "nowhere.ckpt",
    ],
)
def test_missing_weights_are_asked_for(name: str) -> None:
    with pytest.raises(MissingWeightsError, match=r"expected|give"):
        open_method(name)


def test_geoclip_without_its_package_says_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.evaluation.methods.geoclip.find_spec", lambda name: None)
    with pytest.raises(MissingWeightsError, match="pip install geoclip"):
        open_method("geoclip")


def test_a_checkpoint_through_our_code_and_torchgeos_agrees() -> None:
    path = Path(__file__).parents[3] / "data" / "satclip_reference" / "small_clip_vit_l10.ckpt"
    ours, theirs = open_method(str(path)), open_method(f"torchgeo:{path}")
    assert ours.name == "satclip"
    assert ours.target == theirs.target
    expected = ours.features(PLACES)
    np.testing.assert_allclose(theirs.features(PLACES), expected, atol=1e-5 * np.abs(expected).max())


def test_released_shape_is_the_default_reference() -> None:
    assert open_method("harmonics").features(PLACES).shape == (4, 1600)
    assert open_method("untrained", seed=1).features(PLACES).shape == (4, 256)
    known = {"sincos", "harmonics", "untrained", "geoclip", "csp", "gps2vec", "sinr", "torchgeo"}
    assert known == set(method_names())


@pytest.mark.parametrize("place", [[200.0, 0.0], [0.0, 91.0], [np.nan, 0.0]])
def test_places_out_of_range_are_named(sinr_path: Path, place: list[float]) -> None:
    with pytest.raises(TableError, match="place 1 is lon, lat"):
        open_method(f"sinr:{sinr_path}").features(np.array([[0.0, 0.0], place]))
