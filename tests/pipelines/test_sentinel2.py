import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.patches.radiometry import reflectance
from pipelines.sentinel2 import boa_add_offset

OFFSET_BAND = {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}


@pytest.mark.parametrize(
    ("properties", "band", "expected"),
    [
        ({"s2:processing_baseline": "03.01"}, {}, (0, "processing_baseline")),
        ({"s2:processing_baseline": "04.00"}, {}, (-1000, "processing_baseline")),
        ({"s2:processing_baseline": "05.11"}, {}, (-1000, "processing_baseline")),
        ({"processing:version": "05.00"}, {}, (-1000, "processing_baseline")),
        ({"s2:processing_baseline": "02.14"}, OFFSET_BAND, (0, "processing_baseline")),
        ({"s2:processing_baseline": "05.00", "earthsearch:boa_offset_applied": True}, OFFSET_BAND,
         (0, "boa_offset_applied")),
        ({"s2:processing_baseline": "05.00", "earthsearch:boa_offset_applied": False}, OFFSET_BAND,
         (-1000, "boa_offset_applied")),
        ({}, OFFSET_BAND, (-1000, "raster:bands")),
        ({"datetime": "2024-01-01T00:00:00Z"}, {}, (0, "assumed")),
        ({"s2:processing_baseline": 5.1}, {}, (-1000, "processing_baseline")),
        ({"s2:processing_baseline": "N0214"}, {}, (0, "processing_baseline")),
        ({"s2:processing_baseline": "unknown"}, OFFSET_BAND, (-1000, "raster:bands")),
        ({"processing:version": "1.2.3"}, {}, (0, "assumed")),
        ({"earthsearch:boa_offset_applied": False}, OFFSET_BAND, (-1000, "boa_offset_applied")),
        ({"earthsearch:boa_offset_applied": False}, {}, (0, "boa_offset_applied")),
        ({"earthsearch:boa_offset_applied": "no"}, {}, (0, "assumed")),
        ({}, {"raster:scale": 0.0001, "raster:offset": -0.1}, (-1000, "raster:bands")),
        ({}, {"bands": [{"raster:scale": 0.0001, "raster:offset": 0}]}, (0, "raster:bands")),
        ({}, {"raster:bands": [{"scale": 1, "offset": -1000}]}, (-1000, "raster:bands")),
        ({}, {"raster:bands": [{"scale": 1, "offset": -7}]}, (0, "assumed")),
        ({}, {"raster:bands": ["x", {"scale": 0, "offset": -0.1}, {"offset": float("nan")}]}, (0, "assumed")),
    ],
)  # fmt: skip
def test_the_offset_comes_from_metadata(properties: dict[str, Any], band: dict[str, Any], expected: object) -> None:
    assert boa_add_offset(properties, band) == expected


@pytest.mark.parametrize(
    ("product_id", "expected"),
    [
        ("S2A_MSIL2A_20220706T085611_N0400_R007_T33NZA_20220706T153419", (-1000, "product_id")),
        ("S2A_MSIL2A_20200219T112111_N0214_R037_T29RKH_20200219T123947.SAFE", (0, "product_id")),
        ("S2A_OPER_MSI_L2A_TL_SGS__20180524T190423_A015250_T26SKD_N02.08", (0, "product_id")),
        ("S2A_29RKH_20200219_0_L2A", (0, "assumed")),
    ],
)
def test_the_products_name_holds_the_baseline(product_id: str, expected: object) -> None:
    assert boa_add_offset({}, {}, product_id) == expected
    assert boa_add_offset({"s2:processing_baseline": "05.00"}, {}, product_id) == (-1000, "processing_baseline")


def test_sources_are_asked_in_the_order_given() -> None:
    properties = {"s2:processing_baseline": "05.00", "earthsearch:boa_offset_applied": True}
    assert boa_add_offset(properties, {}, sources=("processing_baseline",)) == (-1000, "processing_baseline")
    assert boa_add_offset(properties, OFFSET_BAND, sources=("raster_bands",)) == (-1000, "raster:bands")
    assert boa_add_offset(properties, OFFSET_BAND, sources=("removed",)) == (0, "removed")


@pytest.mark.real_data
def test_real_items_of_both_conventions_are_told_apart(shared_data: Path) -> None:
    lines = (shared_data / "stac_items_dev" / "pc_items.ndjson").read_text().splitlines()
    offsets = {}
    for line in lines:
        properties = json.loads(line)["properties"]
        offsets[properties["s2:processing_baseline"]] = boa_add_offset(properties, {})[0]
    assert offsets == {"02.12": 0, "04.00": -1000, "05.10": -1000, "05.11": -1000}


def test_reflectance_is_the_same_under_both_baselines() -> None:
    dn = np.array([[[[1500, 0], [700, 4000]]]], dtype=np.uint16).repeat(2, axis=0)
    dn[1][dn[1] > 0] -= 500
    found = reflectance(dn, np.array([-1000, -500]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], [[[0.05, 0.0], [0.0, 0.3]]], atol=1e-7)
    np.testing.assert_allclose(found[0], found[1], atol=1e-7)


def test_nodata_stays_zero_where_an_offset_would_be_positive() -> None:
    dn = np.array([[[0, 10]]], dtype=np.uint16)
    np.testing.assert_allclose(reflectance(dn, 100), [[[0.0, 0.011]]], atol=1e-7)
