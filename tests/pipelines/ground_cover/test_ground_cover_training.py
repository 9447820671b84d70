import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipelines.errors import ArtefactError, ConfigurationError, DatasetError
from pipelines.features.config import ViewsConfig
from pipelines.ground_cover.classes import LandCoverClasses
from pipelines.ground_cover.examples import PixelImages
from pipelines.ground_cover.fitting import FitState, build_towers, class_scores, fit, image_embeddings
from pipelines.ground_cover.labels import GroundCoverLabels
from pipelines.ground_cover.scores import (
    BANDS,
    COORDINATES,
    LEARNED,
    MAJORITY,
    TEXT,
    coordinate_features,
    mean_scores,
    score_ground_cover,
)
from pipelines.ground_cover.scores_config import GroundCoverScoresConfig
from pipelines.ground_cover.state import STATE_NAME, read_fit_state, write_fit_state
from pipelines.ground_cover.training import Inputs, open_ground_cover_run, train_ground_cover
from pipelines.ground_cover.training_config import GroundCoverTrainingConfig, model_classes
from pipelines.ground_cover.unseen_classes import unseen_class_scores
from satclip_model.ground_cover.checkpoint import read_ground_cover
from tests.pipelines.ground_cover.labelled_patches import CLASSES, world

CONFIG = GroundCoverTrainingConfig(
    embedding_dim=16, image_hidden_dim=32, epochs=12, batch_size=16, learning_rate=3e-3, num_threads=1,
    accelerator="cpu", validation_interval_epochs=4, validation_blocks_deg=30.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def small():
    return world()


@pytest.fixture(scope="module")
def trained(small):
    model = build_towers(small.examples, CONFIG, small.backbone)
    fit(model, small.examples, CONFIG)
    return model


def _inputs(small, labels_sha256="0" * 64):
    num = len(small.examples)
    labels = GroundCoverLabels(
        np.arange(num), small.examples.lonlat_deg, small.examples.fractions, np.full(num, 9), np.full(num, 2021),
        ("valid",) * num, LandCoverClasses("world", CLASSES),
    )  # fmt: skip
    images = {"source": "bank", "fingerprint": "f", "encoder": {}, "feature_dim": 36}
    dataset = SimpleNamespace(version="abc")
    record = {"labels_sha256": labels_sha256, "fingerprint": "l", "collection": "c"}
    return Inputs(dataset, labels, record, small.examples, small.backbone, images, None)


def test_both_towers_learn_to_tell_the_classes_apart(small, trained):
    fresh = world(seed=7).examples
    for source in ("learned", "text"):
        assert (class_scores(trained, fresh, source).argmax(axis=1) == fresh.dominant).mean() > 0.95


def test_a_class_is_found_by_its_text_although_training_never_saw_it(small):
    config = CONFIG.model_copy(update={"epochs": 25})
    known = small.examples.without_class(1, 0.1)
    model = build_towers(known, config, small.backbone)
    fit(model, known, config)
    asked = model.encode_classes(model_classes([CLASSES[1]])).numpy()[0]
    similar = image_embeddings(model, small.examples) @ asked
    means = [float(similar[small.examples.dominant == each].mean()) for each in range(4)]
    assert means[1] > means[2]  # warm forest is further from cold desert than any other class


def test_a_training_that_was_stopped_gives_the_weights_of_one_that_was_not(small, trained, tmp_path):
    path, halfway = tmp_path / STATE_NAME, 17
    record = dict.fromkeys(("dataset_version", "labels", "image_features", "config", "split"), "same")
    model = build_towers(small.examples, CONFIG, small.backbone)

    def stop(state, optimizer):
        if state.step == halfway:
            write_fit_state(path, model, record, state, optimizer)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, small.examples, CONFIG, FitState(), after_step=stop)
    again = build_towers(small.examples, CONFIG, small.backbone)
    state = read_fit_state(path, again, record)
    assert state.step == halfway
    fit(again, small.examples, CONFIG, state)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    with pytest.raises(ArtefactError, match="labels is 'same', expected 'others'"):
        read_fit_state(path, again, {**record, "labels": "others"})


