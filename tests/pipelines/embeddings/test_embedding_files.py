import geopandas
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipelines.embeddings.export import embedding_columns, read_embeddings, write_embeddings
from pipelines.errors import ArtefactError

PROVENANCE = {"checkpoint_sha256": "ab" * 32, "dataset_version": "20220101-test", "package_versions": {"torch": "2"}}


@pytest.fixture
def points():
    return pd.DataFrame(
        {"lon": [-180.0, 12.5, 179.9], "lat": [-54.8, 0.0, 83.1], "name": ["a", None, "ü"], "biome": [3, 1, 2]}
    )


@pytest.fixture
def embeddings():
    return np.random.default_rng(5).normal(size=(3, 7)).astype(np.float32)


def test_what_was_written_is_read(tmp_path, points, embeddings):
    path = tmp_path / "new" / "embeddings.parquet"
    write_embeddings(path, points, embeddings, PROVENANCE)
    loaded = read_embeddings(path, PROVENANCE["checkpoint_sha256"])
    np.testing.assert_array_equal(loaded.embeddings, embeddings)
    assert loaded.embeddings.dtype == np.float32
    pd.testing.assert_frame_equal(loaded.points, points)
    np.testing.assert_array_equal(loaded.lonlat_deg, points[["lon", "lat"]])
    assert loaded.provenance == PROVENANCE | {"num_points": 3}
    assert [child.name for child in path.parent.iterdir()] == ["embeddings.parquet"]


def test_geopandas_reads_points_on_wgs84(tmp_path, points, embeddings):
    path = tmp_path / "embeddings.parquet"
    write_embeddings(path, points, embeddings, PROVENANCE)
    frame = geopandas.read_parquet(path)
    assert frame.crs.to_epsg() == 4326
    np.testing.assert_array_equal(np.column_stack([frame.geometry.x, frame.geometry.y]), points[["lon", "lat"]])
    assert list(frame.columns) == [*points.columns, *embedding_columns(7), "geometry"]
    assert frame["emb_006"].dtype == np.float32
    np.testing.assert_array_equal(frame["emb_006"], embeddings[:, 6])


def test_equal_input_gives_equal_bytes(tmp_path, points, embeddings):
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    write_embeddings(first, points, embeddings, PROVENANCE)
    write_embeddings(second, points.copy(), embeddings.copy(), dict(reversed(PROVENANCE.items())))
    assert first.read_bytes() == second.read_bytes()


def test_package_versions_are_added(tmp_path, points, embeddings):
    path = tmp_path / "embeddings.parquet"
    write_embeddings(path, points, embeddings, {"checkpoint_sha256": "ab", "dataset_version": "v"})
    assert "torch" in read_embeddings(path).provenance["package_versions"]


def test_another_checkpoint_is_refused(tmp_path, points, embeddings):
    path = tmp_path / "embeddings.parquet"
    write_embeddings(path, points, embeddings, PROVENANCE)
    with pytest.raises(ArtefactError, match=r"embeddings.parquet: was made by checkpoint abab.*rebuild"):
        read_embeddings(path, expect_checkpoint_sha256="cd" * 32)


def test_a_file_without_provenance_is_refused(tmp_path, points):
    plain, text = tmp_path / "plain.parquet", tmp_path / "text.parquet"
    points.to_parquet(plain)
    text.write_text("no parquet")
    for path, message in [
        (plain, "does not record which checkpoint"),
        (text, "is not a Parquet file"),
        (tmp_path / "absent.parquet", "no such file"),
    ]:
        with pytest.raises(ArtefactError, match=message):
            read_embeddings(path)


def test_columns_sort_as_they_count():
    names = embedding_columns(1200)
    assert names == sorted(names)
    assert names[0] == "emb_0000"
    assert embedding_columns(256)[-1] == "emb_255"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"provenance": {"dataset_version": "v"}}, "must name checkpoint_sha256"),
        ({"embeddings": np.zeros((2, 4), dtype=np.float32)}, r"expected float32 \(3, e\)"),
        ({"embeddings": np.zeros((3, 4))}, "embeddings are float64"),
        ({"embeddings": np.full((3, 4), np.nan, dtype=np.float32)}, "not finite"),
        (
            {"points": pd.DataFrame({"lon": [1.0] * 3, "lat": [2.0] * 3, "emb_000": [0] * 3})},
            "already have a column emb_000",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_no_file(tmp_path, points, embeddings, change, message):
    path = tmp_path / "embeddings.parquet"
    arguments = {"points": points, "embeddings": embeddings, "provenance": PROVENANCE} | change
    with pytest.raises(ValueError, match=message):
        write_embeddings(path, **arguments)
    assert not path.exists()


def test_many_embeddings_take_little_more_than_their_numbers(tmp_path):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(2000, 64)).astype(np.float32)
    points = pd.DataFrame({"lon": rng.uniform(-180, 180, 2000), "lat": rng.uniform(-90, 90, 2000)})
    path = tmp_path / "embeddings.parquet"
    write_embeddings(path, points, embeddings, PROVENANCE)
    assert path.stat().st_size < 1.2 * embeddings.nbytes
    assert pq.ParquetFile(path).metadata.num_rows == 2000
