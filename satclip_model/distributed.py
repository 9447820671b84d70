"""The contrastive loss over several ranks: every rank sees the negatives of all.

Gradients are those of PyTorch's DistributedDataParallel, which averages over the ranks: with it, loss and gradients are
those of one process on the joint batch, whose rows are those of rank 0, then those of rank 1, and so on.
"""

from typing import Any

import torch
import torch.distributed
from jaxtyping import Float
from torch import Tensor

from satclip_model.loss import contrastive_loss, symmetric_cross_entropy


def num_ranks() -> int:
    """Ranks of the default process group; 1 where none is initialised."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 1
    return torch.distributed.get_world_size()


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ANN401
        ctx.num_rows = len(tensor)
        gathered = tensor.new_empty((torch.distributed.get_world_size() * len(tensor), *tensor.shape[1:]))
        torch.distributed.all_gather_into_tensor(gathered, tensor.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
        (gradient,) = gradients
        own = gradient.new_empty((ctx.num_rows, *gradient.shape[1:]))
        torch.distributed.reduce_scatter_tensor(own, gradient.contiguous())
        return own


def all_gather_with_gradient(tensor: Float[Tensor, "batch channel"]) -> Float[Tensor, "joint_batch channel"]:
    """Rows of all ranks in order of the ranks; to be called by every rank with the same shape.

    The gradient of a rank's own rows is the sum over all ranks of the gradients that these rows got there. Where every
    rank has its own loss and DistributedDataParallel averages the gradients of the parameters, they are those of the
    mean of the losses; nothing is to be divided or multiplied by the number of ranks.

    Raises:
        ValueError: The ranks differ in shape; every rank raises.
    """
    _require_equal_shapes(tensor)
    gathered: Tensor = _AllGather.apply(tensor)
    return gathered


def joint_contrastive_loss(
    image_embeddings: Float[Tensor, "batch embed"],
    location_embeddings: Float[Tensor, "batch embed"],
    logit_scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """This rank's share of the contrastive loss of the joint batch: its rows against the columns of all ranks.

    The mean over the ranks is `contrastive_loss` of the joint batch, and so are the gradients of the parameters after
    DistributedDataParallel averaged them. With one rank it is `contrastive_loss`.

    Args:
        image_embeddings: This rank's, unit length.
        location_embeddings: This rank's, unit length; row i belongs to image i.
        logit_scale: Log of the inverse temperature, the same on every rank.

    Raises:
        ValueError: The towers differ in shape, or the ranks do.
    """
    if num_ranks() == 1 or image_embeddings.shape != location_embeddings.shape:
        return contrastive_loss(image_embeddings, location_embeddings, logit_scale)
    everyone = all_gather_with_gradient(torch.cat([image_embeddings, location_embeddings], dim=1))
    all_images, all_locations = everyone.chunk(2, dim=1)
    scale = logit_scale.exp()
    return symmetric_cross_entropy(
        scale * image_embeddings @ all_locations.T,
        scale * location_embeddings @ all_images.T,
        first_pair=torch.distributed.get_rank() * len(image_embeddings),
    )


def _require_equal_shapes(tensor: Tensor) -> None:
    own = torch.tensor([len(tensor), tensor.numel()], device=tensor.device)
    everyone = own.new_empty(torch.distributed.get_world_size() * len(own))
    torch.distributed.all_gather_into_tensor(everyone, own)
    sizes = everyone.view(-1, len(own)).tolist()
    if any(size != sizes[0] for size in sizes):
        told = ", ".join(f"rank {rank} has {rows} rows, {numel} numbers" for rank, (rows, numel) in enumerate(sizes))
        raise ValueError(
            f"tensors to gather differ in shape: {told}; expected the same on every rank. Give every rank an equal "
            "share of each batch and leave out a last, smaller one"
        )
