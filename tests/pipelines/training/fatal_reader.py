"""A reader that ends workers; in a module that they import quickly."""

import os
import signal

import numpy as np

from pipelines.training.pixel_reading import PatchReader


class FatalReader:
    """Kills the process that reads row 12."""

    def __init__(self, reader: PatchReader) -> None:
        self.patch_shape, self._reader = reader.patch_shape, reader

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        if 12 in rows:
            os.kill(os.getpid(), signal.SIGKILL)
        self._reader.read(rows, out)
