"""A STAC API as a catalog of scenes: searching it, and finding and signing the files it names."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import pystac_client
from pystac import STACError, STACTypeError
from pystac_client.exceptions import APIError

from pipelines.errors import CatalogError
from pipelines.redaction import redact_logs, redacted
from pipelines.sampling.addresses import (
    AllowedFiles,
    has_plain_path,
    is_local,
    local_path,
    resolved_href,
    split_address,
)
from pipelines.sampling.catalog_profile import AUTO_PROFILE, CatalogProfile, profile_for
from pipelines.sampling.signing import (
    BLOB_DOMAIN,
    SIGNING_MODES,
    NoSigner,
    PlanetaryComputerSigner,
    S3Signer,
    Signer,
    choose_signer,
)
from pipelines.sampling.stac_client import RETRIED_STATUS, CatalogIO, RequestPolicy

__all__ = [
    "CATALOG_PREFIX",
    "RETRIED_STATUS",
    "SIGNING_MODES",
    "Catalog",
    "NoSigner",
    "PlanetaryComputerSigner",
    "S3Signer",
    "Signer",
    "open_catalog",
    "unopened_catalog",
]

logger = logging.getLogger(__name__)

CATALOG_PREFIX = "catalog:"
ALL_CLOUD_COVERS_PERCENT = 100.0
_PARSE_ERRORS = (APIError, STACError, STACTypeError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class Catalog:
    """One collection of a STAC API.

    Attributes:
        url: The API's landing page, or a folder.
        collection: Collection id.
        profile: How its items are named and which files they may name.
        signer: How file addresses become readable.
        client: The open pystac-client; None where the catalog is not searched.
        io: What counts the requests.
    """

    url: str
    collection: str
    profile: CatalogProfile
    signer: Signer = field(default_factory=NoSigner)
    client: pystac_client.Client | None = field(default=None, repr=False, compare=False)
    io: CatalogIO | None = field(default=None, repr=False, compare=False)

    @property
    def num_requests(self) -> int:
        """Requests sent to the API so far, repeated ones too."""
        return self.io.num_requests if self.io else 0

    @cached_property
    def honours_query(self) -> bool:
        """Whether the API filters by the ``query`` extension; measured at first use, not believed."""
        return self.profile.may_query and _honours_query(self._opened, self.collection)

    @cached_property
    def files(self) -> AllowedFiles:
        """The files that items and manifests may name: the catalog's own host or folder, and what the profile adds."""
        own = [self._root] if is_local(self.url) else [urlsplit(self.url).hostname or ""]
        if isinstance(self.signer, PlanetaryComputerSigner):
            own.append(f"https://{self.signer.account}.{BLOB_DOMAIN}")
        return AllowedFiles((*own, *self.profile.allowed_hosts))

    def search(
        self,
        intersects: dict[str, Any] | None,
        start_date: str,
        end_date: str,
        max_cloud_cover_percent: float,
        limit: int | None = None,
        **conditions: Any,  # noqa: ANN401
    ) -> Iterator[dict[str, Any]]:
        """Items that intersect a GeoJSON geometry, acquired from start to end (days, inclusive), under a cloud cover.

        Items that do not say how cloudy they are come only where 100 % is allowed. Addresses of files come absolute and
        without their query strings, so that no signature is kept.

        Args:
            intersects: GeoJSON geometry; None where a condition says where.
            start_date: First day.
            end_date: Last day.
            max_cloud_cover_percent: Exclusive; from 100 on everything comes.
            limit: Items of a page, in place of the profile's.
            conditions: More of pystac-client's, such as ``bbox`` or ``ids``.

        Raises:
            CatalogError: the API fails after the retries, or its paging does not end.
        """
        all_covers = max_cloud_cover_percent >= ALL_CLOUD_COVERS_PERCENT
        names = self.profile.item_properties.cloud_cover
        query = None if all_covers or not self.honours_query else {names[0]: {"lt": max_cloud_cover_percent}}
        try:
            search = self._opened.search(
                collections=[self.collection],
                intersects=intersects,
                datetime=f"{start_date}T00:00:00Z/{end_date}T23:59:59Z",
                query=query,
                limit=limit or self.profile.page_limit,
                **conditions,
            )
            found: Iterator[object] = search.items_as_dicts()
            for item in found:
                if not isinstance(item, dict):
                    logger.warning("%s: a page holds %s, expected an item; left out", self.url, type(item).__name__)
                    continue
                cover = _cloud_cover(item, names)
                if all_covers or (cover is not None and cover < max_cloud_cover_percent):
                    yield _with_plain_addresses(item, self.item_address(item))
        except (APIError, STACError, ValueError) as error:
            raise CatalogError(
                f"{redacted(self.url)}: search in {self.collection} failed ({_brief(error)}); run again later; nothing "
                "of the search is kept"
            ) from None

    def relative_href(self, href: str) -> str:
        """The address as manifests keep it: without scheme and host where these are the catalog's own, unsigned."""
        if href.startswith(self._own_origin):
            return f"{CATALOG_PREFIX}{href[len(self._own_origin) - 1 :].partition('?')[0].partition('#')[0]}"
        if is_local(href):
            path = local_path(href)
            root = local_path(self._root) if is_local(self.url) else None
            if path and root and path.is_relative_to(root):
                return f"{CATALOG_PREFIX}/{path.relative_to(root)}"
            return href
        return href.partition("?")[0].partition("#")[0]

    def item_address(self, item: Mapping[str, Any]) -> str:
        """Where an item itself lies, for its relative addresses: its self link, or else where an API serves it."""
        api = f"{self.url.rstrip('/')}/collections/{self.collection}/items/{item.get('id')}"
        links = item.get("links")
        for link in links if isinstance(links, list) else ():
            if isinstance(link, dict) and link.get("rel") == "self" and isinstance(link.get("href"), str):
                return resolved_href(link["href"], api)
        return api

    def expanded_href(self, href: str) -> str:
        """The address that one of `relative_href` stands for, unjudged; others stay as they are."""
        if not href.startswith(f"{CATALOG_PREFIX}/"):
            return href
        path = href.removeprefix(CATALOG_PREFIX)
        return f"{local_path(self._root)}{path}" if is_local(self.url) else f"{self._own_origin[:-1]}{path}"

    def absolute_href(self, href: str) -> str:
        """The inverse of `relative_href`, for rows of a plan or a replay manifest, wherever these come from.

        Raises:
            CatalogError: the row names a file or a host outside the catalog.
        """
        if href.startswith(CATALOG_PREFIX):
            path = href.removeprefix(CATALOG_PREFIX)
            if not path.startswith("/") or path.startswith("//") or not has_plain_path(path):
                raise CatalogError(
                    f"row {redacted(href)!r}: no path within the catalog {redacted(self.url)}; expected "
                    f"{CATALOG_PREFIX}/folder/file without dots"
                )
        absolute = self.expanded_href(href)
        problem = self.files.problem(absolute)
        if problem:
            raise CatalogError(
                f"row {redacted(href)!r}: {problem}, but catalog {redacted(self.url)} may name files of "
                f"{', '.join(self.files.patterns)} only; if it is to be trusted, add it to allowed_hosts in a copy of "
                f"profile {self.profile.name!r} and give the copy's path as the catalog's profile"
            )
        return absolute

    @cached_property
    def _own_origin(self) -> str:
        scheme, netloc = urlsplit(self.url)[:2]
        return f"{scheme}://{netloc}/" if netloc else "nothing begins like this"

    @property
    def _root(self) -> str:
        path = self.url.removeprefix("file://")
        folder = path.rpartition("/")[0] if path.endswith((".json", ".ndjson", ".parquet")) else path
        return f"file://{folder}"

    @property
    def _opened(self) -> pystac_client.Client:
        if self.client is None:
            raise CatalogError(f"{redacted(self.url)}: the catalog was not opened for searching; use open_catalog")
        return self.client


