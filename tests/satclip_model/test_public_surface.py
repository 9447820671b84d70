import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import satclip_model

HEAVY = ("torch", "lightning", "rasterio", "geopandas", "torchgeo", "timm", "pandas", "xarray", "huggingface_hub")
FOREIGN = ("rasterio", "geopandas", "torchgeo", "pandas", "xarray", "zarr", "dask", "dagster")
STAGES = {
    "package": "import satclip_model, satclip_model.config; dir(satclip_model)",
    "location": "from satclip_model import load_location_encoder; from satclip_model.compat import get_satclip",
    "images": "import satclip_model.image_encoder",
    "everything": "from satclip_model import *; import satclip_model.compat.training",
}


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """Modules in a fresh process after each stage, one after the other; under "shadowed" public names that are one."""
    code = (
        "import inspect, json, sys\nloaded = {}\n"
        f"for stage, statements in {STAGES!r}.items():\n    exec(statements); loaded[stage] = list(sys.modules)\n"
        "loaded['shadowed'] = [n for n in satclip_model.__all__ if inspect.ismodule(getattr(satclip_model, n))]\n"
        "print(json.dumps(loaded))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {stage: set(modules) for stage, modules in json.loads(done.stdout).items()}


def test_all_is_what_dir_lists_and_what_exists() -> None:
    assert sorted(satclip_model.__all__) == dir(satclip_model)
    assert len(set(satclip_model.__all__)) == len(satclip_model.__all__)
    assert {name for name in satclip_model.__all__ if getattr(satclip_model, name) is None} == set()
    with pytest.raises(AttributeError, match="has no attribute 'anything_else'"):
        _ = satclip_model.anything_else


def test_a_star_import_brings_exactly_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from satclip_model import *", names)
    assert names.keys() - {"__builtins__"} == set(satclip_model.__all__)


@pytest.mark.parametrize("name", satclip_model.__all__)
def test_names_are_documented_and_annotated(name: str) -> None:
    value = getattr(satclip_model, name)
    assert inspect.getdoc(value)
    assert value.__name__ == name
    assert value.__module__.startswith("satclip_model")
    if inspect.isfunction(value):
        signature = inspect.signature(value)
        annotations = [each.annotation for each in signature.parameters.values()] + [signature.return_annotation]
        assert inspect.Signature.empty not in annotations
    elif not issubclass(value, Exception) and not hasattr(value, "model_fields"):
        parameters = list(inspect.signature(value.__init__).parameters.values())[1:]
        assert all(each.annotation is not inspect.Parameter.empty for each in parameters)


def test_the_surface_is_one_screen() -> None:
    assert len(Path(satclip_model.__file__).read_text().splitlines()) <= 90


def test_package_and_settings_load_no_heavy_module(loaded: dict[str, set[str]]) -> None:
    assert "satclip_model.config" in loaded["package"]
    assert loaded["package"].isdisjoint(HEAVY)


def test_loading_an_encoder_needs_neither_lightning_nor_timm(loaded: dict[str, set[str]]) -> None:
    assert loaded["location"].isdisjoint({"lightning", "timm", "huggingface_hub"})


def test_image_encoders_are_imported_without_timm(loaded: dict[str, set[str]]) -> None:
    assert loaded["images"].isdisjoint({"timm", "huggingface_hub", "torchgeo"})


def test_using_the_package_loads_nothing_of_the_data_side(loaded: dict[str, set[str]]) -> None:
    assert "lightning" in loaded["everything"]
    assert loaded["everything"].isdisjoint(FOREIGN)


def test_names_stay_what_they_are_once_the_modules_are_imported(loaded: dict[str, set[str]]) -> None:
    assert loaded["shadowed"] == set()
