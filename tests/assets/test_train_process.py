import signal
import subprocess
import sys

import pytest
from pydantic import ValidationError

from assets.train_process import command
from assets.training import SatclipCheckpointConfig
from pipelines.training.named_configs import TrainingPlan
from tests.conftest import REPOSITORY


def test_the_process_of_a_training_needs_no_orchestrator() -> None:
    script = "import sys, assets.train_process; print(sorted({'dagster', 'torch'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ranks_in_the_step_are_refused() -> None:
    with pytest.raises(ValidationError, match="num_processes is 4, but run_in is 'step'"):
        SatclipCheckpointConfig(num_processes=4)
    assert SatclipCheckpointConfig(num_processes=4, run_in="subprocess").num_processes == 4


def test_where_a_training_runs_is_no_setting_of_it() -> None:
    config = SatclipCheckpointConfig(num_processes=4, run_in="subprocess", epochs=7)
    assert type(config.plan) is TrainingPlan
    assert config.plan == SatclipCheckpointConfig(epochs=7).plan


def test_a_process_without_its_parent_ends() -> None:
    words = command(1)
    words[words.index("--parent-pid") + 1] = "1"
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, timeout=100)
    assert done.returncode == -signal.SIGTERM


def test_a_process_that_dagster_did_not_start_says_what_to_use() -> None:
    done = subprocess.run(command(1), cwd=REPOSITORY, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "Dagster did not start this process; use satclip train" in done.stderr
