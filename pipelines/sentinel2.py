"""Facts of the Sentinel-2 Level-2A product that several stages share."""

from typing import Any, Final

BANDS: Final = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
"""The bands of a patch in S2-100K's order; Level-2A has no B10."""

NATIVE_GSD_M: Final = {
    "B01": 60, "B02": 10, "B03": 10, "B04": 10, "B05": 20, "B06": 20, "B07": 20, "B08": 10, "B8A": 20, "B09": 60,
    "B11": 20, "B12": 20, "SCL": 20,
}  # fmt: skip
"""Ground sampling distance of each band in metres (Sentinel-2 Products Specification Document, table 3-2)."""

CENTRAL_WAVELENGTHS_NM: Final = (442.7, 492.4, 559.8, 664.6, 704.1, 740.5, 782.8, 832.8, 864.7, 945.1, 1613.7, 2202.4)
"""Central wavelength of each of ``BANDS``, Sentinel-2A (Sentinel-2 MSI User Guide, spatial and spectral resolution)."""

SCENE_CLASSIFICATION: Final = "SCL"
ALL_ASSETS: Final = (*BANDS, SCENE_CLASSIFICATION)

QUANTIFICATION: Final = 10_000.0
"""Digital numbers per unit of reflectance, once the offset is added."""

NODATA_DN: Final = 0

SCL_UNCLEAR: Final = (1, 3, 8, 9, 10)
"""Saturated or defective, cloud shadow, cloud of medium and high probability, thin cirrus."""
SCL_NODATA: Final = 0
SCL_SNOW: Final = 11

OFFSET_SINCE_BASELINE: Final = (4, 0)
"""From processing baseline 04.00 on, digital numbers carry +1000 (ESA, Sentinel-2 products change of 2022-01-25)."""
BOA_ADD_OFFSET: Final = -1000


def boa_add_offset(properties: dict[str, Any], band_asset: dict[str, Any]) -> tuple[int, str]:
    """What to add to an item's digital numbers before dividing by 10,000, and where that is known from.

    Decided by the item's own metadata and never by its date: reprocessed scenes of any date carry the offset.

    Args:
        properties: The item's properties.
        band_asset: The item's entry of one 10 m band.

    Returns:
        Offset (0 or -1000) and its source: ``boa_offset_applied``, ``raster:bands``, ``processing_baseline`` or
        ``assumed`` where the item says nothing.
    """
    applied = properties.get("earthsearch:boa_offset_applied")
    if applied is not None:
        baseline_offset, _ = _by_baseline(properties)
        return (0 if applied else baseline_offset), "boa_offset_applied"
    baseline_offset, source = _by_baseline(properties)
    if source == "processing_baseline":
        return baseline_offset, source
    for raster_band in band_asset.get("raster:bands", []):
        if "offset" in raster_band:
            return round(float(raster_band["offset"]) * QUANTIFICATION), "raster:bands"
    return 0, "assumed"


def _by_baseline(properties: dict[str, Any]) -> tuple[int, str]:
    baseline = properties.get("s2:processing_baseline") or properties.get("processing:version")
    if baseline is None:
        return 0, "assumed"
    major, _, minor = str(baseline).partition(".")
    has_offset = (int(major), int(minor or 0)) >= OFFSET_SINCE_BASELINE
    return (BOA_ADD_OFFSET if has_offset else 0), "processing_baseline"
