"""GPS2Vec: one small network per cell of the UTM grid, taught the objects and scenes, or the tags, of geotagged photos.

Source: Yin et al. (2019), GPS2Vec: Towards generating worldwide GPS embeddings, ACM SIGSPATIAL, and Yin et al. (2021),
Learning multi-context aware location representations from large-scale geotagged images, ACM Multimedia;
yifangyin/GPS2Vec.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipelines.errors import ArtefactError, MissingWeightsError
from pipelines.evaluation.methods.base import batches

if TYPE_CHECKING:
    import h5py
    from pyproj import Transformer

logger = logging.getLogger(__name__)

BANDS: Final = "CDEFGHJKLMNPQRSTUVWX"
GRID_SIZE: Final = 20
DECAY_M: Final = 20_000.0
HIDDEN_DIMS: Final = (512, 1024, 2048)
OUTPUTS: Final[Mapping[str, tuple[str, ...]]] = {"visual": ("object", "scene"), "tag": ("tag",)}
OUTPUT_DIMS: Final[Mapping[str, int]] = {"object": 1000, "scene": 365, "tag": 2000}
_SAMPLED_BYTES: Final = 4096
"""Read at the beginning, the quarters and the end of a file to tell it from others: mostly weights, which differ."""
_SOUTHMOST, _NORTHMOST, _BAND_DEG = -80.0, 84.0, 8.0
_SPANS_DEG: Final = {
    "32 V": (3.0, 12.0), "31 X": (0.0, 9.0), "33 X": (9.0, 21.0), "35 X": (21.0, 33.0), "37 X": (33.0, 42.0),
}  # fmt: skip
"""Cells around Norway and Svalbard that are wider than 6 degrees; 31 V ends where 32 V begins."""


class GPS2VecNetwork(nn.Module):
    """Dense layers of 512, 1,024 and 2,048 with ReLU over 20 x 20 inputs, and a softmax per output.

    Args:
        kind: ``visual`` with 1,000 objects and 365 scenes, or ``tag`` with 2,000 tags.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        widths = (GRID_SIZE**2, *HIDDEN_DIMS)
        self.hidden = nn.ModuleList(nn.Linear(*each) for each in pairwise(widths))
        self.outputs = nn.ModuleList(nn.Linear(widths[-1], OUTPUT_DIMS[name]) for name in OUTPUTS[kind])

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        """Shares of all outputs side by side, shape (n, 1365) or (n, 2000), of inputs of shape (n, 400)."""
        for layer in self.hidden:
            cells = torch.relu(layer(cells))
        return torch.cat([torch.softmax(layer(cells), dim=1) for layer in self.outputs], dim=1)


@dataclass(frozen=True)
class GPS2Vec:
    """Features of the network of each place's cell; places in cells without a network have zeros, and are counted.

    Attributes:
        folder: Files ``model_ZONE BAND.h5`` as published.
        kind: ``visual`` or ``tag``.
        name: Short name in the rows of scores.
    """

    folder: Path
    kind: str
    name: str = "gps2vec"

    @cached_property
    def target(self) -> str:
        """SHA-256 of the names, sizes and parts of the bytes of all files.

        All files of a kind have one size, and all bytes are some 30 GB; see `_SAMPLED_BYTES`.
        """
        digest = hashlib.sha256()
        for path in sorted(self.folder.glob("model_*.h5")):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            for part in _sampled_parts(path):
                digest.update(part)
        return digest.hexdigest()

    def features(self, lonlat_deg: NDArray[np.float64]) -> NDArray[np.float32]:
        """Features, shape (n, 1365) or (n, 2000).

        Raises:
            ArtefactError: A file cannot be read or is of another network.
            MissingWeightsError: No place lies in a cell with a network.
        """
        places = np.concatenate(list(batches(lonlat_deg)))
        cells = utm_cells(places)
        made = np.zeros((len(places), sum(OUTPUT_DIMS[name] for name in OUTPUTS[self.kind])), dtype=np.float32)
        missing: set[str] = set()
        for cell in np.unique(cells):
            chosen, path = cells == cell, self.folder / f"model_{cell}.h5"
            if not path.is_file():
                missing.add(str(cell) or "beyond 80 S to 84 N")
                continue
            network = read_network(path, self.kind)
            with torch.inference_mode():
                made[chosen] = network(torch.from_numpy(cell_inputs(str(cell), places[chosen]))).numpy()
        lacking = ~made.any(axis=1)
        if lacking.all():
            raise MissingWeightsError(
                f"gps2vec: {self.folder} has no network for any of {len(places)} places, whose cells are "
                f"{', '.join(sorted(missing)[:5])}; expected files such as 'model_33 U.h5'"
            )
        if lacking.any():
            told = ", ".join(sorted(missing)[:8])
            logger.warning("gps2vec: %d of %d places have zeros, no network for %s", lacking.sum(), len(places), told)
        return made


