"""Real Sentinel-2 through the chain, offline: one command per case.

python examples/real_input.py s2-100k   import 20 patches of S2-100K, train, embed 3,076 weather stations, score them
python examples/real_input.py scene     search, sample and read a real scene among 111 real STAC items (100 m grid)
python examples/real_input.py cell      cut a Major TOM cell at native resolution into patches and compare the pixels

The folder with the data is named by SATCLIP_SHARED_DATA or --data.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from pyproj import Transformer
from shapely import box, transform
from shapely.geometry import mapping

from pipelines.evaluation.summaries import markdown_table
from pipelines.patches.dataset import PatchDataset, open_patch_dataset
from pipelines.sentinel2 import ALL_ASSETS, BANDS, NATIVE_GSD_M

CONFIG = Path(__file__).parent / "config"
COLLECTION = {
    "type": "Collection",
    "stac_version": "1.0.0",
    "id": "sentinel-2-l2a",
    "description": "Real Sentinel-2 Level-2A items and scenes",
    "license": "proprietary",
    "links": [],
    "extent": {
        "spatial": {"bbox": [[-180.0, -90.0, 180.0, 90.0]]},
        "temporal": {"interval": [["2015-06-27T10:25:31Z", None]]},
    },
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=["s2-100k", "scene", "cell"])
    parser.add_argument("--data", type=Path, default=os.environ.get("SATCLIP_SHARED_DATA"))
    parser.add_argument("--root", type=Path, default=None, help="workspace; default satclip_data/real/CASE")
    options = parser.parse_args()
    root = (options.root or Path("satclip_data") / "real" / options.case).resolve()
    if options.data is None:
        parser.error("no folder of real data; name it with --data or SATCLIP_SHARED_DATA")
    data = options.data.resolve()
    if not (data / "README.md").is_file():
        parser.error(f"no data at {data}; name its folder with --data or SATCLIP_SHARED_DATA")
    {"s2-100k": train_on_s2_100k, "scene": build_from_scene, "cell": build_from_cell}[options.case](data, root)
    return 0


def train_on_s2_100k(data: Path, root: Path) -> None:
    run("satclip", "dataset", "import", str(data / "s2_100k_sample"), "--root", str(root))
    tables = {"SATCLIP_TABLES_ROOT": str(data / "air_temperature")}
    for job in ("train_model", "evaluate_model"):
        execute(job, CONFIG / f"s2_100k_{job}.yaml", root, tables)
    import pandas as pd

    print(markdown_table(pd.read_parquet(root / "evaluation" / "downstream_scores.parquet")))
    run("satclip", "summary", "--root", str(root))


def build_from_scene(data: Path, root: Path) -> None:
    folder = data / "s2_l2a_scene_29RKH" / "S2A_29RKH_20200219_0_L2A"
    item = json.loads((folder / f"{folder.name}.json").read_text())
    item["assets"] = {name: asset_of(folder / f"{name}.tif", f"scene/{name}.tif") for name in ALL_ASSETS}
    others = [json.loads(line) for line in (data / "stac_items_dev" / "pc_items.ndjson").read_text().splitlines()]
    lines = (data / "stac_items_dev" / "earthsearch_v1_items.ndjson").read_text().splitlines()
    others += [json.loads(line) for line in lines]
    others = [other for other in others if other["id"] != item["id"]]
    catalog = write_catalog(root, [item, *others], {"scene": folder})
    execute_on(catalog, CONFIG / "scene.yaml", root)
    compare(open_patch_dataset(root), folder)


def build_from_cell(data: Path, root: Path) -> None:
    folder = next((data / "majortom_s2l2a_0U_199R_dev" / "0U" / "0U_199R").iterdir())
    catalog = write_catalog(root, [item_of_cell(folder)], {"cell": folder})
    execute_on(catalog, CONFIG / "cell.yaml", root)
    compare(open_patch_dataset(root), folder)


def item_of_cell(folder: Path) -> dict[str, Any]:
    """A STAC item for the cell; its name is the product id, S2A_MSIL2A_20220706T085611_N0400_R007_T33NZA_..."""
    mission, _, acquired, baseline, orbit, tile, _ = folder.name.split("_")
    with rasterio.open(folder / "B02.tif") as source:
        bounds, epsg = source.bounds, source.crs.to_epsg()
    to_lonlat = Transformer.from_crs(epsg, 4326, always_xy=True).transform
    outline = transform(box(*bounds).segmentize(1000), lambda xy: np.stack(to_lonlat(xy[:, 0], xy[:, 1]), axis=1))
    day, clock = acquired.split("T")
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": folder.name,
        "geometry": mapping(outline),
        "bbox": list(outline.bounds),
        "properties": {
            "datetime": f"{day[:4]}-{day[4:6]}-{day[6:]}T{clock[:2]}:{clock[2:4]}:{clock[4:]}Z",
            "platform": f"Sentinel-{mission[1:]}",
            "eo:cloud_cover": 0.0,
            "proj:epsg": epsg,
            "s2:mgrs_tile": tile[1:],
            "s2:processing_baseline": f"{baseline[1:3]}.{baseline[3:]}",
            "sat:relative_orbit": int(orbit[1:]),
        },
        "links": [],
        "assets": {name: asset_of(folder / f"{name}.tif", f"cell/{name}.tif") for name in BANDS},
    }


def asset_of(path: Path, href: str) -> dict[str, Any]:
    """An item's entry for a file, with the grid that the file really has."""
    with rasterio.open(path) as source:
        return {
            "href": href,
            "type": "image/tiff; application=geotiff",
            "proj:shape": list(source.shape),
            "proj:transform": list(source.transform)[:6],
        }