def open_catalog(
    url: str,
    collection: str,
    signing: str = "auto",
    timeout_s: float | None = None,
    profile: str | CatalogProfile = AUTO_PROFILE,
    policy: RequestPolicy | None = None,
) -> Catalog:
    """Connects to a STAC API.

    Args:
        url: Landing page of the API.
        collection: Collection id; empty: the profile's.
        signing: One of ``SIGNING_MODES``; ``auto`` leaves it to the profile, which may leave it to the collection.
        timeout_s: For one request, in place of the policy's.
        profile: ``auto`` (by the address), a name, the path of a YAML file, or a profile.
        policy: Patience and rate; the profile's rate where it sets none.

    Raises:
        CatalogError: no STAC API at the address, or no such collection.
        ConfigurationError: the profile cannot be read.
        ValueError: an unknown way of signing, or credentials in the address.
    """
    if signing not in SIGNING_MODES:
        raise ValueError(f"signing {signing!r}: expected one of {SIGNING_MODES}")
    if split_address(url.partition("?")[0]) is None:
        raise ValueError(f"{redacted(url)}: expected http(s)://host/path without credentials")
    redact_logs()
    chosen = profile_for(url, collection, profile)
    policy = policy or RequestPolicy()
    policy = replace(
        policy,
        timeout_s=policy.timeout_s if timeout_s is None else timeout_s,
        requests_per_s=policy.requests_per_s or chosen.requests_per_s,
    )
    io = CatalogIO(url, policy)
    try:
        client = pystac_client.Client.open(url, stac_io=io, timeout=policy.timeout_s)
    except _PARSE_ERRORS as error:
        raise CatalogError(
            f"{redacted(url)}: no STAC API answers there ({_brief(error)}); check the address and the network, "
            "or start the embedded one: satclip sandbox run -- COMMAND"
        ) from None
    collection = collection or chosen.collection
    document = _collection_document(client, url, collection)
    return Catalog(url, collection, chosen, choose_signer(document, signing, chosen), client, io)


