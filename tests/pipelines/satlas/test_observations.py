"""How often a place was looked at, by the rasters of overlapping tiles in two zones."""

from pathlib import Path

import geopandas
import numpy as np
from pyproj import Transformer

from pipelines.satlas.observations import ObservedMonth
from pipelines.satlas.predictions import TileGrid, TilePredictions, write_predictions

EMPTY = geopandas.GeoDataFrame({"category": [], "score": []}, geometry=[], crs="EPSG:32631")


def test_every_cell_is_found_where_it_lies_and_outside_there_is_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    tiles, rasters = [], []
    for number, (epsg, west, north) in enumerate(
        [(32660, 760_000.0, 8_000_000.0), (32660, 765_000.0, 8_000_000.0), (32601, 240_000.0, 8_000_000.0)]
    ):
        grid = TileGrid(epsg, west, north, 10.0, 600, 1000)
        observed = rng.integers(0, 5, (6, 10)).astype(np.uint8)
        objects = EMPTY.to_crs(epsg)
        folder = write_predictions(
            tmp_path, TilePredictions("wind_turbine", "2022-01", str(number), grid, observed, objects)
        )
        tiles.append((grid, folder))
        rasters.append(observed)
    month = ObservedMonth(tiles)
    places, expected = [], []
    for _ in range(300):
        number = int(rng.integers(3))
        grid = tiles[number][0]
        x, y = grid.west_m + rng.uniform(-2000, 12_000), grid.north_m + rng.uniform(-8000, 2000)
        places.append(Transformer.from_crs(grid.epsg, 4326, always_xy=True).transform(x, y))
        seen = [0]
        for (other, _), raster in zip(tiles, rasters, strict=True):
            if other.epsg == grid.epsg:
                row, column = int(np.ceil((other.north_m - y) / 1000)) - 1, int((x - other.west_m) // 1000)
                if 0 <= row < 6 and 0 <= column < 10:
                    seen.append(int(raster[row, column]))
        expected.append(max(seen))
    found = month.num_periods(np.array(places))
    alone = np.array([month.num_periods(np.array([place]))[0] for place in places[:20]])
    np.testing.assert_array_equal(found[:20], alone)
    # The two zones overlap on the ground, so that the other zone may have looked where this one did not.
    assert (found >= expected).all()
    assert (found == expected).mean() > 0.7
    assert month.num_periods(np.array([[0.0, 0.0], [10.0, -72.0]])).tolist() == [0, 0]
    assert len(month.num_periods(np.zeros((0, 2)))) == 0
