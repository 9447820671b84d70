"""Scenes gathered item by item, in columns."""

import logging
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd
from shapely.geometry.base import BaseGeometry

from pipelines.sampling.items import Scene

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
        return len(self._known)

    def add(self, item_id: str, scene: Scene | str, footprint: BaseGeometry) -> None:
        """Takes one item: its scene, or the reason why it cannot serve."""
        if item_id in self._known:
            return
        self._known.add(item_id)
        if isinstance(scene, str):
            self.unusable[scene] = self.unusable.get(scene, 0) + 1
            logger.warning("item %s cannot serve: %s; it is left out", item_id, scene)
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
