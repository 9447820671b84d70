import signal
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.patches.s2_100k import import_s2_100k
from pipelines.training.checkpoints import open_run
from satclip_model.checkpoint.native import read_checkpoint
from satclip_model.lightning_module import SatCLIPLightningModule
from tests.pipelines.patches.s2_100k_layout import SIZE_PX, write_loose

FEW = {
    "num_degrees": 4, "embedding_dim": 8, "location_hidden_dim": 8, "image_hidden_dim": 0, "batch_size": 8, "epochs": 3,
    "backbone.num_filters": 4, "views.num_views": 2, "accelerator": "cpu", "num_threads": 1,
}  # fmt: skip
OPTIONS = [word for name, value in FEW.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    import_s2_100k(folder / "workspace", write_loose(folder / "source", range(24)), patch_size_px=SIZE_PX)
    return folder / "workspace"


def train(workspace: Path, *options: str) -> int:
    return cli.main(["train", "--config", "quick.yaml", "--root", str(workspace), *OPTIONS, *options])


def test_a_shell_command_makes_bank_and_checkpoint(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(workspace) == 0
    run = open_run(workspace)
    told = capsys.readouterr().out
    assert f"checkpoint {run.checkpoint_path}" in told
    assert "train_loss" in told
    model, record = read_checkpoint(run.checkpoint_path)
    assert record["image_features"]["views"]["num_views"] == 2
    assert (record["config"]["epochs"], record["split"]["validation_blocks_deg"]) == (3, 10.0)
    assert model.config.image_backbone.num_filters == 4


def test_a_training_that_is_stopped_says_how_to_go_on(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = SatCLIPLightningModule.training_step

    def training_step(self, batch, batch_idx):
        signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(SatCLIPLightningModule, "training_step", training_step)
        assert train(workspace, "--set", "seed=1") == 130
    assert "satclip: train was stopped; the same command goes on from there" in capsys.readouterr().err
    assert train(workspace, "--set", "seed=1") == 0
    assert open_run(workspace).record["config"]["seed"] == 1


def test_pixels_are_trained_on_without_a_bank(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(workspace.glob("features/*"))
    assert train(workspace, "--set", "source=pixels", "--set", "loader.num_workers=0", "--set", "seed=2") == 0
    run = open_run(workspace)
    assert f"checkpoint {run.checkpoint_path}" in capsys.readouterr().out
    assert (run.record["image_features"]["source"], run.record["config"]["seed"]) == ("pixels", 2)
    assert run.record["image_features"]["views"]["num_views"] == 2
    assert run.record["backbone"]["num_filters"] == 4
    assert sorted(workspace.glob("features/*")) == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--set", "epoch=3"], "epoch: Extra inputs are not permitted"),
        (["--dataset-version", "none"], "none"),
        (["--set", "trainable_backbone=true", "--set", "source=pixels"], "trainable_backbone is true, but the filters"),
        (["--set", "loader.num_workers=9"], "loader is set, but source is 'bank'"),
        (
            ["--set", "source=pixels", "--set", "backbone={kind: moco_resnet18, weights: none.pth}"],
            "weights of the image backbone: none.pth: no such",
        ),
        (
            ["--set", "backbone={kind: moco_vit16, weights: none.pth}"],
            "weights of the image backbone: none.pth: no such",
        ),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    options: list[str], told: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(workspace, *options) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("satclip: ")
    assert told in error
