import numpy as np
import pytest

from pipelines.errors import ConfigurationError
from pipelines.ground_cover.classes import (
    NODATA,
    UNKNOWN,
    LandCoverClass,
    LandCoverClasses,
    mapping_names,
    read_classes,
)


def test_shipped_mappings_are_those_of_the_documented_maps():
    assert mapping_names() == ("bigearthnet_19", "esa_worldcover", "eurosat", "io_lulc_annual", "sandbox", "terramesh")


@pytest.mark.parametrize("name", mapping_names())
def test_every_shipped_mapping_reads_and_its_classes_share_words(name):
    classes = read_classes(name)
    assert classes.name == name
    words = [set(each.lower().replace(",", "").replace(".", "").split()) for each in classes.descriptions]
    for i, mine in enumerate(words):
        others = set().union(*(each for j, each in enumerate(words) if j != i))
        assert len(mine & others) >= 4, classes.names[i]
    assert len(set(classes.descriptions)) == len(classes)
    assert len(set(classes.color_table().values())) == len(classes)


def test_positions_tell_classes_nodata_and_unknown_codes_apart():
    positions = read_classes("io_lulc_annual").positions()
    values = np.array([0, 1, 2, 3, 10, 11, 255], dtype=np.uint8)
    np.testing.assert_array_equal(positions[values], [NODATA, 0, 1, UNKNOWN, NODATA, 7, UNKNOWN])


def test_a_mapping_of_the_user_is_read_by_its_path_and_sorted_by_code(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nnodata_codes: [255]\nclasses:\n"
        "  - {code: 7, name: lake, description: water, color: '0000FF'}\n"
        "  - {code: 2, name: wood, description: trees, color: '#00FF00'}\n"
    )
    classes = read_classes(path)
    assert classes.codes == (2, 7)
    assert classes.classes[0] == LandCoverClass(2, "wood", "trees", (0, 255, 0))
    assert classes.index_of(7) == classes.index_of_name("lake") == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("name: x\nclasses: []\n", "classes"),
        ("name: x\nclasses: [{code: 1, name: a, description: b, color: red}]\n", r"classes\.0\.color"),
        ("name: x\nclasses: [{code: 70000, name: a, description: b, color: '000000'}]\n", r"classes\.0\.code"),
        ("{", "no YAML"),
        ("name: x\nnodata_codes: [1]\nclasses: [{code: 1, name: a, description: b, color: '000000'}]\n", "nodata"),
        (
            "name: x\nclasses:\n" + 2 * "- {code: 1, name: a, description: b, color: '000000'}\n",
            "codes 1 stand twice",
        ),
    ],
)
def test_a_wrong_mapping_is_refused_by_field(tmp_path, content, told):
    path = tmp_path / "wrong.yaml"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=told):
        read_classes(path)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigurationError, match="esa_worldcover"):
        read_classes("corine")


def test_the_hash_follows_codes_and_names_but_not_colors():
    one = LandCoverClasses("m", (LandCoverClass(1, "a", "x", (0, 0, 0)),))
    recolored = LandCoverClasses("m", (LandCoverClass(1, "a", "x", (9, 9, 9)),))
    renamed = LandCoverClasses("m", (LandCoverClass(1, "b", "x", (0, 0, 0)),))
    assert one.sha256 == recolored.sha256 != renamed.sha256
    with pytest.raises(ConfigurationError, match="no class has code 3"):
        one.index_of(3)
