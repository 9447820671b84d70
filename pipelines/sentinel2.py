"""Facts of the Sentinel-2 Level-2A product that several stages share."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
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

OFFSET_SOURCES: Final = ("boa_offset_applied", "processing_baseline", "raster_bands")
"""What an item may say of its offset, in the order in which it is believed."""

_FLAGS: Final = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied", "s2:boa_offset_applied")
_BASELINE_NAMES: Final = ("s2:processing_baseline", "sentinel2:processing_baseline", "sentinel:processing_baseline")
_LOOSE_BASELINE: Final = re.compile(r"[nN]?(\d{1,2})(?:\.?(\d{1,2}))?(?:\.\d+)*")
_STRICT_BASELINE: Final = re.compile(r"(\d{2})\.(\d{2})")
_BASELINE_IN_ID: Final = re.compile(r"_N(\d{2})\.?(\d{2})(?:_|\b)")


def boa_add_offset(
    properties: Mapping[str, Any],
    band_asset: Mapping[str, Any],
    product_id: str = "",
    sources: Sequence[str] = OFFSET_SOURCES,
) -> tuple[int, str]:
    """What to add to an item's digital numbers before dividing by 10,000, and where that is known from.

    Decided by the item's own metadata and never by its date: reprocessed scenes of any date carry the offset.

    Args:
        properties: The item's properties.
        band_asset: The item's entry of one 10 m band.
        product_id: ESA's product name, which holds the baseline as ``_N0400_``; used where the properties do not.
        sources: Which sources to ask, the first that answers decides; ``removed`` says that the provider has
            subtracted the offset from every file.

    Returns:
        Offset (0 or -1000) and its source: ``boa_offset_applied``, ``processing_baseline``, ``product_id``,
        ``raster:bands``, ``removed`` or, where nothing answers, ``assumed``.
    """
    for source in sources:
        found = _offset_by(source, properties, band_asset, product_id)
        if found is not None:
            return found
    return 0, "assumed"


def processing_baseline(properties: Mapping[str, Any], product_id: str = "") -> str:
    """The baseline as ``NN.NN``, from the properties or the product's name; empty where neither says it."""
    return _baseline(properties, product_id)[0]


def _offset_by(
    source: str, properties: Mapping[str, Any], band_asset: Mapping[str, Any], product_id: str
) -> tuple[int, str] | None:
    if source == "removed":
        return 0, "removed"
    if source == "raster_bands":
        stated = _stated_offset(band_asset)
        return None if stated is None else (stated, "raster:bands")
    baseline, known_from = _baseline(properties, product_id)
    by_baseline = BOA_ADD_OFFSET if baseline >= "{:02d}.{:02d}".format(*OFFSET_SINCE_BASELINE) else 0
    if source == "processing_baseline":
        return (by_baseline, known_from) if baseline else None
    applied = next((properties[name] for name in _FLAGS if isinstance(properties.get(name), bool)), None)
    if applied is None:
        return None
    if applied:
        return 0, "boa_offset_applied"
    return (by_baseline if baseline else _stated_offset(band_asset) or 0), "boa_offset_applied"


def _baseline(properties: Mapping[str, Any], product_id: str) -> tuple[str, str]:
    for name in _BASELINE_NAMES:
        match = _LOOSE_BASELINE.fullmatch(str(properties.get(name) or "").strip())
        if match:
            minor = (match[2] or "").ljust(2, "0")  # a baseline that went through a number has lost its zeros
            return f"{int(match[1]):02d}.{minor}", "processing_baseline"
    match = _STRICT_BASELINE.fullmatch(str(properties.get("processing:version") or "").strip())
    if match:
        return f"{match[1]}.{match[2]}", "processing_baseline"
    match = _BASELINE_IN_ID.search(product_id)
    return (f"{match[1]}.{match[2]}", "product_id") if match else ("", "")


def _stated_offset(band_asset: Mapping[str, Any]) -> int | None:
    """The offset in digital numbers that an asset states; None where it states none, or one the product never had."""
    for entry in _raster_entries(band_asset):
        offset = entry.get("offset", entry.get("raster:offset"))
        scale = entry.get("scale", entry.get("raster:scale", 1.0 / QUANTIFICATION))
        if isinstance(offset, int | float) and isinstance(scale, int | float) and scale and math.isfinite(offset):
            in_dn = offset / scale
            for known in (0, BOA_ADD_OFFSET):
                if math.isclose(in_dn, known, abs_tol=0.5):
                    return known
    return None


def _raster_entries(band_asset: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for name in ("raster:bands", "bands"):
        entries = band_asset.get(name)
        if isinstance(entries, list):
            yield from (entry for entry in entries if isinstance(entry, Mapping))
    yield {name: band_asset[name] for name in ("raster:offset", "raster:scale") if name in band_asset}