def test_a_run_is_written_whole_and_found_again(small, tmp_path):
    run = train_ground_cover(tmp_path, CONFIG, _inputs(small))
    assert run == open_ground_cover_run(tmp_path)
    model, record = read_ground_cover(run.checkpoint_path)
    assert record["labels"]["statuses"] == {"valid": len(small.examples)}
    assert record["split"]["num_validation_places"] > 0
    assert run.record["metrics"]["val_accuracy"] > 0.8
    assert [each.name for each in model.config.classes] == [each.name for each in CLASSES]
    header, *lines = run.history_path.read_text().splitlines()
    assert header.split(",")[:4] == ["epoch", "step", "train_loss", "val_loss"]
    assert len(lines) == 3
    other = train_ground_cover(tmp_path, CONFIG, _inputs(small, "1" * 64))
    assert other.name != run.name
    assert not list(tmp_path.rglob("*.partial"))


def test_a_workspace_without_a_model_names_the_asset(tmp_path):
    with pytest.raises(ArtefactError, match="materialize ground_cover_checkpoint"):
        open_ground_cover_run(tmp_path)


def test_one_class_only_is_told_before_anything_is_written(small, tmp_path):
    inputs = _inputs(small)
    alone = dataclasses.replace(inputs, examples=small.examples.select(small.examples.dominant == 0))
    with pytest.raises(DatasetError, match="1 dominant classes"):
        train_ground_cover(tmp_path, CONFIG, alone)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_text_encoder_that_is_not_there_is_told(small, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    config = CONFIG.model_copy(update={"text_encoder": "no-such-owner/no-such-model"})
    with pytest.raises(ArtefactError, match="text_encoder: no-such-owner/no-such-model"):
        train_ground_cover(tmp_path, config, _inputs(small))


def test_divergence_is_told_with_its_remedy(small):
    model = build_towers(small.examples, CONFIG, small.backbone)
    with torch.no_grad():
        model.class_embedding.weight.fill_(float("nan"))
    with pytest.raises(ConfigurationError, match=r"diverged in step 1: the loss is nan\. Lower learning_rate"):
        fit(model, small.examples, CONFIG)


def test_scores_stand_beside_baselines_with_bounds(small):
    config = GroundCoverScoresConfig(seeds=[0], num_folds=3, cell_deg=30.0, leave_one_out_folds=3)
    training = CONFIG.model_copy(update={"epochs": 8})
    truth = np.eye(4)[small.examples.dominant]
    baselines = {COORDINATES: coordinate_features(small.examples), BANDS: truth}
    scores = score_ground_cover(small.examples, training, small.backbone, config, baselines)
    means = mean_scores(scores.table).query("region == 'all'").set_index("method")
    assert means.loc[BANDS, "macro_f1"] == pytest.approx(1.0)
    assert means.loc[LEARNED, "macro_f1"] > 0.9
    assert means.loc[TEXT, "macro_f1"] > 0.9
    assert means.loc[COORDINATES, "macro_f1"] < 0.6
    assert means.loc[MAJORITY, "accuracy"] <= 0.4
    rows = scores.table[scores.table["metric_name"] == "macro_f1"]
    assert (rows["ci_lower"] <= rows["metric_value"]).all()
    assert (rows["metric_value"] <= rows["ci_upper"]).all()
    assert scores.confusion.sum() == len(small.examples)
    assert scores.unseen["class"].tolist() == [each.name for each in CLASSES] + ["mean"]
    assert scores.unseen.iloc[-1]["lift"] > 1
    assert (scores.classes["precision_at_10"] >= 0.9).all()
    assert all(small.examples.dominant[rows[0]] == index for index, rows in enumerate(scores.retrieved.values()))


def test_leaving_out_one_of_two_classes_is_refused(small):
    pair = small.examples.select(small.examples.dominant < 2)
    folds = SimpleNamespace(train_test=lambda: iter([(np.arange(len(pair)), np.arange(len(pair)))]))
    with pytest.raises(DatasetError, match="class Cold forest: without it"):
        unseen_class_scores(pair, 0, folds, CONFIG, small.backbone, 0.5)


class _Reader:
    def __init__(self, dn):
        self.dn, self.patch_shape = dn, dn.shape[1:]

    def read(self, rows, out):
        out[:] = self.dn[rows]


def test_training_from_pixels_is_that_on_the_bank_of_their_features(small, trained):
    dn = np.rint(small.reflectance * 10_000).astype(np.uint16)
    ids = small.examples.place_ids
    images = PixelImages(_Reader(dn), ids, np.zeros_like(ids), ids, ViewsConfig(num_views=1))
    examples = dataclasses.replace(small.examples, images=images)
    model = build_towers(examples, CONFIG, small.backbone)
    fit(model, examples, CONFIG)
    fresh = world(seed=7).examples
    np.testing.assert_allclose(class_scores(model, fresh), class_scores(trained, fresh), atol=0.02)
