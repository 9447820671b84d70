"""What the Hugging Face Hub holds of S2-100K at a revision, and which of it to fetch."""

import os
import re
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from pipelines.errors import ConfigurationError, DatasetError

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile, RepoFolder

REPO: Final = "torchgeo/s2-100k"
"""Where torchgeo 0.10's loader takes it from; kklmmr/s2-100k holds the same revision."""
REVISION: Final = "fbdbb78ba57d22d5b6be203913f1e6020c2b4e0a"
PINNED_SHA256: Final = {
    "index.csv": "9fdcdec776b331fcc2d9ab5af18355efc5bd0716df33ab78e1ff03f60cf343ad",
    "satclip.tar": "da1bae4e9dd44fb00e5f1fc537b752f5025ac908a73b5a9e24ff90bcbdd56edb",
}
"""SHA-256 of the files at `REVISION` (torchgeo.datasets.S2100k)."""
USER_AGENT: Final = "satclip-pipeline"
LICENCE_UNKNOWN: Final = "none stated on the Hub; Copernicus Sentinel data terms apply"
_WANTED: Final = re.compile(r"index\.csv|(?:(?:data|images)/)?[A-Za-z0-9][A-Za-z0-9._-]*\.tar(?:\.gz|\.xz|\.bz2)?")
_SHARD: Final = re.compile(r"shard-0*(\d+)\.tar")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")


@dataclass(frozen=True)
class HubFile:
    """A file of the Hub.

    Attributes:
        path: Where it lies in the repository, and in the target.
        size_bytes: Its size.
        digest: SHA-256 (64 hex digits), or Git's blob id (40) where the Hub knows no other hash.
    """

    path: str
    size_bytes: int
    digest: str


