"""The identity of an image backbone."""

import hashlib
import json

import torch
from pydantic import BaseModel
from torch import nn


def fingerprint_weights(config: BaseModel, module: nn.Module) -> str:
    """Hex digest, 16 digits, of settings (with the kind) and of every parameter and buffer by name."""
    digest = hashlib.sha256(json.dumps(config.model_dump(mode="json"), sort_keys=True).encode())
    for name, weights in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
