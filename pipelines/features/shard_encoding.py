"""Features of patches shard by shard: the next one is read while this one is encoded."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DatasetError
from pipelines.features.encoding import ViewEncoder
from pipelines.features.patch_source import PatchSource

_LARGEST: Final = float(np.finfo(np.float16).max)


def list_shards(dataset: PatchSource) -> list[slice]:
    """Rows of each shard."""
    size, num_places = dataset.shard_size, dataset.num_places
    return [slice(shard * size, min((shard + 1) * size, num_places)) for shard in range(dataset.num_shards)]


def read_ahead(
    dataset: PatchSource, shards: list[slice], wanted: NDArray[np.bool_]
) -> Iterator[tuple[slice, NDArray[np.uint16]]]:
    """Digital numbers of the wanted rows of each shard; the next shard is read while this one is used."""

    def read(rows: slice) -> NDArray[np.uint16]:
        chosen = np.flatnonzero(wanted[rows])
        if not chosen.size:
            return np.empty((0, 0, 0, 0), dtype=np.uint16)
        return dataset.read_shard_dn(rows.start // dataset.shard_size)[chosen]

    with ThreadPoolExecutor(max_workers=1) as pool:
        upcoming: Future[NDArray[np.uint16]] | None = pool.submit(read, shards[0]) if shards else None
        for rows, following in zip(shards, [*shards[1:], None], strict=True):
            assert upcoming is not None
            dn = upcoming.result()
            upcoming = None if following is None else pool.submit(read, following)
            yield rows, dn


def encode_shard(
    dataset: PatchSource, encoder: ViewEncoder, rows: slice, dn: NDArray[np.uint16], wanted: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
    """Batches of a shard: rows within it, and features of their views.

    Args:
        dataset: The patches.
        encoder: The encoder and its views.
        rows: Rows of the shard.
        dn: Digital numbers of its wanted rows.
        wanted: Which rows of the dataset are wanted.

    Raises:
        ConfigurationError: A batch does not fit into the device's memory.
        DatasetError: A patch gives features that float16 cannot hold.
    """
    chosen = np.flatnonzero(wanted[rows])
    if not chosen.size:
        return
    places = dataset.places.iloc[rows].iloc[chosen]
    offsets, place_ids = (places[name].to_numpy(dtype=np.int64) for name in ("boa_add_offset", "place_id"))
    size = encoder.batch_size(dn.shape[1:])
    for start in range(0, len(chosen), size):
        part = slice(start, start + size)
        features = encoder.encode(dn[part], offsets[part], place_ids[part])
        _require_representable(dataset.version, features, rows.start + chosen[part], place_ids[part])
        yield chosen[part], features.astype(np.float16)


def _require_representable(
    version: str, features: NDArray[np.float32], rows: NDArray[np.int64], place_ids: NDArray[np.int64]
) -> None:
    beyond = ~(np.abs(features) <= _LARGEST)
    if beyond.any():
        patch, view, feature = np.argwhere(beyond)[0]
        raise DatasetError(
            f"dataset {version}: the patch in row {rows[patch]} (place {place_ids[patch]}) has the value "
            f"{features[patch, view, feature]:g} in feature {feature} of view {view}; expected at most {_LARGEST:g}, "
            "the largest of float16: check the patch's pixels and the encoder's weights"
        )
