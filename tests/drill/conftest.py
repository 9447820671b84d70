"""One world, its undisturbed dataset and, where a test asks for it, one cluster for all tests of a process."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.drill.cluster import open_cluster
from tests.drill.trial import run_undisturbed
from tests.drill.world import Outcome, World, open_world

if TYPE_CHECKING:
    from distributed import LocalCluster


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with open_world(tmp_path_factory.mktemp("drill")) as world:
        yield world


@pytest.fixture(scope="session")
def undisturbed(world: World) -> Outcome:
    return run_undisturbed(world)


@pytest.fixture(scope="session")
def cluster() -> "Iterator[Callable[[], LocalCluster]]":
    """Gives the cluster, which starts when it is first asked for."""
    started = []
    with ExitStack() as stack:

        def get() -> "LocalCluster":
            if not started:
                started.append(stack.enter_context(open_cluster()))
            return started[0]

        yield get
