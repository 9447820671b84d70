from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from pipelines.errors import ConfigurationError
from pipelines.training.config import TrainingConfig
from pipelines.training.named_configs import FOLDER, TrainingPlan, config_names, read_training_plan
from satclip_model.config import MoCoConfig

PUBLISHED = [f"{kind}-l{num_degrees}" for kind in ("resnet18", "resnet50", "vit16") for num_degrees in (10, 40)]


def test_six_published_trainings_and_a_quick_one_come_with_the_package() -> None:
    assert config_names() == sorted([*PUBLISHED, "quick"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_and_optimiser(name: str) -> None:
    plan = read_training_plan(name)
    kind, _, num_degrees = name.partition("-l")
    assert plan.backbone.kind == f"moco_{kind}"
    assert (plan.backbone.weights, plan.backbone.download) == ("published", False)
    assert (plan.batch_size, plan.learning_rate, plan.weight_decay, plan.epochs) == (512, 1e-4, 0.01, 500)
    towers = plan.training.model_settings(MoCoConfig(kind=plan.backbone.kind))
    encoding, network = towers.location.positional_encoding, towers.location.network
    assert (encoding.num_degrees, encoding.convention) == (int(num_degrees), "analytic")
    assert (network.hidden_dim, network.num_hidden_layers, network.dropout) == (512, 2, 0.5)
    assert (towers.embedding_dim, towers.image_head.hidden_dim) == (256, 0)


def test_a_file_is_found_by_name_with_or_without_suffix_and_by_path(tmp_path: Path) -> None:
    by_name = read_training_plan("vit16-l40")
    assert read_training_plan("vit16-l40.yaml") == by_name == read_training_plan(str(FOLDER / "vit16-l40.yaml"))
    path = tmp_path / "quick.yaml"
    path.write_text("epochs: 3\nviews: {num_views: 4}\n")
    plan = read_training_plan(str(path))
    assert (plan.epochs, plan.views.num_views, plan.backbone.kind) == (3, 4, "random_convolutional")
    assert plan.training == TrainingConfig(epochs=3)


def test_settings_are_overridden_by_name() -> None:
    plan = read_training_plan(
        "vit16-l40", ["epochs=7", "learning_rate=1e-3", "views.num_views=8", "backbone.download=true", "views.seed=5"]
    )
    assert (plan.epochs, plan.learning_rate, plan.backbone.download) == (7, 1e-3, True)
    assert (plan.views.num_views, plan.views.seed) == (8, 5)
    assert plan.backbone.kind == "moco_vit16"


def test_pixels_take_backbone_views_and_loader_of_the_file() -> None:
    assert all(read_training_plan(name).source == "bank" for name in config_names())
    assert read_training_plan("vit16-l40").pixels is None
    options = ["source=pixels", "trainable_backbone=true", "loader.num_workers=8", "views.num_views=2"]
    plan = read_training_plan("vit16-l40", options)
    assert plan.pixels is not None
    assert plan.pixels.backbone == plan.backbone
    assert (plan.pixels.loader.num_workers, plan.pixels.views.num_views, plan.pixels.trainable_backbone) == (8, 2, True)
    assert plan.training == read_training_plan("vit16-l40").training


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["epoch=3"], r"quick\.yaml: epoch: Extra inputs are not permitted; correct the file or --set"),
        (["views.number=3"], r"views\.number: Extra inputs are not permitted"),
        (["epochs=0"], r"epochs: Input should be greater than or equal to 1"),
        (["early_stopping_patience=2", "validation_fraction=0"], "validation_fraction is 0; keep places"),
        (["trainable_backbone=true", "backbone={kind: moco_vit16}"], "trainable_backbone is set, but source is 'bank'"),
        (["loader.num_workers=9"], "loader is set, but source is 'bank'"),
        (["source=pixels", "trainable_backbone=true"], "filters of random_convolutional follow from their seed"),
        (["epochs"], r"--set epochs: expected NAME=VALUE, such as"),
        (["training.epochs=3"], r"--set training\.epochs=3: expected NAME=VALUE"),
        (["epochs=[3"], r"--set epochs=\[3: the value is not readable as YAML"),
        (["views=3", "views.seed=1"], r"views is 3, so that views\.seed cannot be set"),
    ],
)
def test_settings_that_cannot_be_honoured_are_named(overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        read_training_plan("quick", overrides)


def test_files_that_are_missing_or_no_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"vit16-l20: no such file, expected a path or one of quick, resnet18-l10"
    ):
        read_training_plan("vit16-l20")
    with pytest.raises(ConfigurationError, match=r"elsewhere/quick: no such file"):
        read_training_plan("elsewhere/quick")
    path = tmp_path / "list.yaml"
    path.write_text("- epochs\n")
    with pytest.raises(ConfigurationError, match=r"list\.yaml: holds list; expected settings as name: value"):
        read_training_plan(str(path))
    path.write_text("epochs: [1\n")
    with pytest.raises(ConfigurationError, match=r"list\.yaml: not readable as YAML"):
        read_training_plan(str(path))


def test_files_name_what_differs_from_the_published_training() -> None:
    for name in PUBLISHED:
        assert set(yaml.safe_load((FOLDER / f"{name}.yaml").read_text())) <= set(TrainingPlan.model_fields)


def test_early_stopping_without_validation_is_refused() -> None:
    with pytest.raises(ValidationError, match="early_stopping_patience is 3, but validation_fraction is 0"):
        TrainingConfig(early_stopping_patience=3, validation_fraction=0)
