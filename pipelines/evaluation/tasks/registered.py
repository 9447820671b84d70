"""The declared tasks: those that come with the package, and the user's own from YAML."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pipelines.embeddings.points import is_url
from pipelines.errors import ConfigurationError
from pipelines.evaluation.tasks.config import TableDownload, TableFormat, TaskConfig
from pipelines.evaluation.tasks.sources import task_table_source

TASKS_KEY = "tasks"
NEARNESS = 0.4


def registered_tasks() -> dict[str, TaskConfig]:
    """The tasks that come with the package, by name, in the order of their data sets' files."""
    folder = files("pipelines.evaluation.tasks") / "registry"
    found: list[TaskConfig] = []
    for each in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if each.name.endswith(".yaml"):
            found += _parsed(each.read_text(encoding="utf-8"), each.name)
    _require_distinct(found, "the registry")
    return {task.name: task for task in found}


def find_tasks(names: Sequence[str]) -> list[TaskConfig]:
    """Registered tasks by name of the task or, for all tasks of it, of the data set; each once, in the order asked for.

    Raises:
        ConfigurationError: A name is neither; the nearest are named.
    """
    registry = registered_tasks()
    chosen: dict[str, TaskConfig] = {}
    for name in names:
        of_dataset = [task for task in registry.values() if task.dataset_name == name]
        meant = [registry[name]] if name in registry else of_dataset
        if not meant:
            known = [*registry, *dict.fromkeys(task.dataset_name for task in registry.values())]
            near = get_close_matches(name, known, cutoff=NEARNESS) or sorted(registry)
            raise ConfigurationError(
                f"task {name!r}: no registered task or data set of that name; did you mean {' or '.join(near)}? "
                "A table of your own is declared in YAML (docs/evaluation.md)"
            )
        chosen |= {task.name: task for task in meant}
    return list(chosen.values())


def read_tasks(path: Path) -> list[TaskConfig]:
    """The user's tasks: a YAML file of one task, a list of tasks, or a data set with its ``tasks``.

    Keys beside ``tasks`` hold for each of them; a task's own go first. A relative ``table`` is looked up below the root
    of tables, not beside the file.

    Raises:
        ConfigurationError: The file is no YAML, or a key or value is not a task's; the file, the key and the nearest
            valid key are named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"tasks {path}: cannot be read ({type(error).__name__}); expected a YAML file of tasks"
        ) from error
    tasks = _parsed(text, str(path))
    _require_distinct(tasks, f"tasks {path}")
    return tasks


def describe_tasks(tables_root: str | Path | None = None) -> list[dict[str, Any]]:
    """One row per registered task, for tables that people read.

    Name, data set, kind, target, transform, table, licence, source and citation. ``download`` says whether the table
    can be fetched on request: ``pinned`` by its SHA-256, ``unpinned``, or ``no``. ``available`` says whether the table
    lies below the root; None without a folder as root.
    """
    local = tables_root is not None and not is_url(str(tables_root))
    return [
        {
            "name": task.name,
            "dataset": task.dataset_name,
            "kind": task.kind,
            "target": task.target,
            "transform": task.transform,
            "table": task.table,
            "download": "no" if task.download is None else "pinned" if task.download.sha256 else "unpinned",
            "available": Path(task_table_source(task, tables_root)).is_file() if local else None,
            "licence": task.licence,
            "source": task.source,
            "citation": task.citation,
        }
        for task in registered_tasks().values()
    ]


def markdown_of_tasks() -> str:
    """The registered tasks as a Markdown table: name, data set, kind, column, transform, file, download, licence."""
    columns = ("name", "dataset", "kind", "target", "transform", "table", "download", "licence")
    rows = [[str(row[column]) for column in columns] for row in describe_tasks()]
    lines = ["| " + " | ".join(cells) + " |" for cells in [list(columns), ["---"] * len(columns), *rows]]
    return "\n".join(lines) + "\n"


def _parsed(text: str, source: str) -> list[TaskConfig]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise ConfigurationError(f"tasks {source}: {where}no YAML ({problem}); correct it") from None
    return [_task(fields, source) for fields in _fields_of_tasks(document, source)]


def _fields_of_tasks(document: object, source: str) -> Iterator[dict[Any, Any]]:
    if isinstance(document, list):
        for each in document:
            yield from _fields_of_tasks(each, source)
    elif isinstance(document, dict) and TASKS_KEY in document:
        shared = {key: value for key, value in document.items() if key != TASKS_KEY}
        if not isinstance(document[TASKS_KEY], list) or not document[TASKS_KEY]:
            raise ConfigurationError(f"tasks {source}: {TASKS_KEY} holds no list of tasks; expected one or more")
        for each in _fields_of_tasks(document[TASKS_KEY], source):
            yield shared | each
    elif isinstance(document, dict):
        yield document
    else:
        raise ConfigurationError(
            f"tasks {source}: holds {type(document).__name__}, expected a task with name, table and target, or a list "
            "of such"
        )


def _task(fields: dict[Any, Any], source: str) -> TaskConfig:
    try:
        return TaskConfig.model_validate(fields)
    except ValidationError as error:
        name = fields.get("name", "without a name")
        raise ConfigurationError(f"tasks {source}: task {name}: {'; '.join(_problems(error))}") from None


def _problems(error: ValidationError) -> Iterator[str]:
    owners: dict[object, type[BaseModel]] = {"format": TableFormat, "download": TableDownload}
    for each in error.errors(include_url=False, include_input=False, include_context=False):
        key = ".".join(map(str, each["loc"])) or "task"
        if each["type"] == "extra_forbidden":
            valid = list(owners.get(each["loc"][0], TaskConfig).model_fields)
            near = get_close_matches(str(each["loc"][-1]), valid, n=1, cutoff=NEARNESS)
            yield f"unknown key {key}; {f'did you mean {near[0]}?' if near else 'remove it'} (keys: {', '.join(valid)})"
        elif each["type"] == "missing":
            yield f"key {key} is missing; set it"
        elif each["type"] == "string_type":
            yield f"key {key} must be text; put it in quotes"
        else:
            yield f"key {key}: {each['msg'].removeprefix('Value error, ')}"


def _require_distinct(tasks: Sequence[TaskConfig], source: str) -> None:
    names = [task.name for task in tasks]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigurationError(
            f"{source}: {', '.join(repeated)} declared more than once; give each task its own name"
        )
