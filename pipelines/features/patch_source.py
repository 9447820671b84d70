"""What image features are computed from."""

from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class PatchSource(Protocol):
    """What is needed of a patch dataset; see `pipelines.patches.dataset.PatchDataset`."""

    @property
    def version(self) -> str:
        """Id of the dataset."""

    @property
    def places(self) -> pd.DataFrame:
        """One row per place in store order, with columns place_id, valid, boa_add_offset and sha256."""

    @property
    def num_places(self) -> int:
        """Rows of the store."""

    @property
    def shard_size(self) -> int:
        """Rows of a shard."""

    @property
    def num_shards(self) -> int:
        """Shards of the store."""

    def read_shard_dn(self, shard: int) -> NDArray[np.uint16]:
        """Digital numbers of a shard, shape (n, 12, size, size)."""
