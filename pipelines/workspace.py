"""Where a workspace is, and what is in it."""

import os
from pathlib import Path

DEFAULT_ROOT = "satclip_data"
ROOT_VARIABLE = "SATCLIP_ROOT"
STAC_VARIABLE = "SATCLIP_STAC_URL"
PLANETARY_COMPUTER_URL = "https://planetarycomputer.microsoft.com/api/stac/v1"


def workspace_root(explicit: str | Path | None = None) -> Path:
    """The workspace, absolute: as given, or ``$SATCLIP_ROOT``, or ``satclip_data`` in the current folder."""
    return Path(explicit or os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT).resolve()


def stac_url(explicit: str | None = None) -> str:
    """Landing page of the STAC API: as given, or ``$SATCLIP_STAC_URL``, or the Planetary Computer's."""
    return explicit or os.environ.get(STAC_VARIABLE) or PLANETARY_COMPUTER_URL


def describe_workspace(root: Path) -> dict[str, Path]:
    """Paths of the latest artefacts by name, in the order in which they are made.

    Raises:
        ArtefactError: no model was trained there.
        DatasetError: its dataset is gone or did not pass.
    """
    from pipelines.embeddings.products import LAND_GRID, embeddings_path
    from pipelines.errors import ArtefactError
    from pipelines.evaluation.stage import scores_path
    from pipelines.patches.store import dataset_folder
    from pipelines.training.checkpoints import open_run

    run = open_run(root)
    artefacts = {
        "store": dataset_folder(root, run.record["dataset_version"]) / "patches.zarr",
        "checkpoint": run.checkpoint_path,
        "embeddings": embeddings_path(root, LAND_GRID),
        "scores": scores_path(root),
        "report": root / "report" / "report.html",
    }
    missing = [f"{name} ({path})" for name, path in artefacts.items() if not path.exists()]
    if missing:
        raise ArtefactError(f"{root}: {', '.join(missing)} missing; run the job full_chain")
    return artefacts
