"""The report."""

import dagster as dg
from pydantic import Field

from assets.embeddings import GROUP
from assets.evaluation import downstream_scores
from assets.patches import patch_dataset
from assets.presets import preset_defaults
from assets.resources import WorkspaceResource


@preset_defaults("report")
class ReportConfig(dg.Config):
    """What the report says of itself."""

    run: str = Field(default="latest", description="Which training run.")
    title: str = Field(default="SatCLIP: from pixels to scores", description="Heading.")
    synthetic: bool = Field(default=False, description="Whether the pixels come from the embedded synthetic planet.")


@dg.asset(group_name=GROUP, kinds={"html"}, deps=[patch_dataset, downstream_scores])
def report(config: ReportConfig, workspace: WorkspaceResource) -> dg.MaterializeResult:
    """One HTML page: where the places are, what the patches look like, how training went, what the embeddings score."""
    from pipelines.report.model_card import CARD_NAME
    from pipelines.report.stage import build_report

    path = build_report(workspace.path, config.run, synthetic=config.synthetic, title=config.title)
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(path),
            "open": dg.MetadataValue.url(path.as_uri()),
            "model_card": dg.MetadataValue.md(path.with_name(CARD_NAME).read_text(encoding="utf-8")),
        }
    )
