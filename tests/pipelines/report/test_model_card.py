import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard

from pipelines.evaluation.effective_resolution import Resolution
from pipelines.evaluation.scores import COLUMNS
from pipelines.report.model_card import CardContent, render_model_card, write_model_card

RUN = {
    "dataset_version": "abc123", "checkpoint_sha256": "c" * 64, "config_sha256": "d" * 64, "commit": None, "epoch": 7,
    "packages": {"torch": "2.15.0"}, "image_features": {"fingerprint": "f" * 16, "encoder": {"kind": "moco_vit16"}},
    "config": {
        "num_degrees": 41, "embedding_dim": 256, "location_hidden_dim": 512, "epochs": 10, "batch_size": 512,
        "learning_rate": 1e-4, "weight_decay": 0.01,
    },
    "split": {"num_training_places": 900, "num_validation_places": 100, "rule": "blocks"},
    "metrics": {"temperature": 0.07, "val_recall_at_1": 0.25, "val_chance_recall_at_1": 1 / 256},
}  # fmt: skip
DATASET = {
    "version": "abc123", "content_sha256": "e" * 64, "num_valid": 1000, "num_places": 1100, "bands": ["B01"] * 12,
    "source": "sentinel-2-l2a",
}  # fmt: skip


@pytest.fixture
def content() -> CardContent:
    rows = [
        dict.fromkeys(COLUMNS, "") | {
            "dataset": "stations", "task": "warmth", "task_type": "regression", "method": "ridge", "split": split,
            "metric_name": "r2", "metric_value": value, "ci_lower": value - 0.1, "ci_upper": value + 0.1, "seed": 0,
            "cell_deg": cell_deg, "model_name": model, "n_samples": 500, "feature_dim": 4, "note": note,
        }
        for split, cell_deg in (("random", np.nan), ("blocks", 10.0))
        for model, value, note in (("satclip", 0.71234, ""), ("sincos", 0.5, ""), ("geoclip", np.nan, "not installed"))
    ]  # fmt: skip
    return CardContent(RUN, DATASET, "2021-01-03", "2023-05-01", pd.DataFrame(rows), "satclip", False, 20.0)


def test_the_header_is_what_the_hub_reads(content: CardContent, tmp_path: Path) -> None:
    write_model_card(tmp_path / "README.md", content)
    card = ModelCard.load(tmp_path / "README.md")
    results = card.data.eval_results
    assert [(each.dataset_config, each.metric_value) for each in results] == [
        ("warmth, random", 0.7123),
        ("warmth, blocks 10°", 0.7123),
    ]
    header = yaml.safe_load((tmp_path / "README.md").read_text().split("---")[1])
    assert header["license"] == "mit"
    assert header["model-index"][0]["name"] == "SatCLIP abc123"


def test_the_card_says_what_was_recorded(content: CardContent) -> None:
    card = render_model_card(content)
    for told in (
        "similarity of matching pairs of image and place is raised, and that of all others lowered",
        "1,000 patches of 1,100 places", "sensed 2021-01-03 to 2023-05-01, in scenes of at most 20 % cloud",
        "degrees 0 to 40: half a wave of the finest is 500 km", "7 of 10 epochs",
        "Recall at 1 on validation places: 0.250, by chance 0.0039",
        "| warmth | blocks 10° | ridge | r2 | 0.712 [0.61, 0.81] | 0.500 [0.40, 0.60] | - |",
        "geoclip, warmth, blocks: not installed", "c" * 64, "| commit | not a checkout |",
    ):  # fmt: skip
        assert told in card
    assert not re.search(r"\bnan\b", card, re.IGNORECASE)
    assert "synthetic" not in card
    assert json.dumps(RUN["packages"]["torch"]).strip('"') in card


def test_a_synthetic_planet_is_named_as_such(content: CardContent) -> None:
    card = render_model_card(CardContent(**{**vars(content), "synthetic": True, "max_cloud_cover_percent": None}))
    assert "nothing about Earth" in card
    assert "% cloud" not in card


def test_times_that_are_not_recorded_are_not_made_up(content: CardContent) -> None:
    assert "sensed at times that are not recorded" in render_model_card(replace(content, first_date="", last_date=""))


def test_what_the_encoder_tells_apart_is_told(content: CardContent) -> None:
    rows = [(100.0, 0.51, 0.49, 0.53, 0.5), (1000.0, 0.82, 0.8, 0.84, 0.52)]
    board = pd.DataFrame(rows, columns=["side_km", "accuracy", "lower", "upper", "chance"])
    similarity = pd.DataFrame({"distance_km": [10.0, 700.0, 5000.0], "mean": [1.0, 0.4, 0.0]})
    card = render_model_card(replace(content, resolution=Resolution(board, similarity)))
    assert "told apart is 1,000 km;" in card
    assert "half way at 345 km" in card
    assert "| 1,000 | 0.820 | 0.80 to 0.84 | 0.520 |" in card
    blind = render_model_card(replace(content, resolution=Resolution(board[:1], similarity.assign(mean=1.0))))
    assert "none of these" in blind
    assert "does not fall" in blind


def test_intervals_notes_and_failures_are_told(content: CardContent) -> None:
    scores = content.scores.assign(note=content.scores["note"].where(content.scores["note"] != "", "3 rows left out"))
    scores.loc[scores["model_name"] == "sincos", ["ci_lower", "ci_upper"]] = np.nan
    failures = {"gone": "gone.csv: no such table"}
    card = render_model_card(replace(content, scores=scores, failures=failures, synthetic=True))
    assert "r2 (ridge), 95 % interval 0.612 to 0.812" in card
    assert "- synthetic" in card.split("---")[1]
    assert "- warmth: 3 rows left out" in card
    assert "- gone: gone.csv: no such table" in card
    assert "| 0.500 |" in card
    assert not re.search(r"\bnan\b", card, re.IGNORECASE)
