"""How the address of a file becomes one that may be read now: late, and never written down."""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol
from urllib.parse import urlsplit

import planetary_computer.sas
import requests
from planetary_computer.sas import SASToken
from planetary_computer.settings import Settings
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from pipelines.errors import CatalogError, SceneReadError
from pipelines.sampling.catalog_profile import CatalogProfile

SIGNING_MODES = ("auto", "none", "planetary_computer", "s3")
BLOB_DOMAIN = "blob.core.windows.net"
TOKEN_TIMEOUT_S = 20.0
RENEWED_BEFORE_EXPIRY_S = 300.0
RENEWED_BEFORE_EXPIRY_FRACTION = 0.25
"""Of a token's life, where it is shorter than the other margin allows for."""


class Signer(Protocol):
    """Turns an unsigned file address into one that may be read now."""

    @property
    def gdal_settings(self) -> Mapping[str, Any]:
        """GDAL options that reading the addresses takes; holds no key."""
        ...

    def sign(self, href: str) -> str:
        """The address to read; never stored, never logged."""
        ...

    def renew(self) -> None:
        """Forgets the token at hand, so that the next `sign` fetches a new one."""
        ...


@dataclass(frozen=True)
class NoSigner:
    """For catalogs whose files anyone may read."""

    gdal_settings: ClassVar[Mapping[str, Any]] = {}

    def sign(self, href: str) -> str:
        """``href`` itself."""
        return href

    def renew(self) -> None:
        """Nothing to renew."""


@dataclass(frozen=True)
class S3Signer:
    """For files in an S3 service; GDAL itself takes the keys from the environment, they pass through no value here.

    Attributes:
        endpoint: Host of the service, empty for Amazon's.
        key_variables: Environment variables that must be set.
    """

    endpoint: str
    key_variables: tuple[str, ...]

    @property
    def gdal_settings(self) -> Mapping[str, Any]:
        """Endpoint and path style of the service."""
        if not self.endpoint:
            return {}
        return {"AWS_S3_ENDPOINT": self.endpoint, "AWS_VIRTUAL_HOSTING": False, "AWS_HTTPS": "YES"}

    def sign(self, href: str) -> str:
        """``href`` itself, once the keys are known to be there.

        Raises:
            SceneReadError: a variable is not set.
        """
        missing = [name for name in self.key_variables if not os.environ.get(name)]
        if missing and href.startswith("s3://"):
            raise SceneReadError(
                f"{href}: {' and '.join(missing)} not set, expected the S3 keys of an account in the environment of "
                "this process; export them and run again"
            )
        return href

    def renew(self) -> None:
        """Nothing to renew."""


@dataclass(frozen=True)
class PlanetaryComputerSigner:
    """Shared-access tokens of the Planetary Computer for one storage container.

    The token endpoint and a subscription key are those of the planetary-computer package (``PC_SDK_SAS_URL``,
    ``PC_SDK_SUBSCRIPTION_KEY``), and its cache holds the tokens; fetching is done here, because the package sets no
    time-out and lets every thread fetch. A token is renewed five minutes before its end, or when a quarter of a shorter
    life is left. Only addresses of the container, or of the host that issues the tokens, are signed.
    """

    account: str
    container: str
    _lifetimes_s: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

    gdal_settings: ClassVar[Mapping[str, Any]] = {}
    _lock: ClassVar[Any] = threading.Lock()

    def sign(self, href: str) -> str:
        """``href`` with a live token.

        Raises:
            SceneReadError: the token endpoint does not answer with a token.
        """
        if not self._owns(href):
            return href
        return f"{href}?{self._token().token}"

    def renew(self) -> None:
        """Drops the cached token, so that the next `sign` asks the endpoint again."""
        with self._lock:
            planetary_computer.sas.TOKEN_CACHE.pop(self._endpoint, None)

    @property
    def _endpoint(self) -> str:
        return f"{Settings.get().sas_url}/{self.account}/{self.container}"

    def _owns(self, href: str) -> bool:
        parts, issuer = urlsplit(href), urlsplit(self._endpoint)
        if parts.query or parts.fragment:
            return False
        in_container = parts.path.startswith(f"/{self.container}/") and parts.scheme == "https"
        if in_container and parts.netloc == f"{self.account}.{BLOB_DOMAIN}":
            return True
        return (parts.scheme, parts.hostname) == (issuer.scheme, issuer.hostname)

    def _token(self) -> SASToken:
        with self._lock:  # one thread fetches, the others wait for its token
            url = self._endpoint
            token: SASToken | None = planetary_computer.sas.TOKEN_CACHE.get(url)
            life_s = self._lifetimes_s.get(url, float("inf"))
            if token is None or token.ttl() < min(RENEWED_BEFORE_EXPIRY_S, RENEWED_BEFORE_EXPIRY_FRACTION * life_s):
                token = self._fetched(url)
                planetary_computer.sas.TOKEN_CACHE[url] = token
                self._lifetimes_s[url] = token.ttl()
            return token

    def _fetched(self, url: str) -> SASToken:
        key = Settings.get().subscription_key
        retry = Retry(
            total=5,
            backoff_factor=0.5,
            backoff_jitter=0.5,
            backoff_max=15,
            status_forcelist=(408, 429, 500, 502, 503, 504),
        )
        try:
            with requests.Session() as session:
                session.mount("http://", HTTPAdapter(max_retries=retry))
                session.mount("https://", HTTPAdapter(max_retries=retry))
                headers = {"Ocp-Apim-Subscription-Key": key} if key else None
                with session.get(url, headers=headers, timeout=TOKEN_TIMEOUT_S, allow_redirects=False) as response:
                    response.raise_for_status()
                    return SASToken(**response.json())
        except (requests.RequestException, ValueError, TypeError) as error:
            raise SceneReadError(
                f"token endpoint for {self.account}/{self.container}: {type(error).__name__}, expected a token; "
                "check PC_SDK_SAS_URL and PC_SDK_SUBSCRIPTION_KEY, or run again later"
            ) from None


def choose_signer(collection: Mapping[str, Any], signing: str, profile: CatalogProfile) -> Signer:
    """The signer of a collection.

    Args:
        collection: Its STAC document.
        signing: One of ``SIGNING_MODES``; ``auto`` leaves it to the profile, and that to the collection.
        profile: The catalog's.

    Raises:
        CatalogError: Planetary Computer's way of signing for a collection that names no storage account.
    """
    mode = profile.signing if signing == "auto" else signing
    account, container = collection.get("msft:storage_account"), collection.get("msft:container")
    if mode == "s3":
        return S3Signer(profile.s3_endpoint, profile.key_variables)
    if mode == "none" or (mode == "auto" and not (account and container)):
        return NoSigner()
    if not (account and container):
        raise CatalogError(
            f"collection {collection.get('id')!r}: signing is planetary_computer, but it names no msft:storage_account "
            "and msft:container; set signing to none or auto"
        )
    return PlanetaryComputerSigner(str(account), str(container))
