"""Inference with models whose answer is known from the pixels, and once with a real network."""

import itertools

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from scipy import ndimage
from shapely import box
from torch import nn

from pipelines.cli import main
from pipelines.errors import ConfigurationError
from pipelines.satlas.images import TileImage, read_tile_images, satlas_channels
from pipelines.satlas.inference import predict_tile, tile_windows
from pipelines.satlas.inference_config import InferenceConfig
from pipelines.satlas.merging import gather_lonlat, merge_points
from pipelines.satlas.prediction_stage import predict_tiles
from pipelines.satlas.predictions import TileGrid, read_predictions
from pipelines.sentinel2 import BANDS
from satclip_model.satlas import DetectionConfig, RegressionConfig, SatlasConfig, SegmentationConfig, build_satlas

SIZE = 192
GRID = TileGrid(32633, 500_000.0, 5_000_000.0, 10.0, SIZE, SIZE)
BRIGHT = 6  # channel of B08


class ReadsPixels(nn.Module):
    """What the brightest image shows in one channel: shares, values, or boxes around bright blobs."""

    def __init__(self, head, num_images=3):
        super().__init__()
        self.config = SatlasConfig(backbone="swin_v2_t", num_images=num_images, heads=(head,))
        self.unused = nn.Parameter(torch.zeros(1))
        self.batches = []

    def forward(self, images, present):
        self.batches.append(len(images))
        assert bool(present.any(1).all())
        shown = (images[:, :, BRIGHT] * present[:, :, None, None]).amax(1)
        head = self.config.heads[0]
        if isinstance(head, SegmentationConfig):
            return [shown[:, None]]
        return [255 * shown] if isinstance(head, RegressionConfig) else [[self.boxes(each) for each in shown]]

    def boxes(self, shown):
        labels, _ = ndimage.label(shown.numpy() > 0.5)
        found = [[part[1].start, part[0].start, part[1].stop, part[0].stop] for part in ndimage.find_objects(labels)]
        scores = [float(shown[int(top), int(left)]) for left, top, _, _ in found]
        boxes = torch.tensor(found, dtype=torch.float32).reshape(-1, 4)
        return {"boxes": boxes, "labels": torch.ones(len(found)), "scores": torch.tensor(scores)}


POLYGONS = ReadsPixels(SegmentationConfig(categories=("solar_farm",)))
POINTS = ReadsPixels(DetectionConfig(categories=("wind_turbine",)))
VALUES = ReadsPixels(RegressionConfig())


def image_of(bright, present=True):
    channels = np.zeros((9, SIZE, SIZE), dtype=np.uint8)
    channels[BRIGHT] = bright
    return TileImage(channels, np.broadcast_to(present, (SIZE, SIZE)).copy())


def blobs(places, size=3, value=250):
    bright = np.zeros((SIZE, SIZE), dtype=np.uint8)
    for row, column in places:
        bright[row : row + size, column : column + size] = value
    return bright


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([32, 64, 96]), st.integers(0, 15))
@settings(max_examples=25, deadline=None)
def test_windows_cover_every_pixel_and_end_with_the_tile(height, width, size, half):
    seen = np.zeros((max(height, size), max(width, size)), dtype=int)
    for window in tile_windows(height, width, InferenceConfig(window_px=size, overlap_px=2 * half)):
        seen[window.row : window.row + size, window.column : window.column + size] += 1
    assert seen.min() >= 1
    assert seen.shape == (max(height, size), max(width, size))


@given(
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), min_size=1, max_size=12, unique=True),
    st.sampled_from([(64, 16), (64, 32), (96, 30), (192, 0)]),
    st.integers(1, 5),
)
@settings(max_examples=8, deadline=None)
def test_every_object_is_found_once_wherever_windows_meet(cells, windows, batch_size):
    places = [(12 * row + 4, 12 * column + 5) for row, column in cells]
    config = InferenceConfig(window_px=windows[0], overlap_px=windows[1], batch_size=batch_size)
    found = predict_tile(POINTS, "wind_turbine", "2022-05", "t", GRID, [image_of(blobs(places))], config).objects
    expected = {(500_000 + 10 * (column + 1.5), 5_000_000 - 10 * (row + 1.5)) for row, column in places}
    assert {(point.x, point.y) for point in found.geometry} == expected
    assert set(found["category"]) == {"wind_turbine"}
    polygons = predict_tile(POLYGONS, "solar_farm", "2022-05", "t", GRID, [image_of(blobs(places))], config).objects
    assert len(polygons) == len(places)
    np.testing.assert_allclose(polygons.area, 900.0)
    np.testing.assert_allclose(polygons["score"], 250 / 255, rtol=1e-5)


