"""Which products a folder of embeddings holds: written last, so that it never lists what is missing."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.atomic import write_json
from pipelines.errors import ArtefactError
from pipelines.provenance import content_hash, file_sha256

COVERAGE_NAME: Final = "coverage.json"


class ProductCoverage(BaseModel):
    """One product and where it has embeddings.

    Attributes:
        path: Below the folder, a file or a Zarr folder.
        sha256: Of the file; of a folder, see `product_sha256`.
        num_points: Embeddings in it.
        bounds_deg: West, south, east and north: of the points of a table, of the outer edges of a grid's cells.
        resolution_deg: Cell size of a grid; None for a table.
        land_mask: What decided which cells are there; None if nothing did.
        cells_per_row: Of a grid, cells that are there, by row from north to south; its variable ``present`` says which.
        provenance: What made it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    sha256: str
    num_points: int
    bounds_deg: tuple[float, float, float, float]
    resolution_deg: float | None = None
    land_mask: str | None = None
    cells_per_row: tuple[int, ...] | None = None
    provenance: dict[str, Any]


def product_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file, or of a folder's relative paths and their SHA-256 as canonical JSON.

    Raises:
        ArtefactError: There is nothing at ``path``.
    """
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
        return content_hash({each.relative_to(path).as_posix(): file_sha256(each) for each in files})
    if not path.is_file():
        raise ArtefactError(f"{path}: is missing; materialize asset location_embeddings again")
    return file_sha256(path)


def begin_products(folder: Path) -> None:
    """Takes the record away before products change; until `record_products` the folder vouches for nothing."""
    (folder / COVERAGE_NAME).unlink(missing_ok=True)


def record_products(folder: Path, products: Sequence[ProductCoverage]) -> None:
    """Writes the record of finished products; call it last."""
    write_json(folder / COVERAGE_NAME, {"products": [each.model_dump(mode="json") for each in products]})


def read_products(folder: Path) -> list[ProductCoverage]:
    """The products that a folder's record lists.

    Raises:
        ArtefactError: There is no record, or it cannot be read.
    """
    path = folder / COVERAGE_NAME
    try:
        document = json.loads(path.read_text())
        return [ProductCoverage.model_validate(each) for each in document["products"]]
    except FileNotFoundError as error:
        raise ArtefactError(
            f"{path}: is missing, so no product is known to be whole; materialize asset location_embeddings"
        ) from error
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise ArtefactError(f"{path}: is no record of products; materialize asset location_embeddings") from error


def verify_products(folder: Path) -> list[ProductCoverage]:
    """Computes the SHA-256 of every product again.

    Returns:
        The products, all of them whole.

    Raises:
        ArtefactError: There is no record, or a product is missing or has other bytes; all such products are named.
    """
    products = read_products(folder)
    faults = []
    for each in products:
        path = folder / each.path
        if not path.exists():
            faults.append(f"{each.path} is missing")
        elif (found := product_sha256(path)) != each.sha256:
            faults.append(f"{each.path} has SHA-256 {found[:12]}, expected {each.sha256[:12]}")
    if faults:
        raise ArtefactError(f"{folder}: {'; '.join(faults)}; materialize asset location_embeddings again")
    return products
