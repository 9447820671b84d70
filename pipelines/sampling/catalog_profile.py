"""What differs between catalogs of Sentinel-2 Level-2A, as one small YAML file each."""

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pipelines.errors import ConfigurationError
from pipelines.sampling.addresses import validate_patterns
from pipelines.sentinel2 import ALL_ASSETS, BANDS, OFFSET_SOURCES

AUTO_PROFILE = "auto"
GENERIC_PROFILE = "generic"

Signing = Literal["auto", "none", "planetary_computer", "s3"]
OffsetSource = Literal["boa_offset_applied", "processing_baseline", "raster_bands", "removed"]


def _one_or_more(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_one_or_more)]


class ItemProperties(BaseModel):
    """Under which names an item's properties are looked up; of several names the first that an item has is taken.

    A name with a dot leads into an object: ``statistics.nodata``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cloud_cover: Names = ("eo:cloud_cover",)
    mgrs_tile: Names = ("s2:mgrs_tile", "sentinel2:mgrs_tile", "grid:code", "s2:tile")
    product_id: Names = ("s2:product_uri", "sentinel2:product_uri", "sentinel:product_id", "s2:product_id", "title")
    generation_time: Names = (
        "s2:generation_time",
        "sentinel2:generation_time",
        "processing:datetime",
        "s2:processing_time",
    )
    relative_orbit: Names = ("sat:relative_orbit",)
    nodata_percent: Names = (
        "s2:nodata_pixel_percentage",
        "sentinel2:nodata_pixel_percentage",
        "statistics.nodata",
    )
    data_percent: Names = ("sentinel:data_coverage", "data_coverage")
    sun_zenith_deg: Names = ("s2:mean_solar_zenith",)
    sun_elevation_deg: Names = ("view:sun_elevation",)
    sun_azimuth_deg: Names = ("s2:mean_solar_azimuth", "view:sun_azimuth", "eo:sun_azimuth")


class CatalogProfile(BaseModel):
    """One catalog: where it is, how its items are named, and which files it may name.

    Attributes:
        name: For messages and records.
        url: Landing page of the STAC API; by its host ``auto`` finds the profile.
        collection: Collection id.
        signing: How addresses become readable; ``auto`` signs where the collection names a storage account.
        item_assets: Name of the item asset of every band and, if there is one, of SCL. Empty: read off each item.
        item_properties: Names of properties.
        offset_sources: What to believe about the offset, in order.
        verify_offset: Whether pixels may overrule what the metadata say of the offset.
        href_schemes: Which of an asset's addresses (its ``href`` and its ``alternate``) is preferred.
        allowed_hosts: Hosts, buckets and folders of files beside the catalog's own host; see `AllowedFiles`.
        page_limit: Items of one page of a search.
        may_query: Whether the ``query`` extension may be used, where it is measured to work.
        requests_per_s: Searches are held below this rate; None: as fast as they come.
        s3_endpoint: Host of the S3 service, for other clouds than Amazon's.
        key_variables: Environment variables that must hold the keys when files are read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=64)
    url: str = ""
    collection: str = Field(default="sentinel-2-l2a", min_length=1)
    signing: Signing = "auto"
    item_assets: dict[str, str] = Field(default_factory=dict)
    item_properties: ItemProperties = ItemProperties()
    offset_sources: tuple[OffsetSource, ...] = OFFSET_SOURCES
    verify_offset: bool = False
    href_schemes: Annotated[tuple[Literal["https", "http", "s3", "file"], ...], Field(min_length=1)] = (
        "https",
        "http",
        "s3",
        "file",
    )
    allowed_hosts: tuple[str, ...] = ()
    page_limit: int = Field(default=250, ge=1, le=10_000)
    may_query: bool = True
    requests_per_s: float | None = Field(default=None, gt=0)
    s3_endpoint: str = Field(default="", pattern=r"^[A-Za-z0-9.:-]*$")
    key_variables: tuple[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")], ...] = ()

    @model_validator(mode="after")
    def _names_every_band(self) -> Self:
        if self.item_assets:
            missing = [band for band in BANDS if band not in self.item_assets]
            unknown = [band for band in self.item_assets if band not in ALL_ASSETS]
            if missing or unknown:
                wrong = f"lacks {', '.join(missing)}" if missing else f"names {', '.join(unknown)}"
                raise ValueError(f"item_assets {wrong}: expected {', '.join(BANDS)} and perhaps SCL, or nothing at all")
        if self.url and urlsplit(self.url).scheme not in ("http", "https", "file", ""):
            raise ValueError(f"url {self.url!r}: expected http, https or a folder")
        validate_patterns(self.allowed_hosts)
        return self


def profile_names() -> tuple[str, ...]:
    """Names of the profiles that come with the package."""
    return tuple(sorted(each.name.removesuffix(".yaml") for each in _folder().iterdir() if each.name.endswith(".yaml")))


def load_profile(name_or_path: str) -> CatalogProfile:
    """A profile of the package by name, or any by the path of its YAML file.

    Raises:
        ConfigurationError: no such name or file, no YAML, or a field that is wrong; names file, field and remedy.
    """
    if name_or_path.endswith((".yaml", ".yml")) or "/" in name_or_path:
        path = Path(name_or_path)
        try:
            return _parse(path.read_text(encoding="utf-8"), name_or_path)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"catalog profile {name_or_path}: {type(error).__name__}, expected a YAML file; give its path, or one "
                f"of {', '.join(profile_names())}"
            ) from error
    if name_or_path not in profile_names():
        raise ConfigurationError(
            f"catalog profile {name_or_path!r}: expected {AUTO_PROFILE}, one of {', '.join(profile_names())}, or the "
            "path of a YAML file"
        )
    return _parse((_folder() / f"{name_or_path}.yaml").read_text(encoding="utf-8"), f"{name_or_path}.yaml")