def unopened_catalog(
    url: str, collection: str, profile: str | CatalogProfile = AUTO_PROFILE, signer: Signer | None = None
) -> Catalog:
    """A catalog that is not asked: for items at hand, from a cache, a bulk file or a test.

    Raises:
        ConfigurationError: the profile cannot be read.
    """
    return Catalog(url, collection, profile_for(url, collection, profile), signer or NoSigner())


def _collection_document(client: pystac_client.Client, url: str, collection: str) -> dict[str, Any]:
    try:
        found = client.get_collection(collection)
        if found is None:
            raise KeyError(collection)
        return dict(found.to_dict())
    except _PARSE_ERRORS as error:
        known = _collection_ids(client)
        raise CatalogError(
            f"{redacted(url)}: collection {collection!r} not found ({_brief(error)}); the API has: {known}"
        ) from None


def _honours_query(client: pystac_client.Client, collection: str) -> bool:
    """Asks for a known item with a condition that it meets and with one that it fails."""
    if not client.conforms_to("QUERY"):
        logger.info("catalog does not declare the query extension: scenes are filtered here")
        return False
    try:
        first = next(client.search(collections=[collection], max_items=1, limit=1).items_as_dicts(), None)
        if first is None:
            return False
        counts = [
            len(list(client.search(collections=[collection], ids=[first["id"]], query=query).items_as_dicts()))
            for query in ({"eo:cloud_cover": {"lt": 101}}, {"eo:cloud_cover": {"lt": -1}})
        ]
    except APIError:
        counts = []
    honours = counts == [1, 0]
    logger.info("catalog %s the query extension", "honours" if honours else "declares but does not honour")
    return honours


def _cloud_cover(item: object, names: tuple[str, ...]) -> float | None:
    properties = item.get("properties") if isinstance(item, dict) else None
    found = (
        next((properties[name] for name in names if name in properties), None) if isinstance(properties, dict) else None
    )
    return float(found) if isinstance(found, int | float) else None


def _with_plain_addresses(item: dict[str, Any], base: str) -> dict[str, Any]:
    """The item with its files' addresses made absolute and their query strings cut off, in place."""
    assets = item.get("assets")
    for asset in assets.values() if isinstance(assets, dict) else ():
        alternates = asset.get("alternate") if isinstance(asset, dict) else None
        for entry in (asset, *(alternates.values() if isinstance(alternates, dict) else ())):
            if isinstance(entry, dict) and isinstance(entry.get("href"), str):
                entry["href"] = resolved_href(entry["href"].partition("?")[0], base)
    return item


def _collection_ids(client: pystac_client.Client) -> str:
    try:
        return ", ".join(sorted(each.id for each in client.get_collections())) or "none"
    except _PARSE_ERRORS:
        return "a list that cannot be read now"


def _brief(error: Exception) -> str:
    text = " ".join(redacted(error).split()) or type(error).__name__
    return text[:300]
