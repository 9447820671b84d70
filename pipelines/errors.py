"""Errors a user can act on.

SatclipError
├── ConfigurationError   a setting that cannot be honoured
│   └── MissingWeightsError  weights that are not there: the user names them, or asks for the download
├── CatalogError         the STAC API: unreachable, no such collection, nothing found
├── SceneReadError       a scene could not be read now; the next run may succeed
├── SceneContentError    a verdict on a scene's content; another scene must serve
├── StoreError           a patch store that does not fit its plan or its schema
├── DatasetError         a dataset that is missing, incomplete or did not pass its checks
├── ArtefactError        an artefact whose recorded parents are not the ones at hand
├── ClusterError         the Dask cluster: unreachable, lost, or without workers
└── TableError           a table of points: missing column, coordinate out of range
    └── MissingTableError  a table that is not there: the user downloads it, or asks for the download
"""


class SatclipError(Exception):
    """Base of every error of the pipeline that names its object and its remedy."""


class ConfigurationError(SatclipError):
    """A setting that cannot be honoured."""


class MissingWeightsError(ConfigurationError):
    """Weights that are not there; they must be named, installed, or their download asked for."""


class CatalogError(SatclipError):
    """The STAC API is unreachable, lacks the collection, or found nothing."""


class SceneReadError(SatclipError):
    """A scene could not be read now (network, throttling, expired token); the next run may succeed."""


class SceneContentError(SatclipError):
    """A verdict on a scene's content: it can never serve this place.

    Attributes:
        reason: The short, countable name of the verdict, as recorded in the store.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["SceneContentError"], tuple[str, str]]:
        return type(self), (self.reason, str(self))


class StoreError(SatclipError):
    """A patch store that does not fit its plan or its schema."""


class DatasetError(SatclipError):
    """A dataset that is missing, incomplete or did not pass its checks."""


class ArtefactError(SatclipError):
    """An artefact whose recorded parents are not the ones at hand."""


class ClusterError(SatclipError):
    """The Dask cluster is unreachable, was lost, has no workers, or they die under a task."""


class TableError(SatclipError):
    """A table of points with a missing column or a coordinate out of range."""


class MissingTableError(TableError):
    """A table that is not there; it must be downloaded, or its download asked for."""
