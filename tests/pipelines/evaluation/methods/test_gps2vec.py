import logging
from pathlib import Path

import numpy as np
import pytest
from pyproj import Transformer

from pipelines.errors import ArtefactError, MissingWeightsError
from pipelines.evaluation.methods import open_method
from pipelines.evaluation.methods.gps2vec import OUTPUTS, GPS2VecNetwork, cell_inputs, utm_cells
from tests.pipelines.evaluation.methods.published import write_gps2vec

h5py = pytest.importorskip("h5py")
BERLIN, SAO_PAULO = [13.4, 52.5], [-46.6, -23.5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tag"
    return write_gps2vec(folder, "33 U")


@pytest.mark.parametrize(
    ("place", "cell"),
    [
        (BERLIN, "33 U"), (SAO_PAULO, "23 K"), ([5.0, 60.0], "32 V"), ([2.0, 60.0], "31 V"), ([8.0, 78.0], "31 X"),
        ([20.0, 78.0], "33 X"), ([40.0, 84.0], "37 X"), ([180.0, 0.0], "1 N"), ([-180.0, -80.0], "1 C"),
        ([0.0, 84.1], ""), ([0.0, -90.0], ""),
    ],
)  # fmt: skip
def test_cells_are_those_of_the_utm_grid(place: list[float], cell: str) -> None:
    assert utm_cells(np.array([place])) == [cell]


@pytest.mark.parametrize(
    ("place", "cell", "epsg", "span"),
    [(BERLIN, "33 U", 32633, (12, 18, 48, 56)), (SAO_PAULO, "23 K", 32723, (-48, -42, -24, -16))],
)
def test_inputs_fall_with_the_distance_to_the_middles_of_the_parts(place, cell, epsg, span) -> None:
    project = Transformer.from_crs("EPSG:4326", f"EPSG:{epsg}", always_xy=True).transform
    west, east, south, north = span
    lon = np.arange(west, east + 1e-9, 0.1)
    left = min(project(west, south)[0], project(west, north)[0])
    bottom = min(project(each, south)[1] for each in lon)
    top = max(project(each, north)[1] for each in lon)
    x, y = project(*place)
    inputs = cell_inputs(cell, np.array([place]))[0].reshape(20, 20)
    for column, row in ((0, 0), (7, 11), (19, 3)):
        middle = left + (column + 0.5) * 2 * (500_000 - left) / 20, bottom + (row + 0.5) * (top - bottom) / 20
        expected = np.exp(-np.hypot(x - middle[0], y - middle[1]) / 20_000)
        assert inputs[column, row] == pytest.approx(expected, rel=1e-3, abs=1e-12)


def test_there_are_as_many_parameters_as_published() -> None:
    counts = {kind: sum(each.numel() for each in GPS2VecNetwork(kind).parameters()) for kind in OUTPUTS}
    assert counts == {"visual": 5_626_709, "tag": 6_927_824}


def test_features_are_shares_and_places_without_a_network_are_counted(folder: Path, caplog) -> None:
    method = open_method(f"gps2vec:{folder}")
    with caplog.at_level(logging.WARNING):
        features = method.features(np.array([BERLIN, SAO_PAULO]))
    assert features.shape == (2, 2000)
    assert features.sum(axis=1) == pytest.approx([1.0, 0.0], abs=1e-5)
    assert "1 of 2 places have zeros, no network for 23 K" in caplog.text
    with pytest.raises(MissingWeightsError, match=r"23 K; expected files such as"):
        method.features(np.array([SAO_PAULO]))


def test_files_of_another_kind_are_refused(folder: Path, tmp_path: Path) -> None:
    write_gps2vec(tmp_path / "mixed", "1 C")
    with h5py.File(tmp_path / "mixed" / "model_33 U.h5", "w") as file:
        file["layer1/layer1/kernel:0"] = np.zeros((3, 3))
    with pytest.raises(ArtefactError, match=r"model_33 U\.h5: no tag network"):
        open_method(f"gps2vec:{tmp_path / 'mixed'}").features(np.array([BERLIN]))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model_33 U.h5").write_bytes(b"no HDF5")
    with pytest.raises(ArtefactError, match="no HDF5 file"):
        open_method(f"gps2vec:{tmp_path / 'broken'}")


def test_other_weights_of_the_same_size_are_told_apart(folder: Path, tmp_path: Path) -> None:
    again, other = write_gps2vec(tmp_path / "again", "33 U"), write_gps2vec(tmp_path / "other", "33 U", seed=2)
    name = "model_33 U.h5"
    assert (other / name).stat().st_size == (folder / name).stat().st_size
    targets = [open_method(f"gps2vec:{each}").target for each in (folder, again, other)]
    assert targets[0] == targets[1] != targets[2]


def test_whole_models_are_read_as_their_weights_are(folder: Path, tmp_path: Path) -> None:
    with h5py.File(folder / "model_33 U.h5") as weights, h5py.File(tmp_path / "model_33 U.h5", "w") as model:
        for name in weights:
            weights.copy(name, model.require_group("model_weights"))
    berlin = np.array([BERLIN])
    whole, alone = (open_method(f"gps2vec:{each}").features(berlin) for each in (tmp_path, folder))
    np.testing.assert_array_equal(whole, alone)
