import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.patches.radiometry import RADIOMETRIES, apply_radiometry, harmonized_dn, reflectance

DN = np.array([[[0, 1], [999, 1000]], [[1001, 1500], [2000, 65535]]], dtype=np.uint16)


def test_raw_is_what_was_delivered() -> None:
    assert apply_radiometry(DN, -1000, "raw") is DN


def test_harmonized_removes_the_offset_and_keeps_nodata_apart() -> None:
    found = apply_radiometry(DN, -1000, "harmonized")
    assert found.dtype == np.uint16
    assert found.tolist() == [[[0, 1], [1, 1]], [[1, 500], [1000, 64535]]]
    assert DN[0, 1, 1] == 1000


def test_reflectance_is_that_of_harmonized_numbers() -> None:
    found = apply_radiometry(DN, -1000, "reflectance")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.maximum(DN.astype(float) - 1000, 0) / 10_000, atol=1e-6)


def test_each_patch_has_its_own_offset() -> None:
    pair = np.stack([DN, DN])
    for mode in RADIOMETRIES:
        found = apply_radiometry(pair, np.array([0, -1000]), mode)
        np.testing.assert_array_equal(found[0], apply_radiometry(DN, 0, mode))
        np.testing.assert_array_equal(found[1], apply_radiometry(DN, -1000, mode))


def test_an_unknown_radiometry_is_told() -> None:
    with pytest.raises(ValueError, match=r"'toa': expected one of \('raw', 'harmonized', 'reflectance'\)"):
        apply_radiometry(DN, 0, "toa")  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=50), st.sampled_from([0, -1000]))
def test_harmonizing_never_makes_or_fills_nodata_and_keeps_the_order(values: list[int], offset: int) -> None:
    dn = np.array(values, dtype=np.uint16).reshape(1, 1, -1)
    found = harmonized_dn(dn, offset)
    np.testing.assert_array_equal(found == 0, dn == 0)
    order = np.argsort(dn[0, 0], kind="stable")
    assert (np.diff(found[0, 0][order].astype(int)) >= 0).all()
    np.testing.assert_allclose(found / 10_000, reflectance(dn, offset), atol=1.01e-4)


@given(st.lists(st.integers(1, 20000), min_size=1, max_size=50))
def test_the_two_conventions_of_one_scene_come_out_alike(values: list[int]) -> None:
    old = np.array(values, dtype=np.uint16).reshape(1, 1, -1)
    for mode in ("harmonized", "reflectance"):
        np.testing.assert_array_equal(
            apply_radiometry(old + np.uint16(1000), -1000, mode), apply_radiometry(old, 0, mode)
        )
