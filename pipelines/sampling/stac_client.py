"""Requests to a STAC API: held below a rate, repeated when it falters, counted, and kept to its own host."""

import hashlib
import json
import logging
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from pystac.link import Link
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from pipelines.errors import CatalogError
from pipelines.redaction import redacted

logger = logging.getLogger(__name__)

RETRIED_STATUS = (408, 429, 500, 502, 503, 504)
NUM_MATCHED_IS_EXACT_BELOW = 10_000
"""Search engines behind some APIs count no further and say this number."""
_SHOWN = 200


class RequestError(CatalogError, APIError):
    """A request that failed for good.

    Attributes:
        status_code: HTTP status of the last answer, None without one.
    """

    def __init__(self, message: str, status_code: int | None = None) -> None:
        super().__init__(message)
        self.status_code = status_code


@dataclass(frozen=True)
class RequestPolicy:
    """How patiently and how fast a catalog is asked.

    Attributes:
        timeout_s: For connecting and for every pause within an answer.
        max_attempts: At one request.
        max_first_attempts: At a request before the first answer: an address at which nothing listens is told soon.
        backoff_s: Upper end of the first wait; doubles with each attempt. The wait is drawn below it (jitter).
        max_backoff_s: Longest wait of that kind.
        max_retry_after_s: Longest wait that a server may ask for.
        requests_per_s: Rate, None: unlimited.
        max_pages: Of one search.
    """

    timeout_s: float = 60.0
    max_attempts: int = 8
    max_first_attempts: int = 3
    backoff_s: float = 0.5
    max_backoff_s: float = 30.0
    max_retry_after_s: float = 600.0
    requests_per_s: float | None = None
    max_pages: int = 10_000


class TokenBucket:
    """Lets ``rate_per_s`` callers through per second, of any number of threads, and as many at once after a pause."""

    def __init__(self, rate_per_s: float | None) -> None:
        self.rate_per_s = rate_per_s
        self._lock = threading.Lock()
        self._tokens = max(1.0, rate_per_s or 0.0)
        self._filled_at = time.monotonic()

    def take(self) -> None:
        """Returns when it is the caller's turn."""
        if self.rate_per_s is None:
            return
        with self._lock:
            now = time.monotonic()
            gained = (now - self._filled_at) * self.rate_per_s
            self._tokens = min(max(1.0, self.rate_per_s), self._tokens + gained) - 1.0
            self._filled_at = now
            wait_s = max(0.0, -self._tokens / self.rate_per_s)
        if wait_s:
            time.sleep(wait_s)


class _OwnHostSession(requests.Session):
    """Follows redirects within one host only."""

    def __init__(self, host: str | None) -> None:
        super().__init__()
        self.own_host = host

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is not None:
            host = urlsplit(urljoin(resp.url, target)).hostname
            if host != self.own_host:
                raise RequestError(
                    f"{self.own_host} redirects to {host!r}, expected an answer of its own; if that is the catalog, "
                    "give its address"
                )
        return target


