"""Training in two processes that torchrun starts, beside training in one."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipelines.errors import ArtefactError
from pipelines.patches.dataset import open_patch_dataset
from pipelines.training.config import TrainingConfig
from pipelines.training.run import train, train_from_pixels
from pipelines.training.state import STATE_NAME
from satclip_model.checkpoint.native import read_checkpoint
from tests.conftest import REPOSITORY
from tests.pipelines.training.pixel_dataset import publish_small_dataset
from tests.pipelines.training.pixel_trainings import SERIAL, log_without_times, tiny_backbone
from tests.pipelines.training.rank_training import EXACT, PIXELS, pixel_backbones
from tests.pipelines.training.synthetic_places import SMALL, synthetic
from tests.processes import descendants, is_alive, shared_memory

pytestmark = [pytest.mark.slow, pytest.mark.network]

SETTINGS = SMALL.model_copy(update={"checkpoint_interval_steps": 2})
ENDLESS = SMALL.model_copy(update={"epochs": 1_000_000})


def start_ranks(config: TrainingConfig, folder: Path, what: str = "train_once") -> subprocess.Popen[str]:
    """The process that starts two ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.pipelines.training.rank_training", what, config.model_dump_json(), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=200)
    return output


def wait_for_training(process: subprocess.Popen[str], folder: Path) -> set[int]:
    """Ids of the ranks, once the first epoch is done."""
    deadline = time.monotonic() + 120
    while not (folder / "run" / "training_log.csv").is_file():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    ranks = descendants(process.pid)
    assert len(ranks) >= 2
    return ranks


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of trainings by two ranks: exact; killed and gone on with; the same at one go; and from pixels."""
    folder = tmp_path_factory.mktemp("ranks")
    publish_small_dataset(folder, 50)
    killed = start_ranks(SETTINGS, folder, "train_and_be_killed")
    processes = set()
    while killed.poll() is None and not (folder / "whole" / "satclip.ckpt").exists():
        processes |= descendants(killed.pid)
        time.sleep(0.2)
    output = finish(killed)
    assert killed.returncode != 0
    assert "Signal 9" in output
    assert not [each for each in processes if is_alive(each)]
    assert read_checkpoint(folder / "run" / STATE_NAME)[1]["step"] == 6
    resumed = start_ranks(SETTINGS, folder, "go_on_and_train_more")
    output = finish(resumed)
    assert resumed.returncode == 0, output
    assert output.count("training on ") == 5
    assert "leaked" not in output
    assert not shared_memory(processes)
    return folder


def test_two_ranks_train_as_one_process_does(two_ranks: Path, tmp_path: Path) -> None:
    alone = train(*synthetic(150), EXACT, tmp_path)
    ours, theirs = rows(alone.history_path), rows(two_ranks / "exact" / "run" / "training_log.csv")
    assert len(ours) == len(theirs) == 4
    for one, other in zip(ours, theirs, strict=True):
        for name in ("train_loss", "val_loss", "temperature", "learning_rate"):
            assert one[name] == other[name] == "" or float(other[name]) == pytest.approx(float(one[name]), rel=2e-5)
    model, record = read_checkpoint(two_ranks / "exact" / "run" / "satclip.ckpt")
    expected, _ = read_checkpoint(alone.checkpoint_path)
    assert record["num_ranks"] == 2
    for (name, one), other in zip(expected.state_dict().items(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4, msg=name)


def test_every_rank_returns_what_the_first_wrote(two_ranks: Path) -> None:
    told = [json.loads((two_ranks / "exact" / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert told[0] == told[1]
    assert told[0]["checkpoint"] == str(two_ranks / "exact" / "run" / "satclip.ckpt")
    assert told[0]["metrics"] == read_checkpoint(two_ranks / "exact" / "run" / "satclip.ckpt")[1]["metrics"]
    assert sorted(each.name for each in (two_ranks / "exact" / "run").iterdir()) == [
        "record.json",
        "satclip.ckpt",
        "training_log.csv",
    ]


def test_ranks_that_were_killed_go_on_to_the_bit(two_ranks: Path) -> None:
    whole, run = two_ranks / "whole", two_ranks / "run"
    assert (run / "satclip.ckpt").read_bytes() == (whole / "satclip.ckpt").read_bytes()
    assert log_without_times(run) == log_without_times(whole)
    assert not (run / STATE_NAME).exists()


@pytest.mark.parametrize("name", ["frozen", "transformer"])
def test_two_ranks_train_from_pixels_as_one_process_does(name: str, two_ranks: Path, tmp_path: Path) -> None:
    backbone = pixel_backbones()[name]
    train_from_pixels(open_patch_dataset(two_ranks), backbone, PIXELS, tmp_path, loader=SERIAL)
    ours, theirs = log_without_times(tmp_path), log_without_times(two_ranks / name)
    assert len(ours) == len(theirs) == 4
    for one, other in zip(ours, theirs, strict=True):
        for name in ("train_loss", "val_loss", "temperature"):
            assert float(other[name]) == pytest.approx(float(one[name]), rel=1e-4)


def test_trainable_batch_norm_has_the_statistics_of_a_share_and_the_first_ranks_are_kept(two_ranks: Path) -> None:
    first, second = (torch.load(two_ranks / f"rank{rank}.pt", weights_only=True)["batch_norm"] for rank in (0, 1))
    statistics = {name for name in first if name.endswith(("running_mean", "running_var"))}
    assert len(statistics) > 20
    initial = tiny_backbone().state_dict()
    for name, weights in first.items():
        assert torch.equal(weights, second[name]) == (name not in statistics), name
    assert not torch.equal(first["conv1.weight"], initial["conv1.weight"])
    model, record = read_checkpoint(two_ranks / "batch_norm" / "satclip.ckpt")
    torch.testing.assert_close(model.image_backbone.state_dict(), first, rtol=0, atol=0)
    assert (record["num_ranks"], record["image_features"]["source"]) == (2, "pixels")


def test_ranks_end_when_the_process_that_started_them_is_killed(tmp_path: Path) -> None:
    process = start_ranks(ENDLESS, tmp_path)
    try:
        processes = wait_for_training(process, tmp_path)
        process.kill()
        finish(process)
        deadline = time.monotonic() + 60
        while any(is_alive(each) for each in processes):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert not shared_memory(processes)
    finally:
        process.kill()


def test_ranks_that_are_stopped_leave_nothing_but_a_state_to_go_on_from(tmp_path: Path) -> None:
    process = start_ranks(ENDLESS, tmp_path)
    try:
        processes = wait_for_training(process, tmp_path)
        process.send_signal(signal.SIGTERM)
        output = finish(process)
        assert process.returncode != 0
        assert output.count("training stopped after step") == 1
        assert not [each for each in processes if is_alive(each)]
        assert not shared_memory(processes)
        assert "leaked" not in output
    finally:
        process.kill()
    _, record = read_checkpoint(tmp_path / "run" / "training_state.ckpt")
    assert record["num_ranks"] == 2
    assert record["step"] > 0
    with pytest.raises(ArtefactError, match="num_ranks is 2, expected 1"):
        train(*synthetic(150), ENDLESS, tmp_path / "run")
