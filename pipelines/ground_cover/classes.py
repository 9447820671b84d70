"""Classes of a land-cover map: codes, names, descriptions and colors, one small YAML file per map."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.errors import ConfigurationError
from pipelines.provenance import content_hash

MAX_CODE: Final = 65_535
_COLOR: Final = re.compile(r"#?([0-9A-Fa-f]{6})")


@dataclass(frozen=True)
class LandCoverClass:
    """One class of a land-cover map.

    Attributes:
        code: Value of its pixels.
        name: As the map's publisher calls it.
        description: What it looks like, in attributes that other classes share: trees, water, sealed surface.
        color: Red, green and blue, 0 to 255.
    """

    code: int
    name: str
    description: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class LandCoverClasses:
    """The classes of one map, in the order of the columns of fractions.

    Attributes:
        name: Of the map, for messages and records.
        classes: In ascending order of their codes.
        nodata_codes: Codes of pixels without a class: no data, or a cloud.
        source: Where the codes are written down.
        item_assets: Item assets of a STAC item under which the map may lie, the first that an item has is read.
    """

    name: str
    classes: tuple[LandCoverClass, ...]
    nodata_codes: tuple[int, ...] = ()
    source: str = ""
    item_assets: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        codes = [each.code for each in self.classes]
        names = [each.name for each in self.classes]
        for what, values in (("codes", [str(each) for each in codes]), ("names", names)):
            twice = sorted({each for each in values if values.count(each) > 1})
            if twice:
                raise ConfigurationError(f"classes {self.name}: {what} {', '.join(twice)} stand twice, expected once")
        both = sorted(set(codes) & set(self.nodata_codes))
        if not codes or both or codes != sorted(codes):
            found = f"codes {both} are classes and nodata" if both else f"found codes {codes}"
            raise ConfigurationError(f"classes {self.name}: {found}, expected at least one class, by ascending code")

    def __len__(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def codes(self) -> tuple[int, ...]:
        """Codes in the order of the classes."""
        return tuple(each.code for each in self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the order of the classes."""
        return tuple(each.name for each in self.classes)

    @property
    def descriptions(self) -> tuple[str, ...]:
        """Descriptions in the order of the classes."""
        return tuple(each.description for each in self.classes)

    @property
    def nodata_code(self) -> int:
        """The code of pixels without a class in our own maps: the first of the nodata codes, or one that is free."""
        free = (code for code in (0, 255, *range(1, 255)) if code not in self.codes)
        return self.nodata_codes[0] if self.nodata_codes else next(free)

    @cached_property
    def sha256(self) -> str:
        """Hash of everything that decides labels: codes, names and nodata codes, in their order."""
        return content_hash([self.codes, self.names, self.nodata_codes])

    def index_of(self, code: int) -> int:
        """Position of a code among the classes.

        Raises:
            ConfigurationError: no class has it.
        """
        if code not in self.codes:
            raise ConfigurationError(
                f"classes {self.name}: no class has code {code}, expected one of {', '.join(map(str, self.codes))}"
            )
        return self.codes.index(code)

    def index_of_name(self, name: str) -> int:
        """Position of a class by its name.

        Raises:
            ConfigurationError: no class has it.
        """
        if name not in self.names:
            raise ConfigurationError(
                f"classes {self.name}: no class is called {name!r}, expected one of {', '.join(self.names)}"
            )
        return self.names.index(name)

    def color_table(self) -> dict[int, tuple[int, int, int]]:
        """Colors by code."""
        return {each.code: each.color for each in self.classes}

    def positions(self) -> NDArray[np.int16]:
        """By pixel value 0 to 65,535 the class's position; -1: nodata, -2: not known to this map."""
        table = np.full(MAX_CODE + 1, UNKNOWN, dtype=np.int16)
        table[list(self.nodata_codes)] = NODATA
        table[list(self.codes)] = np.arange(len(self.classes))
        return table


NODATA: Final = -1
UNKNOWN: Final = -2


class _ClassEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    code: int = Field(ge=0, le=MAX_CODE)
    name: str = Field(min_length=1)
    description: str = Field(min_length=1)
    color: str = Field(pattern=_COLOR.pattern)


class _Mapping(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, pattern=r"^[\w.-]+$")
    source: str = ""
    item_assets: tuple[str, ...] = ()
    nodata_codes: tuple[int, ...] = ()
    classes: tuple[_ClassEntry, ...] = Field(min_length=1)


def mapping_names() -> tuple[str, ...]:
    """Names of the mappings that come with the package."""
    return tuple(sorted(each.name.removesuffix(".yaml") for each in _folder().iterdir() if each.name.endswith(".yaml")))


def read_classes(name_or_path: str | Path) -> LandCoverClasses:
    """The classes of a map that the package knows by name, or of any by the path of its YAML file.

    Raises:
        ConfigurationError: no such name or file, no YAML, or a field that is wrong; names file, field and remedy.
    """
    text = str(name_or_path)
    if text.endswith((".yaml", ".yml")) or "/" in text:
        try:
            return _parse(Path(text).read_text(encoding="utf-8"), text)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"land-cover classes {text}: {type(error).__name__}, expected a YAML file; give its path, or one of "
                f"{', '.join(mapping_names())}"
            ) from error
    if text not in mapping_names():
        raise ConfigurationError(
            f"land-cover classes {text!r}: expected one of {', '.join(mapping_names())}, or the path of a YAML file"
        )
    return _parse((_folder() / f"{text}.yaml").read_text(encoding="utf-8"), f"{text}.yaml")


def _folder() -> Any:  # noqa: ANN401
    return files("pipelines.ground_cover") / "mappings"


def _parse(text: str, source: str) -> LandCoverClasses:
    try:
        mapping = _Mapping.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigurationError(
            f"land-cover classes {source}: no YAML ({getattr(error, 'problem', None) or type(error).__name__}); "
            "compare it with pipelines/ground_cover/mappings/esa_worldcover.yaml"
        ) from None
    except ValidationError as error:
        raise ConfigurationError(f"land-cover classes {source}: {'; '.join(_problems(error))}") from None
    classes = (
        LandCoverClass(each.code, each.name, each.description, _rgb(each.color))
        for each in sorted(mapping.classes, key=lambda each: each.code)
    )
    return LandCoverClasses(mapping.name, tuple(classes), mapping.nodata_codes, mapping.source, mapping.item_assets)


def _rgb(color: str) -> tuple[int, int, int]:
    digits = color.removeprefix("#")
    return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)


def _problems(error: ValidationError) -> Iterator[str]:
    for each in error.errors(include_url=False, include_input=False, include_context=False):
        field = ".".join(map(str, each["loc"])) or "file"
        yield f"field {field}: {each['msg']}"
