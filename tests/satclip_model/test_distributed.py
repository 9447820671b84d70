from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing

from satclip_model.distributed import joint_contrastive_loss, num_ranks
from satclip_model.loss import contrastive_loss
from tests.satclip_model.two_ranks import CASES, NUM_RANKS, build_case, loss_and_gradients, run_rank

TOLERANCE = {"float64": 1e-6, "float32": 1e-5}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes with gloo found, by rank."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(run_rank, (folder,), nprocs=NUM_RANKS)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(NUM_RANKS)]


@pytest.mark.parametrize("name", CASES)
def test_ranks_give_the_loss_of_one_process_on_the_joint_batch(name: str, found: list[dict[str, Any]]) -> None:
    module, images, lonlat_deg = build_case(name)
    with torch.no_grad():
        joint = module(images, lonlat_deg)
    shares = [rank[name][0] for rank in found]
    assert shares[0] != shares[1]
    tolerance = TOLERANCE[name[-7:]]
    torch.testing.assert_close(torch.stack(shares).mean(), joint, rtol=tolerance, atol=0.0)


@pytest.mark.parametrize("name", CASES)
def test_ranks_give_every_gradient_of_one_process_on_the_joint_batch(name: str, found: list[dict[str, Any]]) -> None:
    _, joint = loss_and_gradients(*build_case(name))
    assert sum(bool(gradient.any()) for gradient in joint.values()) >= 9
    for rank in found:
        assert rank[name][1].keys() == joint.keys()
        for parameter, gradient in joint.items():
            error = (rank[name][1][parameter] - gradient).abs().max()
            assert error <= TOLERANCE[name[-7:]] * gradient.abs().max(), parameter


def test_rows_come_in_order_of_the_ranks_and_gradients_are_summed(found: list[dict[str, Any]]) -> None:
    for number, rank in enumerate(found):
        gathered, gradient = rank["gathered"]
        assert gathered.flatten().tolist() == [0.0, 1.0, 2.0, 10.0, 11.0, 12.0]
        first = 1.0 + 3 * number
        assert gradient.flatten().tolist() == [3 * first, 3 * (first + 1), 3 * (first + 2)]


def test_unequal_batches_are_refused_on_every_rank(found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert "rank 0 has 4 rows, 8 numbers, rank 1 has 3 rows, 6 numbers; expected the same" in rank["refusal"]


def test_a_loss_that_diverges_on_one_rank_stops_all(found: list[dict[str, Any]]) -> None:
    assert [rank["divergence"] for rank in found] == ["loss is nan in epoch 0, batch 3"] * NUM_RANKS


def test_the_ranks_left_nothing_behind(found: list[dict[str, Any]]) -> None:
    assert len({rank["process"] for rank in found}) == NUM_RANKS
    for rank in found:
        assert not Path(f"/proc/{rank['process']}").exists()
        assert not list(Path("/dev/shm").glob(f"torch_{rank['process']}_*"))


def test_one_process_has_the_plain_loss() -> None:
    images, locations = torch.eye(3), torch.eye(3).flip(0)
    assert num_ranks() == 1
    scale = torch.tensor(1.0)
    assert joint_contrastive_loss(images, locations, scale) == contrastive_loss(images, locations, scale)
    with pytest.raises(ValueError, match="no pairs"):
        joint_contrastive_loss(images, locations[:2], scale)
