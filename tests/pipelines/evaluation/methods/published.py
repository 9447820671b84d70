"""Files in the form in which others publish their weights, filled with random numbers."""

from pathlib import Path

import numpy as np
import torch

from pipelines.evaluation.methods.gps2vec import OUTPUT_DIMS, OUTPUTS

CSP_SHAPES = {
    "layers.0.linear.weight": (512, 128), "layers.0.linear.bias": (512,),
    "layers.0.layernorm.weight": (512,), "layers.0.layernorm.bias": (512,),
    "layers.1.linear.weight": (256, 512), "layers.1.linear.bias": (256,),
}  # fmt: skip


def write_csp(path: Path, prefix: str = "spa_enc.ffn.", **content: object) -> Path:
    """A location encoder of CSP."""
    rng = torch.Generator().manual_seed(5)
    state = {prefix + name: 0.1 * torch.randn(shape, generator=rng) for name, shape in CSP_SHAPES.items()}
    torch.save({"epoch": 3, "state_dict": {**state, "dec.weight": torch.zeros(2)}, "optimizer": {}, **content}, path)
    return path


def write_gps2vec(folder: Path, cell: str, kind: str = "tag", seed: int = 1) -> Path:
    """The network of one cell of GPS2Vec."""
    import h5py

    rng = np.random.default_rng(seed)
    widths = {"layer1": (400, 512), "layer2": (512, 1024), "layer3": (1024, 2048)}
    widths |= {name: (2048, OUTPUT_DIMS[name]) for name in OUTPUTS[kind]}
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / f"model_{cell}.h5", "w") as file:
        for name, shape in widths.items():
            file[f"{name}/{name}/kernel:0"] = 0.05 * rng.standard_normal(shape, dtype=np.float32)
            file[f"{name}/{name}/bias:0"] = 0.05 * rng.standard_normal(shape[1], dtype=np.float32)
    return folder
