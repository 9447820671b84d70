"""Patches of an epoch, read and decoded by worker processes into memory that they share with the training process.

A fork server starts the workers: they inherit no thread, no lock and no CUDA context of the training process. Pixels
are decompressed to where the training process reads them; only numbers travel between processes. The shared memory has
no name in the file system, so that nothing of it stays behind however a process ends.
"""

import logging
import multiprocessing
import multiprocessing.process
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

import numcodecs.blosc
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipelines.errors import ConfigurationError, StoreError
from pipelines.training.config import PixelLoaderConfig
from pipelines.training.part_sampling import Part, PartSampler, PartsFrom

logger = logging.getLogger(__name__)

_PRELOADED: Final = ("pipelines.training.pixel_reading", "pipelines.patches.shard_reader")
"""What the fork server imports once, so that a worker starts in a fraction of a second and shares its memory."""
_WORKER_ENDED: Final = "exited unexpectedly"
"""What PyTorch says in a plain RuntimeError when a worker is gone."""
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108


class PatchReader(Protocol):
    """Reads patches in a worker process; can be pickled. See `pipelines.patches.shard_reader.ShardReader`."""

    patch_shape: tuple[int, int, int]

    def read(self, rows: NDArray[np.int64], out: NDArray[np.uint16]) -> None:
        """Digital numbers of rows of the store into ``out``, shape (rows, bands, size, size)."""


class PatchParts(Dataset[Part | StoreError]):
    """What a worker does: the patches of a part, decompressed into its slot.

    A damaged store is handed over as an error, to be raised in the training process.
    """

    def __init__(self, reader: PatchReader, rows: NDArray[np.int64], slots: Tensor) -> None:
        self._reader, self._rows, self._slots = reader, rows, slots

    def __getitem__(self, part: Part) -> Part | StoreError:
        try:
            self._reader.read(self._rows[part.positions], self._slots[part.slot, : len(part.positions)].numpy())
        except StoreError as error:
            return error
        return part


class PatchStream:
    """Digital numbers of places, part by part in the order of a sampler, read ahead by worker processes.

    Args:
        reader: Reads the patches.
        rows: Row of the store of each place, shape (places,).
        sampler: Which places, and when.
        config: Workers and how far they read ahead.

    Raises:
        ConfigurationError: Less shared memory than the slots take.
    """

    def __init__(
        self, reader: PatchReader, rows: NDArray[np.int64], sampler: PartSampler, config: PixelLoaderConfig
    ) -> None:
        # A part is dispatched when the one before the parts in flight is taken, so one slot more than those suffices.
        shape = (sampler.num_slots, min(config.part_size, sampler.batch_size), *reader.patch_shape)
        if config.num_workers:
            _require_shared_memory(shape)
        self._reader, self._config, self._rest = reader, config, PartsFrom(sampler)
        self._slots = torch.empty(shape, dtype=torch.uint16)
        if config.num_workers:
            self._slots.share_memory_()  # type: ignore[no-untyped-call]
        self._parts = PatchParts(reader, rows, self._slots)
        self._loader = self._open_loader()

    def __iter__(self) -> Iterator[tuple[Tensor, list[int]]]:
        """Digital numbers, shape (n, 12, size, size), uint16, valid until the next part is asked for; and the places.

        Workers that were killed are replaced, once for the same part.

        Raises:
            ConfigurationError: Workers were killed again and again.
            StoreError: A damaged shard.
        """
        num_taken, replaced_at = 0, -1
        while True:
            try:
                for part in self._begin_at(num_taken):
                    if isinstance(part, StoreError):
                        raise part
                    num_taken += 1
                    yield self._slots[part.slot, : len(part.positions)], part.positions
            except RuntimeError as error:
                _require_progress(error, num_taken > replaced_at)
            else:
                return
            replaced_at = num_taken
            self._loader = self._open_loader()

    def _open_loader(self) -> DataLoader[Any]:
        config, is_parallel = self._config, self._config.num_workers > 0
        context = multiprocessing.get_context("forkserver") if is_parallel else None
        if context is not None:
            context.set_forkserver_preload(list(_PRELOADED))
        return DataLoader(
            self._parts,
            batch_size=None,
            sampler=self._rest,
            num_workers=config.num_workers,
            prefetch_factor=config.prefetch_parts if is_parallel else None,
            multiprocessing_context=context,
            persistent_workers=is_parallel,
            worker_init_fn=_start_worker if is_parallel else None,
            generator=torch.Generator(),  # else every pass draws from the global one, which a resumed training shares
        )

    def _begin_at(self, part: int) -> Iterator[Part | StoreError]:
        self._rest.first_part = part
        with self._without_main():
            return iter(self._loader)

    @contextmanager
    def _without_main(self) -> Iterator[None]:
        """A block in which workers that start do not run the main module, which may import much or lack a guard."""
        main = sys.modules["__main__"]
        if type(self._reader).__module__ != "__main__":
            sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _require_progress(error: RuntimeError, is_progress: bool) -> None:
    """Tells that workers were killed; raises where nothing was read since, and errors that say something else."""
    if _WORKER_ENDED not in str(error):
        raise error
    if not is_progress:
        raise ConfigurationError(
            f"processes that read patches are killed again and again ({error}), perhaps because memory is exhausted; "
            "lower num_workers, prefetch_parts or part_size, and run again"
        ) from error
    logger.warning("a process that reads patches was killed (%s); others take over", str(error))


def _require_shared_memory(shape: Sequence[int]) -> None:
    needed = int(np.prod(shape)) * np.dtype(np.uint16).itemsize
    if _SHARED_MEMORY.is_dir() and (free := shutil.disk_usage(_SHARED_MEMORY).free) < needed:
        raise ConfigurationError(
            f"{_SHARED_MEMORY} has {free / 1e6:.0f} MB free, expected {needed / 1e6:.0f} MB for {shape[0]} parts of "
            f"{shape[1]} patches; lower num_workers, prefetch_parts or part_size, or give the container more"
        )


def _start_worker(worker: int) -> None:
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the trainer ends its step first
    numcodecs.blosc.use_threads = False
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        threading.Thread(target=_end_after, args=(trainer,), name="trainer-watch", daemon=True).start()


def _end_after(trainer: multiprocessing.process.BaseProcess) -> None:
    # PyTorch's own watch looks at the parent, which is the fork server: it outlives a trainer that is killed.
    trainer.join()
    os._exit(1)
