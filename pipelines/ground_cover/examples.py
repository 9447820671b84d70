"""Patches with their class fractions, and the images that the model sees of them."""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.errors import ArtefactError, DatasetError
from pipelines.features.config import ViewsConfig
from pipelines.features.view_bank import ImageFeatures
from pipelines.features.views import augment, reflectance_tensor
from pipelines.ground_cover.classes import LandCoverClass
from pipelines.ground_cover.labels import GroundCoverLabels
from pipelines.patches.dataset import PatchDataset
from pipelines.training.datamodule import choose_views
from pipelines.training.pixel_reading import PatchReader
from pipelines.training.pixels import open_shard_reader


class Images(Protocol):
    """Where the images of patches come from; positions count the places of the dataset."""

    def batch(self, positions: NDArray[np.int64], epoch: int | None) -> Tensor:
        """Features (n, f) or reflectance (n, 12, size, size) of a view chosen by epoch; None gives the plain one."""


@dataclass(frozen=True)
class BankImages:
    """Features of a view bank.

    Attributes:
        features: Shape (places, views, f), float16.
        place_ids: Shape (places,).
        seed: Decides which view an epoch sees.
    """

    features: NDArray[np.float16]
    place_ids: NDArray[np.int64]
    seed: int = 0

    def batch(self, positions: NDArray[np.int64], epoch: int | None) -> Tensor:
        """Features, shape (n, f), float32."""
        views = np.zeros(len(positions), dtype=np.int64)
        if epoch is not None:
            views = choose_views(self.place_ids[positions], self.seed, epoch, self.features.shape[1])
        return torch.from_numpy(self.features[positions, views].astype(np.float32))


@dataclass(frozen=True)
class PixelImages:
    """Pixels of a store, read as they are asked for.

    Attributes:
        reader: Reads patches by row.
        rows: Row of each place, shape (places,).
        boa_add_offset: Offset of the digital numbers of each place, shape (places,).
        place_ids: Shape (places,).
        views: Augmentations; with one view none.
    """

    reader: PatchReader
    rows: NDArray[np.int64]
    boa_add_offset: NDArray[np.int64]
    place_ids: NDArray[np.int64]
    views: ViewsConfig

    @classmethod
    def of(cls, dataset: PatchDataset, views: ViewsConfig) -> "PixelImages":
        """The patches of a dataset."""
        rows, offsets, ids = (
            dataset.places[name].to_numpy(dtype=np.int64) for name in ("row", "boa_add_offset", "place_id")
        )
        return cls(open_shard_reader(dataset), rows, offsets, ids, views)

    def batch(self, positions: NDArray[np.int64], epoch: int | None) -> Tensor:
        """Reflectance, shape (n, 12, size, size), float32."""
        dn = np.empty((len(positions), *self.reader.patch_shape), dtype=np.uint16)
        self.reader.read(self.rows[positions], dn)
        reflectance = reflectance_tensor(torch.from_numpy(dn), torch.from_numpy(self.boa_add_offset[positions]))
        if epoch is None or self.views.num_views == 1:
            return reflectance
        return augment(reflectance, self.place_ids[positions], epoch + 1, self.views)


