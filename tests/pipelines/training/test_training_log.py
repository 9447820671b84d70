import csv
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from pipelines.errors import ConfigurationError
from pipelines.training.curves import retrieval_curves
from pipelines.training.history import HISTORY_COLUMNS, BestEpoch, Clock, History

ROW = {"epoch": 2, "step": 8, "train_loss": 1.5, "val_loss": 1.75, "samples_per_s": 100.0, "left_s": 3.0}


def test_rows_are_in_the_file_as_soon_as_they_are_added(tmp_path: Path) -> None:
    history = History(tmp_path / "run", [], num_epochs=4)
    assert not history.path.exists()
    for step in (8, 16):
        history.add({**ROW, "step": step})
        with history.path.open() as handle:
            rows = list(csv.DictReader(handle))
        assert tuple(rows[0]) == HISTORY_COLUMNS
        assert int(rows[-1]["step"]) == step
        assert rows[-1]["val_recall_at_1"] == ""


def test_clock_counts_over_processes_and_tells_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    clock = Clock(num_steps=50, batch_size=4, first_step=10, seconds_before=30.0)
    now[0] = 110.0
    assert clock.read(30) == {"samples_per_s": 8.0, "elapsed_s": 40.0, "left_s": 10.0}
    now[0] = 112.0
    assert clock.read(34)["samples_per_s"] == 8.0
    assert clock.elapsed_s == 42.0


@pytest.mark.parametrize(
    ("metric", "values", "best"), [("val_loss", [3.0, 1.0, 2.0, 1.0], 2), ("val_recall_at_1", [0.1, 0.1, 0.4, 0.2], 3)]
)
def test_best_epoch_is_the_first_of_the_best_and_survives_a_stop(metric: str, values: list[float], best: int) -> None:
    found = BestEpoch(metric)
    for epoch, value in enumerate(values, start=1):
        found = BestEpoch(metric, found.state)
        found.is_improved_by({"epoch": epoch, metric: value})
    assert found.epoch == best
    assert found.num_since == len(values) - best


def test_a_value_that_is_not_a_number_is_no_improvement() -> None:
    found = BestEpoch("val_loss")
    assert not found.is_improved_by({"epoch": 1, "val_loss": float("nan")})
    assert found.is_improved_by({"epoch": 2, "val_loss": 9.0})


def test_tensorboard_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigurationError, match="install the package tensorboard, or set tensorboard to false"):
        History(tmp_path, [], num_epochs=4, tensorboard=True)


def test_tensorboard_gets_every_number_of_a_row_and_forgets_what_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[object, ...]] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            calls.append((folder, purge_step))

        def add_scalar(self, *scalar: object) -> None:
            calls.append(scalar)

        def flush(self) -> None: ...

        def close(self) -> None:
            calls.append(("closed",))

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    history = History(tmp_path, [{**ROW, "step": 4}], num_epochs=4, tensorboard=True)
    history.add(ROW)
    history.close()
    assert calls[0] == (str(tmp_path / "tensorboard"), 5)
    assert ("val_loss", 1.75, 8) in calls
    assert calls[-1] == ("closed",)


def test_retrieval_curves_skip_gaps() -> None:
    history = pd.DataFrame({"epoch": [1, 2, 3], "val_median_error_km": [900.0, np.nan, 700.0]})
    for rank, values in {1: [0.1, np.nan, 0.2], 5: [0.3, np.nan, 0.4], 10: [0.5, np.nan, 0.6]}.items():
        history[f"val_recall_at_{rank}"] = values
    recall, error = retrieval_curves(history).axes
    assert [text.get_text() for text in recall.get_legend().get_texts()] == ["first 1", "first 5", "first 10"]
    np.testing.assert_array_equal(recall.lines[2].get_ydata(), [0.5, 0.6])
    np.testing.assert_array_equal(error.lines[0].get_ydata(), [900, 700])
    assert error.get_ylabel() == "median distance of the best match (km)"
