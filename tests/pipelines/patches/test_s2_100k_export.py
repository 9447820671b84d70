import json
import shutil
import tarfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio

from pipelines.cli import main
from pipelines.errors import ConfigurationError, DatasetError
from pipelines.patches.dataset import PatchDataset, open_patch_dataset
from pipelines.patches.s2_100k import import_s2_100k
from pipelines.patches.s2_100k_export import export_s2_100k
from pipelines.sentinel2 import BANDS
from tests.pipelines.patches.s2_100k_layout import (
    SIZE_PX,
    index_row,
    patch_bytes,
    pixels,
    write_loose,
    write_sharded,
    write_tar,
)

PLACE_COLUMNS = ["lon_deg", "lat_deg", "epsg", "x_ul_m", "y_ul_m", "resolution_m", "item_id", "sha256", "valid"]


def imported(tmp_path: Path, numbers: list[int], missing: tuple[int, ...] = ()) -> Path:
    source = write_loose(tmp_path / "source", numbers)
    for number in missing:
        (source / "images" / f"patch_{number}.tif").unlink()
    import_s2_100k(tmp_path / "ws", source, SIZE_PX)
    return tmp_path / "ws"


def all_tables(root: Path) -> str:
    """Every table of a workspace as text."""
    return "".join(pd.read_parquet(each).to_csv() for each in root.rglob("*.parquet"))


def assert_same(first: PatchDataset, second: PatchDataset) -> None:
    assert first.record.content_sha256 == second.record.content_sha256
    pd.testing.assert_frame_equal(first.places[PLACE_COLUMNS], second.places[PLACE_COLUMNS])
    for row in range(first.num_places):
        np.testing.assert_array_equal(first.read_dn(row), second.read_dn(row))


def test_valid_places_are_numbered_from_zero_and_name_their_source(tmp_path: Path) -> None:
    root = imported(tmp_path, [5, 9, 2, 30], missing=(9,))
    report = export_s2_100k(root, tmp_path / "out")
    assert (report.num_patches, report.num_left_out) == (3, 1)
    index = pd.read_csv(tmp_path / "out" / "index.csv", converters={"lon": float, "lat": float})
    assert index.columns[:4].tolist() == ["fn", "lon", "lat", "source_place_id"]
    assert index["fn"].tolist() == ["patch_0.tif", "patch_1.tif", "patch_2.tif"]
    assert index["source_place_id"].tolist() == [0, 2, 3]
    assert index["source_fn"].tolist() == ["patch_5.tif", "patch_2.tif", "patch_30.tif"]
    assert list(zip(index["lon"], index["lat"], strict=True)) == [index_row(number)[1:] for number in (5, 2, 30)]
    assert sorted(each.name for each in (tmp_path / "out" / "images").iterdir()) == index["fn"].tolist()


def test_a_file_has_the_published_format_and_the_names_of_the_bands(tmp_path: Path) -> None:
    root = imported(tmp_path, [4])
    export_s2_100k(root, tmp_path / "out")
    with rasterio.open(tmp_path / "out" / "images" / "patch_0.tif") as raster:
        np.testing.assert_array_equal(raster.read(), pixels(4))
        assert raster.descriptions == BANDS
        assert raster.profile["compress"] == "lzw"
        assert raster.profile["interleave"] == "pixel"
        assert raster.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == "2"
        assert (raster.crs.to_epsg(), raster.transform.a, raster.transform.e) == (32605, 10.0, -10.0)
        assert (raster.transform.c, raster.transform.f) == (500_040.0, 4_000_000.0)


@pytest.mark.parametrize("num_tars", [0, 3])
def test_export_and_import_lose_nothing(tmp_path: Path, num_tars: int) -> None:
    root = imported(tmp_path, [8, 1, 77, 3])
    export_s2_100k(root, tmp_path / "out", num_tars=num_tars)
    import_s2_100k(tmp_path / "again", tmp_path / "out", SIZE_PX)
    assert_same(open_patch_dataset(root), open_patch_dataset(tmp_path / "again"))
    export_s2_100k(tmp_path / "again", tmp_path / "out2", num_tars=num_tars)
    for path in sorted(each for each in (tmp_path / "out").rglob("*") if each.suffix in (".tif", ".tar")):
        assert path.read_bytes() == (tmp_path / "out2" / path.relative_to(tmp_path / "out")).read_bytes()


