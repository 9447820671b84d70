"""The symmetric contrastive loss of two towers."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def contrastive_loss(
    image_embeddings: Float[Tensor, "batch embed"],
    location_embeddings: Float[Tensor, "batch embed"],
    logit_scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Mean of the cross entropies image to location and location to image; row i of both towers is a pair.

    Equal embeddings in all rows give log(batch).

    Args:
        image_embeddings: Unit-length embeddings.
        location_embeddings: Unit-length embeddings.
        logit_scale: Log of the inverse temperature.

    Raises:
        ValueError: The towers differ in shape.

    Source: Radford et al. (2021), Learning transferable visual models from natural language supervision, figure 3.
    """
    if image_embeddings.shape != location_embeddings.shape:
        raise ValueError(
            f"image embeddings {tuple(image_embeddings.shape)} and location embeddings "
            f"{tuple(location_embeddings.shape)} are no pairs; expected equal shapes"
        )
    logits_per_image = logit_scale.exp() * image_embeddings @ location_embeddings.T
    return symmetric_cross_entropy(logits_per_image, logits_per_image.T)


def symmetric_cross_entropy(
    logits_per_image: Float[Tensor, "batch columns"],
    logits_per_location: Float[Tensor, "batch columns"],
    first_pair: int = 0,
) -> Float[Tensor, ""]:
    """Mean of the cross entropies over both logits, in whose row i the pair is column ``first_pair + i``."""
    pairs = torch.arange(first_pair, first_pair + len(logits_per_image), device=logits_per_image.device)
    return 0.5 * (
        functional.cross_entropy(logits_per_image, pairs) + functional.cross_entropy(logits_per_location, pairs)
    )