class CatalogIO(StacApiIO):
    """What pystac-client sends its requests through.

    Attributes:
        policy: Patience and rate.
        num_requests: Requests sent so far, repeated ones too.
        num_retries: Requests that had to be repeated.
    """

    def __init__(self, url: str, policy: RequestPolicy) -> None:
        super().__init__(max_retries=None)
        self.policy = policy
        self.num_requests = 0
        self.num_retries = 0
        self._host = urlsplit(url).hostname
        self.session = _OwnHostSession(self._host)
        self._bucket = TokenBucket(policy.requests_per_s)
        self._lock = threading.Lock()
        self._has_answered = False

    def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:  # noqa: ANN401
        """The answer to a link or an address; never a file."""
        if not isinstance(source, Link) and urlsplit(str(source)).scheme not in ("http", "https"):
            raise RequestError(f"{redacted(source)[:_SHOWN]}: expected an address of the catalog by http or https")
        return str(super().read_text(source, *args, **kwargs))

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """The text of an answer.

        Raises:
            RequestError: another host, a refusal, or no answer after ``max_attempts``.
        """
        self._validate_host(href)
        method = (method or "GET").upper()
        body = parameters if method == "POST" else None
        attempt, failure = 0, ""
        while True:
            attempt += 1
            self._bucket.take()
            with self._lock:
                self.num_requests += 1
            retry_after_s, status = None, None
            try:
                response = self.session.request(
                    method,
                    href,
                    params=None if method == "POST" else parameters,
                    json=body,
                    headers=headers,
                    timeout=self.policy.timeout_s,
                )
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                failure = type(error).__name__
            except requests.RequestException as error:
                raise RequestError(f"{redacted(href)}: {type(error).__name__}, expected an answer") from None
            else:
                self._has_answered = True
                status = response.status_code
                if 200 <= status < 300 and _is_whole(response):
                    return response.content.decode("utf-8", errors="replace")
                if not 200 <= status < 300 and status not in RETRIED_STATUS:
                    raise RequestError(_refusal(href, response), status)
                failure = f"status {status}" if status in RETRIED_STATUS else "a truncated answer"
                retry_after_s = _retry_after_s(response)
            allowed = self.policy.max_attempts if self._has_answered else self.policy.max_first_attempts
            if attempt >= allowed:
                raise RequestError(f"{redacted(href)}: {failure} in {attempt} attempts, expected an answer", status)
            self._wait(href, failure, attempt, retry_after_s)

    def get_pages(
        self, url: str, method: str | None = None, parameters: dict[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The pages of a search or a list, one request each, until the API names no next one.

        Raises:
            RequestError: a page that is no page, a ``next`` link that repeats itself, or pages without end.
        """
        known: set[str] = set()
        asked: set[bytes] = set()
        page = self._page(url, self.read_json(url, method=method, parameters=parameters))
        for number in range(1, self.policy.max_pages + 1):
            entries = page.get("features") or page.get("collections") or []
            ids = {str(each.get("id")) for each in entries if isinstance(each, dict)}
            if not entries:
                return
            if ids <= known:
                raise RequestError(
                    f"{redacted(url)}: page {number} holds only items of earlier pages, expected new ones or no next "
                    "link; the API's paging is broken: set another page_limit or report it"
                )
            known |= ids
            yield page
            link = next((each for each in page.get("links") or [] if _is_next(each)), None)
            matched = page.get("numberMatched")
            if link is None or (isinstance(matched, int) and len(known) >= matched < NUM_MATCHED_IS_EXACT_BELOW):
                return
            request = hashlib.sha256(
                json.dumps([link.get(name) for name in ("href", "method", "body", "headers")], sort_keys=True).encode()
            ).digest()
            if request in asked:
                raise RequestError(
                    f"{redacted(url)}: the next link of page {number} was followed already, expected another; the "
                    "API's paging is broken: set another page_limit or report it"
                )
            asked.add(request)
            page = self._page(url, self.read_json(Link.from_dict(link), parameters=parameters))
        raise RequestError(
            f"{redacted(url)}: more than {self.policy.max_pages} pages, expected an end; search a smaller area or "
            "raise page_limit"
        )

    @staticmethod
    def _page(url: str, page: object) -> dict[str, Any]:
        if not isinstance(page, dict) or not all(
            isinstance(page.get(name) or [], list) for name in ("features", "collections", "links")
        ):
            raise RequestError(f"{redacted(url)}: the answer is no page of items; check that it is a STAC API")
        return page

    def _validate_host(self, href: str) -> None:
        parts = urlsplit(href)
        if parts.scheme not in ("http", "https") or parts.hostname != self._host or "@" in parts.netloc:
            raise RequestError(
                f"the catalog at {self._host} sends to {redacted(parts.netloc)[:_SHOWN]!r}, expected its own host; if "
                "that is the catalog, give its address"
            )

    def _wait(self, href: str, failure: str, attempt: int, retry_after_s: float | None) -> None:
        with self._lock:
            self.num_retries += 1
        longest = min(self.policy.max_backoff_s, self.policy.backoff_s * 2 ** (attempt - 1))
        wait_s = longest * random.uniform(0.5, 1.0)  # noqa: S311
        if retry_after_s is not None:
            if retry_after_s > self.policy.max_retry_after_s:
                raise RequestError(
                    f"{redacted(href)}: {failure} with Retry-After {retry_after_s:.0f} s, expected at most "
                    f"{self.policy.max_retry_after_s:.0f} s; run again later"
                )
            wait_s += retry_after_s
        logger.info("%s: %s, attempt %d follows in %.1f s", redacted(href), failure, attempt + 1, wait_s)
        time.sleep(wait_s)


def _is_next(link: object) -> bool:
    return isinstance(link, dict) and link.get("rel") == "next" and isinstance(link.get("href"), str)


def _is_whole(response: requests.Response) -> bool:
    """Whether an answer of JSON ends as one does; others pass."""
    if "json" not in response.headers.get("Content-Type", ""):
        return True
    return response.content.rstrip()[-1:] in (b"}", b"]")


def _retry_after_s(response: requests.Response) -> float | None:
    header = response.headers.get("Retry-After")
    if header is None:
        return None
    try:
        return float(Retry().parse_retry_after(header))
    except InvalidHeader:
        return None


def _refusal(href: str, response: requests.Response) -> str:
    text = " ".join(redacted(response.text[: 4 * _SHOWN]).split())[:_SHOWN]
    return f"{redacted(href)}: status {response.status_code} ({text or 'no text'}), expected an answer"
