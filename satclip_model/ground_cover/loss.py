"""The contrastive loss of images and classes: every patch of a class is a positive of it."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def multi_positive_loss(
    image_embeddings: Float[Tensor, "batch embed"],
    class_embeddings: Float[Tensor, "classes embed"],
    fractions: Float[Tensor, "batch classes"],
    logit_scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Mean of the cross entropies image to classes and class to images, with soft targets.

    The targets of an image are its fractions. The targets of a class are the images of the batch in proportion to
    their fraction of it, so that images of one class never are negatives of each other; classes that the batch does not
    hold have no term. With one image per class and fractions of 0 and 1 this is CLIP's loss.

    Args:
        image_embeddings: Unit-length embeddings.
        class_embeddings: Unit-length embeddings.
        fractions: Share of each class in each image; rows sum to 1.
        logit_scale: Log of the inverse temperature.

    Raises:
        ValueError: The fractions do not belong to the embeddings.

    Source: Khosla et al. (2020), Supervised contrastive learning, equation 2, with images against classes; Radford et
        al. (2021), Learning transferable visual models from natural language supervision, figure 3.
    """
    expected = (len(image_embeddings), len(class_embeddings))
    if tuple(fractions.shape) != expected:
        raise ValueError(f"fractions have shape {tuple(fractions.shape)}; expected (images, classes) = {expected}")
    logits = logit_scale.exp() * image_embeddings @ class_embeddings.T
    to_classes = -(fractions * functional.log_softmax(logits, dim=1)).sum(dim=1).mean()
    mass = fractions.sum(dim=0)
    is_there = mass > 0
    targets = fractions[:, is_there] / mass[is_there]
    to_images = -(targets * functional.log_softmax(logits[:, is_there], dim=0)).sum(dim=0).mean()
    return 0.5 * (to_classes + to_images)


def class_probabilities(
    image_embeddings: Float[Tensor, "batch embed"],
    class_embeddings: Float[Tensor, "classes embed"],
    logit_scale: Float[Tensor, ""],
) -> Float[Tensor, "batch classes"]:
    """Softmax over classes of the scaled cosine similarities."""
    return torch.softmax(logit_scale.exp() * image_embeddings @ class_embeddings.T, dim=1)
