"""Trainings of Satlas models in one file: the published recipes, and small ones for the embedded planet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from pipelines.errors import ConfigurationError
from pipelines.satlas.training.config import SatlasTrainingConfig

FOLDER: Final = Path(__file__).parent / "configs"


def satlas_config_names() -> list[str]:
    """Names of the files that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_satlas_config(name: str, overrides: Sequence[str] = ()) -> SatlasTrainingConfig:
    """A training by the path of its file, or by the name of one that comes with the package.

    Args:
        name: Path or name.
        overrides: Settings as ``name=value``, the value in YAML; of the model as ``model.backbone=resnet50``.

    Raises:
        ConfigurationError: There is no such file, it is no mapping, or a setting is unknown or out of bounds.
    """
    path = FOLDER / f"{name}.yaml" if name in satlas_config_names() else Path(name)
    try:
        settings: Any = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path}: no configuration that can be read ({error}); expected a YAML file, or one of "
            f"{', '.join(satlas_config_names())}"
        ) from error
    if not isinstance(settings, dict):
        raise ConfigurationError(f"{path}: holds {type(settings).__name__}, expected settings by name")
    for override in overrides:
        _apply(settings, override)
    try:
        return SatlasTrainingConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def _apply(settings: dict[str, Any], override: str) -> None:
    name, found, text = override.partition("=")
    outer, _, inner = name.partition(".")
    if not found or not name:
        raise ConfigurationError(f"setting {override!r}: expected name=value")
    value = yaml.safe_load(text)
    if not inner:
        settings[outer] = value
    elif isinstance(settings.setdefault(outer, {}), dict):
        settings[outer][inner] = value
    else:
        raise ConfigurationError(f"setting {override!r}: {outer} has no settings of its own")
