"""One call trains."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from pipelines.atomic import write_json
from pipelines.errors import ArtefactError, ConfigurationError
from pipelines.features.view_bank import ImageFeatures, PatchSource
from pipelines.provenance import content_hash, file_sha256, git_commit, package_versions
from pipelines.training.config import TrainingConfig
from pipelines.training.coordinate_jitter import jitter_lonlat
from pipelines.training.datamodule import PlaceDataModule, PlaceTensors
from pipelines.training.fitting import choose_accelerator, fit
from pipelines.training.history import HISTORY_COLUMNS, HISTORY_NAME, History
from pipelines.training.interruption import deferred_interruption
from pipelines.training.retrieval import score_retrieval
from pipelines.training.splits import MIN_PLACES, describe_split, split_places
from pipelines.training.state import STATE_NAME, TrainingState, read_state, write_state
from pipelines.training.supervision import Run, Supervisor, TrainingStopped
from satclip_model.checkpoint.native import write_checkpoint
from satclip_model.config import ImageBackboneConfig
from satclip_model.distributed import num_ranks
from satclip_model.image_encoder import ImageBackbone, ImageProjection
from satclip_model.lightning_module import OptimizationSettings, SatCLIPLightningModule
from satclip_model.satclip import SatCLIP, build_satclip

__all__ = ["HISTORY_COLUMNS", "TrainingResult", "choose_accelerator", "split_places", "train"]

logger = logging.getLogger(__name__)

CHECKPOINT_NAME: Final = "satclip.ckpt"
RECORD_NAME: Final = "record.json"
