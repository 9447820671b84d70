from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.cli import main
from pipelines.evaluation.methods import SinCosCoordinates
from pipelines.evaluation.run import EvaluationProtocol, evaluate_tasks
from pipelines.evaluation.scores import COLUMNS
from pipelines.evaluation.soundness import find_faults
from pipelines.evaluation.splits import SplitConfig
from pipelines.evaluation.tasks import TaskConfig, load_task
from satclip_model import LocationEncoderConfig, SirenConfig, SphericalHarmonicsConfig, build_location_encoder
from satclip_model.checkpoint.safetensors import write_safetensors

PROTOCOL = EvaluationProtocol(splits=(SplitConfig(kind="random"),), num_resamples=20)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(-180, 180, 300), rng.uniform(-70, 70, 300)
    table = pd.DataFrame(
        {"x": lon, "y": lat, "warmth": 30 - np.abs(lat) / 2, "zone": np.where(lat > 0, "north", "south")}
    )
    table.loc[3, "warmth"] = np.nan
    table.loc[4, "x"] = np.nan
    table = pd.concat([table, table.iloc[:2]])
    table["same"] = 1.0
    table.to_csv(tmp_path / "places.csv", index=False)
    return tmp_path


def task(name: str, **settings: str) -> TaskConfig:
    return TaskConfig(name=name, table="places.csv", lon_column="x", lat_column="y", **{"target": name, **settings})


def run(tables: Path, tasks: list[TaskConfig], protocol: EvaluationProtocol = PROTOCOL, target: str = "one"):
    methods = [SinCosCoordinates(name="sincos")]
    calls = []

    def methods_of(data):
        calls.append(data.config.name)
        return methods

    folder = tables / "work" / target
    return evaluate_tasks(tasks, methods_of, protocol, folder, tables_root=tables)


def test_tasks_that_fail_are_noted_and_others_go_on(tables):
    bad = [task("same"), TaskConfig(name="gone", table="gone.csv", target="x"), task("absent")]
    evaluation = run(tables, [*bad, task("warmth"), task("zone", kind="classification")])
    assert list(evaluation.failures) == ["same", "gone", "absent"]
    assert "nothing to predict" in evaluation.failures["same"]
    assert "gone.csv" in evaluation.failures["gone"]
    assert set(evaluation.scores["task"]) == {"warmth", "zone"}
    assert any("no target" in note for note in evaluation.notes["warmth"])
    assert any("repeat the coordinates" in note for note in evaluation.notes["zone"])


def test_finished_tasks_are_taken_from_before_and_changes_are_not(tables):
    tasks = [task("warmth"), task("zone", kind="classification")]
    first = run(tables, tasks)
    again = run(tables, tasks)
    assert (first.num_reused, again.num_reused) == (0, 2)
    pd.testing.assert_frame_equal(first.scores, again.scores)
    assert run(tables, tasks, PROTOCOL.model_copy(update={"seeds": (1,)})).num_reused == 0
    assert run(tables, tasks).num_reused == 0
    (tables / "work" / "one" / "warmth.parquet").write_bytes(b"cut short")
    assert run(tables, tasks).num_reused == 1
    table = pd.read_csv(tables / "places.csv")
    table.loc[0, "warmth"] = 100.0
    table.to_csv(tables / "places.csv", index=False)
    assert run(tables, tasks).num_reused == 0


def test_tasks_at_the_same_places_score_together_as_alone(tables):
    table = pd.read_csv(tables / "places.csv")
    table["cold"] = table["warmth"].fillna(0.0) ** 2
    table.to_csv(tables / "places.csv", index=False)
    tasks = [task("cold"), task("zone", kind="classification"), task("warmth")]
    protocol = PROTOCOL.model_copy(update={"probes": ("ridge", "knn")})
    together = run(tables, tasks, protocol, "together")
    alone = [run(tables, [each], protocol, "alone").scores for each in tasks]
    pd.testing.assert_frame_equal(together.scores, pd.concat(alone, ignore_index=True), rtol=1e-9)