@given(
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), min_size=1, max_size=12, unique=True),
    st.sampled_from([16, 32]),
)
@settings(max_examples=6, deadline=None)
def test_four_tiles_with_margins_say_what_one_tile_says(cells, margin_px):
    """Objects on the seams of the tiles among them; points of both sides become one in the products."""
    places = [(12 * row + 4, 12 * column + 1) for row, column in cells]
    config = InferenceConfig(window_px=64, overlap_px=16)
    whole = image_of(blobs(places, size=4))
    side = (SIZE - 2 * margin_px) // 2
    outer = GRID.padded(-margin_px)
    points, area, shares = set(), 0.0, []
    for row, column in ((0, 0), (0, side), (side, 0), (side, side)):
        kept = slice(row, row + side + 2 * margin_px), slice(column, column + side + 2 * margin_px)
        images = [TileImage(whole.channels[(slice(None), *kept)], whole.present[kept])]
        grid = TileGrid(
            GRID.epsg, outer.west_m + 10 * column, outer.north_m - 10 * row, GRID.resolution_m, side, side
        )  # fmt: skip
        given = {"config": config, "margin_px": margin_px}
        found = predict_tile(POINTS, "wind_turbine", "2022-05", "t", grid, images, **given).objects
        points |= {(point.x, point.y) for point in found.geometry}
        polygons = predict_tile(POLYGONS, "solar_farm", "2022-05", "t", grid, images, **given).objects
        assert all(box(*grid.bounds_m).covers(each) for each in polygons.geometry)
        area += polygons.area.sum()
        values = predict_tile(VALUES, "tree_cover", "2022-05", "t", grid, images, **given)
        shares.append(values.values)
    inner = slice(margin_px, SIZE - margin_px)
    np.testing.assert_allclose(
        np.block([shares[:2], shares[2:]]), whole.channels[BRIGHT][inner, inner] / 255, atol=1e-6
    )
    assert area == pytest.approx(100.0 * (whole.channels[BRIGHT][inner, inner] > 127).sum())
    expected = {(500_000 + 10 * (column + 2), 5_000_000 - 10 * (row + 2)) for row, column in places}
    west, south, east, north = outer.bounds_m
    assert {(x, y) for x, y in expected if west <= x < east and south < y <= north} <= points <= expected


class JudgesByPlace(ReadsPixels):
    """Boxes whose score and place depend on where in the window they are, as those of a real network do."""

    def boxes(self, shown):
        found = super().boxes(shown)
        middle = (found["boxes"][:, :2] + found["boxes"][:, 2:]) / 2
        found["scores"] = 0.2 + 0.7 * torch.frac(middle @ torch.tensor([0.17, 0.31]))
        found["boxes"] = found["boxes"] + torch.frac(middle[:, :1] * 0.37)
        return found


