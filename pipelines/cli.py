"""The ``satclip`` command."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pipelines.cli_classify import add_classify_command
from pipelines.cli_dataset import PRESETS, add_dataset_commands, add_root
from pipelines.cli_embed import add_embed_commands
from pipelines.cli_evaluate import add_evaluate_command
from pipelines.cli_satlas import add_satlas_commands
from pipelines.cli_train import add_train_command
from pipelines.errors import ConfigurationError, SatclipError
from pipelines.workspace import workspace_root

if TYPE_CHECKING:
    from pipelines.sandbox.config import SandboxConfig


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
    add_dataset_commands(commands)
    add_train_command(commands)
    add_embed_commands(commands)
    add_evaluate_command(commands)
    add_classify_command(commands)
    add_satlas_commands(commands)
    summary = commands.add_parser("summary", help="name the artefacts of a workspace")
    add_root(summary)
    summary.set_defaults(run=_summary)
    return parser


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
    settings.add_argument("--objects", action="store_true", help="plant turbines, solar farms, platforms and forests")
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
    objects = sandbox.add_parser("objects", help="write what is planted, as GeoJSON per task")
    objects.add_argument("folder", type=Path, help="takes TASK.geojson")
    objects.add_argument("--seed", type=int, default=0, help="seed of the planet")
    objects.set_defaults(run=_sandbox_objects)
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


def _sandbox_objects(options: argparse.Namespace) -> int:
    from pipelines.atomic import replacing
    from pipelines.sandbox.planted.objects import TASK_CATEGORIES, planted_truth

    for task in TASK_CATEGORIES:
        with replacing(options.folder / f"{task}.geojson") as partial:
            partial.write_text(planted_truth(options.seed, task).to_json(drop_id=True))
        print(options.folder / f"{task}.geojson")
    return 0


def _sandbox_config(options: argparse.Namespace) -> "SandboxConfig":
    from pipelines.sandbox.config import SandboxConfig

    settings = {
        "seed": options.seed,
        "places_seed": options.places_seed,
        "all_land": options.all_land,
        "objects": options.objects,
        "catalog": options.catalog,
        "port": options.port,
        "require_token": not options.no_token,
    }
    if options.num_places is not None:
        settings["num_places"] = options.num_places
    return SandboxConfig(**settings)


def _summary(options: argparse.Namespace) -> int:
    from pipelines.workspace import describe_workspace

    for name, path in describe_workspace(workspace_root(options.root)).items():
        print(f"{name:10} {path}")
    return 0