@dataclass(frozen=True)
class DownloadPlan:
    """What would be fetched.

    Attributes:
        endpoint: The Hub.
        repo: The dataset there.
        revision: The commit, resolved.
        license: As the Hub states it.
        files: What to fetch.
    """

    endpoint: str
    repo: str
    revision: str
    license: str
    files: tuple[HubFile, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def host(self) -> str:
        """The Hub's host, for people."""
        return urlsplit(self.endpoint).hostname or self.endpoint

    def url(self, file: HubFile) -> str:
        """Where the Hub serves a file."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repo, file.path, repo_type="dataset", revision=self.revision, endpoint=self.endpoint)

    def headers(self) -> dict[str, str]:
        """Headers of a request to the Hub, with the token of the environment or of the login where there is one."""
        from huggingface_hub import get_token
        from huggingface_hub.constants import HF_HUB_DISABLE_IMPLICIT_TOKEN

        token = None if HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
        return {"User-Agent": USER_AGENT} | ({"Authorization": f"Bearer {token}"} if token else {})


def plan_download(
    repo: str = REPO, revision: str = REVISION, *, shards: str | None = None, endpoint: str | None = None
) -> DownloadPlan:
    """Asks the Hub what a revision holds; fetches nothing of it.

    Args:
        repo: Dataset on the Hub, OWNER/NAME.
        revision: Commit, tag or branch; a name is resolved to its commit first.
        shards: Numbers of the ``shard-N.tar`` to take, as in ``0-3,7``; None takes all tars.
        endpoint: The Hub; None takes HF_ENDPOINT or the public one.

    Raises:
        ConfigurationError: ``shards`` cannot be read or names none of the repository.
        DatasetError: the Hub does not answer, knows no such dataset or revision, refuses, or holds another layout.
    """
    wanted = None if shards is None else parse_shards(shards)
    api, errors = _client(endpoint)
    try:
        info = api.dataset_info(repo, revision=revision)
        entries = list(api.list_repo_tree(repo, recursive=True, revision=info.sha, repo_type="dataset"))
    except errors as error:
        raise _hub_error(error, api.endpoint, repo, revision) from None
    listed = [_hub_file(each) for each in entries]
    files = sorted((each for each in listed if each is not None), key=lambda each: each.path)
    if wanted is not None:
        files = _choose(files, wanted, shards or "")
    if not any(each.path == "index.csv" for each in files) or len(files) < 2:
        found = ", ".join(each.path for each in files) or "neither"
        raise DatasetError(f"{repo}@{info.sha}: found {found}, expected index.csv and tars; name another revision")
    pinned = [_pin(file) for file in files] if info.sha == REVISION else files
    tags = [tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")]
    return DownloadPlan(api.endpoint, repo, str(info.sha), ", ".join(tags) or LICENCE_UNKNOWN, tuple(pinned))


def parse_shards(text: str) -> set[int]:
    """Numbers of a list such as ``0-3,7``.

    Raises:
        ConfigurationError: it is none.
    """
    numbers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part, re.ASCII)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ConfigurationError(f"shards {text!r}: {part!r} found, expected numbers and ranges such as 0-3,7")
        numbers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return numbers


def _choose(files: list[HubFile], wanted: set[int], text: str) -> list[HubFile]:
    numbered = {int(match[1]): file for file in files if (match := _SHARD.search(file.path))}
    missing = sorted(wanted - set(numbered))
    if missing:
        known = f"{min(numbered)} to {max(numbered)}" if numbered else "none: it has one tar; try --revision main"
        raise ConfigurationError(f"shards {text!r}: {missing[:5]} not at this revision, which has {known}")
    return [file for file in files if file.path == "index.csv" or file in [numbered[each] for each in wanted]]


def _hub_file(entry: "RepoFile | RepoFolder") -> HubFile | None:
    """A listed file, if it belongs to the layout; its path is checked, for it comes from elsewhere."""
    from huggingface_hub.hf_api import RepoFile

    if not isinstance(entry, RepoFile) or _WANTED.fullmatch(entry.path) is None:
        return None
    digest = str(entry.lfs.sha256 if entry.lfs is not None else entry.blob_id)
    if _DIGEST.fullmatch(digest) is None:
        raise DatasetError(f"{entry.path}: the Hub gives the hash {digest[:80]!r}, expected SHA-256 or SHA-1")
    return HubFile(entry.path, int(entry.size), digest)


def _pin(file: HubFile) -> HubFile:
    pinned = PINNED_SHA256.get(file.path)
    if pinned is None:
        return file
    if len(file.digest) == len(pinned) and file.digest != pinned:
        raise DatasetError(
            f"{file.path}: the Hub gives SHA-256 {file.digest} at {REVISION}, expected {pinned}; "
            "do not trust this source"
        )
    return replace(file, digest=pinned)


def _client(endpoint: str | None) -> "tuple[HfApi, tuple[type[Exception], ...]]":
    """The Hub's client and what it raises; the HTTP library below it has another name in other versions."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    names = [name for name in ("httpx2", "httpx") if find_spec(name) is not None]
    transport: list[type[Exception]] = [import_module(name).TransportError for name in names]
    api = HfApi(endpoint=(endpoint or os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/"))
    return api, (OSError, HFValidationError, OfflineModeIsEnabled, *transport)


def _hub_error(error: Exception, endpoint: str, repo: str, revision: str) -> DatasetError:
    """An error without the client's own words: they may hold addresses and what a server chose to say."""
    where = f"{repo}@{revision} on {urlsplit(endpoint).hostname}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    kind = type(error).__name__
    if kind == "RevisionNotFoundError":
        return DatasetError(f"{where}: no such revision; name a commit, tag or branch of the dataset")
    if kind == "GatedRepoError" or status in (401, 403, 404):
        return DatasetError(
            f"{where}: refused with status {status}, expected a dataset that may be read; check the name, and HF_TOKEN "
            "or the login if it is private"
        )
    if kind == "OfflineModeIsEnabled":
        return DatasetError(f"{where}: HF_HUB_OFFLINE is set; unset it to ask the Hub")
    told = f"status {status}" if status else kind
    return DatasetError(f"{where}: no usable answer ({told}); try again later, check the network and HF_ENDPOINT")
