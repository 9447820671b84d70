"""Real Sentinel-2 through the chain: the three documented commands, as a user types them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pipelines.patches.dataset import open_patch_dataset

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.real_data, pytest.mark.network, pytest.mark.slow]


def run_example(case: str, root: Path, shared_data: Path) -> str:
    home = root / "home"
    home.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, REPOSITORY / "examples" / "real_input.py", case, "--data", shared_data, "--root", root / "ws"],
        cwd=root,
        env={**os.environ, "DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.timeout(600)
def test_s2_100k_is_imported_trained_on_and_scored_at_weather_stations(tmp_path: Path, shared_data: Path) -> None:
    out = run_example("s2-100k", tmp_path, shared_data)
    root = tmp_path / "ws"
    dataset = open_patch_dataset(root)
    assert (dataset.num_places, dataset.record.num_valid) == (20, 20)
    assert "places    20, with a patch 20, without: none" in out
    scores = pd.read_parquet(root / "evaluation" / "downstream_scores.parquet")
    assert set(scores["model_name"]) == {"satclip", "sincos", "harmonics", "untrained", "geoclip", "idw"}
    assert (scores["n_samples"] == 3076).all()
    coordinates = scores[(scores["model_name"] == "sincos") & (scores["metric_name"] == "r2")]
    random_folds = coordinates.loc[coordinates["split"] == "random", "metric_value"].mean()
    assert random_folds == pytest.approx(0.852, abs=0.005)  # CoordBench, air_temp, sin/cos ridge: 0.852 +- 0.004
    assert "| air_temperature | blocks 10° | ridge | r2 |" in out


@pytest.mark.timeout(600)
def test_a_real_scene_is_found_among_real_items_and_read_exactly(tmp_path: Path, shared_data: Path) -> None:
    out = run_example("scene", tmp_path, shared_data)
    dataset = open_patch_dataset(tmp_path / "ws")
    rows = dataset.places[dataset.places["valid"]]
    assert len(rows) >= 12
    assert set(rows["item_id"]) == {"S2A_29RKH_20200219_0_L2A"}
    assert set(rows["resolution_m"]) == {100.0}
    assert set(rows["processing_baseline"]) == {"02.14"}
    assert re.search(r"differing px   \{('B\w\w': 0(, )?){12}\}", out)


@pytest.mark.timeout(600)
def test_a_cell_at_native_resolution_is_cut_into_exact_patches(tmp_path: Path, shared_data: Path) -> None:
    out = run_example("cell", tmp_path, shared_data)
    dataset = open_patch_dataset(tmp_path / "ws")
    assert dataset.record.num_valid == 16
    assert set(dataset.places["boa_add_offset"]) == {-1000}
    assert set(dataset.places["resolution_m"]) == {10.0}
    assert re.search(r"differing px   \{('B\w\w': 0(, )?){12}\}", out)