def test_faults_of_scores_are_found(tables):
    data = load_task(task("warmth"), tables)
    scores = run(tables, [task("warmth")]).scores
    assert find_faults(scores, data.lonlat_deg, PROTOCOL, "sincos", required=()) == []
    assert find_faults(scores, data.lonlat_deg, PROTOCOL, "satclip", required=()) == ["no rows of satclip"]
    holed = scores.assign(metric_value=np.nan, note="no weights")
    assert "rows without a value" in find_faults(holed, data.lonlat_deg, PROTOCOL, "sincos", required=())[0]


def test_a_table_never_seen_is_evaluated_from_a_shell(tables, capsys):
    out = tables / "scores.csv"
    arguments = ["evaluate", "--table", str(tables / "places.csv"), "--lon", "x", "--lat", "y", "--target"]
    assert main([*arguments, "zone", "--model", "sincos", "--no-baselines", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "zone: classification, as it holds text" in told
    assert "1 of 302 rows left out: no coordinates" in told
    scores = pd.read_csv(out)
    assert tuple(scores.columns) == COLUMNS
    assert set(scores["model_name"]) == {"sincos", "idw"}
    assert scores.loc[scores["metric_name"] == "accuracy", "metric_value"].min() > 0.8


def test_checkpoints_of_other_sizes_stand_beside_each_other_and_one_that_does_not_fit_is_told(tables, capsys):
    def write(name, embedding_dim):
        config = LocationEncoderConfig(
            positional_encoding=SphericalHarmonicsConfig(num_degrees=4),
            network=SirenConfig(hidden_dim=8),
            embedding_dim=embedding_dim,
        )
        (tables / name).mkdir()
        write_safetensors(tables / name / "model.safetensors", build_location_encoder(config, seed=2))
        return str(tables / name / "model.safetensors")

    small, large, other = write("small", 5), write("large", 9), write("other", 6)
    described = Path(other).with_name("config.json")
    described.write_text(described.read_text().replace('"embedding_dim": 6', '"embedding_dim": 7'))
    arguments = ["evaluate", "--table", str(tables / "places.csv"), "--lon", "x", "--lat", "y", "--target", "warmth"]
    arguments += ["--no-baselines", "--out", str(tables / "scores.csv")]
    assert main([*arguments, "--model", small, "--model", large]) == 0
    scores = pd.read_csv(tables / "scores.csv")
    assert scores.groupby("model_name")["feature_dim"].unique().explode().to_dict() == {
        "idw": 2, "satclip model 1": 5, "satclip model 2": 9,
    }  # fmt: skip
    capsys.readouterr()
    assert main([*arguments, "--model", other]) == 1
    assert "location_network.last_layer.bias has shape (6,), expected (7,)" in capsys.readouterr().err


def test_bad_options_are_told(tables, capsys):
    table = str(tables / "places.csv")
    for arguments, told in (
        (["--target", "warmth", "--out", "s.csv"], "expected --table or --tasks, found neither"),
        (["--table", table, "--out", "s.csv"], "--table needs --target"),
        (["--table", table, "--target", "warmth", "--out", "s.txt"], "ends in .csv or .parquet"),
        (
            ["--table", table, "--target", "nix", "--out", "s.csv", "--model", "sincos"],
            "predicts column 'nix'; found columns",
        ),
        (["--table", table, "--target", "x", "--out", "s.csv"], "--lon-column x --lat-column y"),
        (["--tasks", "air_temperature", "--out", "s.csv", "--model", "gone.ckpt"], "gone.ckpt: no such file"),
    ):
        assert main(["evaluate", *arguments]) == 1
        assert told in capsys.readouterr().err


def test_registered_tasks_are_listed(capsys):
    assert main(["evaluate", "--list"]) == 0
    assert "air_temperature" in capsys.readouterr().out


def test_protocols_hold_what_is_promised():
    quick, full = EvaluationProtocol.quick(), EvaluationProtocol.full()
    assert (quick.probes, quick.max_rows, len(quick.seeds)) == (("ridge", "knn"), 20_000, 1)
    assert [split.cell_deg for split in full.splits if split.kind == "blocks"] == [1.0, 5.0, 10.0, 20.0]
    assert full.splits[-1].kind == "continents"
    with pytest.raises(ValueError, match="expected each once"):
        EvaluationProtocol(splits=quick.splits, seeds=(0, 0))
