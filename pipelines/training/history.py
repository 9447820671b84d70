"""What a training tells while it runs: rows of a CSV log, lines of the log, and TensorBoard's scalars."""

import csv
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipelines.atomic import replacing
from pipelines.errors import ConfigurationError
from pipelines.training.validation import MEASURES

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

HISTORY_NAME: Final = "training_log.csv"
TENSORBOARD_NAME: Final = "tensorboard"
HISTORY_COLUMNS: Final = (
    "epoch", "step", "train_loss", *MEASURES, "temperature", "learning_rate", "samples_per_s", "elapsed_s", "left_s",
)  # fmt: skip
_FORMATS: Final = {"val_median_error_km": "{:.0f}"}
_NOT_TOLD: Final = ("epoch", "step", "temperature", "learning_rate", "samples_per_s", "elapsed_s", "left_s")

Row = dict[str, float]


class Clock:
    """Seconds and steps of a training, over all the processes that carried it on.

    Args:
        num_steps: Steps of the whole training.
        batch_size: Samples per step.
        first_step: Steps done by processes before.
        seconds_before: Seconds that they took.
    """

    def __init__(self, num_steps: int, batch_size: int, first_step: int = 0, seconds_before: float = 0.0) -> None:
        self._num_steps, self._batch_size = num_steps, batch_size
        self._first_step, self._seconds_before = first_step, seconds_before
        self._started = time.monotonic()
        self._last = (self._started, first_step)

    @property
    def elapsed_s(self) -> float:
        """Seconds so far."""
        return self._seconds_before + time.monotonic() - self._started

    def read(self, step: int) -> Row:
        """samples_per_s since the last reading, elapsed_s, and left_s at the mean rate of this process."""
        now = time.monotonic()
        last_time, last_step = self._last
        self._last = (now, step)
        seconds_per_step = (now - self._started) / max(step - self._first_step, 1)
        return {
            "samples_per_s": (step - last_step) * self._batch_size / max(now - last_time, 1e-9),
            "elapsed_s": self.elapsed_s,
            "left_s": seconds_per_step * (self._num_steps - step),
        }


class History:
    """The rows of a training, in the files of its folder as soon as they are known.

    Args:
        folder: Folder of the run.
        rows: Rows of processes before.
        num_epochs: Epochs of the whole training.
        tensorboard: Whether to write TensorBoard's files too.
        is_silent: Whether to keep the rows alone, as the ranks after the first do.
        columns: Of the rows.

    Raises:
        ConfigurationError: ``tensorboard`` is wanted and not installed.
    """

    def __init__(
        self,
        folder: Path,
        rows: list[Row],
        num_epochs: int,
        *,
        tensorboard: bool = False,
        is_silent: bool = False,
        columns: Sequence[str] = HISTORY_COLUMNS,
    ) -> None:
        self.rows, self.path = rows, folder / HISTORY_NAME
        self._num_epochs, self._is_silent, self._columns = num_epochs, is_silent, columns
        self._told = [name for name in columns if name not in _NOT_TOLD]
        self._writer: SummaryWriter | None = None
        if tensorboard and not is_silent:
            last_step = int(rows[-1]["step"]) if rows else 0
            self._writer = _open_tensorboard(folder / TENSORBOARD_NAME, last_step + 1)

    def add(self, row: Row) -> None:
        """Writes the row of an epoch to the files and tells it."""
        self.rows.append(row)
        if self._is_silent:
            return
        with replacing(self.path) as partial, partial.open("w", newline="") as handle:
            lines = csv.DictWriter(handle, self._columns, lineterminator="\n")
            lines.writeheader()
            lines.writerows(self.rows)
        if self._writer is not None:
            for name, value in row.items():
                self._writer.add_scalar(name, value, int(row["step"]))
            self._writer.flush()
        told = ", ".join(
            f"{name} {_FORMATS.get(name, '{:.3f}').format(row[name])}" for name in self._told if name in row
        )
        logger.info(
            "epoch %d of %d: %s, %.0f samples per second, %.0f s left",
            row["epoch"], self._num_epochs, told, row["samples_per_s"], row["left_s"],
        )  # fmt: skip

    def close(self) -> None:
        """Ends the files of TensorBoard."""
        if self._writer is not None:
            self._writer.close()


class BestEpoch:
    """The best validation so far, and how many have passed since.

    Args:
        metric: ``val_loss``, of which less is better, or a recall, of which more is better.
        state: What `state` gave of an earlier process.
    """

    def __init__(self, metric: str, state: Mapping[str, Any] | None = None) -> None:
        self._metric = metric
        self._sign = 1.0 if metric == "val_loss" else -1.0
        state = state or {"value": None, "epoch": 0, "num_since": 0}
        self._value, self.epoch, self.num_since = state["value"], state["epoch"], state["num_since"]

    def is_improved_by(self, row: Row) -> bool:
        """Whether a row is the best so far; it is counted."""
        value = row[self._metric]
        best = math.inf if self._value is None else self._sign * self._value
        if self._sign * value < best:
            self._value, self.epoch, self.num_since = value, int(row["epoch"]), 0
            return True
        self.num_since += 1
        return False

    @property
    def state(self) -> dict[str, Any]:
        """What a later process needs to go on."""
        return {"value": self._value, "epoch": self.epoch, "num_since": self.num_since}


def _open_tensorboard(folder: Path, purge_step: int) -> "SummaryWriter":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigurationError(
            f"tensorboard is set, but it cannot be imported ({error}); install the package tensorboard, or set "
            "tensorboard to false: the CSV log is written anyway"
        ) from error
    return SummaryWriter(str(folder), purge_step=purge_step)
