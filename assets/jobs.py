"""Jobs: pieces of the chain, and the whole of it.

Settings start from the preset named by $SATCLIP_PRESET: as defaults of the assets, because Dagster gives a run over a
range of partitions nothing of its job's configuration, and as what the launchpad proposes for the others.
"""

from typing import TYPE_CHECKING

import dagster as dg

from assets.partitions import WHOLE_RANGE_TAGS
from assets.presets import default_preset, read_preset

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

DATASET = ["sample_points", "scene_candidates", "sampling_manifest", "patches", "patch_dataset"]
MODEL = ["image_features", "satclip_checkpoint"]
GROUND_COVER = ["ground_cover_labels", "ground_cover_checkpoint", "ground_cover_scores"]
PRODUCTS = ["location_embeddings", "downstream_scores", "report"]
SATLAS = ["satlas_windows", "satlas_predictions", "satlas_products", "satlas_index", "satlas_validation"]
IN_THE_UI = "Here: Materialize all, all partitions."


def _job(name: str, assets: list[str], description: str) -> "UnresolvedAssetJobDefinition":
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(*assets),
        config=read_preset(default_preset(), set(assets)),
        tags=WHOLE_RANGE_TAGS if "patches" in assets else {},
        description=description,
    )


JOBS = [
    _job(
        "build_dataset",
        DATASET,
        "Places, scenes, plan, patches, verified dataset; finished shards are skipped. " + IN_THE_UI,
    ),
    _job("train_model", MODEL, "Image features and the two towers, on the latest dataset that passed its checks."),
    _job("evaluate_model", PRODUCTS, "Embeddings, downstream scores and report of the latest checkpoint."),
    _job(
        "full_chain",
        [*DATASET, *MODEL, *PRODUCTS],
        "From the catalog to the report. " + IN_THE_UI,
    ),
    _job(
        "ground_cover",
        GROUND_COVER,
        "Labels of the latest dataset's patches from a land-cover map, a model of images and classes, and its scores.",
    ),
    _job(
        "satlas_month",
        SATLAS,
        "A month of Satlas: images, predictions, products, and then the index and the validation of all.",
    ),
]
BUILD_DATASET = JOBS[0]
SATLAS_MONTH = JOBS[-1]
