"""Training in a process of its own, which the asset `satclip_checkpoint` starts and hears through Dagster Pipes.

    python -m assets.train_process --parent-pid PID [--num-processes N]

One process trains; with more, this one starts them by torchrun and waits. The first rank tells Dagster what it logs
and, at the end, which run it trained; settings come from Dagster as extras of Pipes. Imports no Dagster.
"""

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any, Final

from dagster_pipes import PipesContext, PipesDefaultContextLoader, PipesEnvVarParamsLoader, open_dagster_pipes

from pipelines.errors import ConfigurationError, SatclipError
from pipelines.parent_watch import end_with_parent
from pipelines.training.named_configs import TrainingPlan
from pipelines.training.ranks import current_ranks
from pipelines.workspace import workspace_root

MODULE: Final = "assets.train_process"
_GRACE_S: Final = 45.0
_INTERRUPTED: Final = 130
_LOGGERS: Final = ("pipelines", "satclip_model")


def command(num_processes: int) -> list[str]:
    """What the calling process is to start."""
    arguments = ["--parent-pid", str(os.getpid()), "--num-processes", str(num_processes)]
    return [sys.executable, "-m", MODULE, *arguments]


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains as Dagster asked; 1 where an error was told, 130 where the training was stopped."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}")
    parser.add_argument("--parent-pid", type=int, required=True, help="process to end with")
    parser.add_argument("--num-processes", type=int, default=1, help="ranks to start; 1 trains in this process")
    options = parser.parse_args(arguments)
    end_with_parent(options.parent_pid, _GRACE_S)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        if not _pipes_parameters().is_dagster_pipes_process():
            raise ConfigurationError("Dagster did not start this process; use satclip train outside of Dagster")
        if options.num_processes > 1:
            _start_ranks(options.num_processes)
        elif current_ranks().is_first:
            with open_dagster_pipes() as pipes, _told_to(pipes):
                _train_and_report(pipes)
        else:
            _train(_read_extras())
    except SatclipError as error:
        logging.getLogger(MODULE).error("%s", error)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def _start_ranks(num_processes: int) -> None:
    from torch.distributed.run import main as torchrun

    with TemporaryDirectory(prefix="satclip_ranks_") as logs:
        ranks = ["--standalone", "--nproc-per-node", str(num_processes), "--log-dir", logs]
        torchrun([*ranks, "-m", MODULE, "--parent-pid", str(os.getpid())])


def _train(extras: Mapping[str, Any]) -> tuple[str, float, str]:
    """Name of the run, seconds of its training, and hash of its checkpoint."""
    from pipelines.training.stage import train_in_workspace

    plan = TrainingPlan.model_validate(extras["plan"])
    root = workspace_root(extras["root"])
    run, result = train_in_workspace(root, plan.training, extras["dataset_version"], extras["features"], plan.pixels)
    return run.name, result.seconds, str(run.record["checkpoint_sha256"])


def _train_and_report(pipes: PipesContext) -> None:
    name, seconds, checkpoint_sha256 = _train(pipes.extras)
    pipes.report_custom_message({"run": name, "seconds": seconds})
    pipes.report_asset_materialization(data_version=checkpoint_sha256)


def _read_extras() -> Mapping[str, Any]:
    """The settings, without a word to Dagster, which listens to one process."""
    parameters = _pipes_parameters().load_context_params()
    with PipesDefaultContextLoader().load_context(parameters) as context:
        return context["extras"] or {}


def _pipes_parameters() -> PipesEnvVarParamsLoader:
    return PipesEnvVarParamsLoader()  # type: ignore[no-untyped-call]


@contextmanager
def _told_to(pipes: PipesContext) -> Iterator[None]:
    """Lines of the log go to Dagster, too."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    handlers = list(pipes.log.handlers)
    for each in loggers:
        for handler in handlers:
            each.addHandler(handler)
    try:
        yield
    finally:
        for each in loggers:
            for handler in handlers:
                each.removeHandler(handler)


if __name__ == "__main__":
    sys.exit(main())
