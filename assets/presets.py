"""Run configurations by name: the YAML files of ``assets/config``."""

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "config"


def preset_names() -> list[str]:
    """Names of the presets."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def preset_path(name: str) -> Path:
    """The file of a preset; raises ValueError for a name that is not known."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"preset {name!r} not found, expected one of {', '.join(preset_names())}")
    return path


def read_preset(name: str, assets: set[str] | None = None) -> dict[str, Any]:
    """A preset as run config, with the settings of the named assets only where ``assets`` is given."""
    config: dict[str, Any] = yaml.safe_load(preset_path(name).read_text())
    if assets is not None:
        config["ops"] = {name: value for name, value in config.get("ops", {}).items() if name in assets}
    return config