@dataclass(frozen=True)
class Examples:
    """Labelled patches.

    Attributes:
        images: What the model sees; positions count the places of the dataset.
        positions: Which places these are, shape (n,).
        fractions: Class fractions, shape (n, classes), rows sum to 1.
        lonlat_deg: Longitude and latitude in degrees, shape (n, 2).
        place_ids: Shape (n,).
        classes: The columns of the fractions.
    """

    images: Images
    positions: NDArray[np.int64]
    fractions: NDArray[np.float32]
    lonlat_deg: NDArray[np.float64]
    place_ids: NDArray[np.int64]
    classes: tuple[LandCoverClass, ...]

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.positions)

    @property
    def dominant(self) -> NDArray[np.int64]:
        """Column of the largest fraction, shape (n,)."""
        return self.fractions.argmax(axis=1).astype(np.int64)

    def select(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> "Examples":
        """Some of the patches, by a mask or by their numbers."""
        return replace(
            self,
            positions=self.positions[which],
            fractions=self.fractions[which],
            lonlat_deg=self.lonlat_deg[which],
            place_ids=self.place_ids[which],
        )

    def without_class(self, index: int, at_most: float) -> "Examples":
        """The patches with less than a share of a class, which is no longer among the classes."""
        kept = [each for each in range(len(self.classes)) if each != index]
        rest = self.select((self.fractions[:, index] < at_most) & (self.fractions[:, kept].sum(axis=1) > 0))
        fractions = rest.fractions[:, kept]
        return replace(
            rest,
            fractions=fractions / fractions.sum(axis=1, keepdims=True),
            classes=tuple(self.classes[each] for each in kept),
        )

    def batch(self, rows: NDArray[np.int64], epoch: int | None = None) -> Tensor:
        """Images of some of the patches, by their numbers among these."""
        return self.images.batch(self.positions[rows], epoch)


def labelled_examples(
    dataset: PatchDataset, labels: GroundCoverLabels, images: Images, has_image: NDArray[np.bool_]
) -> Examples:
    """The places of a dataset that have both an image and a valid label.

    Args:
        dataset: The patches.
        labels: One entry per place of the dataset, in its order.
        images: Their images.
        has_image: Which places have one, shape (places,).

    Raises:
        ArtefactError: The labels are of other places.
        DatasetError: Fewer than two classes have patches.
    """
    rows = dataset.places["row"].to_numpy(dtype=np.int64)
    if not np.array_equal(labels.rows, rows):
        raise ArtefactError(
            f"dataset {dataset.version}: its {len(rows)} places are not those of the {len(labels)} labels; materialize "
            "ground_cover_labels again"
        )
    positions = np.flatnonzero(labels.valid & has_image)
    fractions = labels.fractions[positions]
    totals = np.maximum(fractions.sum(axis=1, keepdims=True), 1e-12)
    examples = Examples(
        images,
        positions.astype(np.int64),
        (fractions / totals).astype(np.float32),
        dataset.places[["lon_deg", "lat_deg"]].to_numpy(dtype=np.float64)[positions],
        dataset.places["place_id"].to_numpy(dtype=np.int64)[positions],
        labels.classes.classes,
    )
    require_classes(examples, f"dataset {dataset.version}", labels.counts())
    return examples


def require_classes(examples: Examples, what: str, statuses: dict[str, int] | None = None) -> None:
    """Refuses patches that leave nothing to tell apart.

    Raises:
        DatasetError: Fewer than two classes dominate a patch.
    """
    present = sorted({examples.classes[index].name for index in examples.dominant.tolist()})
    if len(present) < 2:
        counted = f" (labels by status: {statuses})" if statuses else ""
        raise DatasetError(
            f"{what}: {len(examples)} labelled patches with {len(present)} dominant classes "
            f"({', '.join(present) or 'none'}){counted}; contrastive training needs two. Take a larger area, another "
            "mapping of classes, or labels nearer to the patches' dates"
        )


def bank_images(bank: ImageFeatures, dataset: PatchDataset, seed: int) -> tuple[BankImages, NDArray[np.bool_]]:
    """Images of a view bank, and which places have them."""
    return BankImages(bank.features, dataset.places["place_id"].to_numpy(dtype=np.int64), seed), bank.valid


def balanced_order(dominant: NDArray[np.int64], balance: float, seed: int, epoch: int) -> NDArray[np.int64]:
    """Which patches an epoch goes through, as many as there are, in random order.

    A patch is drawn in proportion to (patches of its class) ** -balance, systematically: every patch as often as its
    share says, rounded up or down. With ``balance`` 0 this is a permutation, with 1 every class comes equally often.

    Args:
        dominant: Class of each patch, shape (n,).
        balance: 0 to 1.
        seed: Decides, with the epoch.
        epoch: Number of the epoch.
    """
    rng = np.random.default_rng([seed, epoch])
    counts = np.bincount(dominant)
    weights = counts[dominant].astype(np.float64) ** -balance
    shuffled = rng.permutation(len(dominant))
    edges = np.cumsum(weights[shuffled])
    ticks = (np.arange(len(dominant)) + rng.uniform()) * (edges[-1] / len(dominant))
    drawn = shuffled[np.minimum(np.searchsorted(edges, ticks, side="right"), len(dominant) - 1)]
    return rng.permutation(drawn).astype(np.int64)
