from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from satclip_model.config import CoordinatesConfig, MultiScaleConfig, PositionalEncodingConfig, SphericalHarmonicsConfig
from satclip_model.positional_encoding import build_positional_encoding

HARMONICS = {
    convention: SphericalHarmonicsConfig(num_degrees=8, convention=convention)
    for convention in ("orthonormal", "analytic", "closed-form", "discretized")
}
COORDINATES = {kind: CoordinatesConfig(kind=kind) for kind in ("direct", "cartesian3d", "wrap")}
MULTI_SCALE = {
    kind: MultiScaleConfig(kind=kind, num_frequencies=6, min_radius=0.5, max_radius=200.0)
    for kind in ("theory", "grid", "spherec", "spherecplus", "spherem", "spheremplus")
}
CONFIGS: dict[str, PositionalEncodingConfig] = {**HARMONICS, **COORDINATES, **MULTI_SCALE}
PERIODIC = [*HARMONICS, "cartesian3d", "wrap"]
ONE_POINT_AT_THE_POLES = [*HARMONICS, "cartesian3d"]
CONTINUOUS_ON_THE_SPHERE = [name for name in ONE_POINT_AT_THE_POLES if name != "discretized"]
CONTINUOUS = [name for name in CONFIGS if name != "discretized"]
ALWAYS_FLOAT64 = {"orthonormal", "analytic", "closed-form"}
EDGES = [
    *([lon, lat] for lon in (-180.0, 0.0, 180.0) for lat in (-90.0, 0.0, 90.0)),
    [33.0, 89.999],
    [-120.5, -45.25],
    [250.0, 13.5],
]

places = st.lists(st.tuples(st.floats(-360, 360), st.floats(-90, 90)), max_size=5)
quarter_minutes = st.integers(-180 * 64, 180 * 64).map(lambda steps: steps / 64)  # sums with 360 stay exact


def encoding_of(name: str) -> nn.Module:
    return build_positional_encoding(CONFIGS[name])


def lonlat(rows: object, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(rows, dtype=dtype).reshape(-1, 2)


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(list(CONFIGS)), rows=places, dtype=st.sampled_from([torch.float32, torch.float64]))
def test_shape_and_type_follow_the_configuration_and_the_input(name: str, rows: list, dtype: torch.dtype) -> None:
    encoding = encoding_of(name)
    encoded = encoding(lonlat(rows, dtype))
    assert encoding.encoding_dim == CONFIGS[name].encoding_dim
    assert encoded.shape == (len(rows), CONFIGS[name].encoding_dim)
    assert encoded.dtype == (torch.float64 if name in ALWAYS_FLOAT64 else dtype)
    assert bool(torch.isfinite(encoded).all())


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(PERIODIC), lon=quarter_minutes, lat=st.floats(-90, 90), turns=st.sampled_from([-2, -1, 1, 3])
)
def test_whole_turns_of_longitude_change_nothing(name: str, lon: float, lat: float, turns: int) -> None:
    here, turned = encoding_of(name)(lonlat([[lon, lat], [lon + 360 * turns, lat]]))
    torch.testing.assert_close(turned, here, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in PERIODIC])
def test_the_others_differ_across_the_antimeridian(name: str) -> None:
    west, east = encoding_of(name)(lonlat([[-180.0, 31.0], [180.0, 31.0]]))
    assert float((west - east).abs().max()) > 0.1


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from([*CONTINUOUS_ON_THE_SPHERE, "wrap"]), gap=st.floats(1e-12, 1e-3), lat=st.floats(-89, 89))
def test_neighbors_across_the_antimeridian_are_close(name: str, gap: float, lat: float) -> None:
    west, east = encoding_of(name)(lonlat([[180.0 - gap, lat], [gap - 180.0, lat]]))
    assert float((west - east).abs().max()) <= gap + 1e-12


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(ONE_POINT_AT_THE_POLES),
    lons=st.tuples(st.floats(-180, 180), st.floats(-180, 180)),
    pole=st.sampled_from([-90.0, 90.0]),
)
def test_a_pole_has_one_encoding(name: str, lons: tuple[float, float], pole: float) -> None:
    one, other = encoding_of(name)(lonlat([[lons[0], pole], [lons[1], pole]]))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6 if name == "discretized" else 0)


