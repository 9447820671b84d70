"""The columns of a place in the store."""

from dataclasses import dataclass, fields

NO_CANDIDATE = "no_candidate"
EXHAUSTED = "exhausted"
SCENE_COLUMNS = (
    "item_id", "datetime", "platform", "mgrs_tile", "epsg", "resolution_m", "processing_baseline", "boa_add_offset",
    "offset_source", "scene_cloud_cover_percent", "relative_orbit", "sun_zenith_deg", "sun_azimuth_deg", "row_px",
    "col_px", "width_px", "height_px", "href_base", "hrefs",
)  # fmt: skip


@dataclass(frozen=True)
class PatchRow:
    """The columns of one place in the store.

    Attributes:
        place_lon_deg: The place that was drawn.
        lon_deg: Centre of the patch.
        valid: Whether the place has a patch.
        reason: Empty where valid; else ``no_candidate`` or ``exhausted``.
        rejections: JSON list of [item id, verdict] of the candidates that were tried and refused.
        x_ul_m: Easting of the patch's upper-left corner in its EPSG code.
        y_ul_m: Northing of that corner.
        row_px: First row of the window on the scene's 10 m grid.
        width_px: Width of that grid.
    """

    place_id: int
    place_lon_deg: float
    place_lat_deg: float
    lon_deg: float
    lat_deg: float
    valid: bool
    reason: str = ""
    rejections: str = "[]"
    item_id: str = ""
    datetime: str = ""
    platform: str = ""
    mgrs_tile: str = ""
    epsg: int = 0
    x_ul_m: float = float("nan")
    y_ul_m: float = float("nan")
    resolution_m: float = float("nan")
    row_px: int = -1
    col_px: int = -1
    width_px: int = -1
    height_px: int = -1
    processing_baseline: str = ""
    boa_add_offset: int = 0
    offset_source: str = ""
    scene_cloud_cover_percent: float = float("nan")
    unclear_fraction: float = float("nan")
    snow_fraction: float = float("nan")
    nodata_fraction: float = float("nan")
    relative_orbit: int = -1
    sun_zenith_deg: float = float("nan")
    sun_azimuth_deg: float = float("nan")
    href_base: str = ""
    hrefs: str = "{}"


PATCH_COLUMNS = tuple(each.name for each in fields(PatchRow))
