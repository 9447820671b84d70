"""Whole trainings in one file: what they learn from, the image backbone, its views, and all other settings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from pipelines.errors import ConfigurationError
from pipelines.training.config import PixelLoaderConfig, PixelSettings, TrainingConfig

FOLDER: Final = Path(__file__).parent / "configs"
_NESTED: Final = frozenset({"backbone", "views", "loader"})
_DEFAULT_LOADER: Final = PixelLoaderConfig().model_dump()


class TrainingPlan(TrainingConfig, PixelSettings):
    """A training and what it learns from."""

    source: Literal["bank", "pixels"] = Field(
        default="bank",
        description="bank: image features computed once under a frozen backbone; pixels: the patches, at every epoch.",
    )

    @model_validator(mode="after")
    def _settings_belong_to_the_source(self) -> Self:
        if self.source == "bank" and (self.trainable_backbone or self.loader.model_dump() != _DEFAULT_LOADER):
            name = "trainable_backbone" if self.trainable_backbone else "loader"
            raise ValueError(
                f"{name} is set, but source is 'bank', whose features are computed once; set source to 'pixels', or "
                f"leave {name} out"
            )
        return self

    @property
    def training(self) -> TrainingConfig:
        """The settings of the training alone."""
        return TrainingConfig(**self.model_dump(include=set(TrainingConfig.model_fields)))

    @property
    def pixels(self) -> PixelSettings | None:
        """The settings of a training from pixels; None where it learns from a bank."""
        if self.source == "bank":
            return None
        return PixelSettings.model_validate(self.model_dump(include=set(PixelSettings.model_fields)))


def config_names() -> list[str]:
    """Names of the files that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_training_plan(name: str, overrides: Sequence[str] = ()) -> TrainingPlan:
    """A plan by the path of its file, or by the name of one that comes with the package, with or without ``.yaml``.

    Args:
        name: Path or name.
        overrides: Settings as ``name=value``, the value in YAML; those of backbone, views and loader as
            ``views.num_views=8``.

    Raises:
        ConfigurationError: There is no such file, it is no mapping, or a setting is unknown or out of bounds.
    """
    path = _find(name)
    try:
        settings: Any = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not readable as YAML ({error}); correct the file") from error
    if not isinstance(settings, dict):
        raise ConfigurationError(f"{path}: holds {type(settings).__name__}; expected settings as name: value")
    for each in overrides:
        _override(settings, each)
    try:
        return TrainingPlan.model_validate(settings)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'settings'}: {each['msg']}" for each in error.errors())
        raise ConfigurationError(f"{path}: {told}; correct the file or --set") from error


def _find(name: str) -> Path:
    given = Path(name)
    if given.is_file():
        return given
    path = FOLDER / f"{name.removesuffix('.yaml')}.yaml"
    if given.name != name or not path.is_file():
        raise ConfigurationError(f"{name}: no such file, expected a path or one of {', '.join(config_names())}")
    return path


def _override(settings: dict[str, Any], text: str) -> None:
    name, equals, value = text.partition("=")
    part, dot, inner = name.partition(".")
    if not equals or not name or (dot and part not in _NESTED):
        raise ConfigurationError(
            f"--set {text}: expected NAME=VALUE, such as epochs=100 or views.num_views=8; correct the option"
        )
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--set {text}: the value is not readable as YAML; correct the option") from error
    if not dot:
        settings[name] = parsed
        return
    nested = settings.setdefault(part, {})
    if not isinstance(nested, dict):
        raise ConfigurationError(f"{part} is {nested!r}, so that {name} cannot be set; expected settings below it")
    nested[inner] = parsed
