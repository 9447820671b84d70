import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.splits import block_cells
from pipelines.evaluation.tasks import TaskConfig, load_task
from pipelines.evaluation.tasks.capping import draw_per_block


def block_counts(lonlat_deg, rows=None):
    cells = block_cells(lonlat_deg, 10.0)
    names, index = np.unique(cells, axis=0, return_inverse=True)
    return np.bincount(index if rows is None else index[rows], minlength=len(names))


@given(
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=40), max_rows=st.integers(1, 600), seed=st.integers(0, 9)
)
def test_every_block_keeps_its_share_and_at_least_one_row(sizes, max_rows, seed):
    block = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    lonlat_deg = np.column_stack([-175.0 + 10.0 * (block % 36), -45.0 + 10.0 * (block // 36)])
    rows = draw_per_block(lonlat_deg, max_rows, seed)
    before, after = block_counts(lonlat_deg), block_counts(lonlat_deg, rows)
    assert (np.diff(rows) > 0).all()
    assert after.min() >= 1
    assert len(rows) == min(len(block), max(max_rows, len(sizes)))
    assert (after <= before).all()
    order = np.argsort(before, kind="stable")
    assert (after[order] >= np.maximum.accumulate(after[order]) - 1).all()


def test_shares_are_exact_where_no_block_is_small():
    block = np.repeat([0, 1, 2], [1000, 500, 300])
    lonlat_deg = np.column_stack([10.0 * block, np.zeros(len(block))])
    assert block_counts(lonlat_deg, draw_per_block(lonlat_deg, 180, 0)).tolist() == [100, 50, 30]


def test_small_blocks_take_their_row_from_the_large_ones():
    block = np.repeat(np.arange(6), [900, 96, 1, 1, 1, 1])
    lonlat_deg = np.column_stack([10.0 * block, np.zeros(len(block))])
    assert block_counts(lonlat_deg, draw_per_block(lonlat_deg, 20, 0)).tolist() == [14, 2, 1, 1, 1, 1]


def test_the_seed_alone_decides_the_draw():
    lonlat_deg = np.random.default_rng(3).uniform(-40, 40, (500, 2))
    np.testing.assert_array_equal(draw_per_block(lonlat_deg, 90, 5), draw_per_block(lonlat_deg, 90, 5))
    assert set(draw_per_block(lonlat_deg, 90, 5)) != set(draw_per_block(lonlat_deg, 90, 6))


def test_few_rows_are_all_taken():
    lonlat_deg = np.random.default_rng(3).uniform(-40, 40, (50, 2))
    np.testing.assert_array_equal(draw_per_block(lonlat_deg, 50, 1), np.arange(50))
    with pytest.raises(ValueError, match="max_rows is 0"):
        draw_per_block(lonlat_deg, 0, 1)


def test_a_capped_task_keeps_the_order_of_its_table_and_counts_what_it_left(tmp_path):
    rng = np.random.default_rng(8)
    lonlat_deg = rng.uniform(-60, 60, (400, 2)).round(3)
    rows = [f"{lon},{lat},{index}" for index, (lon, lat) in enumerate(lonlat_deg.tolist())]
    (tmp_path / "t.csv").write_text("\n".join(["lon,lat,y", *rows, ",1,2"]))
    config = TaskConfig(name="t", table="t.csv", target="y")
    data = load_task(config, tmp_path, max_rows=200, seed=2)
    assert (data.num_places, data.rows) == (200, 401)
    assert (np.diff(data.target) > 0).all()
    np.testing.assert_array_equal(data.lonlat_deg, lonlat_deg[data.target.astype(int)])
    assert sum(data.num_dropped.values()) == 201
    assert data.num_dropped["beyond 200, drawn per block of 10 degrees"] == 200
    assert "200 of 401 rows left out: beyond 200, drawn per block of 10 degrees" in data.notes
    whole = load_task(config, tmp_path, max_rows=400)
    assert whole.num_places == 400


def test_what_is_standardised_is_what_was_drawn(tmp_path):
    rng = np.random.default_rng(8)
    rows = [f"{lon},{lat},{lon * 3 + 7}" for lon, lat in rng.uniform(-60, 60, (400, 2)).tolist()]
    (tmp_path / "t.csv").write_text("\n".join(["lon,lat,y", *rows]))
    config = TaskConfig(name="t", table="t.csv", target="y", transform="standardise")
    data = load_task(config, tmp_path, max_rows=150)
    np.testing.assert_allclose([data.target.mean(), data.target.std()], [0.0, 1.0], atol=1e-12)
