"""The training loop: what it learns, that it goes on after a kill as if nothing had happened, and its messages."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipelines.errors import ArtefactError, ConfigurationError
from pipelines.satlas.images import TileImage
from pipelines.satlas.task_weights import read_score_thresholds
from pipelines.satlas.training.config import SatlasTrainingConfig
from pipelines.satlas.training.examples import BoxTarget, Example, MaskTarget, ValueTarget
from pipelines.satlas.training.loop import train_satlas
from satclip_model.satlas import build_satlas

SIZE = 64
MODEL = {"backbone": "resnet18", "pyramid_dim": 8, "num_images": 2, "num_channels": 3}
HEADS = {
    "mask": {"kind": "binary_segmentation", "categories": ["bright"]},
    "value": {"kind": "regression"},
    "box": {
        "kind": "detection", "categories": ["bright"], "anchor_sizes_px": [16, 32, 64, 128], "num_proposals": 50,
        "num_sampled": 32, "box_dim": 16,
    },
}  # fmt: skip


def _config(kind: str, **settings: object) -> SatlasTrainingConfig:
    quick = {
        "model": {**MODEL, "heads": [HEADS[kind]]}, "num_examples": 24, "examples_per_epoch": 8, "batch_size": 4,
        "crop_px": 32, "warmup_examples": 8, "freeze_examples": 0, "learning_rate": 1e-2,
        "validation": {"window_px": 64, "overlap_px": 0},
    }  # fmt: skip
    return SatlasTrainingConfig.model_validate({**quick, **settings})


def _examples(kind: str, number: int, seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    found = []
    for index in range(number):
        channels = rng.integers(0, 60, (3, SIZE, SIZE), dtype=np.uint8)
        row, column = rng.integers(0, SIZE - 16, 2)
        channels[:, row : row + 16, column : column + 16] = 220
        bright, everywhere = channels[0] == 220, np.ones((SIZE, SIZE), dtype=np.bool_)
        box = np.array([[column, row, column + 16, row + 16]], dtype=np.float32)
        target = {
            "mask": MaskTarget(bright[None].astype(np.uint8), everywhere),
            "value": ValueTarget(255 * bright.astype(np.float32), everywhere),
            "box": BoxTarget(box, np.ones(1, np.int64), np.zeros(1, np.bool_)),
        }[kind]
        found.append(Example(f"tile {index}", [TileImage(channels, everywhere)] * 2, target))
    return found


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("kind", ["mask", "value", "box"])
def test_a_training_leaves_weights_curves_and_a_record(kind: str, tmp_path: Path) -> None:
    run = train_satlas(_examples(kind, 4), _examples(kind, 2, 1), _config(kind), tmp_path / "run")
    model = build_satlas(_config(kind).model, seed=1)
    model.load_state_dict(torch.load(run.weights, weights_only=True))
    assert json.loads((run.folder / "config.json").read_text()) == _config(kind).model.model_dump(mode="json")
    history = pd.read_csv(run.folder / "training_log.csv")
    assert history["step"].tolist() == [2, 4, 6]
    assert run.record["num_steps"] == 6
    thresholds = read_score_thresholds(run.folder)
    assert set(thresholds) == ({"bright"} if kind == "box" else set())
    assert all(0 < each < 1 for each in thresholds.values())
    best = history["val_metric"].min() if kind == "value" else history["val_metric"].max()
    assert run.metric == pytest.approx(best)
    assert (run.folder / "precision_recall.png").is_file() == (kind != "value")
    if kind != "value":
        curve = pd.read_parquet(run.folder / "precision_recall.parquet")
        assert set(curve.columns) == {"category", "threshold", "precision", "recall", "f1"}
        assert curve["precision"].between(0, 1).all()
    before = run.weights.stat().st_mtime_ns
    assert train_satlas(_examples(kind, 4), _examples(kind, 2, 1), _config(kind), tmp_path / "run").metric == run.metric
    assert run.weights.stat().st_mtime_ns == before


def test_it_learns_what_bright_is(tmp_path: Path) -> None:
    config = _config("mask", num_examples=128, examples_per_epoch=64, batch_size=8, crop_px=64, learning_rate=3e-3)
    train_satlas(_examples("mask", 12), _examples("mask", 3, 1), config, tmp_path)
    losses = pd.read_csv(tmp_path / "training_log.csv")["train_loss"]
    assert losses.iloc[-1] < 0.4 * losses.iloc[0]


def _train_and_die(folder: Path, last_step: int) -> None:
    """Trains until a step and kills its own process there."""
    from pipelines.satlas.training import loop

    torch.set_num_threads(1)
    step = loop._Trainer._step

    def dying(trainer: object, number: int) -> float:
        if number == last_step:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(trainer, number)  # type: ignore[arg-type]

    loop._Trainer._step = dying  # type: ignore[method-assign,assignment]
    train_satlas(_examples("box", 4), _examples("box", 2, 1), _config("box"), folder)


@pytest.mark.parametrize("last_step", [1, 3])
def test_a_killed_training_goes_on_to_the_same_weights(last_step: int, tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_train_and_die, args=(tmp_path / "killed", last_step))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "killed" / "training_state.ckpt").is_file() == (last_step >= 2)
    killed, whole = (
        train_satlas(_examples("box", 4), _examples("box", 2, 1), _config("box"), tmp_path / name)
        for name in ("killed", "whole")
    )
    states = [torch.load(run.weights, weights_only=True) for run in (killed, whole)]
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())
    logs = [
        pd.read_csv(run.folder / "training_log.csv")[["step", "train_loss", "val_metric"]] for run in (killed, whole)
    ]
    pd.testing.assert_frame_equal(*logs)


def test_frozen_weights_stay_until_their_time(tmp_path: Path) -> None:
    config = _config("mask", freeze_examples=1_000)
    run = train_satlas(_examples("mask", 4), _examples("mask", 2, 1), config, tmp_path / "frozen")
    state, before = torch.load(run.weights, weights_only=True), build_satlas(config.model, config.seed).state_dict()
    changed = {name for name, tensor in state.items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith("heads.") for name in changed)
    later = train_satlas(
        _examples("mask", 4), _examples("mask", 2, 1), _config("mask", freeze_examples=12), tmp_path / "thawed"
    )
    thawed = torch.load(later.weights, weights_only=True)
    if later.record["best_epoch"] > 2:
        assert any(not torch.equal(t, before[n]) for n, t in thawed.items() if n.startswith("backbone."))


def test_the_rate_warms_up_and_falls_where_nothing_gets_better(tmp_path: Path) -> None:
    config = _config(
        "mask", num_examples=64, warmup_examples=16, learning_rate=1e-6, plateau_patience=0, plateau_cooldown=0,
        min_learning_rate=1e-8,
    )  # fmt: skip
    train_satlas(_examples("mask", 4), _examples("mask", 2, 1), config, tmp_path)
    rates = pd.read_csv(tmp_path / "training_log.csv")["learning_rate"]
    assert rates[0] == pytest.approx(0.5e-6)
    assert rates.iloc[-1] < 1e-6
    assert set(np.round(np.log2(1e-6 / rates[1:]), 6)) <= {0, 1, 2, 3, 4, 5, 6}


def test_state_of_another_training_is_refused_and_divergence_is_told(tmp_path: Path) -> None:
    training, validation = _examples("mask", 4), _examples("mask", 2, 1)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "training_state.ckpt").write_bytes(b"no")
    with pytest.raises(ArtefactError, match="not the state of a Satlas training"):
        train_satlas(training, validation, _config("mask"), broken)
    with pytest.raises(ConfigurationError, match=r"the loss of step \d is (nan|inf)"):
        train_satlas(training, validation, _config("mask", learning_rate=1e30, warmup_examples=0), tmp_path / "nan")
    state = tmp_path / "nan" / "training_state.ckpt"
    if state.is_file():
        with pytest.raises(ArtefactError, match="other examples or settings"):
            train_satlas(training, validation, _config("mask"), tmp_path / "nan")


def test_examples_that_cannot_serve_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="0 examples to train on"):
        train_satlas([], _examples("mask", 1), _config("mask"), tmp_path)
    dark = [
        Example(each.name, [TileImage(i.channels, np.zeros_like(i.present)) for i in each.images], each.target)
        for each in _examples("mask", 2)
    ]
    with pytest.raises(ConfigurationError, match="show no image over 25%"):
        train_satlas(dark, _examples("mask", 1), _config("mask"), tmp_path)
    with pytest.raises(ValueError, match="expected one head"):
        SatlasTrainingConfig.model_validate({"model": {"heads": [HEADS["mask"], HEADS["box"]]}})