def test_tars_hold_consecutive_plain_members(tmp_path: Path) -> None:
    export_s2_100k(imported(tmp_path, [8, 1, 77, 3, 5]), tmp_path / "out", num_tars=2)
    names = []
    for tar in ("shard-000.tar", "shard-001.tar"):
        with tarfile.open(tmp_path / "out" / "data" / tar) as archive:
            names.append(archive.getnames())
    assert names == [["patch_0.tif", "patch_1.tif", "patch_2.tif"], ["patch_3.tif", "patch_4.tif"]]
    assert not (tmp_path / "out" / "images").exists()


def test_what_an_index_knows_of_a_place_comes_back(tmp_path: Path) -> None:
    source = write_loose(tmp_path / "source", [1, 2])
    index = pd.read_csv(source / "index.csv", dtype=str)
    index = index.assign(
        boa_add_offset=["-1000", "0"],
        offset_source=["processing_baseline", "assumed"],
        datetime=["2022-05-01T10:00:00Z", ""],
        item_id=["S2A_1", "S2B_2"],
        sun_zenith_deg=["31.25", ""],
        hrefs=['{"B02": "https://elsewhere.test/B02.tif"}', "{}"],
    )
    index.to_csv(source / "index.csv", index=False)
    import_s2_100k(tmp_path / "ws", source, SIZE_PX)
    export_s2_100k(tmp_path / "ws", tmp_path / "out")
    import_s2_100k(tmp_path / "again", tmp_path / "out", SIZE_PX)
    for root in (tmp_path / "ws", tmp_path / "again"):
        places = open_patch_dataset(root).places
        assert places["boa_add_offset"].tolist() == [-1000, 0]
        assert places["offset_source"].tolist() == ["processing_baseline", "assumed"]
        assert places["datetime"].tolist() == ["2022-05-01T10:00:00Z", ""]
        assert places["item_id"].tolist() == ["S2A_1", "S2B_2"]
        assert places["sun_zenith_deg"].iloc[0] == 31.25
        assert "elsewhere" not in all_tables(root)


def test_no_query_of_an_address_is_kept(tmp_path: Path) -> None:
    root = imported(tmp_path, [1])
    export_s2_100k(root, tmp_path / "out")
    assert pd.read_csv(tmp_path / "out" / "index.csv")["url"].tolist() == ["https://host.test/patch_1.tif"]
    assert "host.test/patch_1.tif" in all_tables(root)
    assert "sig=1" not in all_tables(root)


def test_a_target_that_holds_something_is_refused_and_left_alone(tmp_path: Path) -> None:
    root = imported(tmp_path, [1, 2])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(ConfigurationError, match="something is there"):
        export_s2_100k(root, tmp_path / "out")
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["mine"]
    with pytest.raises(ConfigurationError, match="3 tars for 2 patches"):
        export_s2_100k(root, tmp_path / "other", num_tars=3)


def test_a_failing_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = imported(tmp_path, [1, 2, 3])
    dataset = open_patch_dataset(root)
    dataset.store.image[1, 0, 0, 0] = dataset.store.image[1, 0, 0, 0] ^ 1
    with pytest.raises(DatasetError, match="pixels of place 1 differ from their record"):
        export_s2_100k(root, tmp_path / "out")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["dagster_home", "source", "ws"]
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 1))
    with pytest.raises(DatasetError, match="GB free, 3 patches may need"):
        export_s2_100k(root, tmp_path / "out")


def test_torchgeo_opens_an_export(tmp_path: Path) -> None:
    numbers = [8, 1, 77]
    (tmp_path / "empty").mkdir()
    export_s2_100k(imported(tmp_path, numbers), tmp_path / "empty")
    from torchgeo.datasets import S2100k

    both = S2100k(tmp_path / "empty", mode="both")
    points = S2100k(tmp_path / "empty", mode="points")
    assert len(both) == len(points) == 3
    for row, number in enumerate(numbers):
        np.testing.assert_array_equal(both[row]["image"].numpy(), pixels(number).astype(np.float32))
        np.testing.assert_allclose(points[row]["point"].numpy(), index_row(number)[1:], rtol=1e-15)


