"""What made an artefact: content hashes, package versions and the commit of the code."""

import hashlib
import json
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

RECORDED_PACKAGES = ("satclip-pipeline", "numpy", "pystac-client", "rasterio", "torch", "zarr")


def content_hash(value: Any) -> str:  # noqa: ANN401
    """SHA-256 (hex) of ``value`` as canonical JSON: keys sorted, no white space, NaN refused (ValueError)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that decide an artefact's content."""
    versions = {}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_commit() -> str | None:
    """The commit of the code that is running, with ``+changes`` when the tree differs; None outside a checkout."""
    folder = Path(__file__).resolve().parent
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name, folder=folder)
        head = _git("rev-parse", "HEAD", folder=folder)
        changes = _git("status", "--porcelain", "--untracked-files=no", folder=folder)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+changes" if changes else "")


def _git(*arguments: str, folder: Path) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
