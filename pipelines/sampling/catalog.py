"""A STAC API as a catalog of scenes: searching it, and finding and signing the files it names."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import planetary_computer.sas
import pystac_client
import requests
from planetary_computer.settings import Settings
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from urllib3.util import Retry

from pipelines.errors import CatalogError, SceneReadError

logger = logging.getLogger(__name__)

CATALOG_PREFIX = "catalog:"
RETRIED_STATUS = (408, 429, 500, 502, 503, 504)
SIGNING_MODES = ("auto", "none", "planetary_computer")


class Signer(Protocol):
    """Turns an unsigned file address into one that may be read now."""

    def sign(self, href: str) -> str:
        """The address to read; never stored, never logged."""
        ...

    def renew(self) -> None:
        """Forgets the token at hand, so that the next `sign` fetches a new one."""
        ...


@dataclass(frozen=True)
class NoSigner:
    """For catalogs whose files anyone may read."""

    def sign(self, href: str) -> str:
        """``href`` itself."""
        return href

    def renew(self) -> None:
        """Nothing to renew."""


@dataclass(frozen=True)
class PlanetaryComputerSigner:
    """Shared-access tokens of the Planetary Computer for one storage container.

    The token endpoint and a subscription key are read by the planetary-computer package from ``PC_SDK_SAS_URL`` and
    ``PC_SDK_SUBSCRIPTION_KEY``; it keeps a token until a minute before its end.
    """

    account: str
    container: str

    def sign(self, href: str) -> str:
        """``href`` with a live token.

        Raises:
            SceneReadError: the token endpoint does not answer with a token.
        """
        try:
            token = planetary_computer.sas.get_token(self.account, self.container, retry_total=5)
        except (requests.RequestException, ValueError) as error:
            raise SceneReadError(
                f"token endpoint for {self.account}/{self.container}: {type(error).__name__}, expected a token; "
                "check PC_SDK_SAS_URL and PC_SDK_SUBSCRIPTION_KEY, or run again later"
            ) from None
        return str(token.sign(href).href)

    def renew(self) -> None:
        """Drops the cached token, so that the next `sign` asks the endpoint again."""
        url = f"{Settings.get().sas_url}/{self.account}/{self.container}"
        planetary_computer.sas.TOKEN_CACHE.pop(url, None)


@dataclass(frozen=True)
class Catalog:
    """One collection of a STAC API.

    Attributes:
        url: The API's landing page.
        collection: Collection id.
        honours_query: Whether the API filters by the ``query`` extension; measured, not believed.
        signer: How file addresses become readable.
        client: The open pystac-client.
    """

    url: str
    collection: str
    honours_query: bool
    signer: Signer
    client: pystac_client.Client = field(repr=False, compare=False)

    def search(
        self,
        intersects: dict[str, Any],
        start_date: str,
        end_date: str,
        max_cloud_cover_percent: float,
        limit: int = 250,
    ) -> Iterator[dict[str, Any]]:
        """Items that intersect a GeoJSON geometry, acquired from start to end (days, inclusive), under a cloud cover.

        Raises:
            CatalogError: the API fails after the retries.
        """
        query = {"eo:cloud_cover": {"lt": max_cloud_cover_percent}} if self.honours_query else None
        search = self.client.search(
            collections=[self.collection],
            intersects=intersects,
            datetime=f"{start_date}T00:00:00Z/{end_date}T23:59:59Z",
            query=query,
            limit=limit,
        )
        try:
            for item in search.items_as_dicts():
                cloud_cover = item["properties"].get("eo:cloud_cover")
                if cloud_cover is not None and cloud_cover < max_cloud_cover_percent:
                    yield item
        except (APIError, requests.RequestException) as error:
            raise CatalogError(
                f"{self.url}: search in {self.collection} failed after retries ({_brief(error)}); "
                "run again later; nothing of the search is kept"
            ) from error

    def relative_href(self, href: str) -> str:
        """The address as manifests keep it: without scheme and host where these are the catalog's own."""
        parts = urlsplit(href)
        if (parts.scheme, parts.netloc) == urlsplit(self.url)[:2]:
            return f"{CATALOG_PREFIX}{parts.path}"
        return href.split("?", 1)[0]

    def absolute_href(self, href: str) -> str:
        """The inverse of `relative_href`."""
        if not href.startswith(CATALOG_PREFIX):
            return href
        scheme, netloc = urlsplit(self.url)[:2]
        return f"{scheme}://{netloc}{href.removeprefix(CATALOG_PREFIX)}"


def open_catalog(url: str, collection: str, signing: str = "auto", timeout_s: float = 60.0) -> Catalog:
    """Connects to a STAC API and finds out what it can do.

    Args:
        url: Landing page of the API.
        collection: Collection id.
        signing: ``auto`` signs where the collection names a storage account of the Planetary Computer.
        timeout_s: For one request.

    Raises:
        CatalogError: no STAC API at the address, or no such collection.
        ValueError: an unknown way of signing.
    """
    if signing not in SIGNING_MODES:
        raise ValueError(f"signing {signing!r}: expected one of {SIGNING_MODES}")
    retry = Retry(
        total=8,
        backoff_factor=0.5,
        backoff_jitter=0.5,
        backoff_max=30,
        status_forcelist=RETRIED_STATUS,
        allowed_methods=None,
    )
    connection_retry = retry.new(connect=2)
    try:
        client = pystac_client.Client.open(url, stac_io=StacApiIO(max_retries=connection_retry), timeout=timeout_s)
    except (APIError, requests.RequestException, ValueError, KeyError) as error:
        raise CatalogError(
            f"{url}: no STAC API answers there ({_brief(error)}); check the address and the network, "
            "or start the embedded one: satclip sandbox run -- COMMAND"
        ) from error
    try:
        found = client.get_collection(collection)
        if found is None:
            raise KeyError(collection)
    except (APIError, requests.RequestException, KeyError) as error:
        known = _collection_ids(client)
        raise CatalogError(
            f"{url}: collection {collection!r} not found ({_brief(error)}); the API has: {known}"
        ) from error
    return Catalog(
        url=url,
        collection=collection,
        honours_query=_honours_query(client, collection),
        signer=_signer(found.to_dict(), signing),
        client=client,
    )


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


def _signer(collection: dict[str, Any], signing: str) -> Signer:
    account, container = collection.get("msft:storage_account"), collection.get("msft:container")
    if signing == "none" or (signing == "auto" and not (account and container)):
        return NoSigner()
    if not (account and container):
        raise CatalogError(
            f"collection {collection.get('id')!r}: signing is planetary_computer, but it names no msft:storage_account "
            "and msft:container; set signing to none or auto"
        )
    return PlanetaryComputerSigner(account, container)


def _collection_ids(client: pystac_client.Client) -> str:
    try:
        return ", ".join(sorted(each.id for each in client.get_collections())) or "none"
    except (APIError, requests.RequestException):
        return "a list that cannot be read now"


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]
