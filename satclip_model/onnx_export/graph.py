"""A small builder of ONNX graphs."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    import onnx


class OnnxGraph:
    """Nodes and constants of a graph under construction; values go by their names.

    Attributes:
        nodes: Nodes in order of computation.
        initializers: Constants.
    """

    def __init__(self, prefix: str = "v") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._prefix = prefix
        self._count = 0

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:  # noqa: ANN401
        """Adds a node with one output; returns the output's name."""
        import onnx

        name = output or self._name()
        self.nodes.append(
            onnx.helper.make_node(operator, list(inputs), [name], name=f"{operator}_{name}", **attributes)
        )
        return name

    def scan(self, *inputs: str, body: "onnx.GraphProto", num_states: int) -> str:
        """Adds a Scan along the first axis of all inputs after the states; returns the name of its stacked output."""
        import onnx

        names = [self._name() for _ in range(num_states + 1)]
        node = onnx.helper.make_node(
            "Scan", list(inputs), names, name=f"Scan_{names[-1]}", body=body, num_scan_inputs=len(inputs) - num_states
        )
        self.nodes.append(node)
        return names[-1]

    def constant(self, values: NDArray[Any] | list[int] | int | float) -> str:
        """Adds a constant in the type that numpy gives it; returns its name."""
        import onnx

        name = self._name()
        self.initializers.append(onnx.numpy_helper.from_array(np.asarray(values), name))
        return name

    def linear(self, x: str, weight: Tensor, bias: Tensor | None) -> str:
        """Adds ``x weight.T + bias``; returns its name."""
        terms = [weight.detach().numpy()] + ([] if bias is None else [bias.detach().numpy()])
        return self.add("Gemm", x, *(self.constant(each) for each in terms), transB=1)

    def cast(self, x: str, dtype: torch.dtype) -> str:
        """Casts float64 to float32, or leaves it; returns the name of the result."""
        import onnx

        return x if dtype == torch.float64 else self.add("Cast", x, to=onnx.TensorProto.FLOAT)

    def _name(self) -> str:
        self._count += 1
        return f"{self._prefix}{self._count}"
