"""The assets satlas_windows and satlas_predictions: from a catalog to predictions, their pages and their messages."""

from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
import torch

from assets.resources import CatalogResource, WorkspaceResource
from assets.satlas import satlas_predictions, satlas_windows, tiles_have_images
from pipelines.atomic import write_json
from pipelines.satlas.predictions import list_predictions, read_predictions
from satclip_model.satlas import SatlasConfig, build_satlas
from satclip_model.satlas.config import DetectionConfig, SegmentationConfig
from tests.loopback.cog import CogServer
from tests.loopback.coordinate_scene import collection
from tests.loopback.stub_stac import StubStac
from tests.pipelines.satlas.test_windows import SCENE

pytestmark = [
    pytest.mark.network,
    pytest.mark.filterwarnings("ignore:datetime.datetime.utcfromtimestamp:DeprecationWarning"),
]
MONTH = "2022-06"
FAR = replace(SCENE, x_ul_m=600000, mgrs_tile="32TPT", background_class=9)


def _weights(folder: Path, head: SegmentationConfig | DetectionConfig) -> str:
    config = SatlasConfig(backbone="resnet18", num_images=2, pyramid_dim=8, heads=(head,))
    folder.mkdir()
    torch.save(build_satlas(config, 1).state_dict(), folder / "weights.pth")
    write_json(folder / "config.json", config.model_dump(mode="json"))
    return str(folder)


def _materialize(root: Path, url: str, weights: dict[str, str], assets: list) -> dg.ExecuteInProcessResult:
    west, north = SCENE.lonlat_at(300, 400)
    east, south = SCENE.lonlat_at(320, 420)
    cloudy = [*FAR.lonlat_at(330, 440), *FAR.lonlat_at(325, 445)]
    windows = {
        "boxes": [[west, south, east, north], cloudy], "tile_px": 128, "num_periods": 2, "num_workers": 1,
        "backoff_s": 0.0,
    }  # fmt: skip
    settings = {
        "satlas_windows": windows,
        "satlas_predictions": {"weights": weights, "window_px": 64, "overlap_px": 16},
    }
    names = {"satlas_windows"} if assets == [satlas_windows] else set(settings)
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize(
            assets,
            run_config={"ops": {name: {"config": settings[name]} for name in names}},
            resources={
                "workspace": WorkspaceResource(root=str(root)),
                "catalog": CatalogResource(stac_url=url, signing="none"),
            },
            partition_key=MONTH,
            instance=instance,
            raise_on_error=False,
        )


def test_a_month_of_windows_and_predictions(tmp_path: Path) -> None:
    root, files = tmp_path / "workspace", tmp_path / "cog"
    files.mkdir()
    weights = {
        "solar_farm": _weights(tmp_path / "solar", SegmentationConfig(categories=("solar_farm",))),
        "wind_turbine": _weights(
            tmp_path / "wind",
            DetectionConfig(categories=("wind_turbine",), num_proposals=20, box_dim=8, num_sampled=8),
        ),
    }
    with StubStac(collection()) as stub, CogServer(files, stac_server=stub.url) as server:
        for scene in (SCENE, FAR):
            scene.write(files)
            stub.items.append(scene.item(server.cog_url))
        both = [satlas_windows, satlas_predictions, tiles_have_images]
        result = _materialize(root, server.stac_url, weights, both)
        assert result.success
        (made,) = result.asset_materializations_for_node("satlas_windows")
        assert made.metadata["dagster/row_count"].value == 2
        assert len(made.metadata["without_image"].value) == 1
        assert made.metadata["failures"].value == {}
        (check,) = result.get_asset_check_evaluations()
        assert check.passed
        assert check.metadata["share_with_image"].value == {MONTH: 0.5}
        (predicted,) = result.asset_materializations_for_node("satlas_predictions")
        assert predicted.metadata["made"].value == {"solar_farm": 2, "wind_turbine": 2}
        assert predicted.metadata["without_weights"].value == ["marine_infrastructure", "tree_cover"]
        again = _materialize(root, server.stac_url, weights, both)
        (kept,) = again.asset_materializations_for_node("satlas_predictions")
        assert kept.metadata["kept"].value == {"solar_farm": 2, "wind_turbine": 2}
        assert kept.tags["dagster/data_version"] == predicted.tags["dagster/data_version"]
    observed = {
        folder.name: read_predictions(folder).observed.max() for folder in list_predictions(root, "solar_farm", MONTH)
    }
    assert sorted(observed.values()) == [0, 1]
    (blind,) = made.metadata["without_image"].value
    assert observed[blind] == 0


def test_weights_that_do_not_fit_are_told(tmp_path: Path) -> None:
    root, files = tmp_path / "workspace", tmp_path / "cog"
    files.mkdir()
    solar = _weights(tmp_path / "solar", SegmentationConfig(categories=("solar_farm",)))
    with StubStac(collection()) as stub, CogServer(files, stac_server=stub.url) as server:
        for weights, message in (
            ({}, "no weights are given; expected weights of one or more of"),
            ({"forest": solar}, "weights are given for forest"),
            ({"wind_turbine": solar}, "heads are binary_segmentation, but wind_turbine needs one of detection"),
            ({"solar_farm": str(tmp_path)}, "neither weights.pth and config.json of a training nor models/"),
        ):
            result = _materialize(root, server.stac_url, weights, [satlas_windows, satlas_predictions])
            assert not result.success
            (failure,) = [event for event in result.all_events if event.is_step_failure]
            assert message in str(failure.event_specific_data)
