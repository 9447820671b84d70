"""Where things are: workspace, catalog, tables, cluster."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from pipelines.workspace import stac_url, workspace_root

if TYPE_CHECKING:
    from pipelines.sampling.catalog import Catalog


class WorkspaceResource(dg.ConfigurableResource):
    """The folder in which all artefacts live."""

    root: str = Field(default="", description="Folder; empty: $SATCLIP_ROOT, or satclip_data in the current folder.")

    @property
    def path(self) -> Path:
        """The folder, absolute."""
        return workspace_root(self.root)


class CatalogResource(dg.ConfigurableResource):
    """The STAC API that knows the scenes."""

    stac_url: str = Field(default="", description="Landing page; empty: $SATCLIP_STAC_URL, or the Planetary Computer.")
    signing: str = Field(
        default="auto",
        pattern="^(auto|none|planetary_computer|s3)$",
        description="auto: as the profile says, or where the collection names a storage account to be signed for.",
    )
    profile: str = Field(
        default="auto",
        description="What items are called and which files they may name: auto (by URL), a name or a YAML file.",
    )

    @property
    def url(self) -> str:
        """Landing page of the API."""
        return stac_url(self.stac_url)

    def open(self, collection: str) -> "Catalog":
        """Connects; raises CatalogError where nothing answers or the collection is unknown."""
        from pipelines.sampling.catalog import open_catalog

        return open_catalog(self.url, collection, self.signing, profile=self.profile)


class TablesResource(dg.ConfigurableResource):
    """Where relative names of downstream tables are looked up."""

    root: str = Field(default="", description="Folder or http address; empty: $SATCLIP_TABLES_ROOT.")

    @property
    def location(self) -> str | None:
        """Folder or address, None where tables must be named in full."""
        return self.root or os.environ.get("SATCLIP_TABLES_ROOT") or None


class DaskResource(dg.ConfigurableResource):
    """A Dask cluster for the shards of a partition; without one they are built here, one after another."""

    scheduler_address: str = Field(default="", description="Such as tcp://scheduler:8786; empty: this machine.")
    connect_timeout_s: float = Field(default=30.0, description="How long the scheduler may take to answer.")

    def stream[Task, Result](
        self, function: Callable[[Task], Result], tasks: list[Task]
    ) -> Iterator[tuple[int, Result]]:
        """Applies a function to every task and yields the task's number and result, as they come.

        On a cluster the workers need the same package and the workspace under the same path.

        Raises:
            ClusterError: see `stream_on_cluster`; whatever the function raises comes through as it is.
        """
        if self.scheduler_address:
            from pipelines.cluster import stream_on_cluster

            timeout_s = self.connect_timeout_s
            yield from stream_on_cluster(self.scheduler_address, function, tasks, connect_timeout_s=timeout_s)
        else:
            yield from ((number, function(task)) for number, task in enumerate(tasks))

    def map[Task, Result](self, function: Callable[[Task], Result], tasks: list[Task]) -> list[Result]:
        """All results of `stream`, in order of the tasks."""
        results = dict(self.stream(function, tasks))
        return [results[number] for number in range(len(tasks))]
