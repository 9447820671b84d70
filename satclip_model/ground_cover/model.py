"""The two towers: images and ground-cover classes in one embedding space."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from satclip_model.ground_cover.config import GroundCoverClass, GroundCoverConfig
from satclip_model.ground_cover.loss import class_probabilities, multi_positive_loss
from satclip_model.ground_cover.text_encoder import PROMPTS, TextEncoder, class_prompts, open_text_encoder
from satclip_model.image_tower import ImageTower
from satclip_model.satclip import INITIAL_TEMPERATURE

ClassSource = Literal["learned", "text"]
_SMALLEST_SINGULAR: Final = 1e-4
"""Directions in which the texts of the classes differ less than this, of the largest, are left out."""


@dataclass(frozen=True)
class ClassTexts:
    """What a text encoder makes of the classes of training.

    Attributes:
        basis: Orthonormal directions that their vectors span, shape (feature, direction).
        vectors: Their prompts in these directions, shape (classes, prompts, direction).
        is_there: Which prompts each class has, shape (classes, prompts).
    """

    basis: Float[Tensor, "feature direction"]
    vectors: Float[Tensor, "classes prompts direction"]
    is_there: Bool[Tensor, "classes prompts"]

    @classmethod
    def of(cls, classes: Sequence[GroundCoverClass], encoder: TextEncoder) -> Self:
        """The texts of classes under an encoder."""
        vectors, is_there = _prompt_vectors(classes, encoder)
        basis = _span(vectors[is_there])
        return cls(basis, vectors @ basis, is_there)


class GroundCoverCLIP(ImageTower):
    """Image tower, class embeddings that are learned, a text tower over names and descriptions, and a temperature.

    The text tower is linear in the encoder's vector of a text, and sees of it only the directions in which texts of
    the classes of training lie. What a text adds that no class of training has moves nothing.

    ``logit_scale`` is the log value: temperature = exp(-logit_scale), never below ``config.min_temperature``.

    Args:
        config: All settings.
        texts: The texts of the classes of training; None reads them with the text encoder.
        text_encoder: Reads names and descriptions; None opens that of the settings, once it is needed.

    Raises:
        CheckpointError: The text encoder does not open.
    """

    prompt_vectors: Tensor
    prompt_is_there: Tensor
    text_basis: Tensor

    def __init__(
        self, config: GroundCoverConfig, texts: ClassTexts | None = None, text_encoder: TextEncoder | None = None
    ) -> None:
        super().__init__(config.image_backbone, config.image_head, config.embedding_dim)
        self.config = config
        self._text_encoder = text_encoder
        texts = texts or ClassTexts.of(config.classes, self.text_encoder)
        self.register_buffer("prompt_vectors", texts.vectors)
        self.register_buffer("prompt_is_there", texts.is_there)
        self.register_buffer("text_basis", texts.basis)
        self.text_projection = nn.Linear(texts.basis.shape[1], config.embedding_dim, bias=False)
        self.class_embedding = nn.Embedding(len(config.classes), config.embedding_dim)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(INITIAL_TEMPERATURE)))

    @property
    def text_encoder(self) -> TextEncoder:
        """What reads texts; opened when it is first asked for."""
        if self._text_encoder is None:
            self._text_encoder = open_text_encoder(self.config.text_encoder)
        return self._text_encoder

    @property
    def clamped_logit_scale(self) -> Tensor:
        """Log of the inverse temperature, at most -log(min_temperature)."""
        return self.logit_scale.clamp(max=-math.log(self.config.min_temperature))

    def learned_classes(self) -> Float[Tensor, "classes embed"]:
        """Unit-length embeddings of the classes of training, of their own."""
        return functional.normalize(self.class_embedding.weight, dim=1).float()

    def described_classes(self, prompts: Int[Tensor, " classes"] | None = None) -> Float[Tensor, "classes embed"]:
        """Unit-length embeddings of the classes of training by their texts.

        Args:
            prompts: Number of the prompt of each class; None takes the mean over all prompts.
        """
        if prompts is not None:
            chosen = self.prompt_vectors[torch.arange(len(prompts), device=prompts.device), prompts]
            return functional.normalize(self.text_projection(chosen), dim=1).float()
        embedded = functional.normalize(self.text_projection(self.prompt_vectors), dim=2).float()
        return functional.normalize((embedded * self.prompt_is_there.unsqueeze(-1)).sum(dim=1), dim=1)

    @torch.no_grad()
    def encode_classes(self, classes: Sequence[GroundCoverClass]) -> Float[Tensor, "classes embed"]:
        """Unit-length embeddings of any classes by their texts, means over all prompts; zeros of unknown words only."""
        vectors, is_there = _prompt_vectors(classes, self.text_encoder)
        known = vectors.to(self.text_basis.device) @ self.text_basis
        embedded = functional.normalize(self.text_projection(known), dim=2).float()
        return functional.normalize((embedded * is_there.to(known.device).unsqueeze(-1)).sum(dim=1), dim=1)

    def class_embeddings(self, source: ClassSource) -> Float[Tensor, "classes embed"]:
        """Unit-length embeddings of the classes of training: their own, or by their texts."""
        return self.learned_classes() if source == "learned" else self.described_classes()

    def draw_prompts(self, generator: torch.Generator) -> Int[Tensor, " classes"]:
        """A prompt per class, among those that it has."""
        return torch.multinomial(self.prompt_is_there.float().cpu(), 1, generator=generator)[:, 0]

    def loss(
        self,
        images: Float[Tensor, "batch ..."],
        fractions: Float[Tensor, "batch classes"],
        prompts: Int[Tensor, " classes"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean of the losses against learned and against described classes.

        Args:
            images: Features of the image backbone, or reflectance.
            fractions: Share of each class in each image; rows sum to 1.
            prompts: Prompt of each class; None takes the mean over all.
        """
        embedded, scale = self.encode_image_batch(images), self.clamped_logit_scale
        towers = (self.learned_classes(), self.described_classes(prompts))
        first, second = (multi_positive_loss(embedded, tower, fractions, scale) for tower in towers)
        return 0.5 * (first + second)

    @torch.no_grad()
    def probabilities(
        self, images: Float[Tensor, "batch ..."], classes: Float[Tensor, "classes embed"]
    ) -> Float[Tensor, "batch classes"]:
        """Probabilities of classes under the model's temperature.

        Args:
            images: Features of the image backbone, or reflectance.
            classes: Unit-length embeddings of the classes to choose from.
        """
        return class_probabilities(self.encode_image_batch(images), classes, self.clamped_logit_scale)


