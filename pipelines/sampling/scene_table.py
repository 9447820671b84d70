"""Tables of scenes: gathered item by item, written and read as GeoParquet."""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from shapely.geometry.base import BaseGeometry

from pipelines.atomic import replacing
from pipelines.errors import ArtefactError
from pipelines.sampling.items import Scene
from pipelines.sampling.tables import METADATA_KEY

logger = logging.getLogger(__name__)

SCENE_COLUMNS = tuple(each.name for each in fields(Scene))
FOOTPRINT = "footprint"


@dataclass
class SceneTable:
    """Scenes gathered item by item, in columns; an item that comes again is kept once."""

    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in SCENE_COLUMNS})
    footprints: list[BaseGeometry] = field(default_factory=list)
    unusable: dict[str, int] = field(default_factory=dict)
    _known: set[str] = field(default_factory=set)
    _strings: dict[str, str] = field(default_factory=dict)

    @property
    def num_items(self) -> int:
        """Different items seen, with those that cannot serve."""
        return len(self)

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._known

    def add(self, item_id: str, scene: Scene | str, footprint: BaseGeometry) -> None:
        """Takes one item: its scene, or the reason why it cannot serve."""
        if item_id in self._known:
            return
        self._known.add(item_id)
        if isinstance(scene, str):
            self.unusable[scene] = self.unusable.get(scene, 0) + 1
            logger.warning("item %.256r cannot serve: %s; it is left out", item_id, scene)
            return
        for name, values in self.columns.items():
            value = getattr(scene, name)
            values.append(self._strings.setdefault(value, value) if isinstance(value, str) else value)
        self.footprints.append(footprint)

    def frame(self) -> pd.DataFrame:
        """The table, ordered by item_id; empties this one."""
        columns = {name: self.columns.pop(name) for name in list(self.columns)}
        frame = pd.DataFrame(columns)
        frame[FOOTPRINT] = np.array([*self.footprints, None], dtype=np.object_)[:-1]
        self.footprints.clear()
        return frame.sort_values("item_id", kind="stable").reset_index(drop=True)


def write_scene_table(path: Path, scenes: pd.DataFrame, record: Mapping[str, object]) -> None:
    """Writes scenes as GeoParquet (WGS 84, ``footprint`` as WKB), whole or not at all; equal rows give equal bytes.

    Args:
        path: The file.
        scenes: Columns of `Scene` and ``footprint``, in the order in which they are stored.
        record: What made the table; JSON in the file's metadata under ``satclip``.
    """
    footprints = scenes[FOOTPRINT].to_numpy()
    arrow = pa.Table.from_pandas(scenes.drop(columns=FOOTPRINT), preserve_index=False)
    arrow = arrow.append_column(FOOTPRINT, pa.array(shapely.to_wkb(footprints, byte_order=1), type=pa.binary()))
    column = {"encoding": "WKB", "geometry_types": sorted({each.geom_type for each in footprints})}
    geo = {"version": "1.1.0", "primary_column": FOOTPRINT, "columns": {FOOTPRINT: column}}
    metadata = {
        **(arrow.schema.metadata or {}),
        b"geo": json.dumps(geo, sort_keys=True).encode(),
        METADATA_KEY: json.dumps(dict(record), sort_keys=True).encode(),
    }
    with replacing(path) as partial:
        pq.write_table(arrow.replace_schema_metadata(metadata), partial, compression="zstd")


def read_scene_table(path: Path, asset: str, columns: Iterable[str] | None = None) -> pd.DataFrame:
    """Reads what `write_scene_table` wrote, footprints as shapely geometries.

    Args:
        path: The file.
        asset: What to materialize where it is missing.
        columns: Those to read; all by default.

    Raises:
        ArtefactError: the file does not exist.
    """
    if not path.is_file():
        raise ArtefactError(f"{path}: no such file, expected the table of asset {asset}; materialize {asset} first")
    names = pq.read_schema(path).names if columns is None else list(columns)
    frame: pd.DataFrame = pq.read_table(path, columns=[name for name in names if name != FOOTPRINT]).to_pandas()
    if FOOTPRINT in names:
        wkb = pq.read_table(path, columns=[FOOTPRINT]).column(FOOTPRINT)
        frame[FOOTPRINT] = shapely.from_wkb(wkb.to_numpy(zero_copy_only=False))
    return frame
