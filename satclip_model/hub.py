"""Names on the Hugging Face Hub to local files: the only module of this package that touches the network."""

import os
import re
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from satclip_model.errors import CheckpointError

_OFFICIAL: Final = re.compile(r"microsoft/SatCLIP-(?:ResNet18|ResNet50|ViT16)-L(?:10|40)")
_NAMED: Final = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?(?::(?P<file>[^:]+))?", re.ASCII
)
_SAFETENSORS: Final = ".safetensors"


@dataclass(frozen=True)
class HubName:
    """A file on the Hub.

    Attributes:
        repo: Repository, OWNER/NAME.
        file: Path of the file in it.
        revision: Commit, tag or branch.
    """

    repo: str
    file: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}:{self.file}"


def parse_hub_name(name: str) -> HubName:
    """Parses ``OWNER/NAME:FILE``, with ``@REVISION`` before the colon if wanted.

    The file of a released model may be left out: ``microsoft/SatCLIP-ViT16-L40`` is its
    ``satclip-vit16-l40.ckpt``; the other five are ResNet18 or ResNet50, and L10.

    Raises:
        CheckpointError: ``name`` is none of these.
    """
    match = _NAMED.fullmatch(name)
    if match is not None:
        repo, file, revision = match["repo"], match["file"], match["revision"] or "main"
        if file is not None:
            return HubName(repo, file, revision)
        if _OFFICIAL.fullmatch(repo):
            return HubName(repo, f"{repo.partition('/')[2].lower()}.ckpt", revision)
    raise CheckpointError(
        f"{name}: no such file, and no name on the Hugging Face Hub; expected a path, OWNER/NAME:FILE, or "
        "microsoft/SatCLIP-{ResNet18,ResNet50,ViT16}-L{10,40}"
    )


def resolve(source: str | Path, *, download: bool = False) -> Path:
    """The local file of a path or of a name on the Hub.

    A file that is already in the cache of huggingface_hub is used without asking the network. The ``config.json``
    beside a ``.safetensors`` file comes with it, of the same commit.

    Args:
        source: A path; or, as a string, a name as in `parse_hub_name`.
        download: Whether a file that is not in the cache may be fetched.

    Raises:
        CheckpointError: Neither path nor name; not in the cache and ``download`` is False; or the Hub does not give it.
    """
    if isinstance(source, Path) or Path(source).exists():
        return Path(source)
    name = parse_hub_name(source)
    path = _local_file(name, download=download)
    if name.file.endswith(_SAFETENSORS):
        commit = path.parents[name.file.count("/")].name
        folder = name.file.rpartition("/")[0]
        _local_file(HubName(name.repo, f"{folder}/config.json".lstrip("/"), commit), download=download)
    return path


def _local_file(name: HubName, *, download: bool) -> Path:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(name.repo, name.file, revision=name.revision)
    except HFValidationError as error:
        raise CheckpointError(f"{name}: no name on the Hugging Face Hub: {error}") from error
    if isinstance(cached, str):
        return Path(cached)
    if not download:
        raise CheckpointError(
            f"{name}: not in the local cache of the Hugging Face Hub, and nothing is fetched unasked; allow it with "
            "download=True (on the command line: --download), or name a local file"
        )
    return _fetch(name)


def _fetch(name: HubName) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    transport = [import_module(each).TransportError for each in ("httpx2", "httpx") if find_spec(each) is not None]
    try:
        return Path(
            hf_hub_download(
                name.repo, name.file, revision=name.revision, endpoint=os.environ.get("HF_ENDPOINT") or None
            )
        )
    except (OSError, HFValidationError, *transport) as error:
        raise _hub_error(name, error) from error


def _hub_error(name: HubName, error: Exception) -> CheckpointError:
    """An error that says what to do; the client wraps what happened, so the chain of causes is searched."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    kinds = {type(each).__name__ for each in chain}
    status = next((code for each in chain if (code := _status(each)) is not None), None)
    if "OfflineModeIsEnabled" in kinds:
        return CheckpointError(f"{name}: HF_HUB_OFFLINE is set; unset it, or name a local file")
    if {"RemoteEntryNotFoundError", "EntryNotFoundError", "RevisionNotFoundError"} & kinds and status == 404:
        return CheckpointError(f"{name}: the repository has no such file or revision; check the name")
    if status in (401, 403, 404):
        return CheckpointError(
            f"{name}: refused with status {status}; check the name, and HF_TOKEN or the login if the repository is "
            "private"
        )
    told = f"status {status}" if status is not None else type(error).__name__
    return CheckpointError(
        f"{name}: no usable answer from the Hugging Face Hub ({told}); try again later, check the network and "
        "HF_ENDPOINT, or name a local file"
    )


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
