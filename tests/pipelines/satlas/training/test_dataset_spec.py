"""The folder layout of published training data: read, written, and its faults told."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.errors import ArtefactError, ConfigurationError
from pipelines.satlas.images import TileImage
from pipelines.satlas.training.dataset_spec import DatasetSpecFolder
from pipelines.satlas.training.dataset_spec_writer import write_dataset_spec
from pipelines.satlas.training.examples import BoxTarget, Example, MaskTarget, Target, ValueTarget
from pipelines.satlas.training.named_configs import FOLDER, read_satlas_config, satlas_config_names
from satclip_model.satlas import EXPLORER_CONFIGS
from satclip_model.satlas.config import DetectionConfig, HeadConfig, RegressionConfig, SegmentationConfig

SIZE = 16
HEADS: dict[str, HeadConfig] = {
    "bits": SegmentationConfig(categories=("a", "b", "c")),
    "classes": SegmentationConfig(kind="segmentation", categories=("a", "b", "c")),
    "values": RegressionConfig(),
    "boxes": DetectionConfig(categories=("turbine", "platform")),
}


def _example(kind: str, rng: np.random.Generator, num_channels: int = 9) -> Example:
    images = []
    for _ in range(2):
        present = rng.random((SIZE, SIZE)) < 0.8
        channels = rng.integers(1, 256, (num_channels, SIZE, SIZE), dtype=np.uint8)
        images.append(TileImage(np.where(present, channels, 0).astype(np.uint8), present))
    classes = rng.integers(0, 3, (SIZE, SIZE))
    corners = rng.integers(0, SIZE - 4, (3, 2)).astype(np.float32)
    valid = rng.random((SIZE, SIZE)) < 0.5
    target: Target = {
        "bits": MaskTarget(rng.integers(0, 2, (3, SIZE, SIZE), dtype=np.uint8), valid),
        "classes": MaskTarget(np.stack([classes == each for each in range(3)]).astype(np.uint8), valid),
        "values": ValueTarget(np.where(valid, rng.integers(1, 256, (SIZE, SIZE)), 0).astype(np.float32), valid),
        "boxes": BoxTarget(
            np.hstack([corners, corners + 4]), rng.integers(1, 3, 3).astype(np.int64), rng.random(3) < 0.5
        ),
    }[kind]
    return Example("example", images, target)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(st.sampled_from(sorted(HEADS)), st.sampled_from([3, 9]), st.integers(0, 1000))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, kind: str, channels: int, seed: int
) -> None:
    root = tmp_path_factory.mktemp("spec")
    written = [_example(kind, np.random.default_rng(seed + number), channels) for number in range(2)]
    write_dataset_spec(root, "task", "train", written, HEADS[kind], names=["12_7", "13_7"])
    read = DatasetSpecFolder(root, "task", "train", HEADS[kind], channels)
    assert len(read) == 2
    for index, example in enumerate(written):
        assert read[index].name == ("12_7", "13_7")[index]
        for one, other in zip(read[index].images, example.images, strict=True):
            np.testing.assert_array_equal(one.channels, other.channels)
            np.testing.assert_array_equal(one.present, other.present)
        for name in example.target.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(read[index].target, name), getattr(example.target, name))


def _one(root: Path, kind: str = "bits") -> Path:
    write_dataset_spec(root, "task", "train", [_example(kind, np.random.default_rng(0))] * 2, HEADS[kind])
    return root / "labels" / "task" / "0_0"


def test_splits_name_columns_and_rows_or_folders(tmp_path: Path) -> None:
    folder = _one(tmp_path)
    folder.rename(folder.with_name("4267_2839_7"))
    split = tmp_path / "splits" / "task_train.json"
    for content in ([[4267, 2839]], ["4267_2839_7"]):
        split.write_text(json.dumps(content))
        assert DatasetSpecFolder(tmp_path, "task", "train", HEADS["bits"])[0].name == "4267_2839_7"


def test_coarser_bands_are_replicated_and_the_anchor_comes_last(tmp_path: Path) -> None:
    folder = _one(tmp_path)
    images = sorted((folder / "images").iterdir())
    images[0].rename(images[0].with_name("anchor_2000-01"))
    coarse = np.arange(64, dtype=np.uint8).reshape(8, 8) + 1
    Image.fromarray(coarse).save(folder / "images" / "anchor_2000-01" / "b11.png")
    example = DatasetSpecFolder(tmp_path, "task", "train", HEADS["bits"])[0]
    np.testing.assert_array_equal(example.images[1].channels[7], coarse.repeat(2, 0).repeat(2, 1))


def _break(folder: Path, what: str) -> None:
    image = sorted((folder / "images").iterdir())[0]
    match what:
        case "band":
            (image / "b08.png").unlink()
        case "date":
            for each in (folder / "images").iterdir():
                for path in each.iterdir():
                    path.unlink()
                each.rmdir()
        case "damaged":
            (image / "tci.png").write_bytes(b"no png")
        case "size":
            Image.fromarray(np.ones((8, 8, 3), dtype=np.uint8)).save(image / "tci.png")
        case "labels":
            (folder / "gt.png").unlink()
        case "depth":
            Image.fromarray(np.full((SIZE, SIZE), 300, dtype=np.uint16)).save(image / "b08.png")
        case "chunk":
            content = bytearray((folder / "gt.png").read_bytes())
            content[content.index(b"IDAT") : content.index(b"IDAT") + 4] = b"\xd3!M\x7f"
            (folder / "gt.png").write_bytes(content)
        case "valid":
            Image.fromarray(np.ones((8, 8), dtype=np.uint8)).save(folder / "valid.png")
        case "value":
            Image.fromarray(np.full((SIZE, SIZE), 8, dtype=np.uint8)).save(folder / "gt.png")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("band", r"b08\.png: missing; the folder has b05\.png"),
        ("date", "no image; expected a folder per date"),
        ("damaged", r"tci\.png: not readable as PNG"),
        ("size", r"tci\.png: \(8, 8\) pixels, expected \(16, 16\)"),
        ("labels", r"gt\.png: missing"),
        ("depth", r"b08\.png: values of type uint16, expected 8 bits"),
        ("chunk", r"gt\.png: not readable as PNG"),
        ("valid", r"valid\.png: shape \(8, 8\), expected \(16, 16\)"),
        ("value", "value 8, expected bits of 3 categories"),
    ],
)
def test_a_broken_example_is_named_and_others_go_on_when_asked(tmp_path: Path, what: str, message: str) -> None:
    _break(_one(tmp_path), what)
    with pytest.raises(ArtefactError, match=message):
        DatasetSpecFolder(tmp_path, "task", "train", HEADS["bits"])[0]
    kept = DatasetSpecFolder(tmp_path, "task", "train", HEADS["bits"], skip_broken=True)
    assert len(kept) == 1
    assert list(kept.broken) == ["0_0"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1, 1, 5, 5, "tree"]], "categories tree; expected turbine, platform"),
        ([[5, 1, 5, 5, "turbine"]], "box 0 is"),
        ([[100, 100, 110, 110, "turbine"]], "lies outside"),
        ({"boxes": 1}, "no boxes that can be read"),
    ],
)
def test_boxes_that_cannot_be_are_told(tmp_path: Path, rows: object, message: str) -> None:
    folder = _one(tmp_path, "boxes")
    (folder / "difficult.json").unlink(missing_ok=True)
    (folder / "gt.json").write_text(json.dumps(rows))
    with pytest.raises(ArtefactError, match=message):
        DatasetSpecFolder(tmp_path, "task", "train", HEADS["boxes"])[0]


def test_splits_that_name_nothing_are_told(tmp_path: Path) -> None:
    _one(tmp_path)
    split = tmp_path / "splits" / "task_train.json"
    for content, message in (
        ("[]", "holds an empty list; expected a list"),
        ("{", "no split that can be read"),
        ("[[0, 0], 6]", "entry 1 is 6; expected a list"),
        ("[[9, 9]]", "none of its 1"),
    ):
        split.write_text(content)
        with pytest.raises(ArtefactError, match=message):
            DatasetSpecFolder(tmp_path, "task", "train", HEADS["bits"])


def test_what_a_split_names_without_labels_and_missing_dates_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = _one(tmp_path)
    (tmp_path / "splits" / "task_train.json").write_text(json.dumps(["0_0", "1_0", "77_0"]))
    shutil.rmtree(sorted((folder / "images").iterdir())[0])
    read = DatasetSpecFolder(tmp_path, "task", "train", HEADS["bits"], num_images=2)
    assert (len(read), read.unlabeled, read.short) == (2, ["77_0"], {"0_0": 1})
    assert "1 of its examples have no labels, among them 77_0" in caplog.text
    assert "fewer than 2 images, among them 0_0 (1)" in caplog.text


def test_an_export_overwrites_no_other_split(tmp_path: Path) -> None:
    folder = _one(tmp_path)
    before = (folder / "gt.png").read_bytes()
    example = _example("bits", np.random.default_rng(9))
    with pytest.raises(ArtefactError, match="already there, of this or another split"):
        write_dataset_spec(tmp_path, "task", "val", [example], HEADS["bits"])
    assert (folder / "gt.png").read_bytes() == before
    with pytest.raises(ValueError, match="1 different names for 2 examples"):
        write_dataset_spec(tmp_path, "task", "val", [example] * 2, HEADS["bits"], names=["9_0", "9_0"])
    write_dataset_spec(tmp_path, "task", "val", [example], HEADS["bits"], names=["9_0"])
    assert [len(DatasetSpecFolder(tmp_path, "task", split, HEADS["bits"])) for split in ("train", "val")] == [2, 1]


@pytest.mark.parametrize("numbers", [[3], [-1], ["a"], 1])
def test_numbers_of_difficult_boxes_that_cannot_be_are_told(tmp_path: Path, numbers: object) -> None:
    (_one(tmp_path, "boxes") / "difficult.json").write_text(json.dumps(numbers))
    with pytest.raises(ArtefactError, match=r"expected a list of numbers of boxes, 0 to 2"):
        DatasetSpecFolder(tmp_path, "task", "train", HEADS["boxes"])[0]


def test_a_band_may_be_a_jpeg(tmp_path: Path) -> None:
    image = sorted((_one(tmp_path) / "images").iterdir())[0]
    (image / "b11.png").unlink()
    Image.fromarray(np.full((SIZE, SIZE), 77, dtype=np.uint8)).save(image / "b11.jpg")
    read = DatasetSpecFolder(tmp_path, "task", "train", HEADS["bits"])[0]
    assert np.all(read.images[0].channels[7] == 77)


@pytest.mark.parametrize("task", sorted(EXPLORER_CONFIGS))
def test_explorer_configurations_are_the_published_ones(task: str) -> None:
    """allenai/satlas, configs/satlas_explorer_*.txt."""
    config = read_satlas_config(task)
    assert config.model == EXPLORER_CONFIGS[task]
    assert (config.batch_size, config.learning_rate, config.schedule) == (16, 1e-4, "plateau")
    assert config.freeze_examples == config.warmup_examples == config.warmup_delay_examples == 65_536
    assert (config.plateau_factor, config.plateau_patience, config.plateau_cooldown) == (0.5, 1, 10)
    assert (config.min_learning_rate, config.examples_per_epoch) == (1e-6, 32_768)
    crops = {"marine_infrastructure": (384, 576), "tree_cover": (384, 512)}.get(task, (416, 512))
    assert (config.crop_px, config.max_crop_px) == crops


def test_settings_by_name_and_their_faults(tmp_path: Path) -> None:
    assert {"sandbox_solar_farm", "solar_farm", "tree_cover"} <= set(satlas_config_names())
    config = read_satlas_config("sandbox_solar_farm", ["num_examples=16", "model.backbone=resnet34"])
    assert (config.num_examples, config.model.backbone) == (16, "resnet34")
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load((FOLDER / "solar_farm.yaml").read_text()), "batch_size": 0}))
    for name, message in ((str(path), "batch_size"), ("nothing", "expected a YAML file, or one of")):
        with pytest.raises(ConfigurationError, match=message):
            read_satlas_config(name)
    with pytest.raises(ConfigurationError, match="expected name=value"):
        read_satlas_config("solar_farm", ["batch_size"])
