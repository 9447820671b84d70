"""The index of products: which files there are, their SHA-256, since when, and what was revised."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pipelines.atomic import replacing, write_json
from pipelines.errors import ArtefactError
from pipelines.patches.shard_lock import exclusive_writer
from pipelines.provenance import content_hash, file_sha256
from pipelines.satlas.months import months_between
from pipelines.satlas.predictions import TASK_KINDS
from pipelines.satlas.versions import HISTORY, products_folder, published_names, read_version, version_folders

logger = logging.getLogger(__name__)

INDEX_FILE: Final = "index.json"
INDEX_TEXT: Final = "index.txt"
LONGEST_WAIT_S: Final = 3600.0


@dataclass(frozen=True)
class ProductIndex:
    """What is published.

    Attributes:
        content_sha256: Of all entries without their times; equal products, equal hash.
        entries: Per task and month (or history): ``version``, ``files`` with their hashes, ``time`` of that version,
            and ``superseded``: earlier versions with theirs.
        faults: Files that are missing or not those that were recorded, by path.
        changed: Whether this call found content that the index before did not have.
    """

    content_sha256: str
    entries: list[dict[str, Any]]
    faults: Mapping[str, str]
    changed: bool

    @property
    def revised(self) -> list[str]:
        """Months that have had more than one version, as ``TASK/YYYY-MM``."""
        return [
            f"{each['task']}/{each['name']}" for each in self.entries if each["version"] > 1 and each["name"] != HISTORY
        ]


def index_path(root: Path) -> Path:
    """Where the index lies in a workspace; a plain list of the same files lies beside it."""
    return root / "satlas" / "products" / INDEX_FILE


def build_index(root: Path, now: datetime | None = None) -> ProductIndex:
    """Writes ``index.json`` and ``index.txt`` of all tasks; where nothing changed, not a byte does.

    ``index.txt`` has a line per published file: SHA-256, time, path below the folder of products. A time says when the
    index first knew that version. A file that is not the one recorded is told and left out.

    Args:
        root: The workspace.
        now: Time of what is new (UTC); None: the clock's.

    Raises:
        ArtefactError: Nothing is published.
        StoreError: Another process writes the index and did not end within an hour.
    """
    folder = index_path(root).parent
    with exclusive_writer(folder, "index", "the index", wait_s=LONGEST_WAIT_S):
        before = _times(index_path(root))
        stamp = (now or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
        entries, faults = [], {}
        for task in TASK_KINDS:
            for name in published_names(root, task):
                entry, wrong = _entry(root, task, name, before, stamp)
                entries.append(entry)
                faults.update(wrong)
        if not entries:
            raise ArtefactError(f"{folder}: no products to index; materialize satlas_products")
        content = content_hash([_without_times(entry) for entry in entries])
        changed = content != before.get("content_sha256")
        write_json(index_path(root), {"content_sha256": content, "entries": entries})
        with replacing(folder / INDEX_TEXT) as partial:
            partial.write_text("".join(f"{line}\n" for entry in entries for line in _lines(entry)))
    for path, fault in faults.items():
        logger.warning("%s: %s", path, fault)
    return ProductIndex(content, entries, faults, changed)


def read_index(root: Path) -> dict[str, Any]:
    """The index as it was written.

    Raises:
        ArtefactError: There is none.
    """
    try:
        index: dict[str, Any] = json.loads(index_path(root).read_text())
    except FileNotFoundError as error:
        raise ArtefactError(f"{index_path(root)}: no such file; materialize satlas_index") from error
    return index


def damaged_files(root: Path) -> dict[str, str]:
    """Files of the index that are missing or have another hash now, by path below the folder of products."""
    damaged = {}
    for entry in read_index(root)["entries"]:
        for file, told in entry["files"].items():
            path = products_folder(root, entry["task"]) / entry["name"] / file
            if not path.is_file() or file_sha256(path) != told["sha256"]:
                damaged[f"{entry['task']}/{entry['name']}/{file}"] = "changed" if path.is_file() else "missing"
    return damaged


def missing_months(root: Path) -> dict[str, list[str]]:
    """Months of a task between its first and last that are not published, by task."""
    missing = {}
    for task in TASK_KINDS:
        there = [
            each["name"] for each in read_index(root)["entries"] if each["task"] == task and each["name"] != HISTORY
        ]
        absent = sorted(set(months_between(there)) - set(there))
        if absent:
            missing[task] = absent
    return missing


def _times(path: Path) -> dict[str, Any]:
    """The hash of the index before, and the time of each version it knew."""
    if not path.is_file():
        return {}
    index = json.loads(path.read_text())
    times = {
        (entry["task"], entry["name"], each["version"]): each["time"]
        for entry in index["entries"]
        for each in (entry, *entry["superseded"])
    }
    return {"content_sha256": index["content_sha256"], "times": times}


def _entry(
    root: Path, task: str, name: str, before: Mapping[str, Any], stamp: str
) -> tuple[dict[str, Any], dict[str, str]]:
    records = [read_version(folder) for folder in version_folders(root, task, name)]
    known = before.get("times", {})
    told = [
        {
            "version": record["version"],
            "content_sha256": record["content_sha256"],
            "time": known.get((task, name, record["version"]), stamp),
        }
        for record in records
    ]
    files, faults = {}, {}
    for file, sha256 in records[-1]["files"].items():
        path = products_folder(root, task) / name / file
        if path.is_file() and file_sha256(path) == sha256:
            files[file] = {"sha256": sha256, "bytes": path.stat().st_size}
        else:
            faults[f"{task}/{name}/{file}"] = f"missing or not the file of version {records[-1]['version']}"
    entry = {"task": task, "name": name, **told[-1], "files": files, "superseded": told[:-1]}
    if "radiometry" in records[-1]:
        entry["radiometry"] = records[-1]["radiometry"]
    return entry, faults


def _without_times(entry: Mapping[str, Any]) -> dict[str, Any]:
    superseded = [{key: value for key, value in each.items() if key != "time"} for each in entry["superseded"]]
    return {**{key: value for key, value in entry.items() if key != "time"}, "superseded": superseded}


def _lines(entry: Mapping[str, Any]) -> list[str]:
    where = f"{entry['task']}/{entry['name']}"
    return [f"{told['sha256']} {entry['time']} {where}/{file}" for file, told in sorted(entry["files"].items())]
