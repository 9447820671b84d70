"""The commands ``satclip embed`` and ``satclip export-onnx``."""

import argparse
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipelines.errors import ArtefactError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipelines.embeddings.grid import GlobalGrid
    from pipelines.embeddings.streaming import EmbeddingOptions

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

MAX_THREADS: Final = 1024
"""Far more than cores; the libraries below crash where the system refuses a thread."""
_INTERRUPTED: Final = 130
PARQUET_SUFFIXES: Final = (".parquet", ".geoparquet")
MODEL_HELP: Final = (
    "checkpoint: a path; OWNER/NAME:FILE on the Hugging Face Hub; or a released model such as "
    "microsoft/SatCLIP-ViT16-L40"
)


def add_embed_commands(commands: "Commands") -> None:
    """Adds ``embed`` and ``export-onnx`` to the parser of ``satclip``."""
    _add_embed(commands)
    exporting = commands.add_parser("export-onnx", help="write a location encoder as ONNX")
    _add_model(exporting)
    exporting.add_argument("--out", type=Path, required=True, help="file to write, .onnx")
    exporting.set_defaults(run=_export_onnx)


def _add_model(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument("--model", required=required, help=MODEL_HELP)
    parser.add_argument("--download", action="store_true", help="fetch the checkpoint from the Hub if it is not cached")
    parser.add_argument(
        "--dtype", choices=("float32", "float64"), default=None, help="type to compute in; default that of the weights"
    )


def _add_embed(commands: "Commands") -> None:
    parser = commands.add_parser("embed", help="embeddings of a table of points or of a global grid, by any checkpoint")
    parser.add_argument("points", nargs="?", default=None, help="CSV, Parquet or GeoParquet; - reads standard input")
    _add_model(parser, required=False)
    parser.add_argument(
        "--verify",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="instead check the products that coverage.json lists",
    )
    parser.add_argument("--out", type=Path, default=None, help="GeoParquet file; a grid may also be a .zarr folder")
    parser.add_argument(
        "--store", choices=("float32", "float16"), default="float32", help="type to store; default float32"
    )
    parser.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="scale embeddings to unit length; by default they are what the encoder gives, as the original's are",
    )
    parser.add_argument("--batch-size", type=int, default=None, help="places at a time; default 64 MB of embeddings")
    parser.add_argument("--threads", type=int, default=None, help="threads to compute with; default one per core")
    table = parser.add_argument_group("table of points")
    table.add_argument("--lon-column", default="lon", help="column of longitudes in degrees; default lon")
    table.add_argument("--lat-column", default="lat", help="column of latitudes in degrees; default lat")
    grid = parser.add_argument_group("global grid")
    grid.add_argument("--grid", type=float, default=None, metavar="DEGREES", help="cell size; must divide 180")
    grid.add_argument(
        "--lat-bounds", type=float, nargs=2, default=(-90.0, 90.0), metavar=("SOUTH", "NORTH"), help="of cell centers"
    )
    grid.add_argument("--land-only", action="store_true", help="only cells whose center is on land")
    parser.set_defaults(run=_embed)


def _embed(options: argparse.Namespace) -> int:
    if options.verify is not None:
        return _verify(options.verify)
    for name in ("model", "out"):
        if getattr(options, name) is None:
            raise ConfigurationError(f"embed: --{name} is missing; it is needed unless --verify is given")
    grid = _requested_grid(options)
    _require_writable(options.out, (*PARQUET_SUFFIXES, ".zarr") if grid else PARQUET_SUFFIXES)
    try:
        return _embed_grid(options, grid) if grid else _embed_table(options)
    except OSError as error:
        raise ArtefactError(f"{error.filename or 'input'}: cannot be read ({error.strerror or error})") from error
    except KeyboardInterrupt:
        print("satclip: embed was stopped; nothing was written", file=sys.stderr)
        return _INTERRUPTED


def _verify(folder: Path) -> int:
    from pipelines.embeddings.coverage import verify_products

    for product in verify_products(folder):
        print(f"verified  {product.num_points} points: {folder / product.path}")
    return 0


