"""Weights by file, by a training's folder and by the published archive, and what is said of those that do not fit."""

from pathlib import Path

import pytest
import torch

from pipelines.atomic import write_json
from pipelines.errors import ArtefactError
from pipelines.satlas.task_weights import find_satlas_weights, open_satlas_model, read_score_thresholds
from satclip_model.satlas import EXPLORER_CONFIGS, SatlasConfig, build_satlas
from satclip_model.satlas.config import DetectionConfig, RegressionConfig, SegmentationConfig

SMALL = SatlasConfig(
    backbone="resnet18", num_images=2, pyramid_dim=8, heads=(SegmentationConfig(categories=("solar_farm",)),)
)
CPU = torch.device("cpu")


def _training(folder: Path, config: SatlasConfig, weights: SatlasConfig | None = None) -> Path:
    folder.mkdir(parents=True)
    torch.save(build_satlas(weights or config, 4).state_dict(), folder / "weights.pth")
    write_json(folder / "config.json", config.model_dump(mode="json"))
    return folder


def _archive(root: Path, *files: str) -> Path:
    for name in ("base_models", "labels", "models", "splits"):
        (root / name).mkdir(parents=True)
    for file in files:
        path = root / "models" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def test_a_trained_model_opens_by_its_folder(tmp_path: Path) -> None:
    folder = _training(tmp_path / "solar", SMALL)
    assert find_satlas_weights("solar_farm", folder) == (folder / "weights.pth", SMALL)
    model = open_satlas_model("solar_farm", folder, CPU)
    assert not model.training
    expected = build_satlas(SMALL, 4).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_a_training_says_from_which_score_to_publish(tmp_path: Path) -> None:
    folder = _training(tmp_path / "turbines", SMALL)
    assert read_score_thresholds(folder) == {}
    write_json(folder / "record.json", {"score_thresholds": {"wind_turbine": 0.9}})
    assert read_score_thresholds(folder) == {"wind_turbine": 0.9}
    assert read_score_thresholds(folder / "weights.pth") == {}
    assert read_score_thresholds(_archive(tmp_path / "archive", "solar_farm/best.pth")) == {}
    write_json(folder / "record.json", {"score_thresholds": ["wind_turbine"]})
    with pytest.raises(ArtefactError, match="no record of a Satlas training"):
        read_score_thresholds(folder)


@pytest.mark.parametrize("task", sorted(EXPLORER_CONFIGS))
def test_the_archive_holds_a_file_per_task(task: str, tmp_path: Path) -> None:
    root = _archive(tmp_path, *(f"{each}/best.pth" for each in EXPLORER_CONFIGS))
    path, config = find_satlas_weights(task, root)
    assert path == root / "models" / task / "best.pth"
    assert config == EXPLORER_CONFIGS[task]


def test_an_archive_without_the_task_or_with_several_files_says_what_is_there(tmp_path: Path) -> None:
    root = _archive(tmp_path, "solar_farm/best.pth", "solar_farm/last.pth")
    assert find_satlas_weights("solar_farm", root)[0].name == "best.pth"
    with pytest.raises(ArtefactError, match=r"no weights of tree_cover; there are solar_farm/best\.pth"):
        find_satlas_weights("tree_cover", root)
    (root / "models" / "solar_farm" / "best.pth").rename(root / "models" / "solar_farm" / "first.pth")
    with pytest.raises(ArtefactError, match="2 files for solar_farm"):
        find_satlas_weights("solar_farm", root)


@pytest.mark.parametrize(
    ("config", "task", "message"),
    [
        (SMALL, "wind_turbine", "heads are binary_segmentation, but wind_turbine needs one of detection"),
        (SMALL.model_copy(update={"heads": (RegressionConfig(),)}), "solar_farm", "heads are regression"),
        (SMALL, "boats", "task 'boats': expected one of"),
    ],
)
def test_a_model_of_another_task_is_refused(config: SatlasConfig, task: str, message: str, tmp_path: Path) -> None:
    folder = _training(tmp_path / "model", config)
    with pytest.raises(ArtefactError, match=message):
        find_satlas_weights(task, folder)


def test_weights_that_are_not_of_the_configuration_are_refused(tmp_path: Path) -> None:
    other = SMALL.model_copy(update={"heads": (DetectionConfig(categories=("wind_turbine",), box_dim=8),)})
    folder = _training(tmp_path / "model", SMALL, other)
    with pytest.raises(ArtefactError, match=r"detection of 1 categories, but the configuration asks for .* maps of 1"):
        open_satlas_model("solar_farm", folder, CPU)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ArtefactError, match="no configuration of a Satlas model"):
        find_satlas_weights("solar_farm", folder)
    (folder / "weights.pth").unlink()
    with pytest.raises(ArtefactError, match=r"neither weights\.pth and config\.json of a training nor models/"):
        find_satlas_weights("solar_farm", folder)
