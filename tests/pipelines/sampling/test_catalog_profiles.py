from pathlib import Path

import pytest

from pipelines.errors import ConfigurationError
from pipelines.sampling.catalog_profile import CatalogProfile, load_profile, profile_for, profile_names
from pipelines.sampling.items import NAMINGS
from pipelines.sentinel2 import ALL_ASSETS


def written(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_every_profile_of_the_package_is_read() -> None:
    assert profile_names() == ("cdse", "earth_search", "earth_search_c1", "generic", "planetary_computer")
    for name in profile_names():
        profile = load_profile(name)
        assert profile.name == name
        if profile.item_assets:
            assert tuple(profile.item_assets) == ALL_ASSETS
            assert profile.item_assets in NAMINGS


@pytest.mark.parametrize(
    ("url", "collection", "name"),
    [
        ("https://planetarycomputer.microsoft.com/api/stac/v1", "sentinel-2-l2a", "planetary_computer"),
        ("https://planetarycomputer.microsoft.com/api/stac/v1/", "landsat-c2-l2", "planetary_computer"),
        ("https://earth-search.aws.element84.com/v1", "sentinel-2-l2a", "earth_search"),
        ("https://earth-search.aws.element84.com/v1/", "sentinel-2-c1-l2a", "earth_search_c1"),
        ("https://earth-search.aws.element84.com/v0", "sentinel-s2-l2a-cogs", "generic"),
        ("https://stac.dataspace.copernicus.eu/v1", "sentinel-2-l2a", "cdse"),
        ("http://127.0.0.1:8080/stac", "sentinel-2-l2a", "generic"),
    ],
)
def test_the_profile_follows_from_the_address_and_the_collection(url: str, collection: str, name: str) -> None:
    assert profile_for(url, collection).name == name
    assert profile_for(url, collection, "cdse").name == "cdse"
    given = CatalogProfile(name="given")
    assert profile_for(url, collection, given) is given


def test_a_profile_of_ones_own_is_read_from_its_file(tmp_path: Path) -> None:
    text = "name: mine\nurl: https://stac.example.org\nallowed_hosts: [https://files.example.org]\n"
    text += "item_properties: {cloud_cover: [cloudiness, 'eo:cloud_cover'], mgrs_tile: tile}\n"
    profile = load_profile(written(tmp_path, text))
    assert profile.item_properties.cloud_cover == ("cloudiness", "eo:cloud_cover")
    assert profile.item_properties.mgrs_tile == ("tile",)
    assert profile.item_properties.relative_orbit == ("sat:relative_orbit",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", r"mine.yaml: line 1, column 8: no YAML .*compare it with"),
        ("- a\n- b\n", r"mine.yaml: holds list, expected fields"),
        ("url: https://a.example\n", r"field name: Field required; set it"),
        ("name: a\nsingning: none\n", r"field singning: .*remove it or use one of name, url, collection, signing"),
        ("name: a\nitem_properties: {clouds: x}\n", r"field item_properties.clouds: .*use one of cloud_cover"),
        ("name: a\nitem_assets: {B02: blue}\n", r"item_assets lacks B01, B03.*; correct it"),
        ("name: a\nitem_assets: {B02: no}\n", r"field item_assets.B02: Input should be a valid string; correct it"),
        ("name: a\npage_limit: 0\n", r"field page_limit: .*greater than or equal to 1; correct it"),
        ("name: a\noffset_sources: [date]\n", r"field offset_sources.0: .*'processing_baseline'.*; correct it"),
        ("name: a\nallowed_hosts: ['*']\n", r"'\*' is no host"),
        ("name: a\nallowed_hosts: ['*.com']\n", r"'\*.com' allows a whole top-level domain"),
        ("name: a\nallowed_hosts: ['https://a.*.org']\n", r"is no host: write host"),
        ("name: a\nallowed_hosts: ['ftp://a.org']\n", r"is no host: write host"),
        ("name: a\nallowed_hosts: ['file://folder']\n", r"is no absolute folder"),
        ("name: a\nkey_variables: [hunter2]\n", r"field key_variables.0: String should match pattern"),
        ("name: !!python/object/apply:os.system ['true']\n", r"no YAML"),
    ],
)  # fmt: skip
def test_a_wrong_profile_names_file_field_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_profile(written(tmp_path, text))
    assert "mine.yaml" in str(caught.value)


def test_an_unknown_profile_names_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"'landsat': expected auto, one of cdse, .*or the path of a YAML file"
    ):
        load_profile("landsat")
    with pytest.raises(ConfigurationError, match=r"missing.yaml: FileNotFoundError, expected a YAML file"):
        load_profile(str(tmp_path / "missing.yaml"))