@pytest.mark.parametrize("name", CONTINUOUS_ON_THE_SPHERE)
@pytest.mark.parametrize("pole", [-90.0, 90.0])
def test_encodings_approach_that_of_the_pole_from_all_sides(name: str, pole: float) -> None:
    near = encoding_of(name)(lonlat([[lon, pole * (1 - 1e-9)] for lon in (-170.0, -60.0, 45.0, 130.0)]))
    at_pole = encoding_of(name)(lonlat([[0.0, pole]]))
    assert float((near - at_pole).abs().max()) < 1e-7


@pytest.mark.parametrize("name", CONFIGS)
def test_gradient_is_finite_everywhere(name: str) -> None:
    lonlat_deg = lonlat(EDGES).requires_grad_()
    weights = torch.linspace(-1, 1, CONFIGS[name].encoding_dim, dtype=torch.float64)
    (encoding_of(name)(lonlat_deg) @ weights).sum().backward()
    assert lonlat_deg.grad is not None
    assert bool(torch.isfinite(lonlat_deg.grad).all())
    assert bool((lonlat_deg.grad[-2] != 0).all())


@pytest.mark.parametrize("name", CONTINUOUS)
def test_gradient_agrees_with_differences(name: str) -> None:
    lonlat_deg = lonlat([[-120.5, -45.25], [7.0, 88.0], [179.5, 3.0]]).requires_grad_()
    assert torch.autograd.gradcheck(encoding_of(name), (lonlat_deg,))


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(CONTINUOUS), lon=st.floats(-180, 180), lat=st.floats(-90, 90))
def test_float32_differs_by_the_rounding_of_its_coordinates(name: str, lon: float, lat: float) -> None:
    config = CONFIGS[name]
    slope_per_deg = 2 / config.min_radius if isinstance(config, MultiScaleConfig) else 1.0
    exact = encoding_of(name)(lonlat([[lon, lat]]))
    rounded = lonlat([[lon, lat]]).float()
    from_float32 = encoding_of(name)(rounded)
    rounding_deg = float((rounded.double() - lonlat([[lon, lat]])).abs().sum())
    assert float((from_float32.double() - exact).abs().max()) <= slope_per_deg * rounding_deg + 1e-6
    torch.testing.assert_close(from_float32, encoding_of(name)(rounded.double()).to(from_float32.dtype))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_place_is_encoded_alike_alone_and_among_others(name: str) -> None:
    encoding = encoding_of(name)
    together = encoding(lonlat(EDGES))
    alone = torch.cat([encoding(lonlat([place])) for place in EDGES])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", CONFIGS)
def test_there_is_nothing_to_train_or_to_store(name: str) -> None:
    encoding = encoding_of(name)
    assert not list(encoding.parameters())
    assert not encoding.state_dict()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0.0, 0.0], [12.0, 95.0]], r"row 1 is \[12\.0, 95\.0\].*\[-90, 90\]"),
        ([[float("nan"), 1.0]], "finite"),
        ([[1.0, float("inf")]], "finite"),
    ],
)
def test_every_encoding_refuses_places_that_are_none(name: str, rows: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoding_of(name)(lonlat(rows))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_encoding_refuses_columns_that_are_no_coordinates(name: str) -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        encoding_of(name)(torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ALWAYS_FLOAT64])
def test_integers_are_refused_where_the_result_keeps_their_type(name: str) -> None:
    with pytest.raises(ValueError, match=r"holds torch\.int64"):
        encoding_of(name)(torch.tensor([[10, 20]]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", CONFIGS)
def test_a_gpu_gives_the_same_numbers(name: str) -> None:
    encoding = encoding_of(name)
    on_gpu = encoding(lonlat(EDGES).cuda())
    assert on_gpu.is_cuda
    tolerance = 1e-4 if name == "discretized" else 1e-11
    torch.testing.assert_close(on_gpu.cpu(), encoding(lonlat(EDGES)), rtol=0, atol=tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_calls_after_the_first_keep_their_results_apart_on_a_gpu() -> None:
    encoding = encoding_of(next(iter(HARMONICS)))
    places = torch.stack([lonlat(EDGES).roll(shift, 0) for shift in range(5)])
    results = [encoding(each.cuda()) for each in places]
    copy = deepcopy(encoding)
    for own, result in zip(places, results, strict=True):
        torch.testing.assert_close(result.cpu(), encoding(own), rtol=0, atol=1e-11)
        torch.testing.assert_close(copy(own.cuda()), result, rtol=0, atol=0)
    shorter = encoding(places[0, :3].cuda())
    torch.testing.assert_close(shorter, results[0][:3], rtol=0, atol=0)
