"""What every rank does in test_rank_training.py; called as a module with a configuration and a folder."""

import json
import logging
import os
import sys
from pathlib import Path

import torch

from pipelines.training.config import TrainingConfig
from pipelines.training.run import train
from tests.pipelines.training.test_training_run import synthetic


def main() -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    config, folder = TrainingConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2])
    result = train(*synthetic(150), config, folder / "run")
    told = {"metrics": result.metrics, "checkpoint": str(result.checkpoint_path)}
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
