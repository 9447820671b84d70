"""Everything that Dagster loads; imports nothing heavy."""

import dagster as dg

from assets.checks import CHECKS
from assets.embeddings import location_embeddings
from assets.evaluation import downstream_scores
from assets.features import image_features
from assets.ground_cover import GROUND_COVER_ASSETS, GROUND_COVER_CHECKS
from assets.ground_cover_model import GROUND_COVER_MODEL_ASSETS, GROUND_COVER_MODEL_CHECKS
from assets.jobs import JOBS
from assets.patches import patch_dataset, patches
from assets.report import report
from assets.resources import CatalogResource, DaskResource, TablesResource, WorkspaceResource
from assets.sampling import sample_points, sampling_manifest, scene_candidates
from assets.satlas import SATLAS_ASSETS, SATLAS_CHECKS
from assets.satlas_products import SATLAS_PRODUCT_ASSETS, SATLAS_PRODUCT_CHECKS
from assets.schedules import monthly_refresh, monthly_satlas
from assets.training import satclip_checkpoint

ASSETS = [
    sample_points,
    scene_candidates,
    sampling_manifest,
    patches,
    patch_dataset,
    image_features,
    satclip_checkpoint,
    location_embeddings,
    downstream_scores,
    report,
    *GROUND_COVER_ASSETS,
    *GROUND_COVER_MODEL_ASSETS,
    *SATLAS_ASSETS,
    *SATLAS_PRODUCT_ASSETS,
]


@dg.definitions
def defs() -> dg.Definitions:
    """The code location ``satclip``."""
    return dg.Definitions(
        assets=ASSETS,
        asset_checks=[
            *CHECKS,
            *GROUND_COVER_CHECKS,
            *GROUND_COVER_MODEL_CHECKS,
            *SATLAS_CHECKS,
            *SATLAS_PRODUCT_CHECKS,
        ],
        jobs=JOBS,
        schedules=[monthly_refresh, monthly_satlas],
        resources={
            "workspace": WorkspaceResource(),
            "catalog": CatalogResource(),
            "tables": TablesResource(),
            "dask": DaskResource(),
            "pipes": dg.PipesSubprocessClient(termination_timeout_seconds=60),
        },
    )
