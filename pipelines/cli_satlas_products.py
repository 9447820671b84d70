"""``satclip satlas products | index | validate | published | compare | map``: what becomes of predictions."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.cli_dataset import add_root
from pipelines.satlas.predictions import TASK_KINDS
from pipelines.satlas.product_config import PUBLISHED_CATEGORIES
from pipelines.workspace import workspace_root

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_product_actions(actions: "Commands") -> None:
    """Adds the actions on products to those of ``satclip satlas``."""
    products = actions.add_parser("products", help="publish a month of a task, and revise the months before")
    products.add_argument("--task", required=True, choices=list(TASK_KINDS))
    products.add_argument("--month", required=True, help="YYYY-MM")
    products.set_defaults(run=_products)
    index = actions.add_parser("index", help="write the index of all products")
    index.set_defaults(run=_index)
    validate = actions.add_parser("validate", help="draw samples, score those that are judged, write the report")
    validate.add_argument("--task", required=True, choices=list(PUBLISHED_CATEGORIES))
    validate.add_argument("--month", default="latest", help="YYYY-MM or latest")
    validate.add_argument("--reference", default="", help="known objects, for recall: CSV (lon, lat) or geometries")
    validate.add_argument("--countries", default="", help="Natural Earth's countries; default: the user's cache")
    validate.add_argument("--download", action="store_true", help="fetch the countries where they are not there")
    validate.add_argument("--whole-world", action="store_true", help="draw from the world as one, not by continent")
    validate.add_argument("--samples", type=int, default=100, help="most objects per continent")
    validate.add_argument("--seed", type=int, default=0, help="of the order of samples")
    validate.set_defaults(run=_validate)
    published = actions.add_parser("published", help="recompute the published validation from the counts behind it")
    published.add_argument("--confidence", type=float, default=0.95, help="of the intervals")
    published.set_defaults(run=_published)
    compare = actions.add_parser("compare", help="share of known places with an object of a product nearby")
    compare.add_argument("product", type=Path, help="a product: GeoJSON, GeoParquet, shapefile")
    compare.add_argument("reference", type=Path, help="known places: CSV or geometries")
    compare.add_argument("--distance-m", type=float, default=2000.0, help="how near is near")
    compare.add_argument("--lon-column", default="lon", help="of a CSV")
    compare.add_argument("--lat-column", default="lat", help="of a CSV")
    compare.add_argument("--where", default=None, metavar="COLUMN=VALUE", help="only these known places")
    compare.set_defaults(run=_compare)
    page = actions.add_parser("map", help="write a page with a map of the products")
    page.add_argument("--title", default="Satlas products", help="heading of the page")
    page.add_argument("--library", type=Path, default=None, help="folder with MapLibre; default: the user's cache")
    page.add_argument("--download", action="store_true", help="fetch MapLibre with npm where it is not there")
    page.set_defaults(run=_map)
    for each in (products, index, validate, page):
        add_root(each)


def _products(options: argparse.Namespace) -> int:
    from pipelines.satlas.product_config import ProductConfig
    from pipelines.satlas.products import build_products
    from pipelines.satlas.tree_cover import TreeCoverConfig, build_tree_cover

    root = workspace_root(options.root)
    if options.task not in PUBLISHED_CATEGORIES:
        published, failures = build_tree_cover(root, options.month, TreeCoverConfig())
        print(f"{options.task} {options.month}: version {published.version}, {len(failures)} tiles left out")
        return 0
    run = build_products(root, options.task, options.month, ProductConfig())
    for each in run.published:
        print(f"{options.task} {each.name}: version {each.version}, {run.num_objects[each.name]} objects")
    for name, reason in run.failures.items():
        print(f"left out tile {name}: {reason}")
    for reason, number in run.rejected.items():
        print(f"left out {number} objects of {options.month}: {reason}")
    print(f"revised: {', '.join(run.revised) or 'none'}")
    return 0


def _index(options: argparse.Namespace) -> int:
    from pipelines.satlas.index import build_index, index_path

    root = workspace_root(options.root)
    index = build_index(root)
    print(f"{index_path(root)}: {len(index.entries)} entries, content {index.content_sha256[:16]}")
    for path, fault in index.faults.items():
        print(f"{path}: {fault}")
    return 1 if index.faults else 0


def _validate(options: argparse.Namespace) -> int:
    from pipelines.satlas.validation.report import estimates_table
    from pipelines.satlas.validation.stage import ValidationConfig, read_references, validate_products

    config = ValidationConfig(
        month=options.month,
        samples_per_continent=options.samples,
        seed=options.seed,
        by_continent=not options.whole_world,
        countries=options.countries,
        download_countries=options.download,
    )
    found = validate_products(workspace_root(options.root), options.task, config, read_references(options.reference))
    print(estimates_table(found.estimates, config.confidence))
    print(f"{found.num_judged} of {found.num_samples} samples judged; {found.report}")
    return 0


def _published(options: argparse.Namespace) -> int:
    from pipelines.satlas.validation.published import compare_published
    from pipelines.satlas.validation.report import published_table

    print(published_table(compare_published(options.confidence)))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from pipelines.errors import TableError
    from pipelines.satlas.history import places_of
    from pipelines.satlas.validation.proportions import proportion
    from pipelines.satlas.validation.recall import NUM_WITHOUT_PLACE, found_within, read_reference
    from pipelines.satlas.validation.report import percent

    product = read_reference(options.product)
    known = read_reference(options.reference, options.lon_column, options.lat_column)
    if known.attrs[NUM_WITHOUT_PLACE]:
        print(f"{options.reference}: {known.attrs[NUM_WITHOUT_PLACE]} rows have no place and are left out")
    if options.where:
        column, _, value = options.where.partition("=")
        if column not in known.columns:
            raise TableError(f"{options.reference}: no column {column!r}; name one of {', '.join(known.columns[:20])}")
        known = known[known[column].astype(str) == value]
    if known.empty:
        raise TableError(f"{options.reference}: no places ({options.where or 'the file is empty'}); nothing to compare")
    found = found_within(places_of(known), places_of(product), options.distance_m)
    share = proportion(int(found.sum()), len(found))
    print(
        f"{int(found.sum())} of {len(found)} places have an object within {options.distance_m:g} m: {percent(share)} %"
    )
    return 0


def _map(options: argparse.Namespace) -> int:
    from pipelines.satlas.map_page import write_map

    path = write_map(workspace_root(options.root), options.title, options.library, download=options.download)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0
