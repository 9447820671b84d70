"""A page with a map of the products: one file that opens without a network."""

import base64
import io
import json
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray

from pipelines.atomic import replacing
from pipelines.drawing import BLUE, LAND, ORANGE, SKY, VERMILION
from pipelines.satlas.geometry import WGS84
from pipelines.satlas.index import index_path, read_index
from pipelines.satlas.map_library import LICENSE, SCRIPT, STYLE, VERSION, find_library
from pipelines.satlas.months import months_between
from pipelines.satlas.predictions import TASK_KINDS
from pipelines.satlas.product_config import PUBLISHED_CATEGORIES
from pipelines.satlas.tree_cover import MAX_LAT_DEG, TASK
from pipelines.satlas.versions import HISTORY, products_folder

MAP_FILE: Final = "map.html"
COLORS: Final = {
    "solar_farm": ORANGE,
    "wind_turbine": BLUE,
    "offshore_wind_turbine": SKY,
    "offshore_platform": VERMILION,
}
COVER_COLORS: Final = (
    (0, 0, 0, 0),
    (246, 232, 195, 150),
    (217, 240, 211, 200),
    (127, 191, 123, 220),
    (27, 120, 55, 230),
    (0, 68, 27, 240),
)
LAND_PX: Final = 1024
COVER_PX: Final = 256
MAX_COVER_TILES: Final = 64
MARGIN_DEG: Final = 0.05


def write_map(
    root: Path, title: str = "Satlas products", library: Path | None = None, *, download: bool = False
) -> Path:
    """Writes the map of all indexed products; returns its path. Equal products, equal page.

    Objects are shown as of a month that a slider chooses, tree cover as of its newest month, reduced.

    Args:
        root: The workspace.
        title: Heading of the page.
        library: Where MapLibre is; None: the user's cache.
        download: Whether MapLibre is fetched with npm where it is not there.

    Raises:
        ArtefactError: There is no index.
        MissingTableError: MapLibre is not there.
    """
    index = read_index(root)
    folder = find_library(library, download=download)
    data = _data(root, index)
    template = resources.files("pipelines.satlas").joinpath("map_template.html").read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, autoescape=True)
    license_text = (folder / LICENSE).read_text(encoding="utf-8").replace("*/", "* /")
    page = environment.from_string(template).render(
        title=title,
        style=(folder / STYLE).read_text(encoding="utf-8").replace("</style", "<\\/style"),
        library=f"/* MapLibre GL JS {VERSION}\n{license_text}*/\n"
        + _script_safe((folder / SCRIPT).read_text(encoding="utf-8")),
        data=json.dumps(data, sort_keys=True, allow_nan=False).replace("<", "\\u003c"),
    )
    path = index_path(root).parent / MAP_FILE
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _script_safe(text: str) -> str:
    """JavaScript that does not end the element it stands in."""
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _data(root: Path, index: dict[str, Any]) -> dict[str, Any]:
    tasks = [task for task in PUBLISHED_CATEGORIES if any(e["task"] == task for e in index["entries"])]
    collections = {task: _collection(root, task) for task in tasks}
    names = [e["name"] for e in index["entries"] if e["name"] != HISTORY and e["task"] in tasks]
    entries = []
    for task, collection in collections.items():
        for category in PUBLISHED_CATEGORIES[task].values():
            number = sum(each["properties"]["category"] == category for each in collection["features"])
            polygons = TASK_KINDS[task] == "polygons"
            entry = {"task": task, "category": category, "number": number, "polygons": polygons}
            entries.append({**entry, "color": COLORS[category]})
    cover_months = sorted(e["name"] for e in index["entries"] if e["task"] == TASK)
    images = _cover_images(products_folder(root, TASK) / cover_months[-1]) if cover_months else []
    return {
        "months": months_between(names),
        "collections": collections,
        "entries": entries,
        "images": images,
        "cover_month": cover_months[-1] if cover_months else "",
        "bounds": _bounds(collections, images),
        "land": land_uri(),
        "world": _corners(-180.0, -MAX_LAT_DEG, 180.0, MAX_LAT_DEG),
        "attribution": "land: GSHHG",
        "about": _about(index),
    }


def _about(index: dict[str, Any]) -> str:
    told = f"Index {index['content_sha256'][:16]}. Objects are shown from the first to the last month seen."
    tiles = max((len(e["files"]) for e in index["entries"] if e["task"] == TASK), default=0)
    return told + (f" Tree cover: {MAX_COVER_TILES} of up to {tiles} tiles." if tiles > MAX_COVER_TILES else "")


def _collection(root: Path, task: str) -> dict[str, Any]:
    path = products_folder(root, task) / HISTORY / f"{task}.geojson"
    collection: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return collection


def _corners(west: float, south: float, east: float, north: float) -> list[list[float]]:
    """Corners of an image as MapLibre wants them: clockwise from the north-west."""
    return [[west, north], [east, north], [east, south], [west, south]]


def _bounds(collections: dict[str, Any], images: list[dict[str, Any]]) -> list[list[float]]:
    """What the map shows first: all objects, else all tiles of tree cover, else the world."""
    import geopandas

    boxes = []
    for collection in collections.values():
        if collection["features"]:
            frame = geopandas.GeoDataFrame.from_features(collection, crs=WGS84)
            boxes.append(frame.total_bounds.reshape(2, 2))
    if not boxes:
        boxes = [np.array(image["coordinates"])[[0, 2]] for image in images]
    if not boxes:
        return [[-180.0, -60.0], [180.0, 80.0]]
    corners = np.concatenate(boxes)
    low, high = corners.min(axis=0) - MARGIN_DEG, corners.max(axis=0) + MARGIN_DEG
    return [
        [max(float(low[0]), -180.0), max(float(low[1]), -85.0)],
        [min(float(high[0]), 180.0), min(float(high[1]), 85.0)],
    ]


def land_uri(side_px: int = LAND_PX) -> str:
    """The land in Web Mercator as the address of a picture inside the page."""
    from pipelines.sampling.land import is_land

    step = (np.arange(side_px) + 0.5) / side_px
    lat = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * step))))
    lon, lats = np.meshgrid(360 * step - 180, lat)
    land = is_land(np.column_stack([lon.ravel(), lats.ravel()])).reshape(side_px, side_px)
    color = [int(LAND[place : place + 2], 16) for place in (1, 3, 5)]
    pixels = np.zeros((side_px, side_px, 4), dtype=np.uint8)
    pixels[land] = [*color, 255]
    return _png_uri(pixels)


def _png_uri(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image

    encoded = io.BytesIO()
    Image.fromarray(pixels).quantize(16).save(encoded, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(encoded.getvalue()).decode('ascii')}"


def _cover_images(folder: Path) -> list[dict[str, Any]]:
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.warp import transform_bounds

    images = []
    palette = np.array(COVER_COLORS, dtype=np.uint8)
    for path in sorted(folder.glob("*.tif"))[:MAX_COVER_TILES]:
        with rasterio.open(path) as source:
            side = min(COVER_PX, source.width)
            classes = source.read(1, out_shape=(side, side), resampling=Resampling.mode)
            west, south, east, north = transform_bounds(source.crs, WGS84, *source.bounds)
        images.append({"url": _png_uri(palette[classes]), "coordinates": _corners(west, south, east, north)})
    return images
