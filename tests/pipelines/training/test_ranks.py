import pytest
import torch

from pipelines.errors import ConfigurationError
from pipelines.training.ranks import Ranks, current_ranks

TORCHRUN = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}


def test_without_torchrun_a_process_is_alone() -> None:
    alone = current_ranks({"PATH": "/bin"})
    assert alone == Ranks() == Ranks(rank=0, world_size=1, local_rank=0, local_world_size=1)
    batch = torch.arange(7)
    assert torch.equal(alone.own_rows(batch), batch)
    assert alone.batch_size(512, 33) == 33
    assert alone.seed(4) == 4


def test_the_environment_of_torchrun_is_read() -> None:
    ranks = current_ranks(TORCHRUN)
    assert ranks == Ranks(rank=5, world_size=8, local_rank=1, local_world_size=4)
    assert not ranks.is_first


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"RANK": "8"}, "RANK is '8'"),
        ({"LOCAL_RANK": "6"}, "LOCAL_RANK is '6'"),
        ({"LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE is '3'"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is ''"),
        ({"LOCAL_WORLD_SIZE": None}, "LOCAL_WORLD_SIZE is None"),
    ],
)
def test_an_environment_that_is_not_torchruns_is_refused(changes: dict[str, str | None], told: str) -> None:
    environment = {name: value for name, value in (TORCHRUN | changes).items() if value is not None}
    with pytest.raises(ConfigurationError, match=f"{told}.*expected the numbers that torchrun gives"):
        current_ranks(environment)


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_shares_of_the_ranks_are_the_batch(world_size: int) -> None:
    batch = torch.arange(48).reshape(24, 2)
    shares = [Ranks(rank, world_size, 0, 1).own_rows(batch) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    assert torch.equal(torch.cat(shares), batch)


def test_unequal_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 7 rows for 2 ranks"):
        Ranks(0, 2, 0, 2).own_rows(torch.arange(7))
    with pytest.raises(ConfigurationError, match=r"batch_size is 512.*3 ranks.*set it to 510 or another multiple of 3"):
        Ranks(0, 3, 0, 3).batch_size(512, 1000)
    with pytest.raises(ConfigurationError, match="2 training places for 3 ranks"):
        Ranks(0, 3, 0, 3).batch_size(510, 2)


def test_a_joint_batch_larger_than_the_data_is_clipped_to_equal_shares() -> None:
    assert Ranks(0, 3, 0, 3).batch_size(510, 100) == 99
    assert Ranks(0, 3, 0, 3).batch_size(510, 1000) == 510


def test_every_rank_has_its_own_seed_and_the_first_the_given_one() -> None:
    seeds = [Ranks(rank, 4, rank, 4).seed(seed) for rank in range(4) for seed in range(100)]
    assert len(set(seeds)) == 400
    assert seeds[:100] == list(range(100))
