"""Satlas products through Dagster: a month, its revision, index and validation."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import geopandas
import numpy as np
import pytest
import shapely

from assets.definitions import defs as load_definitions
from assets.resources import WorkspaceResource
from assets.satlas_products import SATLAS_PRODUCT_ASSETS, SATLAS_PRODUCT_CHECKS, SatlasProductsConfig
from assets.satlas_products import SatlasValidationConfig as ValidationSettings
from assets.satlas_settings import product_settings, validation_settings
from assets.schedules import monthly_satlas
from pipelines.satlas.predictions import TileGrid, TilePredictions, write_predictions
from pipelines.satlas.product_config import ProductConfig
from pipelines.satlas.tree_cover import TreeCoverConfig
from pipelines.satlas.validation.stage import ValidationConfig

GRID = TileGrid(32631, 500_000.0, 5_000_000.0, 10.0, 100, 100)
RUN_CONFIG = {"ops": {"satlas_validation": {"config": {"by_continent": False}}}}


def write_month(root: Path, month: str, columns: list[int]) -> None:
    geometry = [shapely.Point(500_000 + 10 * column, 4_999_500) for column in columns]
    values = {"category": ["wind_turbine"] * len(geometry), "score": [0.9] * len(geometry)}
    objects = geopandas.GeoDataFrame(values, geometry=geometry, crs="EPSG:32631")
    observed = np.ones((1, 1), dtype=np.uint8)
    write_predictions(root, TilePredictions("wind_turbine", month, "a", GRID, observed, objects))


def materialize(root: Path, instance: dg.DagsterInstance, month: str) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [*SATLAS_PRODUCT_ASSETS, *SATLAS_PRODUCT_CHECKS],
        partition_key=month,
        instance=instance,
        resources={"workspace": WorkspaceResource(root=str(root))},
        run_config=RUN_CONFIG,
    )


def test_months_are_published_revised_indexed_and_validated(tmp_path: Path) -> None:
    for month, columns in (("2022-01", [20]), ("2022-02", [20]), ("2022-03", [20, 70])):
        write_month(tmp_path, month, columns)
    with dg.DagsterInstance.ephemeral() as instance:
        first = materialize(tmp_path, instance, "2022-03")
        assert first.success
        assert all(each.passed for each in first.get_asset_check_evaluations())
        write_month(tmp_path, "2022-04", [20])
        write_month(tmp_path, "2022-05", [20])
        second = materialize(tmp_path, instance, "2022-05")
        events = second.asset_materializations_for_node("satlas_products")
        assert [each.partition for each in events] == ["2022-03", "2022-04", "2022-05"]
        assert events[0].metadata["made_by"].value == "2022-05"
        (index,) = second.asset_materializations_for_node("satlas_index")
        assert index.metadata["revised"].value == ["wind_turbine/2022-03"]
        version = index.tags["dagster/data_version"] if index.tags else None
        (validation,) = second.asset_materializations_for_node("satlas_validation")
        assert validation.metadata["samples"].value == 1
        assert set(validation.metadata["not_validated"].value) == {"solar_farm", "marine_infrastructure"}  # type: ignore[call-overload]
        third = materialize(tmp_path, instance, "2022-05")
        assert [each.partition for each in third.asset_materializations_for_node("satlas_products")] == ["2022-05"]
        (index,) = third.asset_materializations_for_node("satlas_index")
        assert index.tags is not None
        assert index.tags["dagster/data_version"] == version


def test_a_month_without_predictions_says_what_to_do(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(Exception, match="materialize satlas_predictions"):
        materialize(tmp_path, instance, "2022-01")


def test_defaults_of_the_assets_are_the_stages() -> None:
    assert product_settings(SatlasProductsConfig()) == (ProductConfig(), TreeCoverConfig())
    assert validation_settings(ValidationSettings()) == ValidationConfig()


@pytest.mark.parametrize(("day", "month"), [((2023, 1, 6), "2022-12"), ((2024, 3, 6), "2024-02")])
def test_the_schedule_asks_for_the_month_that_is_over(day: tuple[int, int, int], month: str) -> None:
    time = datetime(*day, 5, tzinfo=UTC)
    (request,) = monthly_satlas(dg.build_schedule_context(scheduled_execution_time=time))
    assert (request.partition_key, request.run_key) == (month, month)
    job = load_definitions().resolve_job_def("satlas_month")
    assert month in job.partitions_def.get_partition_keys()  # type: ignore[union-attr]