def _embed_table(options: argparse.Namespace) -> int:
    from pipelines.embeddings.streaming import embed_table, open_location_encoder
    from pipelines.embeddings.table_stream import open_points

    settings = _settings(options)
    with open_points(options.points, options.lon_column, options.lat_column) as points:
        encoder, provenance = open_location_encoder(options.model, options.dtype, options.download)
        with _writing(options.out):
            embed_table(encoder, points, options.out, settings, provenance)
        print(f"embedded  {points.num_points} points, {encoder.config.embedding_dim} numbers each: {options.out}")
    return 0


def _embed_grid(options: argparse.Namespace, grid: "GlobalGrid") -> int:
    from pipelines.embeddings.grid_streaming import embed_grid
    from pipelines.embeddings.streaming import open_location_encoder

    settings = _settings(options)
    encoder, provenance = open_location_encoder(options.model, options.dtype, options.download)
    with _writing(options.out):
        embed_grid(encoder, grid, options.out, settings, provenance, options.land_only)
    rows, columns = grid.shape
    print(f"embedded  {rows} x {columns} cells, {encoder.config.embedding_dim} numbers each: {options.out}")
    return 0


@contextmanager
def _writing(path: Path) -> "Iterator[None]":
    try:
        yield
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be written ({error.strerror or error})") from error


def _settings(options: argparse.Namespace) -> "EmbeddingOptions":
    import pyarrow
    import torch

    from pipelines.embeddings.streaming import EmbeddingOptions

    if options.threads is not None:
        if not 1 <= options.threads <= MAX_THREADS:
            raise ConfigurationError(f"--threads is {options.threads}; expected 1 to {MAX_THREADS}")
        torch.set_num_threads(options.threads)
        pyarrow.set_cpu_count(options.threads)
    return EmbeddingOptions(options.store, options.normalize, options.batch_size)


def _requested_grid(options: argparse.Namespace) -> "GlobalGrid | None":
    from pipelines.embeddings.grid import GlobalGrid

    if (options.points is None) == (options.grid is None):
        given = "neither" if options.points is None else "both"
        raise ConfigurationError(f"embed: expected a table of points or --grid, found {given}; give one of them")
    south, north = options.lat_bounds
    if options.grid is None:
        if options.land_only or (south, north) != (-90.0, 90.0):
            raise ConfigurationError("embed: --land-only and --lat-bounds belong to --grid; leave them out for a table")
        return None
    if (options.lon_column, options.lat_column) != ("lon", "lat"):
        raise ConfigurationError("embed: --lon-column and --lat-column belong to a table; leave them out for --grid")
    try:
        return GlobalGrid(options.grid, (south, north))
    except ValueError as error:
        raise ConfigurationError(f"embed: {error}") from error


def _require_writable(path: Path, suffixes: tuple[str, ...]) -> None:
    if path.suffix not in suffixes:
        raise ConfigurationError(f"--out is {path}; expected a name that ends in {' or '.join(suffixes)}")
    if path.is_dir() and path.suffix in PARQUET_SUFFIXES:
        raise ConfigurationError(f"--out is {path}, which is a folder; name a file")
    if path.suffix == ".zarr":
        from pipelines.embeddings.embedding_grid import require_replaceable

        require_replaceable(path)


def _export_onnx(options: argparse.Namespace) -> int:
    from pipelines.embeddings.streaming import open_location_encoder
    from satclip_model.onnx_export.export import export_onnx

    _require_writable(options.out, (".onnx",))
    encoder, _ = open_location_encoder(options.model, options.dtype, options.download)
    try:
        export_onnx(encoder, options.out)
    except (ValueError, ModuleNotFoundError) as error:
        raise ConfigurationError(str(error)) from error
    except OSError as error:
        raise ArtefactError(f"{options.out}: cannot be written ({error.strerror or error})") from error
    print(f"exported  location encoder, {encoder.config.embedding_dim} numbers a place: {options.out}")
    return 0
