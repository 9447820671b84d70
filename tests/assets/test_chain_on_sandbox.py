"""The whole chain by the command a user types, on the embedded planet, from another folder."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from assets.checks import task_check_names
from assets.embeddings import LocationEmbeddingsConfig, location_embeddings
from assets.evaluation import DownstreamScoresConfig, TaskSettings, downstream_scores
from assets.presets import read_preset
from assets.report import ReportConfig, report
from assets.resources import TablesResource, WorkspaceResource
from assets.training import SatclipCheckpointConfig, satclip_checkpoint
from pipelines.embeddings.export import read_embeddings
from pipelines.embeddings.products import LAND_GRID, embeddings_path
from pipelines.errors import ArtefactError
from pipelines.evaluation.scores import COLUMNS
from pipelines.evaluation.stage import read_scores, scores_path
from pipelines.patches.dataset import open_patch_dataset
from pipelines.sampling.manifest import read_sampling_manifest
from pipelines.sampling.tables import read_record
from pipelines.training.checkpoints import open_run
from pipelines.workspace import describe_workspace
from satclip_model.checkpoint.native import read_checkpoint
from tests.conftest import REPOSITORY
from tests.processes import descendants, is_alive, shared_memory, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(600)]

PRESET = read_preset("ci")["ops"]
NUM_PLACES = PRESET["sample_points"]["config"]["num_places"]
PROGRAMS = Path(sys.executable).parent


@dataclass(frozen=True)
class Chain:
    """A finished run: its workspace, Dagster's own folder, and what it printed."""

    root: Path
    home: Path
    output: str


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("chain")
    home, elsewhere, root = folder / "home", folder / "elsewhere", folder / "workspace"
    home.mkdir()
    elsewhere.mkdir()
    shutil.copy(REPOSITORY / "dagster.yaml", home)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SATCLIP_", "PC_SDK_"))}
    environment |= {"DAGSTER_HOME": str(home), "SATCLIP_ROOT": str(root)}
    environment |= {"DAGSTER_DISABLE_TELEMETRY": "1", "PYTHONWARNINGS": "ignore"}
    satclip, dagster = str(PROGRAMS / "satclip"), str(PROGRAMS / "dagster")
    config = subprocess.run([satclip, "config", "ci"], capture_output=True, text=True, check=True).stdout.strip()
    job = [dagster, "job", "execute", "-m", "assets.definitions", "-j", "full_chain", "-c", config]
    result = subprocess.run(
        [satclip, "sandbox", "run", "--num-places", str(NUM_PLACES), "--", *job],
        cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=540,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-4000:]
    assert list(elsewhere.iterdir()) == []
    return Chain(root, home, result.stdout + result.stderr)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_artefact_exists_and_is_named(chain: Chain) -> None:
    artefacts = describe_workspace(chain.root)
    assert list(artefacts) == ["store", "checkpoint", "embeddings", "scores", "report"]
    page = artefacts["report"].read_text()
    assert page.count("<img") >= 5
    assert "synthetic" in page.lower()
    card = artefacts["report"].with_name("README.md").read_text()
    assert sha256(artefacts["checkpoint"]) in card
    assert "nothing about Earth" in card


def test_scores_are_rows_in_coordbench_columns(chain: Chain) -> None:
    scores = pd.read_parquet(scores_path(chain.root))
    assert tuple(scores.columns) == COLUMNS
    assert set(scores["task"]) == {each["name"] for each in PRESET["downstream_scores"]["config"]["tasks"]}
    assert set(scores["model_name"]) == {"satclip", "sincos", "harmonics", "untrained", "geoclip", "idw"}
    assert len(set(scores["split"])) == 2
    assert scores["metric_value"].notna().all()
    csv = pd.read_csv(scores_path(chain.root).with_suffix(".csv"))
    assert tuple(csv.columns) == COLUMNS
    assert len(csv) == len(scores)


def test_every_artefact_names_its_parents(chain: Chain) -> None:
    manifest = read_sampling_manifest(chain.root / "sampling")
    dataset = open_patch_dataset(chain.root)
    run = open_run(chain.root)
    assert dataset.version == manifest.plan_id
    assert run.record["dataset_version"] == dataset.version
    assert run.record["checkpoint_sha256"] == sha256(run.checkpoint_path)
    for name in (LAND_GRID, *(each["name"] for each in PRESET["location_embeddings"]["config"]["tables"])):
        provenance = read_embeddings(embeddings_path(chain.root, name), sha256(run.checkpoint_path)).provenance
        assert provenance["dataset_version"] == dataset.version
        assert provenance["run"] == run.name
    assert pd.read_parquet(scores_path(chain.root)).attrs["checkpoint_sha256"] == sha256(run.checkpoint_path)
    assert sha256(run.checkpoint_path)[:16] in (chain.root / "report" / "report.html").read_text()


