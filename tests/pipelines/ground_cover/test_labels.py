import json
from dataclasses import replace

import numpy as np
import pytest

from pipelines.errors import ArtefactError
from pipelines.ground_cover.classes import read_classes
from pipelines.ground_cover.labels import (
    LABELS_NAME,
    NO_CODE,
    NO_YEAR,
    RECORD_NAME,
    GroundCoverLabels,
    concatenate_labels,
    read_labels,
    write_labels,
)


def _labels(classes=None):
    classes = classes or read_classes("terramesh")
    fractions = np.zeros((4, len(classes)), dtype=np.float32)
    fractions[0, [0, 3]] = 0.25, 0.75
    fractions[1, [1, 2]] = 0.5
    fractions[2, 4] = 1.0
    return GroundCoverLabels(
        rows=np.array([3, 5, 8, 9]),
        lonlat_deg=np.array([[179.99, -3.0], [12.5, 48.25], [-48.1, -25.3], [0.1, 0.2]]),
        fractions=fractions,
        num_valid_pixels=np.array([64, 50, 3, 0]),
        label_year=np.array([2021, 2021, 2020, NO_YEAR]),
        status=("valid", "valid", "nodata", "no_label_item"),
        classes=classes,
    )


def test_labels_come_back_as_they_were_written(tmp_path):
    labels = _labels()
    write_labels(tmp_path, labels, {"dataset_version": "abc"}, {"map_items": ["a", "b", "c", ""]})
    found = read_labels(tmp_path, "abc", labels.classes)
    for name in ("rows", "lonlat_deg", "fractions", "num_valid_pixels", "label_year"):
        np.testing.assert_array_equal(getattr(found, name), getattr(labels, name))
        assert getattr(found, name).dtype == getattr(labels, name).dtype
    assert found.status == labels.status
    assert found.classes == labels.classes
    record = json.loads((tmp_path / RECORD_NAME).read_text())
    assert record["statuses"] == {"valid": 2, "nodata": 1, "no_label_item": 1}


def test_only_valid_labels_have_a_dominant_class_and_labels_above_a_threshold():
    labels = _labels()
    np.testing.assert_array_equal(labels.dominant_code, [4, 2, NO_CODE, NO_CODE])
    above = labels.multi_label(0.5)
    np.testing.assert_array_equal(np.argwhere(above), [[0, 3], [1, 1], [1, 2]])
    with pytest.raises(ValueError, match="threshold 0"):
        labels.multi_label(0.0)


def test_labels_of_another_dataset_or_other_classes_are_refused(tmp_path):
    labels = _labels()
    write_labels(tmp_path, labels, {"dataset_version": "abc"})
    with pytest.raises(ArtefactError, match="dataset abc, expected those of xyz"):
        read_labels(tmp_path, "xyz")
    with pytest.raises(ArtefactError, match="expected eurosat"):
        read_labels(tmp_path, classes=read_classes("eurosat"))
    with pytest.raises(ArtefactError, match="materialize ground_cover_labels first"):
        read_labels(tmp_path / "nowhere")


def test_a_table_that_its_record_does_not_describe_is_refused(tmp_path):
    labels = _labels()
    write_labels(tmp_path / "one", labels, {"dataset_version": "abc"})
    write_labels(
        tmp_path / "two", replace(labels, num_valid_pixels=labels.num_valid_pixels + 1), {"dataset_version": ""}
    )
    (tmp_path / "two" / LABELS_NAME).replace(tmp_path / "one" / LABELS_NAME)
    with pytest.raises(ArtefactError, match="not the table"):
        read_labels(tmp_path / "one")
    (tmp_path / "one" / RECORD_NAME).write_text("{")
    with pytest.raises(ArtefactError, match="cannot be read"):
        read_labels(tmp_path / "one")


def test_selecting_and_concatenating_keeps_every_place():
    labels = _labels()
    halves = [labels.select(np.array([True, False, True, False])), labels.select(np.array([1, 3]))]
    whole = concatenate_labels(halves)
    assert whole.rows.tolist() == [3, 8, 5, 9]
    assert whole.status == ("valid", "nodata", "valid", "no_label_item")
    with pytest.raises(ValueError, match="same classes"):
        concatenate_labels([labels, _labels(read_classes("io_lulc_annual"))])


def test_arrays_of_different_lengths_are_refused():
    labels = _labels()
    with pytest.raises(ValueError, match=r"fractions \(3, 8\), expected \(4, 8\)"):
        replace(labels, fractions=labels.fractions[:3])
