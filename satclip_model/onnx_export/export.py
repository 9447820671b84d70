"""Location encoders as ONNX, for runtimes without PyTorch."""

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from satclip_model.checkpoint.archive import write_whole
from satclip_model.location_encoder import LocationEncoder
from satclip_model.location_network import MLP, FCNet, Linear, ResidualLayer, SineLayer, Siren
from satclip_model.onnx_export.encodings import encoding_nodes
from satclip_model.onnx_export.graph import OnnxGraph

if TYPE_CHECKING:
    import onnx

OPSET: Final = 17
IR_VERSION: Final = 8
INPUT_NAME: Final = "lonlat_deg"
OUTPUT_NAME: Final = "embedding"


def export_onnx(encoder: LocationEncoder, path: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Writes a location encoder as an ONNX model; the file appears whole or not at all.

    Input ``lonlat_deg``, float64 (n, 2), longitude first in degrees, for any n from 1 on; output ``embedding``,
    (n, embedding_dim), not normalised. The positional encoding is computed in float64, the network in ``dtype``. The
    graph has about 30 nodes whatever the number of degrees: the recurrence of the Legendre functions is a Scan. It
    needs opset 17, and cannot refuse coordinates as PyTorch does: check that they are finite and latitudes lie in
    [-90, 90].

    Metadata of the model: ``location_encoder`` (its settings as JSON), ``embedding_dim``, ``coordinates`` (order and
    unit) and ``dtype``.

    Args:
        encoder: The encoder; it is left as it is.
        path: File to write; its folder is made.
        dtype: torch.float32 or torch.float64; None takes that of the weights.

    Raises:
        ModuleNotFoundError: The package onnx is not installed.
        ValueError: Another dtype, or an encoding that has no ONNX form (discretized harmonics).
    """
    wanted = dtype or encoder.dtype
    if wanted not in {torch.float32, torch.float64}:
        raise ValueError(f"dtype is {wanted}; expected torch.float32 or torch.float64")
    content = onnx_model(encoder, wanted).SerializeToString()
    write_whole(Path(path), lambda handle: handle.write(content))


def onnx_model(encoder: LocationEncoder, dtype: torch.dtype) -> "onnx.ModelProto":
    """The model that `export_onnx` writes.

    Raises:
        ModuleNotFoundError: The package onnx is not installed.
        ValueError: The encoding has no ONNX form.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "ONNX export needs the package onnx, which is not installed; pip install 'satclip-pipeline[onnx]'"
        ) from error
    graph = OnnxGraph()
    encoded = encoding_nodes(graph, encoder.positional_encoding, INPUT_NAME)
    network = deepcopy(encoder.location_network).to(dtype).cpu().eval()
    output = _network_nodes(graph, network, graph.cast(encoded, dtype))
    graph.add("Identity", output, output=OUTPUT_NAME)
    number = onnx.TensorProto.FLOAT if dtype == torch.float32 else onnx.TensorProto.DOUBLE
    dim = encoder.config.embedding_dim
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "location_encoder",
            [onnx.helper.make_tensor_value_info(INPUT_NAME, onnx.TensorProto.DOUBLE, ["n", 2])],
            [onnx.helper.make_tensor_value_info(OUTPUT_NAME, number, ["n", dim])],
            graph.initializers,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="satclip-pipeline",
    )
    metadata = {
        "location_encoder": encoder.config.model_dump_json(),
        "embedding_dim": str(dim),
        "coordinates": "longitude, latitude in degrees",
        "dtype": str(dtype).removeprefix("torch."),
    }
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return model


def _network_nodes(graph: OnnxGraph, module: nn.Module, x: str) -> str:
    """Adds the nodes of a network in evaluation mode; returns the name of its output."""
    if isinstance(module, (nn.Linear, Linear)):
        return graph.linear(x, module.weight, module.bias)
    if isinstance(module, SineLayer):
        return graph.add("Sin", graph.linear(x, module.w0 * module.weight, module.w0 * module.bias))
    if isinstance(module, nn.ReLU):
        return graph.add("Relu", x)
    if isinstance(module, ResidualLayer):
        hidden = graph.add("Relu", graph.linear(x, module.w1.weight, module.w1.bias))
        return graph.add("Add", x, graph.add("Relu", graph.linear(hidden, module.w2.weight, module.w2.bias)))
    for part in _parts(module):
        x = _network_nodes(graph, part, x)
    return x


def _parts(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, Siren):
        return [*module.layers, module.last_layer]
    if isinstance(module, FCNet):
        return [module.feats, module.class_emb]
    if isinstance(module, MLP):
        return [module.features]
    if isinstance(module, nn.Sequential):
        return list(module)
    raise ValueError(f"network layer {type(module).__name__} has no ONNX form")
