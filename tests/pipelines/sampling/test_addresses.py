from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import CatalogError
from pipelines.sampling.addresses import AllowedFiles, resolved_href, split_address
from pipelines.sampling.catalog import Catalog, unopened_catalog
from pipelines.sampling.catalog_profile import CatalogProfile

CATALOG = unopened_catalog(
    "https://stac.example.org/v1",
    "sentinel-2-l2a",
    CatalogProfile(
        name="mine", allowed_hosts=("https://*.blob.example.net", "s3://bucket/s2", "files.example.org:8443")
    ),
)


@pytest.mark.parametrize(
    "href",
    [
        "https://stac.example.org/files/B02.tif",
        "http://stac.example.org:8080/files/B02.tif",
        "https://one.blob.example.net/container/B02.tif",
        "https://a.b.blob.example.net/B02.tif",
        "s3://bucket/s2/32/T/B02.jp2",
        "https://files.example.org:8443/B02.tif",
        "http://files.example.org:8443/Products(1)/Nodes(S2.SAFE)/$value",
    ],
)
def test_files_of_the_catalog_are_allowed(href: str) -> None:
    assert CATALOG.absolute_href(CATALOG.relative_href(href)) == href


@pytest.mark.parametrize(
    "href",
    [
        "https://elsewhere.example/B02.tif",
        "http://one.blob.example.net/B02.tif",
        "https://blob.example.net/B02.tif",
        "https://evilblob.example.net/B02.tif",
        "https://one.blob.example.net.evil.example/B02.tif",
        "https://files.example.org/B02.tif",
        "s3://bucket/s20/B02.jp2",
        "s3://bucket/s2/../private/key",
        "s3://other/s2/B02.jp2",
        "https://stac.example.org@evil.example/B02.tif",
        "https://user:pw@stac.example.org/B02.tif",
        "https://stac.example.org\\.evil.example/B02.tif",
        "https://stac.example.org%2eevil.example/B02.tif",
        "https://\uff53tac.example.org/B02.tif",
        "https://stac.example.org/a/..%2f..%2fetc/passwd",
        "https://stac.example.org/%5c..%5csecret",
        "https://stac.example.org:99999999/B02.tif",
        "https://stac.example.org/B02.tif\n/vsicurl/https://evil.example",
        "https:///B02.tif",
        "https:stac.example.org/B02.tif",
        "//evil.example/B02.tif",
        "file:///etc/passwd",
        "/etc/passwd",
        "/vsizip//etc/a.zip/b",
        "/vsicurl/https://evil.example/a",
        "vsicurl",
        "../../etc/passwd",
        "",
        "<VRTDataset/>",
        "GTIFF_DIR:1:https://stac.example.org/a.tif",
        "catalog:/../../etc/passwd",
        "catalog:/%2e%2e/secret",
        "catalog:@evil.example/B02.tif",
        "catalog:.evil.example/B02.tif",
        "catalog://evil.example/B02.tif",
        "catalog:/a\\..\\b",
        "catalog:",
    ],
)
def test_a_manifest_names_nothing_outside_its_catalog(href: str) -> None:
    with pytest.raises(CatalogError) as caught:
        CATALOG.absolute_href(href)
    assert "user:pw" not in str(caught.value)


def test_the_refusal_names_row_host_and_remedy() -> None:
    with pytest.raises(
        CatalogError,
        match=r"row 'https://elsewhere.example/a.tif\?...': foreign_host:elsewhere.example.*allowed_hosts.*'mine'",
    ):
        CATALOG.absolute_href("https://elsewhere.example/a.tif?sig=SECRET")
    with pytest.raises(CatalogError) as caught:
        CATALOG.absolute_href("https://elsewhere.example/a.tif?sig=SECRET")
    assert "SECRET" not in str(caught.value)


def test_files_of_this_machine_belong_to_local_catalogs_only(tmp_path: Path) -> None:
    inside = tmp_path / "catalog" / "a" / "B02.tif"
    inside.parent.mkdir(parents=True)
    inside.touch()
    (tmp_path / "secret").touch()
    (tmp_path / "catalog" / "link.tif").symlink_to(tmp_path / "secret")
    for url in (str(tmp_path / "catalog"), f"file://{tmp_path}/catalog", str(tmp_path / "catalog" / "items.ndjson")):
        catalog = unopened_catalog(url, "any")
        kept = catalog.relative_href(str(inside))
        assert kept == "catalog:/a/B02.tif"
        assert catalog.absolute_href(kept) == str(inside)
        for href in (str(tmp_path / "secret"), "catalog:/../secret", "catalog:/link.tif", "https://evil.example/a.tif"):
            with pytest.raises(CatalogError):
                catalog.absolute_href(href)


def test_a_profile_may_allow_a_folder(tmp_path: Path) -> None:
    profile = CatalogProfile(name="a", allowed_hosts=(f"file://{tmp_path}",))
    catalog = Catalog("https://stac.example.org", "any", profile)
    assert catalog.absolute_href(f"{tmp_path}/B02.tif") == f"{tmp_path}/B02.tif"
    assert catalog.files.problem(f"{tmp_path}-other/B02.tif") == "foreign_host:file"


@pytest.mark.parametrize(
    ("href", "base", "expected"),
    [
        ("B02.tif", "https://a.example/x/item.json", "https://a.example/x/B02.tif"),
        ("../B02.tif", "https://a.example/x/y/item.json", "https://a.example/x/B02.tif"),
        ("./B02.tif", "s3://bucket/x/item.json", "s3://bucket/x/B02.tif"),
        ("../../../B02.tif", "s3://bucket/x/item.json", "s3://bucket/B02.tif"),
        ("./B02.tif", "/data/x/item.json", "/data/x/B02.tif"),
        ("https://b.example/B02.tif", "https://a.example/x/item.json", "https://b.example/B02.tif"),
    ],
)
def test_addresses_are_resolved_within_their_scheme(href: str, base: str, expected: str) -> None:
    assert resolved_href(href, base) == expected


@given(st.text(alphabet=st.sampled_from("htps3:/\\@.%25ea#? []evil-stac.example.org\x00\n\u0435"), max_size=60))
def test_no_text_is_read_from_another_host(text: str) -> None:
    files = AllowedFiles(("stac.example.org",))
    for href in (text, f"https://stac.example.org{text}", f"https://{text}stac.example.org/a"):
        if not files.problem(href):
            parts = split_address(href)
            assert parts is not None
            assert parts.hostname == "stac.example.org"
            assert parts.username is None
