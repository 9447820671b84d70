"""Embeddings of any number of places by one location encoder, written as they are computed."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipelines.embeddings.embedding_file import EmbeddingFileContent, writing_embeddings
from pipelines.embeddings.table_stream import PointStream
from pipelines.errors import ArtefactError, ConfigurationError
from pipelines.progress import Progress
from pipelines.provenance import file_sha256
from pipelines.training.threads import limited_threads
from satclip_model.checkpoint.loading import load_location_encoder
from satclip_model.errors import CheckpointError
from satclip_model.hub import resolve
from satclip_model.location_encoder import LocationEncoder

logger = logging.getLogger(__name__)

BATCH_BYTES: Final = 64 << 20

FloatType = Literal["float32", "float64"]


@dataclass(frozen=True)
class EmbeddingOptions:
    """How embeddings are scaled, stored and batched.

    Attributes:
        store: Type to store.
        normalize: Whether to scale embeddings to unit length; the encoder itself, like the original, does not.
        batch_size: Places computed and written at a time; None takes 64 MB of embeddings.
    """

    store: Literal["float32", "float16"] = "float32"
    normalize: bool = False
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigurationError(f"batch_size is {self.batch_size}; expected at least 1")

    def points_per_batch(self, encoder: LocationEncoder) -> int:
        """Places computed and written at a time."""
        return self.batch_size or max(1, BATCH_BYTES // (encoder.config.embedding_dim * encoder.dtype.itemsize))


def open_location_encoder(
    source: str, dtype: FloatType | None = None, download: bool = False
) -> tuple[LocationEncoder, dict[str, Any]]:
    """A location encoder of any checkpoint, and what a file of its embeddings says of where they come from.

    Args:
        source: As for `satclip_model.checkpoint.loading.load_location_encoder`.
        dtype: Type that the weights are given; None leaves theirs.
        download: Whether a file of the Hugging Face Hub that is not in the local cache may be fetched.

    Raises:
        ArtefactError: The checkpoint cannot be had or read.
    """
    try:
        path = resolve(source, download=download)
        encoder = load_location_encoder(path)
    except CheckpointError as error:
        raise ArtefactError(str(error)) from error
    if dtype is not None:
        encoder = encoder.to(getattr(torch, dtype))
    return encoder.eval(), {
        "checkpoint": path.name if Path(source).exists() else source,
        "checkpoint_sha256": file_sha256(path),
    }


def computation_record(encoder: LocationEncoder, options: EmbeddingOptions) -> dict[str, Any]:
    """What a file of embeddings says of how they were computed and stored."""
    return {
        "location_encoder": encoder.config.model_dump(mode="json"),
        "computed_in": str(encoder.dtype).removeprefix("torch."),
        "stored_as": options.store,
        "unit_length": options.normalize,
    }


def embed_table(
    encoder: LocationEncoder,
    points: PointStream,
    path: Path,
    options: EmbeddingOptions,
    provenance: Mapping[str, Any],
) -> None:
    """Writes the embeddings of a table as GeoParquet, with its columns; memory does not grow with the table.

    Args:
        encoder: Computes in the type of its weights.
        points: Checked points.
        path: File to write; it appears whole or not at all.
        options: Storage, length and batches.
        provenance: What `open_location_encoder` says; how the embeddings were computed is added.

    Raises:
        ConfigurationError: A column has a name that the file needs, or a number is too large for the stored type.
    """
    try:
        content = EmbeddingFileContent(
            points.others, encoder.config.embedding_dim, np.dtype(options.store), points.num_points, points.bounds_deg
        )
    except ValueError as error:
        raise ConfigurationError(f"{points.source}: {error}") from error
    recorded = {**provenance, **computation_record(encoder, options), "points": points.source}
    progress = Progress(logger, "embeddings", points.num_points, "points")
    batches = points.batches(options.points_per_batch(encoder))
    with writing_embeddings(path, content, recorded) as write:
        for lonlat_deg, others, embeddings in _encoded(encoder, batches, options):
            write(lonlat_deg, others, embeddings)
            progress.advance(len(lonlat_deg))


def _encoded(
    encoder: LocationEncoder, batches: Iterable[tuple[NDArray[np.float64], pa.Table]], options: EmbeddingOptions
) -> Iterator[tuple[NDArray[np.float64], pa.Table, NDArray[np.floating[Any]]]]:
    """Batches with their embeddings, in order; on a CPU each thread of PyTorch computes a batch of its own meanwhile.

    Threads that share a batch wait for each other at every step, and for the one whose core is writing.
    """
    num_threads = torch.get_num_threads() if encoder.device.type == "cpu" else 1

    def compute(lonlat_deg: NDArray[np.float64]) -> NDArray[np.floating[Any]]:
        return as_stored(encoder.encode(lonlat_deg, normalize=options.normalize), options)

    pending: deque[tuple[NDArray[np.float64], pa.Table, Future[NDArray[np.floating[Any]]]]] = deque()
    with limited_threads(1 if encoder.device.type == "cpu" else 0), ThreadPoolExecutor(num_threads) as pool:
        for lonlat_deg, others in batches:
            pending.append((lonlat_deg, others, pool.submit(compute, lonlat_deg)))
            if len(pending) > num_threads:
                done = pending.popleft()
                yield done[0], done[1], done[2].result()
        while pending:
            done = pending.popleft()
            yield done[0], done[1], done[2].result()


def as_stored(embeddings: NDArray[np.floating[Any]], options: EmbeddingOptions) -> NDArray[np.floating[Any]]:
    """Embeddings in the type they are stored in.

    Raises:
        ConfigurationError: A number is too large for it.
    """
    bound = float(np.finfo(options.store).max)
    numbers = torch.from_numpy(np.ascontiguousarray(embeddings))
    lowest, highest = torch.aminmax(numbers) if numbers.numel() else (torch.zeros(()), torch.zeros(()))
    largest = max(abs(float(lowest)), abs(float(highest)))
    if not largest <= bound:
        raise ConfigurationError(
            f"an embedding holds {largest:.6g}, but {options.store} ends at {bound:.6g}; store float32, or normalize"
        )
    stored: NDArray[np.floating[Any]] = numbers.to(getattr(torch, options.store)).numpy()
    return stored
