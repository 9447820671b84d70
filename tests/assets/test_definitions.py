"""What Dagster loads: cheap to import, complete for a reader, and as the committed picture of the graph says."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
import yaml
from pydantic import BaseModel

from assets import schedules
from assets.definitions import defs as load_definitions
from assets.ground_cover import GroundCoverLabelsConfig
from assets.ground_cover_model import GroundCoverCheckpointConfig, GroundCoverEvaluationConfig
from assets.partitions import NUM_PARTITIONS
from assets.patches import PatchesConfig
from assets.presets import FOLDER, default_preset, preset_names, read_preset
from assets.sampling import SamplePointsConfig, SamplingManifestConfig, SceneCandidatesConfig
from assets.schedules import monthly_refresh
from assets.training import SatclipCheckpointConfig
from pipelines.ground_cover.config import LabelsConfig
from pipelines.ground_cover.scores_config import GroundCoverScoresConfig
from pipelines.ground_cover.training_config import GroundCoverTrainingConfig
from pipelines.patches.config import PatchConfig
from pipelines.sampling.config import PlacesConfig, PlanConfig, SearchConfig
from pipelines.training.config import TrainingConfig

SNAPSHOT = Path(__file__).resolve().parents[1] / "data" / "asset_graph" / "asset_graph.txt"
JOBS = ("build_dataset", "evaluate_model", "full_chain", "ground_cover", "satlas_month", "train_model")
SCHEDULES = ("monthly_refresh", "monthly_satlas")
HEAVY = {"dask", "geopandas", "lightning", "matplotlib", "numba", "pandas", "rasterio", "sklearn", "torch", "zarr"}
IMPORTS = """
import json, sys, time
start = time.perf_counter()
import dagster
dagster_s = time.perf_counter() - start
import assets.definitions
assets.definitions.defs()
total_s = time.perf_counter() - start
modules = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps({"modules": modules, "seconds": [dagster_s, total_s]}))
"""


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return load_definitions()


def assets_of(job: dg.JobDefinition) -> set[str]:
    return {key.to_user_string() for key in job.asset_layer.executable_asset_keys}


def describe_partitions(partitions: dg.PartitionsDefinition) -> str:
    """How many there are; of months, which grow, the first."""
    keys = partitions.get_partition_keys()
    if isinstance(partitions, dg.TimeWindowPartitionsDefinition):
        return f"{partitions.schedule_type.value.lower()} from {keys[0]}"
    return f"{len(keys)}: {keys[0]} to {keys[-1]}"


def describe(definitions: dg.Definitions) -> str:
    """The asset graph as text, one fact per line."""
    graph = definitions.resolve_asset_graph()
    lines: list[str] = []
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        lines.append(f"asset {key.to_user_string()}")
        lines.append(f"  group {node.group_name}")
        lines.append(f"  kinds {', '.join(sorted(node.kinds))}")
        lines.append(f"  deps {', '.join(sorted(each.to_user_string() for each in node.parent_keys)) or 'none'}")
        if node.partitions_def is not None:
            lines.append(f"  partitions {describe_partitions(node.partitions_def)}, {node.backfill_policy}")
        if node.pools:
            lines.append(f"  pool {', '.join(sorted(node.pools))}")
        checks = sorted(graph.get_check_keys_for_assets({key}), key=lambda each: each.name)
        lines += [f"  check {each.name}{' (blocking)' if graph.get(each).blocking else ''}" for each in checks]
    for name in JOBS:
        job = definitions.resolve_job_def(name)
        lines.append(f"job {name}")
        lines.append(
            f"  assets {', '.join(sorted(key.to_user_string() for key in job.asset_layer.executable_asset_keys))}"
        )
        lines += [f"  tag {tag} = {value}" for tag, value in sorted(job.tags.items())]
    for name in SCHEDULES:
        schedule = definitions.resolve_schedule_def(name)
        lines.append(f"schedule {schedule.name}")
        lines.append(f"  job {schedule.job_name}")
        lines.append(f"  cron {schedule.cron_schedule} {schedule.execution_timezone}")
        lines.append(f"  default status {schedule.default_status.value}")
    return "\n".join(lines) + "\n"


def test_definitions_load_and_validate() -> None:
    dg.Definitions.validate_loadable(load_definitions())


def test_the_asset_graph_is_the_committed_one(definitions: dg.Definitions) -> None:
    found = describe(definitions)
    if not SNAPSHOT.is_file():
        SNAPSHOT.write_text(found)
        pytest.fail(f"{SNAPSHOT} was missing and has been written; read it, commit it, run again")
    assert found == SNAPSHOT.read_text(), f"if the change is meant, delete {SNAPSHOT} and run again"


def test_loading_imports_nothing_heavy(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(
        [sys.executable, "-c", IMPORTS], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    found = json.loads(result.stdout)
    dagster_s, total_s = found["seconds"]
    sys.stdout.write(f"import dagster {dagster_s:.2f} s, with the definitions {total_s:.2f} s\n")
    assert "assets" in found["modules"]
    assert not HEAVY & set(found["modules"])


def test_every_asset_and_check_tells_a_reader_what_it_is(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.group_name != "default", key
        assert node.kinds, key
        assert node.description, key
        assert not node.description.startswith(" "), key
    for key in graph.asset_check_keys:
        assert graph.get(key).description, key
    for name in JOBS:
        assert definitions.resolve_job_def(name).description, name


def test_every_setting_has_a_default_and_a_description(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    without: list[str] = []
    for key in sorted(graph.get_all_asset_keys()):
        fields = getattr(graph.get(key).assets_def.op.config_schema.config_type, "fields", {})
        without += [f"{key.to_user_string()}.{name}" for name, field in fields.items() if not field.description]
    assert without == []


def test_there_are_eighty_partitions(definitions: dg.Definitions) -> None:
    partitions = definitions.resolve_asset_graph().get(dg.AssetKey("patches")).partitions_def
    assert partitions is not None
    assert NUM_PARTITIONS == len(partitions.get_partition_keys()) == 80
    assert [int(key) for key in partitions.get_partition_keys()] == list(range(80))


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_fits_every_job(definitions: dg.Definitions, name: str) -> None:
    assert set(read_preset(name)["ops"]) <= assets_of(definitions.resolve_job_def("full_chain"))
    for each in JOBS:
        job = definitions.resolve_job_def(each)
        dg.validate_run_config(job, read_preset(name, assets_of(job)))
    dg.validate_run_config(definitions.resolve_job_def("full_chain"), read_preset(name))


def test_presets_name_the_same_settings_so_that_none_is_filled_up_from_another() -> None:
    named = {
        name: {asset: sorted(each["config"]) for asset, each in read_preset(name)["ops"].items()}
        for name in preset_names()
    }
    assert named["ci"] == named["sandbox"] == named["planetary_computer"]


@pytest.mark.parametrize("folder", sorted(each.name for each in FOLDER.iterdir() if each.is_dir()))
def test_presets_of_a_further_chain_fit_its_job_and_name_the_same_settings(
    definitions: dg.Definitions, folder: str
) -> None:
    files = {name: yaml.safe_load((FOLDER / folder / f"{name}.yaml").read_text()) for name in preset_names()}
    for config in files.values():
        dg.validate_run_config(definitions.resolve_job_def(folder), config)
    named = {
        name: {asset: sorted(each["config"]) for asset, each in config["ops"].items()} for name, config in files.items()
    }
    assert named["ci"] == named["sandbox"] == named["planetary_computer"]


def test_every_job_starts_without_a_configuration(definitions: dg.Definitions) -> None:
    for each in JOBS:
        job = definitions.resolve_job_def(each)
        assert set(dg.validate_run_config(job, {})["ops"]) >= assets_of(job)


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"preset 'demo' not found, expected one of ci, planetary_computer, sandbox"):
        read_preset("demo")


@pytest.mark.parametrize(
    ("asset", "config", "model"),
    [
        ("sample_points", SamplePointsConfig, PlacesConfig),
        ("scene_candidates", SceneCandidatesConfig, SearchConfig),
        ("sampling_manifest", SamplingManifestConfig, PlanConfig),
        ("patches", PatchesConfig, PatchConfig),
        ("satclip_checkpoint", SatclipCheckpointConfig, TrainingConfig),
        ("ground_cover_labels", GroundCoverLabelsConfig, LabelsConfig),
        ("ground_cover_checkpoint", GroundCoverCheckpointConfig, GroundCoverTrainingConfig),
        ("ground_cover_scores", GroundCoverEvaluationConfig, GroundCoverScoresConfig),
    ],
)
def test_defaults_in_the_launchpad_are_the_presets_and_else_the_stages(
    asset: str, config: type[BaseModel], model: type[BaseModel]
) -> None:
    chosen = config().model_dump()
    preset = read_preset(default_preset(), {asset})["ops"][asset]["config"]
    assert {name: chosen[name] for name in model.model_fields} == model().model_dump() | preset
    assert set(model().model_dump()) == set(model.model_fields)


def test_a_run_without_configuration_is_the_presets() -> None:
    """What a click on Materialize all gives in the UI: Dagster hands a run over a range of partitions no job config."""
    script = (
        "import json, dagster as dg, assets.definitions as d\n"
        "job = d.defs().resolve_job_def('full_chain')\n"
        "ops = dg.validate_run_config(job, {})['ops']\n"
        "print(json.dumps({name: ops[name]['config'] for name in ('sample_points', 'downstream_scores')}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={**os.environ, "SATCLIP_PRESET": "ci"},
        capture_output=True,
        text=True,
        check=True,
    )
    found, preset = json.loads(done.stdout), read_preset("ci")["ops"]
    assert found["sample_points"].items() >= preset["sample_points"]["config"].items()
    tasks = [task["name"] for task in preset["downstream_scores"]["config"]["tasks"]]
    assert [task["name"] for task in found["downstream_scores"]["tasks"]] == tasks


@pytest.mark.parametrize("preset", ["ci", "planetary_computer"])
def test_the_refresh_asks_for_the_presets_settings_once_a_month(
    definitions: dg.Definitions, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SATCLIP_PRESET", preset)
    context = dg.build_schedule_context(scheduled_execution_time=datetime(2026, 11, 2, 3, tzinfo=UTC))
    (request,) = monthly_refresh(context)
    assert request.run_key == "2026-11"
    assert request.tags["satclip/month"] == "2026-11"
    assert request.tags["dagster/asset_partition_range_end"] == "79"
    places = read_preset(preset)["ops"]["sample_points"]["config"]
    assert request.run_config["ops"]["sample_points"]["config"] == places
    assert request.run_config["ops"]["sampling_manifest"]["config"]["refresh"]
    search = read_preset(preset)["ops"]["scene_candidates"]["config"]
    assert request.run_config["ops"]["scene_candidates"]["config"] == search
    dg.validate_run_config(definitions.resolve_job_def("build_dataset"), request.run_config)


def test_a_refresh_that_renews_old_patches_searches_up_to_its_day(monkeypatch: pytest.MonkeyPatch) -> None:
    aging = read_preset("sandbox")
    aging["ops"]["sampling_manifest"]["config"]["max_age_days"] = 365
    monkeypatch.setattr(schedules, "read_preset", lambda *_: aging)
    config = schedules.refresh_config(datetime(2026, 11, 2, 3, tzinfo=UTC))
    assert config["ops"]["scene_candidates"]["config"]["end_date"] == "2026-11-02"
