"""Run configurations by name: the YAML files of ``assets/config``, and beside them those of further chains.

``config/NAME.yaml`` configures the job ``full_chain``; ``config/JOB/NAME.yaml`` a job that not every catalog can run.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

FOLDER = Path(__file__).parent / "config"
REGISTRY = Path(__file__).parents[1] / "pipelines" / "evaluation" / "tasks" / "registry"


def preset_names() -> list[str]:
    """Names of the presets."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def preset_path(name: str) -> Path:
    """The file of a preset; raises ValueError for a name that is not known."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"preset {name!r} not found, expected one of {', '.join(preset_names())}")
    return path


def default_preset() -> str:
    """Name of the preset that runs start from: $SATCLIP_PRESET, or planetary_computer."""
    return os.environ.get("SATCLIP_PRESET") or "planetary_computer"


def preset_defaults[C: dg.Config](asset: str) -> Callable[[type[C]], type[C]]:
    """Class decorator: settings of an asset default to those of the preset.

    A run that is given no configuration, as by a click in the UI, is then the preset's and not a mixture.
    """
    settings = read_preset(default_preset(), {asset}).get("ops", {}).get(asset, {}).get("config", {})

    def apply(config: type[C]) -> type[C]:
        for name, value in settings.items():
            field = config.model_fields[name]
            field.default, field.validate_default = value, True
        config.model_rebuild(force=True)
        return config

    return apply


def read_preset(name: str, assets: set[str] | None = None) -> dict[str, Any]:
    """A preset as run config: of ``full_chain``, or with the settings of the named assets, of whatever chain."""
    config: dict[str, Any] = yaml.safe_load(preset_path(name).read_text())
    if assets is not None:
        ops = dict(config.get("ops", {}))
        for path in sorted(FOLDER.glob(f"*/{name}.yaml")):
            ops |= yaml.safe_load(path.read_text()).get("ops", {})
        config["ops"] = {name: value for name, value in ops.items() if name in assets}
    return config


def registered_names(datasets: set[str] | None = None) -> list[str]:
    """Names of registered tasks, all or those named or of data sets named, without loading what evaluates them."""
    names: list[str] = []
    for path in sorted(REGISTRY.glob("*.yaml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        for task in document["tasks"] if isinstance(document, dict) and "tasks" in document else [document]:
            shared = document if isinstance(document, dict) else {}
            if datasets is None or {task["name"], task.get("dataset", shared.get("dataset"))} & datasets:
                names.append(task["name"])
    return names