@given(st.integers(0, 2**32 - 1), st.sampled_from([(32, 0), (0, 32), (32, 32), (64, 96)]))
@settings(max_examples=10, deadline=None, phases=(Phase.reuse, Phase.generate))
def test_points_do_not_depend_on_where_tiles_begin(seed, shift):
    """Windows that overlap by half, margins of a quarter, tiles of whole half windows."""
    model, margin_px, tile_px, side_px = JudgesByPlace(DetectionConfig(categories=("wind_turbine",))), 16, 96, 360
    bright = np.zeros((side_px, side_px), dtype=np.uint8)
    for cell in np.random.default_rng(seed).choice(24 * 24, 240, replace=False):
        row, column = 36 + 12 * (cell // 24), 36 + 12 * (cell % 24)
        bright[row : row + 3, column : column + 3] = 250
    config = InferenceConfig(window_px=64, overlap_px=32)

    def all_points(first_row, first_column):
        frames = []
        for row, column in itertools.product(
            range(first_row, side_px - tile_px, tile_px), range(first_column, side_px - tile_px, tile_px)
        ):
            grid = TileGrid(32633, 500_000.0 + 10 * column, 5_000_000.0 - 10 * row, 10.0, tile_px, tile_px)
            seen = np.zeros((9, tile_px + 2 * margin_px, tile_px + 2 * margin_px), dtype=np.uint8)
            rows, columns = np.arange(row, row + tile_px + 2 * margin_px), np.arange(column, column + seen.shape[2])
            padded = np.pad(bright, margin_px)
            seen[BRIGHT] = padded[np.ix_(rows, columns)]
            image = TileImage(seen, np.ones(seen.shape[1:], dtype=bool))
            found = predict_tile(model, "wind_turbine", "2022-05", "t", grid, [image], config, margin_px=margin_px)
            frames.append(found.objects)
        return merge_points(gather_lonlat(frames), 50.0)

    x, y = Transformer.from_crs(32633, 4326, always_xy=True).transform(
        [501_300, 501_300, 502_300, 502_300], [4_998_700, 4_997_700, 4_998_700, 4_997_700]
    )
    inner = box(max(x[:2]), max(y[1], y[3]), min(x[2:]), min(y[0], y[2]))

    def well_inside(points):
        kept = points[points.within(inner)]
        found = np.column_stack([kept.geometry.x, kept.geometry.y, kept["score"]])
        return found[np.lexsort(found.T.round(6))]

    still = well_inside(all_points(0, 0))
    assert len(still) > 3
    np.testing.assert_allclose(well_inside(all_points(*shift)), still, rtol=0, atol=1e-5)


def test_values_are_those_of_the_model_and_nothing_is_said_where_no_image_is():
    rng = np.random.default_rng(0)
    bright, present = rng.integers(0, 255, (SIZE, SIZE)), np.ones((SIZE, SIZE), dtype=bool)
    present[:, 128:] = False
    other = present.copy()
    other[64:] = False
    images = [image_of(np.where(each, bright, 0), each) for each in (present, other)]
    found = predict_tile(
        VALUES, "tree_cover", "2022-05", "t", GRID, images, InferenceConfig(window_px=64, overlap_px=16)
    )
    np.testing.assert_allclose(found.values[:, :128], bright[:, :128] / 255, atol=1e-6)
    assert np.isnan(found.values[:, 128:]).all()
    assert found.observed.shape == (6, 6)
    assert found.observed[0].tolist() == [2, 2, 2, 2, 0, 0]
    assert found.observed[-1].tolist() == [1, 1, 1, 1, 0, 0]
    nothing = predict_tile(POLYGONS, "solar_farm", "2022-05", "t", GRID, [image_of(255, False)])
    assert len(nothing.objects) == 0
    assert nothing.observed.max() == 0
    assert "without offset" in nothing.parents["radiometry"]


def test_windows_go_in_batches_and_empty_ones_not_at_all():
    model = ReadsPixels(SegmentationConfig(categories=("solar_farm",)))
    present = np.zeros((SIZE, SIZE), dtype=bool)
    present[:, :64] = True
    config = InferenceConfig(window_px=64, overlap_px=0, batch_size=2)
    predict_tile(model, "solar_farm", "2022-05", "t", GRID, [image_of(0, present)], config)
    assert model.batches == [2, 1]


def test_a_model_of_another_kind_and_images_of_another_grid_are_told():
    with pytest.raises(ConfigurationError, match=r"predicts polygons, but the model has 1 heads.*kind detection"):
        predict_tile(POINTS, "solar_farm", "2022-05", "t", GRID, [])
    small = TileImage(np.zeros((9, 5, 5), np.uint8), np.ones((5, 5), bool))
    with pytest.raises(ConfigurationError, match="nine channels on the tile's grid"):
        predict_tile(POINTS, "wind_turbine", "2022-05", "t", GRID, [small])
    with pytest.raises(ValueError, match="expected less than window_px"):
        InferenceConfig(window_px=64, overlap_px=64)


def test_channels_are_scaled_as_published_weights_saw_them():
    dn = np.zeros((12, 1, 4), dtype=np.uint16)
    dn[:, 0] = [0, 1000, 4558, 10_000]
    channels = satlas_channels(dn, -1000)
    assert channels[:3, 0].tolist() == [[0, 0, 255, 255]] * 3
    assert channels[3:, 0].tolist() == [[0, 0, 111, 255]] * 6
    dn[BANDS.index("B11"), 0, 2] = 0
    assert not satlas_channels(dn, -1000)[:, 0, 2].any()


def write_image(path, bright, west=500_000.0):
    dn = np.full((12, SIZE, SIZE), 500, dtype=np.uint16)
    dn[BANDS.index("B08")] = 1 + 32 * bright.astype(np.uint16)
    profile = {"driver": "GTiff", "width": SIZE, "height": SIZE, "count": 12, "dtype": "uint16", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", transform=rasterio.Affine(10, 0, west, 0, -10, 5_000_000), **profile) as target:
        target.write(dn)
    return path


def test_tiles_are_predicted_once_and_one_that_fails_leaves_the_others(tmp_path):
    first = write_image(tmp_path / "a.tif", blobs([(10, 10), (100, 60)]))
    second = write_image(tmp_path / "b.tif", blobs([(10, 10)]))
    moved = write_image(tmp_path / "c.tif", blobs([]), west=600_000.0)
    model = ReadsPixels(DetectionConfig(categories=("wind_turbine",)))
    tiles = {"one": [first, second], "mixed": [first, moved], "gone": [tmp_path / "gone.tif"], "two": [second]}

    def run(**options):
        return predict_tiles(tmp_path, model, "wind_turbine", "2022-05", tiles, weights_sha256="w", **options)

    done = run()
    assert [path.name for path in done.made] == ["one", "two"]
    assert "expected one grid for all dates" in done.failures["mixed"]
    assert "no such scene" in done.failures["gone"]
    assert len(read_predictions(done.made[0]).objects) == 2
    calls, before = len(model.batches), (done.made[0] / "objects.parquet").read_bytes()
    again = run()
    assert [path.name for path in again.kept] == ["one", "two"]
    assert len(model.batches) == calls
    (done.made[0] / "record.json").unlink()
    assert [path.name for path in run().made] == ["one"]
    assert (done.made[0] / "objects.parquet").read_bytes() == before
    assert len(run(boa_add_offset=-1000).made) == 2


def test_a_real_network_gives_the_same_alone_and_in_batches():
    head = SegmentationConfig(categories=("solar_farm",))
    model = build_satlas(SatlasConfig(backbone="swin_v2_t", num_images=2, pyramid_dim=8, heads=(head,)), seed=3).eval()
    rng = np.random.default_rng(1)
    size = 48
    images = [
        TileImage(rng.integers(1, 255, (9, size, size)).astype(np.uint8), np.ones((size, size), bool)) for _ in range(2)
    ]
    grid = TileGrid(32633, 500_000.0, 5_000_000.0, 10.0, size, size)
    alone, together = (
        predict_tile(
            model, "solar_farm", "2022-05", "t", grid, images,
            InferenceConfig(window_px=32, overlap_px=16, batch_size=number, precision="float32"),
        )
        for number in (1, 4)
    )  # fmt: skip
    assert len(alone.objects) == len(together.objects)
    np.testing.assert_allclose(alone.objects["score"], together.objects["score"], atol=1e-5)


def test_the_command_tells_what_it_made_and_what_is_wrong(tmp_path, capsys, monkeypatch):
    image = write_image(tmp_path / "a.tif", blobs([(10, 10)]))
    weights = tmp_path / "weights.pth"
    torch.save({"backbone.weight": torch.zeros(2)}, weights)
    command = ["satlas", "predict", str(image), "--weights", str(weights), "--root", str(tmp_path), "--month"]
    assert main([*command, "2022-05", "--task", "solar_farm"]) == 1
    told = capsys.readouterr().err
    assert "weights.pth" in told
    assert "Swin of width 128, 9 channels, several images" in told
    assert main([*command, "2022-5", "--task", "solar_farm"]) == 1
    assert "is not of the form YYYY-MM" in capsys.readouterr().err
    assert main([*command, "2022-05", "--task", "roads"]) == 1
    assert "task 'roads': expected one of solar_farm" in capsys.readouterr().err
    model = ReadsPixels(DetectionConfig(categories=("wind_turbine",)))
    monkeypatch.setattr("pipelines.satlas.task_weights.open_satlas_model", lambda *_: model)
    assert main([*command, "2022-05", "--task", "wind_turbine"]) == 0
    assert "predicted  1 objects, 1 images" in capsys.readouterr().out
    assert main([*command, "2022-05", "--task", "wind_turbine"]) == 0
    assert "there already  1 objects" in capsys.readouterr().out


def test_no_image_is_no_tile():
    with pytest.raises(ConfigurationError, match="one path per date"):
        read_tile_images([], 0)