def write_catalog(root: Path, items: list[dict[str, Any]], files: dict[str, Path]) -> Path:
    """A folder that `satclip sandbox run --catalog` serves."""
    catalog = root / "catalog"
    catalog.mkdir(parents=True, exist_ok=True)
    (catalog / "collection.json").write_text(json.dumps(COLLECTION))
    (catalog / "items.ndjson").write_text("\n".join(json.dumps(item) for item in items))
    for name, folder in files.items():
        (catalog / name).mkdir(exist_ok=True)
        for source in folder.glob("*.tif"):
            (catalog / name / source.name).write_bytes(source.read_bytes())
    return catalog


def compare(dataset: PatchDataset, folder: Path) -> None:
    """Compares every patch with the pixels of the files it was cut from."""
    rows = dataset.places[dataset.places["valid"]]
    pixels = {}
    for band in BANDS:
        with rasterio.open(folder / f"{band}.tif") as source:
            pixels[band] = source.read(1)
    differing = dict.fromkeys(BANDS, 0)
    for index, row in rows.iterrows():
        patch = dataset.read_dn(index)
        at_row, at_col = (np.arange(start, start + dataset.patch_size) for start in (row.row_px, row.col_px))
        for number, band in enumerate(BANDS):
            factor = NATIVE_GSD_M[band] // 10
            expected = pixels[band][np.ix_(at_row // factor, at_col // factor)]
            differing[band] += int((patch[number] != expected).sum())
    print(f"patches        {len(rows)} of {dataset.num_places} places, {dataset.patch_size} px, {len(BANDS)} bands")
    print(f"resolution     {sorted(rows['resolution_m'].unique().tolist())} m")
    offsets, sources = sorted(rows["boa_add_offset"].unique().tolist()), sorted(rows["offset_source"].unique())
    print(f"offset         {offsets} from {sources}")
    print(f"differing px   {differing}")
    if any(differing.values()):
        raise SystemExit("patches differ from their source")


def execute_on(catalog: Path, config: Path, root: Path) -> None:
    """Runs build_dataset on a catalog served on loopback."""
    command = [
        str(Path(sys.executable).with_name("dagster")),
        "job",
        "execute",
        "-m",
        "assets.definitions",
        "-j",
        "build_dataset",
        "-c",
        str(config),
    ]
    run("satclip", "sandbox", "run", "--catalog", str(catalog), "--", *command, environment={"SATCLIP_ROOT": str(root)})


def execute(job: str, config: Path, root: Path, environment: dict[str, str]) -> None:
    """Runs a job of the code location."""
    run(
        "dagster", "job", "execute", "-m", "assets.definitions", "-j", job, "-c", str(config),
        environment={"SATCLIP_ROOT": str(root), **environment},
    )  # fmt: skip


def run(program: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
    """Runs a console script of this environment; its failure ends the example."""
    path = Path(sys.executable).with_name(program)
    subprocess.run([path, *arguments], env={**os.environ, **(environment or {})}, check=True)


if __name__ == "__main__":
    raise SystemExit(main())
