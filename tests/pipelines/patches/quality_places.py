"""Tables of places with known quality, for tests."""

import json

import numpy as np
import pandas as pd

from pipelines.sampling.points import draw_uniform_points

METERS_PER_DEGREE = 111_195.0


def quality_places(num_places: int, seed: int = 4) -> pd.DataFrame:
    """Uniform places in the columns that a summary reads; every tenth has no patch, all else is good."""
    lonlat_deg = draw_uniform_points(num_places, seed)
    number = np.arange(num_places)
    valid = number % 10 != 9
    days = [f"{2021 + i // 12 % 2}-{i % 12 + 1:02d}-15T10:20:30Z" for i in range(num_places)]
    return pd.DataFrame(
        {
            "place_id": number,
            "place_lon_deg": lonlat_deg[:, 0],
            "place_lat_deg": lonlat_deg[:, 1],
            "lon_deg": lonlat_deg[:, 0],
            "lat_deg": lonlat_deg[:, 1] + np.where(valid, 4.0 / METERS_PER_DEGREE, 0.0),
            "valid": valid,
            "reason": np.where(valid, "", np.where(number % 20 == 9, "exhausted", "no_candidate")),
            "rejections": [json.dumps([["a", "unclear"], ["b", "nodata"]] if i % 20 == 9 else []) for i in number],
            "datetime": np.where(valid, days, ""),
            "processing_baseline": np.where(valid, np.where(number % 3 == 0, "03.01", "05.09"), ""),
            "boa_add_offset": np.where(number % 3 == 0, 0, -1000),
            "offset_source": np.where(valid, "processing_baseline", ""),
            "resolution_m": np.where(valid, 10.0, np.nan),
            "unclear_fraction": np.where(valid, (number % 5) * 0.002, np.nan),
            "snow_fraction": np.where(valid, 0.25, np.nan),
            "nodata_fraction": np.where(valid, 0.0, np.nan),
            "sha256": np.where(valid, [f"{i:064x}" for i in number], ""),
        }
    )
