"""Mean and deviation of reflectance per band and patch: the plainest image features."""

import numpy as np
from numpy.typing import NDArray

from pipelines.patches.dataset import PatchDataset
from pipelines.patches.radiometry import reflectance


def band_statistics(dataset: PatchDataset) -> NDArray[np.float32]:
    """Features of all places, shape (places, 2 x bands): means, then standard deviations; zeros without a patch."""
    valid = dataset.places["valid"].to_numpy(dtype=bool)
    offsets = dataset.places["boa_add_offset"].to_numpy(dtype=np.int64)
    features = np.zeros((dataset.num_places, 2 * len(dataset.bands)), dtype=np.float32)
    for shard in range(dataset.num_shards):
        start = shard * dataset.shard_size
        for index, dn in enumerate(dataset.read_shard_dn(shard), start):
            if valid[index]:
                values = reflectance(dn, int(offsets[index])).reshape(len(dn), -1)
                features[index] = np.concatenate([values.mean(axis=1), values.std(axis=1)])
    return features
