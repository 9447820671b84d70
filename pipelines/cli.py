"""The ``satclip`` command."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pipelines.errors import ConfigurationError, SatclipError
from pipelines.workspace import workspace_root

if TYPE_CHECKING:
    from pipelines.patches.dataset import DatasetRecord
    from pipelines.sandbox.config import SandboxConfig

PRESETS = Path(__file__).resolve().parents[1] / "assets" / "config"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; an error a person can act on is one line on stderr and exit code 1."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        return int(options.run(options))
    except SatclipError as error:
        print(f"satclip: {error}", file=sys.stderr)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        print(f"satclip: {error.title}: {told}; correct the option or the configuration", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="satclip", description="From raw Sentinel-2 to location embeddings and scores."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_config(commands)
    _add_sandbox(commands)
    _add_dataset(commands)
    summary = commands.add_parser("summary", help="name the artefacts of a workspace")
    _add_root(summary)
    summary.set_defaults(run=_summary)
    return parser


def _add_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, default=None, help="workspace; default $SATCLIP_ROOT or satclip_data")


def _add_config(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    names = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    parser = commands.add_parser("config", help="print the path of a run configuration")
    parser.add_argument("name", choices=names)
    parser.set_defaults(run=_config)


def _config(options: argparse.Namespace) -> int:
    print(PRESETS / f"{options.name}.yaml")
    return 0


def _add_sandbox(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    sandbox = commands.add_parser("sandbox", help="the embedded synthetic planet").add_subparsers(
        required=True, metavar="ACTION"
    )
    settings = argparse.ArgumentParser(add_help=False)
    settings.add_argument("--seed", type=int, default=0, help="seed of the planet")
    settings.add_argument("--num-places", type=int, default=None, help="serve the tiles around this many places")
    settings.add_argument("--places-seed", type=int, default=0, help="seed of those places")
    settings.add_argument("--all-land", action="store_true", help="serve all land tiles")
    settings.add_argument("--catalog", default=None, help="serve this folder (collection.json, items.ndjson) instead")
    settings.add_argument("--port", type=int, default=0, help="0 takes a free one")
    settings.add_argument("--no-token", action="store_true", help="serve files without a token")
    run = sandbox.add_parser("run", parents=[settings], help="start the servers, run a command, stop them")
    run.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND [ARGUMENT ...]")
    run.set_defaults(run=_sandbox_run)
    up = sandbox.add_parser("up", parents=[settings], help="start the servers and leave them running")
    up.set_defaults(run=_sandbox_up)
    down = sandbox.add_parser("down", help="stop the servers that `up` started")
    down.set_defaults(run=_sandbox_down)
    for each in (up, down):
        each.add_argument(
            "--state", type=Path, default=Path(".satclip_sandbox"), help="folder that remembers the servers"
        )


def _sandbox_run(options: argparse.Namespace) -> int:
    from pipelines.sandbox.lifecycle import run_in_sandbox

    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise ConfigurationError(
            "sandbox run: no command found, expected one after --, as in: satclip sandbox run -- ls"
        )
    return run_in_sandbox(command, _sandbox_config(options))


def _sandbox_up(options: argparse.Namespace) -> int:
    from pipelines.sandbox.lifecycle import up

    handle = up(_sandbox_config(options), options.state)
    for name, value in handle.environment.items():
        print(f"export {name}={value}")
    return 0


def _sandbox_down(options: argparse.Namespace) -> int:
    from pipelines.sandbox.lifecycle import down

    down(options.state)
    return 0


def _sandbox_config(options: argparse.Namespace) -> "SandboxConfig":
    from pipelines.sandbox.config import SandboxConfig

    settings = {
        "seed": options.seed,
        "places_seed": options.places_seed,
        "all_land": options.all_land,
        "catalog": options.catalog,
        "port": options.port,
        "require_token": not options.no_token,
    }
    if options.num_places is not None:
        settings["num_places"] = options.num_places
    return SandboxConfig(**settings)


def _add_dataset(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    dataset = commands.add_parser("dataset", help="datasets of a workspace").add_subparsers(
        required=True, metavar="ACTION"
    )
    importing = dataset.add_parser("import", help="import the S2-100K layout: a folder of files or tars, or one tar")
    importing.add_argument("source", type=Path, help="folder with index.csv and images/*.tif or data/*.tar; or a tar")
    _add_root(importing)
    importing.set_defaults(run=_dataset_import)
    exporting = dataset.add_parser("export", help="write a dataset in the S2-100K layout")
    exporting.add_argument("target", type=Path, help="new or empty folder")
    exporting.add_argument("--version", default="latest", help="name of its folder under datasets/")
    exporting.add_argument("--tar-shards", type=int, default=0, help="write this many data/shard-NNN.tar, not files")
    _add_root(exporting)
    exporting.set_defaults(run=_dataset_export)
    downloading = dataset.add_parser("download", help="fetch the published S2-100K from the Hugging Face Hub")
    downloading.add_argument("target", type=Path, help="folder; a download that broke off goes on")
    downloading.add_argument("--repo", default=None, help="dataset on the Hub; default torchgeo/s2-100k")
    downloading.add_argument("--revision", default=None, help="commit, tag or branch; default the pinned commit")
    downloading.add_argument("--shards", default=None, help="take only these data/shard-N.tar, as in 0-3,7")
    downloading.add_argument("--yes", action="store_true", help="fetch what was told")
    downloading.set_defaults(run=_dataset_download)
    verifying = dataset.add_parser("verify", help="read every shard again and publish the dataset if it passes")
    verifying.add_argument("version", help="name of its folder under datasets/")
    _add_root(verifying)
    verifying.set_defaults(run=_dataset_verify)
    planning = dataset.add_parser("plan", help="dry run: places, requests, bytes and hours of a build")
    planning.add_argument("--config", type=Path, default=PRESETS / "planetary_computer.yaml", help="run configuration")
    planning.add_argument("--cores", type=int, default=2, help="cores that decode")
    planning.add_argument("--round-trip-s", type=float, default=0.03, help="time from a request to its first byte")
    planning.set_defaults(run=_dataset_plan)


def _dataset_import(options: argparse.Namespace) -> int:
    from pipelines.patches.s2_100k import import_s2_100k

    root = workspace_root(options.root)
    return _tell_dataset(root, import_s2_100k(root, options.source))


def _dataset_export(options: argparse.Namespace) -> int:
    from pipelines.patches.s2_100k_export import export_s2_100k

    root = workspace_root(options.root)
    report = export_s2_100k(root, options.target, options.version, num_tars=options.tar_shards)
    print(f"dataset   {report.version}")
    print(f"folder    {report.folder}")
    print(f"patches   {report.num_patches}, {report.num_bytes / 1e6:.1f} MB; places without: {report.num_left_out}")
    return 0


def _dataset_download(options: argparse.Namespace) -> int:
    from pipelines.patches.s2_100k_download import download_s2_100k
    from pipelines.patches.s2_100k_hub import REPO, REVISION, plan_download

    plan = plan_download(options.repo or REPO, options.revision or REVISION, shards=options.shards)
    print(f"dataset   {plan.repo}, commit {plan.revision}")
    print(f"host      {plan.host}, and the storage it names")
    print(f"licence   {plan.license}")
    print(f"files     {len(plan.files)}, {plan.num_bytes / 1e9:.3f} GB: {plan.files[0].path} to {plan.files[-1].path}")
    if not options.yes:
        print("satclip: nothing fetched; add --yes to fetch these files", file=sys.stderr)
        return 1
    report = download_s2_100k(plan, options.target)
    print(f"folder    {report.folder}")
    print(f"checked   {report.num_files} files; fetched now {report.num_fetched}, {report.num_bytes / 1e9:.3f} GB")
    return 0


def _dataset_verify(options: argparse.Namespace) -> int:
    from pipelines.patches.dataset import read_dataset_record
    from pipelines.patches.publication import publish_dataset
    from pipelines.patches.store import dataset_folder

    root = workspace_root(options.root)
    record = read_dataset_record(dataset_folder(root, options.version))
    fraction = record.minimum_valid_fraction
    return _tell_dataset(root, publish_dataset(root, options.version, record.source, minimum_valid_fraction=fraction))


def _tell_dataset(root: Path, record: "DatasetRecord") -> int:
    print(f"dataset   {record.version}")
    print(f"folder    {root / 'datasets' / record.version}")
    print(f"places    {record.num_places}, with a patch {record.num_valid}, without: {record.reasons or 'none'}")
    print(f"content   sha256 {record.content_sha256}")
    for each in record.statistics:
        print(f"  {each.band:4} reflectance mean {each.mean:.4f} std {each.std:.4f} max {each.maximum:.4f}")
    for problem in record.problems:
        print(f"problem   {problem}")
    return 0 if record.passed else 1


def _dataset_plan(options: argparse.Namespace) -> int:
    import yaml

    from pipelines.patches.config import PatchConfig
    from pipelines.sampling.config import PlacesConfig, SearchConfig
    from pipelines.sampling.estimate import estimate_build

    if not options.config.is_file():
        raise ConfigurationError(
            f"{options.config}: no such file; see satclip config --help for the ones that come along"
        )
    operations = yaml.safe_load(options.config.read_text()).get("ops", {})
    missing = [name for name in ("sample_points", "scene_candidates", "patches") if name not in operations]
    if missing:
        raise ConfigurationError(
            f"{options.config}: no settings of {', '.join(missing)} under ops, expected those of a build; name a "
            "configuration of build_dataset or full_chain"
        )
    patches = PatchConfig(**operations["patches"].get("config", {}))
    estimate = estimate_build(
        PlacesConfig(**operations["sample_points"].get("config", {})),
        SearchConfig(**operations["scene_candidates"].get("config", {})),
        places_in_flight=patches.num_workers,
        num_cores=options.cores,
        round_trip_s=options.round_trip_s,
    )
    print(f"places           {estimate.num_places:>12,}")
    print(f"searches         {estimate.num_searches:>12,}  in about {estimate.num_search_requests:,} requests")
    print(f"file requests    {estimate.num_file_requests:>12,}")
    print(f"bytes read       {estimate.num_bytes / 1e9:>12,.0f}  GB")
    means = f"{patches.num_workers} places in flight on {options.cores} cores"
    print(f"hours            {estimate.hours:>12,.1f}  with {means}")
    return 0


def _summary(options: argparse.Namespace) -> int:
    from pipelines.workspace import describe_workspace

    for name, path in describe_workspace(workspace_root(options.root)).items():
        print(f"{name:10} {path}")
    return 0
