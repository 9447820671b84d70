"""Scenes whose items are awkward in ways that real catalogs are."""

from datetime import UTC, datetime
from typing import Any

from tests.loopback.coordinate_scene import CoordinateScene

MISSING_BAND = CoordinateScene(32632, 399960, 5300040, "32TMT", left_out=frozenset({"B11"}))
"""Its item lacks the asset B11."""

ACROSS_THE_ANTIMERIDIAN = CoordinateScene(32601, 300000, 7200000, "01WCM", coarsening=10)
"""Its outline is a MultiPolygon, and the west of its box is greater than the east."""

REPROCESSED = (
    CoordinateScene(32735, 499980, 9200020, "35MNM", processing_baseline="03.01", scene_number=1),
    CoordinateScene(
        *(32735, 499980, 9200020, "35MNM"),
        processing_baseline="05.00",
        processed=datetime(2023, 4, 2, 11, 12, 13, tzinfo=UTC),
        scene_number=2,
    ),
)
"""One acquisition twice, under an old and a new baseline: the second is preferred, and only it carries the offset."""


def without_cloud_cover(item: dict[str, Any]) -> dict[str, Any]:
    """The item without ``eo:cloud_cover``."""
    properties = {name: value for name, value in item["properties"].items() if name != "eo:cloud_cover"}
    return item | {"properties": properties}


def with_relative_hrefs(scene: CoordinateScene, collection_id: str = "sentinel-2-l2a") -> dict[str, Any]:
    """The scene's item with hrefs relative to the item's own address, ``{stac}/collections/{id}/items/{id}``."""
    return scene.item("../../../../cog", collection_id)
