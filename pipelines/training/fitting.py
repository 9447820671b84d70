"""The loop over steps: where it runs, and what its failures mean."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lightning
import torch

from pipelines.errors import ConfigurationError
from pipelines.training.config import TrainingConfig
from pipelines.training.data import TrainingData
from pipelines.training.ranks import Ranks
from pipelines.training.supervision import Supervisor
from pipelines.training.threads import limited_threads
from satclip_model.errors import DivergenceError
from satclip_model.lightning_module import SatCLIPLightningModule
from satclip_model.positional_encoding.spherical_harmonics import SphericalHarmonics

_OUT_OF_MEMORY: Final = "can't allocate memory"
"""What PyTorch says in a plain RuntimeError when the memory of the CPU is exhausted."""

_NOT_TOLD: Final = ("litlogger", "LitLogger", "`max_epochs=1` reached")


def choose_accelerator(wanted: str) -> str:
    """``gpu`` or ``cpu``, by what is wanted (``auto``, ``gpu``, ``cpu``) and what is there.

    Raises:
        ConfigurationError: A GPU is wanted and PyTorch finds none.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        built_for = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise ConfigurationError(
            f"accelerator is 'gpu', but PyTorch {torch.__version__} ({built_for}) finds no CUDA device; set "
            "accelerator to 'auto' or 'cpu', or run where a GPU and its driver are visible"
        )
    return "gpu"


def choose_device(config: TrainingConfig, ranks: Ranks) -> torch.device:
    """Where a rank trains.

    Raises:
        ConfigurationError: A GPU is wanted and PyTorch finds none.
    """
    is_gpu = choose_accelerator(config.accelerator) == "gpu"
    return torch.device("cuda", ranks.local_rank) if is_gpu else torch.device("cpu")


def fit(
    module: SatCLIPLightningModule,
    data: TrainingData,
    supervisor: Supervisor,
    config: TrainingConfig,
    state_path: Path,
    ranks: Ranks,
) -> None:
    """Takes all steps of a training; Lightning sees them as one epoch, the supervisor counts those of the data.

    The global random state of PyTorch is left as it was. However the training ends, the data end theirs.

    Args:
        module: The towers and their optimiser.
        data: The batches.
        supervisor: What happens between two steps.
        config: All settings.
        state_path: The checkpoint to name when training fails.
        ranks: Which process this is.

    Raises:
        ConfigurationError: The loss diverged, or a batch does not fit into memory.
        TrainingStopped: A stop was requested.
    """
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_worth_telling)
    accelerator = choose_accelerator(config.accelerator)
    trainer = lightning.Trainer(
        accelerator=accelerator,
        **ranks.trainer_options(accelerator),
        precision=config.precision,
        max_epochs=1,
        limit_val_batches=0,
        gradient_clip_val=config.gradient_clip_norm or None,
        callbacks=[supervisor],
        default_root_dir=str(state_path.parent),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    module.train()  # Lightning leaves modes as it finds them
    devices = [ranks.local_rank] if accelerator == "gpu" else []
    with limited_threads(config.num_threads), _encoding_dtype(module, config), torch.random.fork_rng(devices=devices):
        torch.manual_seed(ranks.seed(config.seed))
        try:
            with told_memory(accelerator, config, data, lambda: f" in step {supervisor.step + 1}; {_kept(state_path)}"):
                _fit_quietly(trainer, module, data)
        except DivergenceError as error:
            raise ConfigurationError(
                f"training diverged in step {supervisor.step + 1}, epoch {supervisor.epoch}: {error}; "
                f"{_kept(state_path)}. Lower learning_rate (now {config.learning_rate:g}) or raise warmup_fraction "
                f"(now {config.warmup_fraction:g})"
            ) from error
        finally:
            data.teardown("fit")


@contextmanager
def told_memory(
    accelerator: str, config: TrainingConfig, data: TrainingData, moment: Callable[[], str] = str
) -> Iterator[None]:
    """A block in which exhausted memory is told as a batch that is too large.

    Args:
        accelerator: Whose memory it is.
        config: All settings.
        data: The batches.
        moment: When it happened and what is kept, called then.

    Raises:
        ConfigurationError: A batch does not fit into memory.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and _OUT_OF_MEMORY not in str(error):
            raise
        raise ConfigurationError(
            f"the memory of the {accelerator} does not hold a batch of {data.batch_size} places{moment()}. Lower "
            f"batch_size (now {config.batch_size})"
        ) from error


def _kept(state_path: Path) -> str:
    return f"the last checkpoint is {state_path}" if state_path.is_file() else "no checkpoint was written"


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """Whether a line of Lightning is neither an advertisement nor about the one epoch that it sees."""
    return not any(each in record.getMessage() for each in _NOT_TOLD)


def _fit_quietly(trainer: lightning.Trainer, module: SatCLIPLightningModule, data: TrainingData) -> None:
    with warnings.catch_warnings():
        # Lightning 2.6 asks PyTorch's pytree in a way that PyTorch 2.9 deprecates.
        warnings.filterwarnings("ignore", message=r".*LeafSpec.*is deprecated", category=FutureWarning)
        # A frozen backbone stays in evaluation mode.
        warnings.filterwarnings("ignore", message=r".*module\(s\) in eval mode")
        # PyTorch 2.15 deprecates an argument whose successor PyTorch 2.9 has not.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
        # The supervisor validates.
        warnings.filterwarnings("ignore", message="You defined a `validation_step` but have no `val_dataloader`")
        trainer.fit(module, train_dataloaders=data.train_dataloader())


@contextmanager
def _encoding_dtype(module: SatCLIPLightningModule, config: TrainingConfig) -> Iterator[None]:
    encoding = module.model.location_encoder.positional_encoding
    assert isinstance(encoding, SphericalHarmonics)
    before, encoding.compute_dtype = encoding.compute_dtype, getattr(torch, config.encoding_dtype)
    try:
        yield
    finally:
        encoding.compute_dtype = before