def profile_for(url: str, collection: str, profile: str | CatalogProfile = AUTO_PROFILE) -> CatalogProfile:
    """The profile to use for a catalog: the one given, or by the address the one of the package, or the generic one.

    Args:
        url: Landing page of the API.
        collection: Decides between profiles of one host.
        profile: ``auto``, a name, a path or a profile.

    Raises:
        ConfigurationError: the given profile cannot be read.
    """
    if isinstance(profile, CatalogProfile):
        return profile
    if profile != AUTO_PROFILE:
        return load_profile(profile)
    known = [each for each in map(load_profile, profile_names()) if each.url and _place(each.url) == _place(url)]
    exact = [each for each in known if each.collection == collection]
    return next(iter([*exact, *known]), None) or load_profile(GENERIC_PROFILE)


def _place(url: str) -> tuple[str | None, str]:
    parts = urlsplit(url)
    return parts.hostname, parts.path.rstrip("/")


def _folder() -> Any:  # noqa: ANN401
    return files("pipelines.sampling") / "profiles"


def _parse(text: str, source: str) -> CatalogProfile:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigurationError(
            f"catalog profile {source}: {where}no YAML ({getattr(error, 'problem', None) or type(error).__name__}); "
            "compare it with pipelines/sampling/profiles/generic.yaml"
        ) from None
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"catalog profile {source}: holds {type(content).__name__}, expected fields such as name and url"
        )
    try:
        return CatalogProfile.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(f"catalog profile {source}: {'; '.join(_problems(error))}") from None


def _problems(error: ValidationError) -> Iterator[str]:
    for each in error.errors(include_url=False, include_input=False, include_context=False):
        field = ".".join(map(str, each["loc"])) or "file"
        remedy = "set it" if each["type"] == "missing" else "correct it"
        if each["type"] == "extra_forbidden":
            owner = ItemProperties if each["loc"][0] == "item_properties" else CatalogProfile
            remedy = f"remove it or use one of {', '.join(owner.model_fields)}"
        yield f"field {field}: {each['msg'].removeprefix('Value error, ')}; {remedy}"