def test_the_command_exports_and_imports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_loose(tmp_path / "source", [6, 7], size_px=256)
    assert main(["dataset", "import", str(source), "--root", str(tmp_path / "ws")]) == 0
    arguments = ["dataset", "export", str(tmp_path / "out"), "--root", str(tmp_path / "ws"), "--tar-shards", "2"]
    assert main(arguments) == 0
    assert "patches   2" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (record["num_patches"], record["num_tars"], record["bands"]) == (2, 2, list(BANDS))
    assert main(arguments) == 1
    assert "something is there" in capsys.readouterr().err
    assert main(["dataset", "import", str(tmp_path / "out"), "--root", str(tmp_path / "again")]) == 0


def test_a_hundred_tars_come_in_and_go_out_whole(tmp_path: Path) -> None:
    source = write_sharded(tmp_path / "source", range(300), 100)
    record = import_s2_100k(tmp_path / "ws", source, SIZE_PX)
    assert (record.num_valid, record.num_shards) == (300, 2)
    export_s2_100k(tmp_path / "ws", tmp_path / "out", num_tars=100)
    assert len(list((tmp_path / "out" / "data").glob("shard-*.tar"))) == 100
    import_s2_100k(tmp_path / "again", tmp_path / "out", SIZE_PX)
    first, second = open_patch_dataset(tmp_path / "ws"), open_patch_dataset(tmp_path / "again")
    assert first.record.content_sha256 == second.record.content_sha256
    pd.testing.assert_frame_equal(first.places[PLACE_COLUMNS], second.places[PLACE_COLUMNS])
    for row in (0, 255, 256, 299):
        np.testing.assert_array_equal(second.read_dn(row), pixels(row))


@pytest.mark.slow
@pytest.mark.real_data
def test_a_hundred_tars_of_real_patches_come_in_and_go_out_whole(tmp_path: Path, shared_data: Path) -> None:
    sample = shared_data / "s2_100k_sample"
    index = pd.read_csv(sample / "index.csv", converters={"lon": float, "lat": float})
    source = tmp_path / "source"
    rows = [index.iloc[number % len(index)] for number in range(100)]
    for tar in range(100):
        data = (sample / "images" / rows[tar]["fn"]).read_bytes()
        write_tar(source / "data" / f"shard-{tar:03d}.tar", [(f"patch_{tar}.tif", data)])
    lines = [f"{float(row['lon'])!r},patch_{n}.tif,{float(row['lat'])!r}\n" for n, row in enumerate(rows)]
    (source / "index.csv").write_text("lon,fn,lat\n" + "".join(lines))
    record = import_s2_100k(tmp_path / "ws", source)
    assert record.passed
    assert record.num_valid == 100
    export_s2_100k(tmp_path / "ws", tmp_path / "out")
    exported = pd.read_csv(tmp_path / "out" / "index.csv", converters={"lon": float, "lat": float})
    assert exported["lon"].tolist() == [float(row["lon"]) for row in rows]
    assert exported["lat"].tolist() == [float(row["lat"]) for row in rows]
    from torchgeo.datasets import S2100k

    peer = S2100k(tmp_path / "out")
    for n in range(0, 100, 7):
        with rasterio.open(sample / "images" / rows[n]["fn"]) as raster:
            np.testing.assert_array_equal(peer[n]["image"].numpy(), raster.read().astype(np.float32))
    import_s2_100k(tmp_path / "again", tmp_path / "out")
    first, second = open_patch_dataset(tmp_path / "ws"), open_patch_dataset(tmp_path / "again")
    assert first.record.content_sha256 == second.record.content_sha256
    pd.testing.assert_frame_equal(first.places[PLACE_COLUMNS], second.places[PLACE_COLUMNS])


def test_pixels_that_are_not_those_of_the_index_are_left_out(tmp_path: Path) -> None:
    root = imported(tmp_path, [1, 2])
    export_s2_100k(root, tmp_path / "out")
    (tmp_path / "out" / "images" / "patch_1.tif").write_bytes(patch_bytes(3))
    assert import_s2_100k(tmp_path / "again", tmp_path / "out", SIZE_PX).reasons == {"wrong_sha256": 1}