def utm_cells(lonlat_deg: NDArray[np.float64]) -> NDArray[np.str_]:
    """The cell of the UTM grid of each place, such as ``33 U``; empty south of 80 S and north of 84 N.

    Longitude 180 is that of -180. Cells begin at their western and southern edge.
    """
    lon = np.where(lonlat_deg[:, 0] == 180.0, -180.0, lonlat_deg[:, 0])
    lat = lonlat_deg[:, 1]
    zone = np.floor((lon + 180.0) / 6.0).astype(np.int64) + 1
    row = np.clip(np.floor((lat - _SOUTHMOST) / _BAND_DEG).astype(np.int64), 0, len(BANDS) - 1)
    band = np.array(list(BANDS))[row]
    zone = np.where((band == "V") & (lon >= 3.0) & (lon < 12.0), 32, zone)
    for cell, (west, east) in _SPANS_DEG.items():
        if cell.endswith("X"):
            zone = np.where((band == "X") & (lon >= west) & (lon < east), int(cell.split()[0]), zone)
    known = (lat >= _SOUTHMOST) & (lat <= _NORTHMOST)
    return np.array(
        [f"{number} {letter}" if fine else "" for number, letter, fine in zip(zone, band, known, strict=True)]
    )


def cell_inputs(cell: str, lonlat_deg: NDArray[np.float64]) -> NDArray[np.float32]:
    """exp(-distance / 20 km) of places to the middles of 20 x 20 parts of their cell, shape (n, 400), east first.

    Args:
        cell: All places' cell.
        lonlat_deg: Shape (n, 2), longitude first.
    """
    transformer, (west, south, width, height) = _cell_frame(cell)
    easting, northing = transformer.transform(lonlat_deg[:, 0], lonlat_deg[:, 1])
    middles = (np.arange(GRID_SIZE) + 0.5) / GRID_SIZE
    across = np.asarray(easting)[:, None] - (west + width * middles)
    along = np.asarray(northing)[:, None] - (south + height * middles)
    distance = np.hypot(across[:, :, None], along[:, None, :])
    return np.exp(-distance / DECAY_M).reshape(len(lonlat_deg), -1).astype(np.float32)


def read_network(path: Path, kind: str) -> GPS2VecNetwork:
    """The network of a cell, from weights as Keras wrote them.

    Raises:
        ArtefactError: The file cannot be read, or is of another network.
    """
    import h5py

    network = GPS2VecNetwork(kind)
    names = [*(f"layer{number}" for number in range(1, 4)), *OUTPUTS[kind]]
    layers = [*network.hidden, *network.outputs]
    try:
        with h5py.File(path, "r") as file, torch.no_grad():
            for name, layer in zip(names, layers, strict=True):
                group = _weights_of(file)[name][name]
                layer.weight.copy_(torch.from_numpy(np.asarray(group["kernel:0"], dtype=np.float32).T))
                layer.bias.copy_(torch.from_numpy(np.asarray(group["bias:0"], dtype=np.float32)))
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ArtefactError(
            f"{path}: no {kind} network of GPS2Vec ({error}); expected kernels and biases of {', '.join(names)}"
        ) from error
    return network.eval()


def open_gps2vec(weights: Path | None) -> GPS2Vec:
    """GPS2Vec over a folder of published files.

    Raises:
        MissingWeightsError: They are not there, or h5py is not.
        ArtefactError: The first file is of neither kind.
    """
    files = sorted(weights.glob("model_*.h5")) if weights is not None and weights.is_dir() else []
    if weights is None or not files:
        raise MissingWeightsError(
            f"gps2vec: {weights or 'no weights'}: expected a folder of the published files 'model_ZONE BAND.h5' "
            "(models_visual or models_tag); give it as gps2vec:FOLDER"
        )
    if find_spec("h5py") is None:
        raise MissingWeightsError("gps2vec: its files are HDF5; pip install h5py to read them")
    import h5py

    try:
        with h5py.File(files[0], "r") as file:
            kind = "tag" if "tag" in _weights_of(file) else "visual"
    except OSError as error:
        raise ArtefactError(f"{files[0]}: no HDF5 file ({error}); expected weights as Keras wrote them") from error
    return GPS2Vec(weights, kind)


def _weights_of(file: "h5py.File") -> "h5py.Group":
    """The group of layers: the file itself, or a part of it where Keras wrote the whole model."""
    return file.get("model_weights", file)


def _sampled_parts(path: Path) -> Iterator[bytes]:
    last = max(path.stat().st_size - _SAMPLED_BYTES, 0)
    with path.open("rb") as handle:
        for quarter in range(5):
            handle.seek(quarter * last // 4)
            yield handle.read(_SAMPLED_BYTES)


@lru_cache(maxsize=256)
def _cell_frame(cell: str) -> tuple["Transformer", tuple[float, float, float, float]]:
    """The projection of a cell, and western edge, southern edge, width and height of its box in metres."""
    from pyproj import Transformer

    number, band = cell.split()
    row = BANDS.index(band)
    south = _SOUTHMOST + _BAND_DEG * row
    north = _NORTHMOST if band == "X" else south + _BAND_DEG
    west, east = _SPANS_DEG.get(cell, (-180.0 + 6.0 * (int(number) - 1), -180.0 + 6.0 * int(number)))
    epsg = (32600 if south >= 0 else 32700) + int(number)
    transformer = Transformer.from_crs("EPSG:4326", f"EPSG:{epsg}", always_xy=True)
    lon = np.linspace(west, east, 1 + round(10 * (east - west)))
    _, bottom = transformer.transform(lon, np.full_like(lon, south))
    _, top = transformer.transform(lon, np.full_like(lon, north))
    corners, _ = transformer.transform([west, west], [south, north])
    left = float(min(corners))
    return transformer, (left, float(np.min(bottom)), 2.0 * (500_000.0 - left), float(np.max(top) - np.min(bottom)))
