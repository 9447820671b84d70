"""Positional encodings as nodes of an ONNX graph, in float64."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from satclip_model.onnx_export.graph import OnnxGraph
from satclip_model.positional_encoding.coordinates import Cartesian3D, Direct, Wrap
from satclip_model.positional_encoding.sphere_grid import SphereGrid
from satclip_model.positional_encoding.spherical_harmonics import SphericalHarmonics
from satclip_model.positional_encoding.theory import DIRECTIONS, Theory

_RADIANS: Final = math.pi / 180.0
_QUARTER_TURN: Final = math.pi / 2.0

Wave = tuple[float, float, float]
"""Factors of longitude and latitude in degrees, and a phase: the sine of their sum."""

_ONE: Final[Wave] = (0.0, 0.0, _QUARTER_TURN)


def encoding_nodes(graph: OnnxGraph, encoding: nn.Module, lonlat_deg: str) -> str:
    """Adds the nodes of an encoding; returns the name of its output, (n, encoding_dim) float64.

    Args:
        graph: The graph to extend.
        encoding: A module of `satclip_model.positional_encoding`.
        lonlat_deg: Name of the places, (n, 2) float64.

    Raises:
        ValueError: The encoding has no ONNX form.
    """
    if isinstance(encoding, SphericalHarmonics):
        return _harmonics_nodes(graph, encoding, lonlat_deg)
    if isinstance(encoding, Direct):
        radians = graph.add("Mul", lonlat_deg, graph.constant(_RADIANS))
        return graph.add("Sub", radians, graph.constant(math.pi))
    return _wave_nodes(graph, _waves(encoding), lonlat_deg)


def _wave_nodes(graph: OnnxGraph, columns: list[tuple[Wave, Wave]], lonlat_deg: str) -> str:
    """Products of two sines of linear functions of longitude and latitude, a column each."""
    sines = []
    for waves in zip(*columns, strict=True):
        table = np.array(waves)
        angles = graph.add("MatMul", lonlat_deg, graph.constant(table[:, :2].T))
        sines.append(graph.add("Sin", graph.add("Add", angles, graph.constant(table[:, 2]))))
    return graph.add("Mul", *sines)


def _waves(encoding: nn.Module) -> list[tuple[Wave, Wave]]:
    """The factors of each column."""
    if isinstance(encoding, (Cartesian3D, Wrap)):
        (sin_lon, cos_lon), (sin_lat, cos_lat) = _axis_waves(_RADIANS)
        if isinstance(encoding, Wrap):
            return [(wave, _ONE) for wave in (cos_lon, sin_lon, cos_lat, sin_lat)]
        return [(cos_lon, cos_lat), (sin_lon, cos_lat), (sin_lat, _ONE)]
    if isinstance(encoding, Theory):
        return [
            ((frequency * x, frequency * y, phase), _ONE)
            for frequency in encoding.frequencies.tolist()
            for x, y in DIRECTIONS
            for phase in (0.0, _QUARTER_TURN)
        ]
    if isinstance(encoding, SphereGrid):
        frequencies = encoding.frequencies.tolist()
        if encoding.kind == "grid":
            return [(wave, _ONE) for axis in (0, 1) for each in frequencies for wave in _axis_waves(each)[axis]]
        return [column for each in frequencies for column in _sphere_waves(encoding.kind, each) for _ in range(2)]
    raise ValueError(
        f"encoding {type(encoding).__name__} has no ONNX form; expected one computed from coordinates alone"
    )


def _sphere_waves(kind: str, frequency: float) -> list[tuple[Wave, Wave]]:
    (sin_lon, cos_lon), (sin_lat, cos_lat) = _axis_waves(frequency)
    (sin_unscaled_lon, cos_unscaled_lon), (_, cos_unscaled_lat) = _axis_waves(1.0)
    plain = [(sin_lat, _ONE), (cos_lat, _ONE), (sin_lon, _ONE), (cos_lon, _ONE)]
    columns = plain if kind.endswith("plus") else plain[:1]
    if kind.startswith("spherec"):
        return [*columns, (cos_lat, cos_lon), (cos_lat, sin_lon)]
    return [
        *columns,
        (cos_lat, cos_unscaled_lon),
        (cos_unscaled_lat, cos_lon),
        (cos_lat, sin_unscaled_lon),
        (cos_unscaled_lat, sin_lon),
    ]


def _axis_waves(frequency: float) -> tuple[tuple[Wave, Wave], tuple[Wave, Wave]]:
    """Sine and cosine of the longitude, and of the latitude."""
    return (
        ((frequency, 0.0, 0.0), (frequency, 0.0, _QUARTER_TURN)),
        ((0.0, frequency, 0.0), (0.0, frequency, _QUARTER_TURN)),
    )


def _harmonics_nodes(graph: OnnxGraph, encoding: SphericalHarmonics, lonlat_deg: str) -> str:
    """Spherical harmonics as the product of a Legendre and a Fourier part, both gathered into the order of columns."""
    num_degrees, frame = encoding.num_degrees, encoding.frame
    degree = np.repeat(np.arange(num_degrees), 2 * np.arange(num_degrees) + 1)
    order = np.arange(num_degrees**2) - degree * (degree + 1)
    lon_deg, lat_deg = (graph.add("Gather", lonlat_deg, graph.constant(axis), axis=1) for axis in (0, 1))
    to_radians = graph.constant(_RADIANS)

    sin_lat = graph.add("Sin", graph.add("Mul", lat_deg, to_radians))
    colatitude_deg = graph.add("Sub", graph.constant(90.0), graph.add("Abs", lat_deg))
    cos_lat = graph.add("Sin", graph.add("Mul", colatitude_deg, to_radians))
    cos_polar = sin_lat if frame.polar_sign > 0 else graph.add("Neg", sin_lat)
    legendre = graph.add(
        "Reshape", _legendre_nodes(graph, num_degrees, cos_polar, cos_lat), graph.constant([num_degrees**2, -1])
    )

    turned_deg = graph.add("Add", lon_deg, graph.constant(frame.azimuth_offset_deg))
    azimuth = graph.add("Mul", graph.add("Mod", turned_deg, graph.constant(360.0), fmod=1), to_radians)
    angles = graph.add("Mul", azimuth, graph.constant(np.arange(num_degrees, dtype=np.float64)[:, None]))
    fourier = graph.add("Concat", graph.add("Sin", angles), graph.add("Cos", angles), axis=0)

    scale = np.where(order == 0, frame.zonal_factor, math.sqrt(2.0))[:, None]
    scaled = graph.add(
        "Mul",
        graph.add("Gather", legendre, graph.constant(degree * num_degrees + np.abs(order)), axis=0),
        graph.constant(scale),
    )
    waves = graph.add("Gather", fourier, graph.constant(np.where(order < 0, -order, num_degrees + order)), axis=0)
    return graph.add("Transpose", graph.add("Mul", scaled, waves), perm=[1, 0])


def _legendre_nodes(graph: OnnxGraph, num_degrees: int, cos_polar: str, sin_polar: str) -> str:
    """Normalised Legendre functions, (degree, order, n), zero above the diagonal; one step of a Scan per degree."""
    import onnx

    gain, ratio = _recurrence(num_degrees)
    order = np.arange(num_degrees, dtype=np.float64)
    growth = np.concatenate([[math.sqrt(0.25 / math.pi)], np.sqrt(1.0 + 0.5 / order[1:])])
    power = graph.add("Pow", sin_polar, graph.constant(order[:, None]))
    sectoral = graph.add("Mul", power, graph.constant(np.cumprod(growth)[:, None]))
    zeros = graph.add("Mul", sectoral, graph.constant(0.0))

    body = OnnxGraph("b")
    grown = body.add("Mul", body.add("Mul", "legendre", cos_polar), "gain")
    inner = body.add("Sub", grown, body.add("Mul", "before", "ratio"))
    body.add("Add", inner, body.add("Mul", sectoral, "start"), output="new")
    body.add("Identity", "legendre", output="kept")
    body.add("Identity", "new", output="degree")
    double = onnx.TensorProto.DOUBLE

    def values(*names: str, columns: int | str = "n") -> list[onnx.ValueInfoProto]:
        return [onnx.helper.make_tensor_value_info(name, double, [num_degrees, columns]) for name in names]

    inputs = [*values("before", "legendre"), *values("gain", "ratio", "start", columns=1)]
    scan = onnx.helper.make_graph(body.nodes, "degree", inputs, values("kept", "new", "degree"), body.initializers)
    constants = [graph.constant(each[:, :, None]) for each in (gain, ratio, np.eye(num_degrees))]
    return graph.scan(zeros, zeros, *constants, body=scan, num_states=2)


def _recurrence(num_degrees: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factors of degree l - 1 and l - 2 in the recurrence for degree l and order m, zero where m >= l."""
    degree, order = (each.astype(np.float64) for each in np.indices((num_degrees, num_degrees)))
    below = order < degree
    square = np.where(below, degree**2 - order**2, 1.0)
    gain = np.where(below, np.sqrt((4.0 * degree**2 - 1.0).clip(0.0) / square), 0.0)
    two_below = order < degree - 1
    earlier = np.where(two_below, ((degree - 1.0) ** 2 - order**2) / (4.0 * (degree - 1.0) ** 2 - 1.0), 0.0)
    return gain, gain * np.sqrt(earlier)
