"""Which addresses of files a catalog may name: an item or a manifest from elsewhere is not believed."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

SCHEMES: Final = ("https", "http", "s3")
FOREIGN_HOST: Final = "foreign_host"
BAD_ADDRESS: Final = "bad_address"
_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?|\[[0-9a-fA-F:.]+\]")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x20\x7f-\uffff\U00010000-\U0010ffff\\<>\"]")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_UNSAFE_IN_PATH: Final = re.compile(r"[\x00-\x1f\x7f\\]")
_MAX_LENGTH: Final = 4_096
_MAX_JUDGED: Final = 1_024
_SHOWN: Final = 80


@dataclass(frozen=True)
class AllowedFiles:
    """The hosts, buckets and folders whose files may be read.

    Attributes:
        patterns: ``host`` (http and https, any port), ``host:port``, ``https://host/prefix``, ``s3://bucket/prefix`` or
            ``file:///folder``; a host may begin with ``*.`` for its subdomains. Prefixes end at a slash.
    """

    patterns: tuple[str, ...]

    def problem(self, href: str) -> str:
        """Why an address may not be read: ``bad_address`` or ``foreign_host:HOST``; empty where it may."""
        if is_local(href):
            return self._problem_of_file(href)
        folder, _, name = href.rpartition("/")
        if "%" not in href and _PLAIN_NAME.fullmatch(name) and folder.count("/") > 2:
            return self._problem_of_folder(f"{folder}/")  # files lie together: their folder is judged once
        return self._problem_of_address(href)

    def _problem_of_folder(self, folder: str) -> str:
        known = self._judged.get(folder)
        if known is None:
            if len(self._judged) >= _MAX_JUDGED:
                self._judged.clear()
            known = self._judged[folder] = self._problem_of_address(folder)
        return known

    def _problem_of_address(self, href: str) -> str:
        parts = split_address(href)
        if parts is None:
            return BAD_ADDRESS
        if any(_matches(pattern, parts) for pattern in self._remote):
            return ""
        return f"{FOREIGN_HOST}:{parts.netloc[:_SHOWN]}"

    @cached_property
    def _judged(self) -> dict[str, str]:
        return {}

    @cached_property
    def _remote(self) -> tuple[tuple[str, str, str], ...]:
        return tuple(_split_pattern(pattern) for pattern in self.patterns if not pattern.startswith("file://"))

    @cached_property
    def _folders(self) -> tuple[Path, ...]:
        local = (pattern for pattern in self.patterns if pattern.startswith("file://"))
        return tuple(Path(unquote(pattern.removeprefix("file://"))).resolve() for pattern in local)

    def _problem_of_file(self, href: str) -> str:
        if not self._folders:
            return f"{FOREIGN_HOST}:file"
        path = local_path(href)
        if path is None:
            return BAD_ADDRESS
        return "" if any(path.is_relative_to(folder) for folder in self._folders) else f"{FOREIGN_HOST}:file"


def is_local(href: str) -> bool:
    """Whether an address names a file of this machine: ``file://`` or a plain path."""
    return href.startswith("file:") or not _SCHEME.match(href)


def local_path(href: str) -> Path | None:
    """The file that a ``file://`` address or an absolute path names, links followed; None for any other text."""
    text = unquote(href.removeprefix("file://")) if href.startswith("file://") else href
    if not text.startswith("/") or text.startswith("/vsi") or "\0" in text or len(text) > _MAX_LENGTH:
        return None
    return Path(os.path.realpath(text))


def split_address(href: str) -> SplitResult | None:
    """The parts of an http, https or s3 address; None for one with tricks.

    Refused are credentials (``user:password@host``), hosts of other than ASCII letters, backslashes, control
    characters, and ``.`` or ``..`` in the path, encoded or not.
    """
    if not href or len(href) > _MAX_LENGTH or _UNPRINTABLE.search(href):
        return None
    try:
        parts = urlsplit(href)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        return None
    bracketed = f"[{host}]" if ":" in host else host
    expected = bracketed if port is None else f"{bracketed}:{port}"
    if parts.scheme not in SCHEMES or not _HOST.fullmatch(bracketed) or parts.netloc.lower() != expected:
        return None
    return parts if has_plain_path(parts.path) else None


def has_plain_path(path: str) -> bool:
    """Whether a path, decoded as often as it can be, has no ``.`` or ``..``, no backslash and no control character."""
    for _ in range(4):
        if any(part in (".", "..") for part in path.split("/")) or _UNSAFE_IN_PATH.search(path):
            return False
        decoded = unquote(path)
        if decoded == path:
            return True
        path = decoded
    return False


def resolved_href(href: str, base: str) -> str:
    """An address relative to the item's own, made absolute; absolute ones stay as they are."""
    if not base or _SCHEME.match(href):
        return href
    if base.startswith("s3://"):  # urljoin knows no relative addresses of this scheme
        return urljoin(f"http://{base.removeprefix('s3://')}", href).replace("http://", "s3://", 1)
    if is_local(base):
        folder = base.removeprefix("file://").rpartition("/")[0]
        return os.path.normpath(href if href.startswith("/") else f"{folder}/{href}")
    return urljoin(base, href)


def validate_patterns(patterns: Iterable[str]) -> None:
    """Refuses a pattern that would allow more than it seems to.

    Raises:
        ValueError: a pattern that is no host, bucket or absolute folder, or a wildcard elsewhere than in front.
    """
    for pattern in patterns:
        if pattern.startswith("file://"):
            if local_path(pattern) is None:
                raise ValueError(f"{pattern!r} is no absolute folder: write file:///folder")
            continue
        scheme, netloc, _ = _split_pattern(pattern)
        host = netloc.removeprefix("*.")
        if (scheme and scheme not in SCHEMES) or "*" in host or not split_address(f"https://{host}/"):
            raise ValueError(f"{pattern!r} is no host: write host, *.host, https://host, s3://bucket or file:///folder")
        if netloc.startswith("*.") and "." not in host:
            raise ValueError(f"{pattern!r} allows a whole top-level domain: name a host below it")


def _split_pattern(pattern: str) -> tuple[str, str, str]:
    scheme, separator, rest = pattern.partition("://")
    scheme, rest = (scheme.lower(), rest) if separator else ("", pattern)
    netloc, _, prefix = rest.partition("/")
    return scheme, netloc.lower(), prefix


def _matches(pattern: tuple[str, str, str], parts: SplitResult) -> bool:
    scheme, netloc, prefix = pattern
    if parts.scheme != scheme if scheme else parts.scheme not in ("https", "http"):
        return False
    found = parts.netloc.lower() if re.search(r":\d+$", netloc) else (parts.hostname or "")
    if ":" in found and not netloc.startswith("[") and found == parts.hostname:
        found = f"[{found}]"
    if netloc.startswith("*."):
        if not found.endswith(netloc[1:]):
            return False
    elif found != netloc:
        return False
    folder = f"/{prefix.rstrip('/')}/" if prefix.rstrip("/") else "/"
    return (parts.path or "/").startswith(folder)
