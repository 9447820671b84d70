"""Texts of classes as vectors: an attribute bag that needs no weights, or a language model of the Hugging Face Hub."""

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from satclip_model.errors import CheckpointError
from satclip_model.ground_cover.config import GroundCoverClass, TextEncoderConfig
from satclip_model.hub import resolve

PROMPTS: Final = (
    "{name}.",
    "{description}",
    "{name}: {description}",
    "A satellite image of {name}. {description}",
)
"""Texts of a class; classification takes the mean of their embeddings."""
STOP_WORDS: Final = frozenset(
    {
        "a", "all", "an", "and", "are", "as", "at", "between", "by", "for", "from", "image", "in", "into", "is", "it",
        "its", "of", "on", "or", "satellite", "that", "the", "their", "them", "this", "to", "under", "where", "which",
        "with",
    }
)  # fmt: skip
"""Words that tell nothing of a class, those of the prompts among them."""
_NEGATIONS: Final = frozenset({"without", "no", "not"})
_WORD: Final = re.compile(r"[^\W_]+")
_CLAUSE: Final = re.compile(r"[,.;:()]")
_PART_LENGTH: Final = 4
_PART_WEIGHT: Final = 0.25
"""A part of a word beside the word itself: enough for tree and trees to meet, too little for chance to matter."""
_MAX_TOKENS: Final = 64
_HUB_FILES: Final = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


class TextEncoder(Protocol):
    """Turns texts into vectors."""

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "text feature"]:
        """Unit-length vectors, float32; equal texts give equal vectors."""


def class_prompts(each: GroundCoverClass) -> tuple[str, ...]:
    """The texts of a class, by ``PROMPTS``; of a class without a description, those that need none."""
    wanted = [prompt for prompt in PROMPTS if each.description or "{description}" not in prompt]
    return tuple(prompt.format(name=each.name, description=each.description) for prompt in wanted)


class AttributeBag:
    """Counts of words and of parts of words, hashed, of unit length; the order of words does not matter.

    A word after ``without``, ``no`` or ``not`` in its clause is another word than the same one alone. See
    docs/adr/0007-offline-text-encoder.md.

    Args:
        num_buckets: Length of a vector.

    Source: Weinberger et al. (2009), Feature hashing for large scale multitask learning (sign and bucket by hash).
    """

    def __init__(self, num_buckets: int) -> None:
        self.num_buckets = num_buckets

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "text feature"]:
        """Unit-length vectors, float32; of a text without words, zeros."""
        vectors = np.zeros((len(texts), self.num_buckets))
        for vector, text in zip(vectors, texts, strict=True):
            counts: dict[str, float] = {}
            for token, weight in _tokens(text):
                counts[token] = max(counts.get(token, 0.0), weight)
            for token, weight in counts.items():
                bucket, sign = _bucket(token, self.num_buckets)
                vector[bucket] += sign * weight
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return torch.from_numpy((vectors / np.maximum(lengths, 1e-12)).astype(np.float32))


def _tokens(text: str) -> Iterator[tuple[str, float]]:
    """Words and parts of words of a text, with their weights."""
    for clause in _CLAUSE.split(unicodedata.normalize("NFKC", text).casefold()):
        mark = ""
        for word in _WORD.findall(clause):
            if word in _NEGATIONS:
                mark = "not:"
            elif word not in STOP_WORDS:
                yield mark + word, 1.0
                padded = f"<{word}>"
                for start in range(len(padded) - _PART_LENGTH + 1):
                    yield f"{mark}#{padded[start : start + _PART_LENGTH]}", _PART_WEIGHT


def _bucket(token: str, num_buckets: int) -> tuple[int, float]:
    number = int.from_bytes(hashlib.blake2b(token.encode(), digest_size=8).digest(), "big")
    return (number >> 1) % num_buckets, 1.0 if number & 1 else -1.0


class HuggingFaceText:
    """A language model by name: the mean of its last hidden states over the tokens of a text, of unit length.

    Args:
        name: OWNER/NAME on the Hugging Face Hub, or a folder with ``config.json``, ``tokenizer.json``,
            ``tokenizer_config.json`` and ``model.safetensors``.
        download: Whether files that are not in the cache may be fetched.

    Raises:
        CheckpointError: The files are missing or not fetched, the package transformers is missing, or the model does
            not load.
    """

    def __init__(self, name: str, *, download: bool = False) -> None:
        folder = Path(name)
        if not folder.is_dir():
            config, *_ = [resolve(f"{name}:{file}", download=download) for file in _HUB_FILES]
            folder = config.parent
        try:
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise CheckpointError(
                f"text encoder {name}: the package transformers is missing ({error}); install it, or use attribute_bag"
            ) from error
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"text encoder {name}: {folder} does not hold a model that transformers opens ({error}); name another"
            ) from error

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "text feature"]:
        """Unit-length vectors, float32."""
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt"
        )
        hidden = self._model(**tokens).last_hidden_state.float()
        mask = tokens["attention_mask"].unsqueeze(-1).float()
        return torch.nn.functional.normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1), dim=1)


def open_text_encoder(config: TextEncoderConfig, *, download: bool = False) -> TextEncoder:
    """The encoder that a configuration describes.

    Raises:
        CheckpointError: As for `HuggingFaceText`.
    """
    if config.kind == "attribute_bag":
        return AttributeBag(config.num_buckets)
    return HuggingFaceText(config.name, download=download)
