"""Where the tables of tasks are: below a root, or fetched to there on request."""

from pathlib import Path

from pipelines.embeddings.points import is_url
from pipelines.errors import MissingTableError, TableError
from pipelines.evaluation.tasks.config import TaskConfig
from pipelines.evaluation.tasks.download import download_file


def task_table_source(config: TaskConfig, tables_root: str | Path | None) -> str:
    """Path or address of a task's table; see `table_source`."""
    return table_source(config.table, tables_root)


def table_source(table: str, tables_root: str | Path | None) -> str:
    """Path or address of a table.

    Raises:
        TableError: The table is relative and there is no root.
    """
    if is_url(table) or Path(table).is_absolute():
        return table
    if tables_root is None:
        raise TableError(
            f"table {table!r} is relative and there is no root of tables, expected one; set SATCLIP_TABLES_ROOT or the "
            "tables resource's root, or give a whole path or an address"
        )
    root = str(tables_root)
    return f"{root.rstrip('/')}/{table}" if is_url(root) else str(Path(root) / table)


def download_table(config: TaskConfig, tables_root: str | Path | None) -> Path:
    """Fetches a task's table to its place below the root, unless it is there; returns that place.

    Raises:
        MissingTableError: The task names no address to fetch its table from.
        TableError: The table's place is an address, the file cannot be fetched, or its SHA-256 is not the declared one.
    """
    source = task_table_source(config, tables_root)
    if is_url(source):
        raise TableError(f"{source}: task {config.name} is read from an address; a download needs a folder of tables")
    path = Path(source)
    if path.exists():
        return path
    if config.download is None:
        raise MissingTableError(missing_table(config, source))
    download_file(config.download.url, path, config.download.sha256)
    return path


def missing_table(config: TaskConfig, source: str) -> str:
    """What to say of a task whose table is not there."""
    origin = f" ({config.source})" if config.source else ""
    fetch = f", or ask for the download of {config.download.url} (--download)" if config.download else ""
    return f"{source}: no such file; task {config.name} needs it: put the table{origin} there{fetch}"
