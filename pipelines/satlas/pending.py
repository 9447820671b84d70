"""Tiles of a month that inference has begun: while there are any, the month is not whole and is not published.

A mark is an empty file ``satlas/pending/TASK/YYYY-MM/TILE`` of the workspace. Marks are made before the first tile is
predicted and go with each one, so that of a run that was killed those remain which it did not reach.
"""

from collections.abc import Iterable
from pathlib import Path

from pipelines.errors import ArtefactError

_NUM_NAMED = 5


def mark_pending(root: Path, task: str, month: str, tiles: Iterable[str]) -> None:
    """Marks tiles before the first of them is predicted."""
    folder = _folder(root, task, month)
    folder.mkdir(parents=True, exist_ok=True)
    for tile in tiles:
        (folder / tile).touch()


def clear_pending(root: Path, task: str, month: str, tile: str) -> None:
    """Removes a tile's mark: it is predicted, or will not be."""
    (_folder(root, task, month) / tile).unlink(missing_ok=True)


def pending_tiles(root: Path, task: str, month: str) -> list[str]:
    """Names of tiles that were begun and are not predicted."""
    folder = _folder(root, task, month)
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def require_whole(root: Path, task: str, month: str) -> None:
    """Ensures that no tile of a month is pending.

    Raises:
        ArtefactError: Some are.
    """
    tiles = pending_tiles(root, task, month)
    if not tiles:
        return
    named = ", ".join(tiles[:_NUM_NAMED]) + (", ..." if len(tiles) > _NUM_NAMED else "")
    raise ArtefactError(
        f"{root}: predictions of {task} in {month} are unfinished, {len(tiles)} tiles are pending ({named}); let "
        f"satlas_predictions of the month run to its end, or, where no run will, remove {_folder(root, task, month)}"
    )


def _folder(root: Path, task: str, month: str) -> Path:
    return root / "satlas" / "pending" / task / month