def build_ground_cover_clip(
    config: GroundCoverConfig, seed: int, text_encoder: TextEncoder | None = None
) -> GroundCoverCLIP:
    """An untrained model; the same seed gives the same weights, and the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GroundCoverCLIP(config, text_encoder=text_encoder)


def _prompt_vectors(classes: Sequence[GroundCoverClass], encoder: TextEncoder) -> tuple[Tensor, Tensor]:
    """Vectors of all prompts of all classes, (classes, prompts, feature), and which prompts there are."""
    texts = [class_prompts(each) for each in classes]
    encoded = torch.split(encoder([text for own in texts for text in own]), [len(own) for own in texts])
    vectors = torch.zeros(len(classes), len(PROMPTS), encoded[0].shape[1])
    is_there = torch.zeros(len(classes), len(PROMPTS), dtype=torch.bool)
    for index, own in enumerate(encoded):
        vectors[index, : len(own)], is_there[index, : len(own)] = own, True
    return vectors, is_there


def _span(vectors: Float[Tensor, "text feature"]) -> Float[Tensor, "feature direction"]:
    """Orthonormal directions that the vectors span."""
    _, singular, directions = torch.linalg.svd(vectors.double(), full_matrices=False)
    kept: Tensor = directions[singular > _SMALLEST_SINGULAR * singular[0]]
    return kept.T.float().contiguous()
