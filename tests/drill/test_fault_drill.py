"""Whatever goes wrong on the way, the build ends in the dataset of an undisturbed one."""

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.drill.schedule import draw_schedule
from tests.drill.trial import readers, run_trial, run_undisturbed
from tests.drill.world import CLEAR_LAST, CLEAR_SECOND, CLOUDY, DAMAGED_B11, WITHOUT_B05, Outcome, World

if TYPE_CHECKING:
    from distributed import LocalCluster

NUM_SEEDS = int(os.environ.get("SATCLIP_DRILL_SEEDS", "5"))

pytestmark = pytest.mark.network


def test_what_can_never_be_read_is_recorded_and_the_next_candidate_taken(undisturbed: Outcome) -> None:
    tried = {
        place_id: [*json.loads(rejections), item_id]
        for place_id, item_id, rejections in undisturbed.places[["place_id", "item_id", "rejections"]].itertuples(
            index=False
        )
    }
    no_b05 = [WITHOUT_B05.item_id, "missing_file:B05"]
    assert tried[0] == [[CLOUDY.item_id, "unclear"], no_b05, CLEAR_LAST.item_id]
    assert tried[1] == [CLOUDY.item_id]
    assert tried[2] == [[DAMAGED_B11.item_id, "unreadable:B11"], CLEAR_SECOND.item_id]
    assert undisturbed.places["reason"].value_counts().to_dict() == {"": 11, "no_candidate": 2, "exhausted": 1}
    assert undisturbed.record["rejections"] == {"missing_file:B05": 3, "nodata": 1, "unclear": 3, "unreadable:B11": 3}


def test_a_band_that_is_gone_for_good_gives_the_same_store_on_every_run(world: World, undisturbed: Outcome) -> None:
    again = run_undisturbed(world, name="again")
    undisturbed.assert_same(again)
    assert again.record["rejections"]["missing_file:B05"] == 3


@pytest.mark.parametrize("reader", readers())
def test_every_reader_makes_the_same_dataset(world: World, undisturbed: Outcome, reader: str) -> None:
    undisturbed.assert_same(run_undisturbed(world, reader, name=f"by_{reader}"))


@pytest.mark.parametrize("seed", range(NUM_SEEDS), ids=lambda seed: f"seed{seed}")
def test_after_restarts_the_dataset_is_that_of_an_undisturbed_run(
    world: World, undisturbed: Outcome, cluster: "Callable[[], LocalCluster]", seed: int
) -> None:
    on_dask = draw_schedule(seed, world.file_patterns).on_dask
    report = run_trial(world, seed, undisturbed, cluster() if on_dask else None)
    assert report.exit_codes[-1] == 0
