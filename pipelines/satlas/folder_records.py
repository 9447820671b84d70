"""Records that are written last into a folder: without one the folder is not finished."""

import json
from pathlib import Path
from typing import Any

from pipelines.errors import ArtefactError


def read_folder_record(path: Path, expected_format: int, what: str, asset: str) -> dict[str, Any]:
    """The record of a folder.

    Args:
        path: The record.
        expected_format: Its ``format``.
        what: What the folder holds, for messages.
        asset: What makes it.

    Raises:
        ArtefactError: There is none, it cannot be read, or it is of another format.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise ArtefactError(f"{path}: no finished {what} ({error}); materialize {asset}") from error
    if record.get("format") != expected_format:
        raise ArtefactError(
            f"{path}: format {record.get('format')}, expected {expected_format}; materialize {asset} of the month again"
        )
    return record
