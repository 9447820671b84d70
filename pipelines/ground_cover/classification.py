"""A scene and a ground-cover model to a map of classes, those of training or any that are asked for."""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from pipelines.errors import ArtefactError, ConfigurationError
from pipelines.ground_cover.classes import mapping_names, read_classes
from pipelines.ground_cover.dense_map import score_windows
from pipelines.ground_cover.map_files import probabilities_path, write_maps
from pipelines.ground_cover.scene_raster import open_scene
from pipelines.ground_cover.training_config import model_classes
from pipelines.provenance import file_sha256
from pipelines.training.threads import limited_threads
from satclip_model.errors import CheckpointError
from satclip_model.ground_cover.checkpoint import read_ground_cover
from satclip_model.ground_cover.config import GroundCoverClass
from satclip_model.ground_cover.model import GroundCoverCLIP

logger = logging.getLogger(__name__)

_NEW_COLORS: Final = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip
"""For classes that no mapping describes (Okabe and Ito, Color universal design)."""
_SMALLEST_LENGTH: Final = 1e-6


class ClassifyConfig(BaseModel):
    """How a scene is looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_px: int = Field(default=0, ge=0, le=4096, description="Side of a window; 0 takes the encoder's, or 64.")
    stride_px: int = Field(default=0, ge=0, le=2048, description="Step between windows; 0 takes an eighth of the side.")
    shift_px: tuple[int, int] = Field(default=(0, 0), description="Where the grid of windows begins, rows and columns.")
    boa_add_offset: Literal[0, -1000] = Field(
        default=0, description="What to add to digital numbers: -1000 from processing baseline 04.00 on."
    )
    source: Literal["auto", "learned", "text"] = Field(
        default="auto", description="Classes by their own embeddings, or by their texts; auto: learned where they are."
    )

    @model_validator(mode="after")
    def _shift_is_positive(self) -> Self:
        if min(self.shift_px) < 0:
            raise ValueError(f"shift_px is {self.shift_px}; expected 0 or more")
        return self


@dataclass(frozen=True)
class Classification:
    """A map that was written.

    Attributes:
        path: Classes, with a color table.
        probabilities_path: Their probabilities.
        shares: Share of the pixels by class.
        num_windows: Windows that were looked at.
        seconds: Wall-clock time.
    """

    path: Path
    probabilities_path: Path
    shares: dict[str, float]
    num_windows: int
    seconds: float


def classify_scene(
    scene_path: Path,
    checkpoint: Path,
    out: Path,
    asked: Sequence[str] = (),
    config: ClassifyConfig | None = None,
    device: str = "cpu",
    num_threads: int | None = None,
) -> Classification:
    """Writes the most probable class of every pixel of a scene, and the probabilities beside it.

    Args:
        scene_path: See `open_scene`.
        checkpoint: Of the asset ``ground_cover_checkpoint``.
        out: GeoTIFF to write; probabilities come beside it.
        asked: Classes to choose from, see `choose_classes`; none for those of training.
        config: Windows and radiometry.
        device: Where the model runs.
        num_threads: Threads on the CPU; None takes one per core.

    Raises:
        ArtefactError: The checkpoint cannot be read.
        ConfigurationError: A scene, class or window that cannot be used.
        SceneContentError: A file of the scene is damaged.
    """
    started = time.monotonic()
    config, num_threads = config or ClassifyConfig(), num_threads or os.cpu_count() or 1
    try:
        model, _ = read_ground_cover(checkpoint)
    except CheckpointError as error:
        raise ArtefactError(str(error)) from error
    model.to(device)
    classes = choose_classes(model, asked)
    embeddings = embed_chosen(model, classes, config.source)
    size_px, stride_px = window_size(model, config)

    @torch.inference_mode()
    def classify(reflectance: Tensor) -> Tensor:
        return model.probabilities(reflectance.to(device), embeddings)

    is_cpu = torch.device(device).type == "cpu"
    with open_scene(scene_path) as scene, limited_threads(1 if is_cpu else 0):
        scores = score_windows(
            scene, classify, len(classes), size_px, stride_px, config.boa_add_offset, config.shift_px,
            num_workers=num_threads if is_cpu else 0, windows_at_once=8 if is_cpu else 128,
        )  # fmt: skip
        tags: dict[str, Any] = {
            "checkpoint_sha256": file_sha256(checkpoint),
            "config": {**config.model_dump(mode="json"), "window_px": size_px, "stride_px": stride_px},
        }
        shares = write_maps(out, scores, scene, classes, tags)
    seconds = time.monotonic() - started
    logger.info("%s: %d windows of %d px in %.1f s", out, scores.is_known.size, size_px, seconds)
    return Classification(out, probabilities_path(out), shares, int(scores.is_known.size), seconds)


def choose_classes(model: GroundCoverCLIP, asked: Sequence[str]) -> tuple[GroundCoverClass, ...]:
    """Classes to choose from.

    Args:
        model: Knows those of its training.
        asked: The name or YAML file of a mapping; or names of classes of training, new ones as ``NAME`` or
            ``NAME: DESCRIPTION``. None for all of training.

    Raises:
        ConfigurationError: Fewer than two classes, or one twice.
    """
    own = {each.name.casefold(): each for each in model.config.classes}
    if not asked:
        return model.config.classes
    if len(asked) == 1 and (asked[0] in mapping_names() or asked[0].endswith((".yaml", ".yml"))):
        return model_classes(read_classes(asked[0]).classes)
    taken = {each.code for each in model.config.classes}
    free = (code for code in range(1, 65_536) if code not in taken)
    chosen: list[GroundCoverClass] = []
    for text in asked:
        name, _, description = (part.strip() for part in text.partition(":"))
        known = own.get(name.casefold())
        if known is not None and not description:
            chosen.append(known)
        elif name:
            color = _NEW_COLORS[len(chosen) % len(_NEW_COLORS)]
            chosen.append(GroundCoverClass(code=next(free), name=name, description=description, color=color))
    names = [each.name.casefold() for each in chosen]
    if len(set(names)) < max(len(names), 2):
        raise ConfigurationError(
            f"classes {', '.join(asked)}: expected at least two different ones, as names of {', '.join(own)}, as "
            f"'NAME: DESCRIPTION', or as one mapping of {', '.join(mapping_names())}"
        )
    return tuple(chosen)


def embed_chosen(model: GroundCoverCLIP, classes: Sequence[GroundCoverClass], source: str) -> Tensor:
    """Unit-length embeddings of classes, learned where all are of training and ``source`` allows it.

    Raises:
        ConfigurationError: Learned embeddings are asked for of classes that training did not know, or a text has no
            word that training knew.
    """
    own = {each: index for index, each in enumerate(model.config.classes)}
    new = [each.name for each in classes if each not in own]
    if source == "learned" and new:
        raise ConfigurationError(
            f"classes {', '.join(new)}: training did not know them, so they have no learned embedding; use source "
            f"'text', or choose of {', '.join(each.name for each in own)}"
        )
    if source != "text" and not new:
        return model.learned_classes()[[own[each] for each in classes]].detach()
    try:
        embeddings = model.encode_classes(classes)
    except CheckpointError as error:
        raise ConfigurationError(f"texts of classes: {error}") from error
    unknown = [
        each.name for each, length in zip(classes, embeddings.norm(dim=1), strict=True) if length < _SMALLEST_LENGTH
    ]
    if unknown:
        words = " ".join(each.description or each.name for each in model.config.classes[:4])
        raise ConfigurationError(
            f"classes {', '.join(unknown)}: no word of their texts occurs in those of training; describe them, as "
            f"'NAME: DESCRIPTION', in words such as those of: {words}"
        )
    return embeddings


def window_size(model: GroundCoverCLIP, config: ClassifyConfig) -> tuple[int, int]:
    """Side and stride of the windows: as asked for, or the side that the encoder takes, else 64 px, and an eighth."""
    fixed = getattr(model.config.image_backbone, "image_size", None)
    size = config.window_px or fixed or 64
    return size, config.stride_px or max(size // 8, 1)
