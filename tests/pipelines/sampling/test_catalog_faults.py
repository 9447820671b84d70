"""What the STAC API's connection does to opening a catalog and searching it."""

import json

import pytest

from pipelines.errors import CatalogError
from pipelines.sampling.catalog import open_catalog
from tests.loopback.cog import CogServer
from tests.loopback.coordinate_scene import CoordinateScene, collection
from tests.loopback.faults import Fault, cut, drop
from tests.loopback.stub_stac import StubStac

SCENE = CoordinateScene(32632, 399960, 5300040, "32TLT")


@pytest.mark.network
@pytest.mark.parametrize("fault", [cut, drop])
def test_a_landing_page_that_is_cut_off_is_asked_for_again_or_told(cog_server: CogServer, fault: type[Fault]) -> None:
    with StubStac(collection(), [json.loads(json.dumps(SCENE.item(cog_server.cog_url)))]) as stub:
        cog_server.hand_on_to(stub.url)
        for skip in range(6):
            cog_server.heal()
            cut_off = fault()
            cut_off.skip = skip
            cog_server.script("/stac*", cut_off)
            try:
                catalog = open_catalog(cog_server.stac_url, "sentinel-2-l2a")
            except CatalogError:
                continue
            assert catalog.honours_query
