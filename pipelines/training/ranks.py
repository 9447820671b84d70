"""Several processes that train one model, as started by ``torchrun``: which one this is, and its share of a batch."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pipelines.errors import ConfigurationError
from pipelines.parent_watch import end_with_parent

if TYPE_CHECKING:
    from torch import Tensor

_GRACE_S: Final = 30.0
_SEED_STRIDE: Final = 1_000_003
_VARIABLES: Final = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Ranks:
    """A process among those of a training.

    All ranks hold all places and draw the same order of them; of each batch a rank takes its own rows.

    Attributes:
        rank: Number of this process, from 0.
        world_size: Number of processes.
        local_rank: Number among the processes of this machine; that of its GPU, too.
        local_world_size: Processes on this machine, the same on every machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and tells what happens."""
        return self.rank == 0

    def batch_size(self, wanted: int, num_places: int) -> int:
        """Places of a joint batch: ``wanted``, or with fewer places than that as many as give equal shares.

        Raises:
            ConfigurationError: ``wanted`` gives no equal shares, or a share is empty.
        """
        if wanted % self.world_size:
            lower = wanted - wanted % self.world_size
            raise ConfigurationError(
                f"batch_size is {wanted}, which gives {self.world_size} ranks no equal shares; set it to "
                f"{lower or self.world_size} or another multiple of {self.world_size}"
            )
        if num_places < self.world_size:
            raise ConfigurationError(
                f"{num_places} training places for {self.world_size} ranks; train with fewer ranks or more places"
            )
        return min(wanted, num_places - num_places % self.world_size)

    def own_rows(self, batch: "Tensor") -> "Tensor":
        """This rank's rows of a joint batch; the shares of all ranks, one after the other, are the batch.

        Raises:
            ValueError: The shares are not equal.
        """
        share, rest = divmod(len(batch), self.world_size)
        if rest:
            raise ValueError(f"a batch of {len(batch)} rows for {self.world_size} ranks; expected equal shares")
        return batch[self.rank * share : (self.rank + 1) * share]

    def seed(self, seed: int) -> int:
        """A seed of this rank's own, for what differs from row to row, such as dropout; ``seed`` itself on rank 0."""
        return seed + self.rank * _SEED_STRIDE

    @property
    def log_level(self) -> int:
        """INFO on the first rank, DEBUG on the others, for what all would tell alike."""
        return logging.INFO if self.is_first else logging.DEBUG

    def broadcast[T](self, value: T) -> T:
        """The first rank's value on every rank; called by all of them."""
        if self.world_size == 1:
            return value
        import torch.distributed

        holder = [value]
        torch.distributed.broadcast_object_list(holder)
        return holder[0]

    def trainer_options(self, accelerator: str) -> dict[str, Any]:
        """Arguments of `lightning.Trainer` that make it one of these ranks: gloo on the CPU, nccl on GPUs.

        Buffers are not sent from rank 0 to the others: none changes in training but the running statistics of a
        batch normalisation that is trained, which are of each rank's own share and of no influence on its steps.
        """
        if self.world_size == 1:
            return {"devices": 1}
        from lightning.pytorch.strategies import DDPStrategy

        backend = "nccl" if accelerator == "gpu" else "gloo"
        strategy = DDPStrategy(process_group_backend=backend, broadcast_buffers=False, gradient_as_bucket_view=True)
        return {
            "strategy": strategy,
            "devices": self.local_world_size,
            "num_nodes": self.world_size // self.local_world_size,
            "use_distributed_sampler": False,
        }


ALONE: Final = Ranks()
"""A training in one process."""


def current_ranks(environment: Mapping[str, str] | None = None) -> Ranks:
    """This process among those that ``torchrun`` started; one alone without it.

    Args:
        environment: Environment variables; None takes those of this process.

    Raises:
        ConfigurationError: Some of torchrun's variables are missing, no numbers, or do not fit.
    """
    variables = os.environ if environment is None else environment
    if not any(name in variables for name in _VARIABLES):
        return ALONE
    found = {name: variables.get(name) for name in _VARIABLES}
    try:
        rank, local_rank, world_size, local_world_size = (int(value or "") for value in found.values())
    except ValueError as error:
        raise _unfit(found) from error
    if not (
        0 <= local_rank < local_world_size and local_rank <= rank < world_size and not world_size % local_world_size
    ):
        raise _unfit(found)
    return Ranks(rank, world_size, local_rank, local_world_size)


def _unfit(found: Mapping[str, str | None]) -> ConfigurationError:
    told = ", ".join(f"{name} is {value!r}" for name, value in found.items())
    return ConfigurationError(
        f"{told}; expected the numbers that torchrun gives. Start ranks by torchrun, or unset these variables to "
        "train in one process"
    )


@contextmanager
def joined_ranks(ranks: Ranks) -> Iterator[None]:
    """A block at whose end the connections of a rank are closed; the rank ends where torchrun is killed."""
    import torch.distributed

    if ranks.world_size > 1:
        end_with_parent(os.getppid(), _GRACE_S)
    try:
        yield
    finally:
        if ranks.world_size > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
