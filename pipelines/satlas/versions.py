"""Products by month, versioned: what was published stays, what is published now has plain names.

    satlas/products/TASK/2022-10/versions/0001/{files, record.json}
    satlas/products/TASK/2022-10/files      those of the newest version
    satlas/products/TASK/latest/files       those of the newest month
    satlas/products/TASK/history/...        as a month: the stays of objects

A version is renamed into place whole. Files of plain names are links to it, or copies where the file system has no
links, so that a publication that was interrupted is completed by the next.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from pipelines.atomic import write_json
from pipelines.provenance import file_sha256
from pipelines.satlas.predictions import RECORD_FILE

VERSIONS: Final = "versions"
HISTORY: Final = "history"
LATEST: Final = "latest"


@dataclass(frozen=True)
class Published:
    """A version of a month or of the history.

    Attributes:
        name: The month, or ``history``.
        version: From 1.
        content_sha256: Of what decides its files.
        is_new: Whether this call made it.
    """

    name: str
    version: int
    content_sha256: str
    is_new: bool


def products_folder(root: Path, task: str) -> Path:
    """Where a task's products live in a workspace."""
    return root / "satlas" / "products" / task


def published_names(root: Path, task: str) -> list[str]:
    """Months and ``history`` of which a task has a version, sorted."""
    found = products_folder(root, task).glob(f"*/{VERSIONS}/*/{RECORD_FILE}")
    return sorted({path.parents[2].name for path in found})


def version_folders(root: Path, task: str, name: str) -> list[Path]:
    """Folders of the versions of a month, the oldest first."""
    found = (products_folder(root, task) / name / VERSIONS).glob(f"[0-9]*/{RECORD_FILE}")
    return sorted(path.parent for path in found)


def read_version(folder: Path) -> dict[str, Any]:
    """The record of a version."""
    record: dict[str, Any] = json.loads((folder / RECORD_FILE).read_text())
    return record


def publish(
    root: Path, task: str, name: str, content_sha256: str, write: Callable[[Path], None], record: Mapping[str, Any]
) -> Published:
    """Publishes a month, as a new version only where its content is not that of the newest.

    Files of the newest version that are damaged or gone are written again.

    Args:
        root: The workspace.
        task: Whose products.
        name: The month, or ``history``.
        content_sha256: Hash of what decides the files.
        write: Writes the files into the folder it is given; called only where files are wanted.
        record: What made them.
    """
    folder = products_folder(root, task) / name
    versions = version_folders(root, task, name)
    before = read_version(versions[-1]) if versions else None
    is_new = before is None or before["content_sha256"] != content_sha256
    if before is None or is_new:
        number = 1 if before is None else int(before["version"]) + 1
        supersedes = None if before is None else before["content_sha256"]
        told = {"version": number, "content_sha256": content_sha256, "supersedes": supersedes}
        with _staging(folder) as staging:
            write(staging)
            files = {path.name: file_sha256(path) for path in sorted(staging.iterdir())}
            write_json(staging / RECORD_FILE, {"task": task, "name": name, **record, **told, "files": files})
            newest = staging.rename(folder / VERSIONS / f"{number:04d}")
    else:
        newest = versions[-1]
        _repair(newest, before["files"], write)
    link_files(newest, folder)
    return Published(name, int(newest.name), content_sha256, is_new)


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """An empty folder beside the versions; what an interrupted call left there is removed, and so is this one."""
    for left in (folder / VERSIONS).glob("*"):
        if not (left / RECORD_FILE).is_file():
            shutil.rmtree(left)
    staging = folder / VERSIONS / f".{uuid4().hex}"
    staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _repair(version: Path, files: Mapping[str, str], write: Callable[[Path], None]) -> None:
    damaged = [name for name, sha256 in files.items() if not _is_intact(version / name, sha256)]
    if damaged:
        with _staging(version.parents[1]) as staging:
            write(staging)
            for name in damaged:
                (staging / name).replace(version / name)


def _is_intact(path: Path, sha256: str) -> bool:
    return path.is_file() and file_sha256(path) == sha256


def publish_latest(root: Path, task: str) -> str | None:
    """Makes ``latest`` the newest month's files; returns the month, None where nothing is published."""
    months = [name for name in published_names(root, task) if name != HISTORY]
    if not months:
        return None
    link_files(version_folders(root, task, months[-1])[-1], products_folder(root, task) / LATEST)
    return months[-1]


def link_files(source: Path, target: Path) -> None:
    """Gives a version's files, without its record, plain names in a folder, and removes what else has one there."""
    target.mkdir(parents=True, exist_ok=True)
    wanted = {path.name for path in source.iterdir() if path.name != RECORD_FILE}
    for path in target.iterdir():
        if path.is_file() and path.name not in wanted:
            path.unlink()
    for name in sorted(wanted):
        if not (target / name).exists() or not (target / name).samefile(source / name):
            partial = target / f"{name}.{uuid4().hex}.partial"
            _link(source / name, partial)
            partial.replace(target / name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
