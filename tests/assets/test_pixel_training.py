"""The asset satclip_checkpoint trains from pixels, in its step or in a process of its own, without image features."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import ValidationError

from assets import train_process
from assets.resources import WorkspaceResource
from assets.training import SatclipCheckpointConfig, satclip_checkpoint
from pipelines.patches.dataset import PatchDataset
from pipelines.training.checkpoints import open_run
from satclip_model.checkpoint.native import read_checkpoint
from tests.pipelines.training.pixel_dataset import publish_small_dataset

SETTINGS: dict[str, Any] = {
    "source": "pixels", "backbone": {"kind": "moco_resnet18", "seed": 3}, "trainable_backbone": True,
    "views": {"num_views": 2}, "loader": {"num_workers": 0}, "num_degrees": 4, "embedding_dim": 8,
    "location_hidden_dim": 8, "image_hidden_dim": 0, "batch_size": 8, "epochs": 2, "validation_interval_epochs": 1,
    "accelerator": "cpu", "num_threads": 1,
}  # fmt: skip


@pytest.fixture
def dataset(tmp_path: Path) -> PatchDataset:
    return publish_small_dataset(tmp_path / "workspace", 24)


def test_pixels_need_no_bank_and_the_pages_say_what_was_trained(dataset: PatchDataset) -> None:
    root = dataset.path.parents[1]
    resources = {"workspace": WorkspaceResource(root=str(root)), "pipes": dg.PipesSubprocessClient()}
    run_config = {"ops": {"satclip_checkpoint": {"config": SETTINGS}}}
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([satclip_checkpoint], run_config=run_config, resources=resources, instance=instance)
        (materialization,) = result.asset_materializations_for_node("satclip_checkpoint")
    assert not (root / "features").exists()
    run = open_run(root)
    model, record = read_checkpoint(run.checkpoint_path)
    assert record["image_features"]["encoder"] == {"kind": "moco_resnet18", "in_channels": 13, "trainable": True}
    assert model.image_backbone.fingerprint != record["image_features"]["backbone_fingerprint"]
    found = {name: value.value for name, value in materialization.metadata.items()}
    assert (found["source"], found["trained_backbone"], found["dataset_version"]) == ("pixels", True, "small")
    assert found.keys() >= {"loss_curves", "retrieval_curves", "val_recall_at_1", "seconds", "path"}
    assert found["checkpoint_sha256"] == run.record["checkpoint_sha256"]


def test_a_process_of_its_own_trains_the_same(dataset: PatchDataset) -> None:
    root = dataset.path.parents[1]
    plan = SatclipCheckpointConfig(**SETTINGS, run_in="subprocess").plan.model_dump(mode="json")
    extras = {"root": str(root), "plan": plan, "dataset_version": "latest", "features": "latest"}
    name, seconds, sha256 = train_process._train(extras)
    run = open_run(root)
    assert (run.name, run.record["checkpoint_sha256"]) == (name, sha256)
    assert seconds > 0
    assert run.record["image_features"]["source"] == "pixels"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"backbone": {"kind": "moco_vit16"}}, "backbone of satclip_checkpoint set, but source is 'bank'"),
        ({"views": {"num_views": 4}}, "views of satclip_checkpoint set, .*set them at image_features, or source to"),
        ({"loader": {"num_workers": 8}}, "loader is set, but source is 'bank'"),
    ],
)
def test_settings_that_a_bank_does_not_take_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        SatclipCheckpointConfig(**settings)