def test_every_place_is_a_row(chain: Chain) -> None:
    places = open_patch_dataset(chain.root).places
    assert places["place_id"].tolist() == list(range(NUM_PLACES))
    assert places["valid"].mean() > 0.8


def test_no_signed_address_is_written_or_printed(chain: Chain) -> None:
    files = [path for folder in (chain.root, chain.home) for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in files)
    for path in files:
        assert b"sig=" not in path.read_bytes(), path
    assert "sig=" not in chain.output


def test_no_port_enters_a_manifest(chain: Chain) -> None:
    tables = sorted((chain.root / "sampling").glob("*.parquet"))
    tables += sorted((chain.root / "datasets").rglob("*.parquet"))
    assert len(tables) >= 5
    for path in tables:
        text = pq.read_table(path).to_pandas().to_csv() + json.dumps(read_record(path))
        assert "127.0.0.1" not in text, path
        assert "http" not in text.replace("https://", ""), path


def test_finished_stages_reach_the_event_log_with_their_progress(chain: Chain) -> None:
    assert "places have a patch" in chain.output
    with dg.DagsterInstance.from_config(str(chain.home)) as instance:
        (record,) = instance.get_runs()
        assert record.status is dg.DagsterRunStatus.SUCCESS
        events = instance.all_logs(record.run_id)
        messages = [entry.user_message for entry in events]
        assert any("left" in message and "places" in message for message in messages)
        evaluations = [
            entry.get_dagster_event().asset_check_evaluation_data
            for entry in events
            if entry.dagster_event and entry.dagster_event.event_type_value == "ASSET_CHECK_EVALUATION"
        ]
        assert len(evaluations) == 13 + len(task_check_names())
        assert all(each.passed for each in evaluations if each.blocking)
        materialized = instance.get_materialized_partitions(dg.AssetKey("patches"))
        assert len(materialized) == 80
        pictures = {"sample_points": "map", "patch_dataset": "gallery", "satclip_checkpoint": "loss_curves"}
        pictures |= {"location_embeddings": "map", "downstream_scores": "chart"}
        for name, entry in [*pictures.items(), ("satclip_checkpoint", "retrieval_curves")]:
            event = instance.get_latest_materialization_event(dg.AssetKey(name))
            assert event is not None
            value = event.asset_materialization.metadata[entry]
            assert str(value.value).startswith("![")
            assert len(str(value.value)) < 150_000


@pytest.fixture
def another_checkpoint(chain: Chain, tmp_path: Path) -> Path:
    """The workspace after another training: its latest run has another checkpoint."""
    root = tmp_path / "workspace"
    shutil.copytree(chain.root, root)
    run = open_run(root)
    folder = run.checkpoint_path.parent
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    record = json.loads((other / "record.json").read_text())
    (other / "record.json").write_text(json.dumps(record | {"checkpoint_sha256": "0" * 64}))
    (root / "checkpoints" / "latest.json").write_text(json.dumps({"run": "other"}))
    return root


def failure_message(result: dg.ExecuteInProcessResult, step: str) -> str:
    (event,) = [event for event in result.all_events if event.is_step_failure and event.step_key == step]
    error = event.step_failure_data.error
    assert error is not None
    return (error.cause or error).message


def test_a_gpu_that_is_asked_for_and_absent_is_told(chain: Chain) -> None:
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [satclip_checkpoint],
            run_config=dg.RunConfig({"satclip_checkpoint": SatclipCheckpointConfig(accelerator="gpu")}),
            resources={"workspace": WorkspaceResource(root=str(chain.root)), "pipes": dg.PipesSubprocessClient()},
            instance=instance,
            raise_on_error=False,
        )
        assert not result.success
        message = failure_message(result, "satclip_checkpoint")
    assert "accelerator is 'gpu'" in message
    assert "finds no CUDA device; set accelerator to 'auto' or 'cpu'" in message


