"""Files in the shape of the released checkpoints, filled by a seed."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

EMBED_DIM, CAPACITY, NUM_DEGREES = 16, 24, 6

HYPER_PARAMETERS: dict[str, Any] = {
    "embed_dim": EMBED_DIM,
    "image_resolution": 32,
    "vision_layers": 1,
    "vision_width": 64,
    "vision_patch_size": 16,
    "in_channels": 13,
    "le_type": "sphericalharmonics",
    "pe_type": "siren",
    "frequency_num": 32,
    "max_radius": 0.001,
    "min_radius": 1e-05,
    "legendre_polys": NUM_DEGREES,
    "harmonics_calculation": "analytic",
    "sh_embedding_dims": 40,
    "learning_rate": 0.0001,
    "weight_decay": 0.01,
    "num_hidden_layers": 2,
    "capacity": CAPACITY,
}
FORMER = {"eval_downstream": False, "air_temp_data_path": "x", "election_data_path": "y"}


def siren_weights(
    seed: int, num_degrees: int = NUM_DEGREES, capacity: int = CAPACITY, embed_dim: int = EMBED_DIM
) -> dict[str, Tensor]:
    """Weights of a location network as the released files name and type them; each fits in float32."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [num_degrees**2, capacity, capacity, embed_dim]
    weights = {}
    for index, name in enumerate(("layers.0", "layers.1", "last_layer")):
        bound = 1 / sizes[0] if index == 0 else (6 / sizes[index]) ** 0.5
        for kind, shape in (("weight", (sizes[index + 1], sizes[index])), ("bias", (sizes[index + 1],))):
            weights[f"{name}.{kind}"] = (bound * (2 * torch.rand(*shape, generator=generator) - 1)).double()
    return weights


def vision_weights(seed: int) -> dict[str, Tensor]:
    """Weights of the image tower of `HYPER_PARAMETERS`, a transformer of one block."""
    generator = torch.Generator().manual_seed(seed)
    block = "transformer.resblocks.0"
    shapes: dict[str, tuple[int, ...]] = {
        "class_embedding": (64,),
        "positional_embedding": (5, 64),
        "proj": (64, EMBED_DIM),
        "conv1.weight": (64, 13, 16, 16),
        f"{block}.attn.in_proj_weight": (192, 64),
        f"{block}.attn.in_proj_bias": (192,),
        f"{block}.attn.out_proj.weight": (64, 64),
        f"{block}.attn.out_proj.bias": (64,),
        f"{block}.mlp.c_fc.weight": (256, 64),
        f"{block}.mlp.c_fc.bias": (256,),
        f"{block}.mlp.c_proj.weight": (64, 256),
        f"{block}.mlp.c_proj.bias": (64,),
    }
    for norm in ("ln_pre", f"{block}.ln_1", f"{block}.ln_2", "ln_post"):
        shapes |= {f"{norm}.weight": (64,), f"{norm}.bias": (64,)}
    return {name: 0.1 * torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def official_content(
    seed: int = 0,
    *,
    families: tuple[str, ...] = ("nnet", "location.nnet"),
    images: bool = True,
    weights: dict[str, Tensor] | None = None,
    **changed: object,
) -> dict[str, Any]:
    """What ``torch.save`` of a released file holds."""
    weights = siren_weights(seed) if weights is None else weights
    state = {"model.logit_scale": torch.tensor(3.25)}
    if images:
        state |= {f"model.visual.{name}": tensor for name, tensor in vision_weights(seed).items()}
    state |= {f"model.{family}.{name}": tensor for family in families for name, tensor in weights.items()}
    return {
        "epoch": 499,
        "global_step": 88_000,
        "pytorch-lightning_version": "2.0.0",
        "state_dict": state,
        "hyper_parameters": HYPER_PARAMETERS | FORMER | changed,
    }


def write_official(path: Path, content: dict[str, Any] | None = None) -> Path:
    """Saves such a file."""
    torch.save(official_content() if content is None else content, path)
    return path
