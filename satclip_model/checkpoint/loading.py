"""One way in for models of every format, by path or by name on the Hugging Face Hub."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from satclip_model.checkpoint import native, official
from satclip_model.checkpoint.archive import read_archive
from satclip_model.checkpoint.safetensors import read_safetensors, read_safetensors_location_encoder
from satclip_model.errors import CheckpointError
from satclip_model.hub import resolve
from satclip_model.location_encoder import LocationEncoder
from satclip_model.satclip import SatCLIP

_SAFETENSORS_HEADER_BYTES: Final = 8
_LIGHTNING_KEYS: Final = frozenset({"hyper_parameters", "pytorch-lightning_version"})


def load_model(source: str | Path, *, download: bool = False) -> tuple[SatCLIP, dict[str, Any]]:
    """Both towers of a checkpoint of any format, in evaluation mode on the CPU, and the record written with them.

    The content tells the format: ours, that of the released SatCLIP files, or safetensors with its ``config.json``.

    Args:
        source: A path; ``OWNER/NAME:FILE`` on the Hugging Face Hub; or a released model such as
            ``microsoft/SatCLIP-ViT16-L40``.
        download: Whether a file of the Hub that is not in the local cache may be fetched.

    Raises:
        CheckpointError: The file is missing, not fetched, damaged, of another model, without an image tower, or its
            weights do not fit its settings or are not finite. No code of the file is executed.
    """
    path = resolve(source, download=download)
    if _is_safetensors(path):
        return read_safetensors(path)
    content = read_archive(path)
    if _is_official(path, content):
        return official.official_model_from_content(path, content)
    return native.model_from_content(path, content)


def load_location_encoder(source: str | Path, *, download: bool = False) -> LocationEncoder:
    """The location tower of a checkpoint of any format, in evaluation mode on the CPU, in the type of its weights.

    Args:
        source: As for `load_model`.
        download: As for `load_model`.

    Raises:
        CheckpointError: As for `load_model`; the image tower may be missing.
    """
    path = resolve(source, download=download)
    if _is_safetensors(path):
        return read_safetensors_location_encoder(path)[0]
    content = read_archive(path)
    if _is_official(path, content):
        return official.official_location_encoder_from_content(path, content)[0]
    return native.location_encoder_from_content(path, content)[0]


def _is_safetensors(path: Path) -> bool:
    """Whether the file begins with the length of a JSON header and the header's brace."""
    if path.suffix == ".safetensors":
        return True
    try:
        with path.open("rb") as handle:
            head = handle.read(_SAFETENSORS_HEADER_BYTES + 1)
            size = handle.seek(0, os.SEEK_END)
    except OSError:
        return False
    length = int.from_bytes(head[:_SAFETENSORS_HEADER_BYTES], "little")
    return head[_SAFETENSORS_HEADER_BYTES:] == b"{" and length < size


def _is_official(path: Path, content: object) -> bool:
    """Whether the content is of the original's format rather than ours; CheckpointError if of neither."""
    keys = content.keys() if isinstance(content, Mapping) else set()
    if keys & _LIGHTNING_KEYS:
        return True
    if "format" in keys:
        return False
    found = official.described(content)
    raise CheckpointError(
        f"{path}: found {found}; expected a checkpoint of this project ('format'), one of SatCLIP's Lightning module "
        "('hyper_parameters'), or safetensors"
    )