@pytest.fixture
def own_workspace(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workspace to train in, where processes find this package."""
    root = tmp_path / "workspace"
    shutil.copytree(chain.root, root)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return root


@pytest.mark.filterwarnings("ignore:.*expected_writer_count:dagster_shared.utils.warnings.PreviewWarning")
@pytest.mark.filterwarnings("ignore:AssetExecutionContext.run_id is deprecated:DeprecationWarning")
@pytest.mark.parametrize("num_processes", [1, 2])
def test_training_in_a_subprocess_is_told_as_in_the_step(chain: Chain, own_workspace: Path, num_processes: int) -> None:
    settings = PRESET["satclip_checkpoint"]["config"] | {"run_in": "subprocess", "num_processes": num_processes}
    settings["num_threads"] = 1
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [satclip_checkpoint],
            run_config={"ops": {"satclip_checkpoint": {"config": settings}}},
            resources={"workspace": WorkspaceResource(root=str(own_workspace)), "pipes": dg.PipesSubprocessClient()},
            instance=instance,
        )
        lines = [each.user_message for each in instance.all_logs(result.run_id)]
        materialization = result.asset_materializations_for_node("satclip_checkpoint")[0]
    alone, run = open_run(chain.root).record, open_run(own_workspace).record
    assert run["num_ranks"] == num_processes
    if num_processes == 1:
        assert run["metrics"] == pytest.approx(alone["metrics"], rel=1e-3)
    found = {name: value.value for name, value in materialization.metadata.items()}
    assert found.keys() >= {"loss_curves", "retrieval_curves", "val_recall_at_1", "seconds", "path"}
    assert found["training_places"] + found["validation_places"] <= NUM_PLACES
    assert found["checkpoint_sha256"] == run["checkpoint_sha256"]
    assert materialization.tags is not None
    assert materialization.tags["dagster/data_version"] == run["checkpoint_sha256"]
    assert sum(line.startswith("epoch 15 of 15: train_loss") for line in lines) == 1


@pytest.mark.parametrize(("number", "num_processes"), [(signal.SIGTERM, 2), (signal.SIGKILL, 2), (signal.SIGINT, 1)])
def test_a_step_that_is_ended_takes_its_training_along(
    number: signal.Signals, num_processes: int, own_workspace: Path, chain: Chain, tmp_path: Path
) -> None:
    settings = PRESET["satclip_checkpoint"]["config"] | {"epochs": 1_000_000, "num_processes": num_processes}
    settings |= {"run_in": "subprocess", "num_threads": 1}
    config = {
        "execution": {"config": {"in_process": {}}},
        "ops": {"image_features": PRESET["image_features"], "satclip_checkpoint": {"config": settings}},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    environment = {
        **os.environ,
        "SATCLIP_ROOT": str(own_workspace),
        "TMPDIR": str(tmp_path),
        "PYTHONWARNINGS": "ignore",
    }
    job = ["job", "execute", "-m", "assets.definitions", "-j", "train_model", "-c", str(tmp_path / "config.json")]
    with (tmp_path / "log").open("wb") as log:
        step = subprocess.Popen([str(PROGRAMS / "dagster"), *job], env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: "epoch 5 of 1000000" in (tmp_path / "log").read_text(), 200, "the fifth epoch")
        processes = descendants(step.pid)
        assert len(processes) >= (num_processes + 1 if num_processes > 1 else 1)
        step.send_signal(number)
        assert step.wait(60) != 0
        wait_until(lambda: not any(is_alive(each) for each in processes), 60, f"the end of {processes}")
    finally:
        step.kill()
        step.wait()
    assert not shared_memory(processes)
    assert not list(tmp_path.glob("satclip_ranks_*"))
    (state,) = own_workspace.glob("checkpoints/*/training_state.ckpt")
    assert read_checkpoint(state)[1]["step"] >= 5
    assert open_run(own_workspace).name == open_run(chain.root).name


@pytest.mark.parametrize("step", ["location_embeddings", "downstream_scores", "report"])
def test_artefacts_of_another_checkpoint_are_refused(another_checkpoint: Path, step: str) -> None:
    task = TaskSettings(name="elevation", table="elevation.csv", target="elevation")
    configs = {
        "location_embeddings": LocationEmbeddingsConfig(tables=[]),
        "downstream_scores": DownstreamScoresConfig(tasks=[task]),
        "report": ReportConfig(),
    }
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [location_embeddings, downstream_scores, report],
            selection=[step],
            run_config=dg.RunConfig({name: config for name, config in configs.items() if name == step}),
            resources={"workspace": WorkspaceResource(root=str(another_checkpoint)), "tables": TablesResource()},
            instance=instance,
            raise_on_error=False,
        )
        assert not result.success
        message = failure_message(result, step)
    assert "checkpoint" in message
    assert "0" * 12 in message
    assert "materialize" in message or "rebuild" in message


def test_scores_of_another_checkpoint_are_refused_by_the_report(another_checkpoint: Path) -> None:
    with pytest.raises(ArtefactError, match=r"downstream_scores.parquet: was made by checkpoint .* materialize"):
        read_scores(another_checkpoint, open_run(another_checkpoint))
