"""Downstream tasks: what to predict at which places, declared as configuration and loaded with care."""

from pipelines.errors import MissingTableError
from pipelines.evaluation.tasks.config import TableDownload, TableFormat, TaskConfig
from pipelines.evaluation.tasks.continents import continent_of
from pipelines.evaluation.tasks.data import TaskData
from pipelines.evaluation.tasks.loading import load_task
from pipelines.evaluation.tasks.registered import (
    describe_tasks,
    find_tasks,
    markdown_of_tasks,
    read_tasks,
    registered_tasks,
)
from pipelines.evaluation.tasks.sources import download_table, table_source, task_table_source
from pipelines.evaluation.tasks.species import write_species_table

__all__ = [
    "MissingTableError",
    "TableDownload",
    "TableFormat",
    "TaskConfig",
    "TaskData",
    "continent_of",
    "describe_tasks",
    "download_table",
    "find_tasks",
    "load_task",
    "markdown_of_tasks",
    "read_tasks",
    "registered_tasks",
    "table_source",
    "task_table_source",
    "write_species_table",
]
