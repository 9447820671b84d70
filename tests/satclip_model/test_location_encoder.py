import hypothesis.extra.numpy as hnp
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from satclip_model.config import LocationEncoderConfig, SirenConfig, SphericalHarmonicsConfig
from satclip_model.location_encoder import build_location_encoder

CONFIG = LocationEncoderConfig(
    positional_encoding=SphericalHarmonicsConfig(num_degrees=6),
    network=SirenConfig(hidden_dim=16, dropout=0.3),
    embedding_dim=5,
)
LONLAT_DEG = torch.tensor([[12.5, -33.0], [180.0, 71.0], [-90.0, 90.0], [3.0, 4.0]], dtype=torch.float64)


def test_same_seed_gives_the_same_twin_and_leaves_the_global_state() -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, again, other = (build_location_encoder(CONFIG, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first(LONLAT_DEG), again(LONLAT_DEG))
    assert not torch.allclose(first(LONLAT_DEG), other(LONLAT_DEG))
    assert not first.training


def test_embedding_has_the_type_of_the_weights() -> None:
    encoder = build_location_encoder(CONFIG, seed=0)
    assert encoder(LONLAT_DEG).dtype == torch.float32
    single = encoder(LONLAT_DEG).detach()
    double = encoder.double()(LONLAT_DEG).detach()
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4)


def test_antimeridian_and_poles_have_one_embedding() -> None:
    encoder = build_location_encoder(CONFIG, seed=0)
    places = torch.tensor([[180.0, 10.0], [-180.0, 10.0], [0.0, 90.0], [120.0, 90.0]], dtype=torch.float64)
    embeddings = encoder(places)
    assert torch.equal(embeddings[0], embeddings[1])
    assert torch.equal(embeddings[2], embeddings[3])
    assert not torch.allclose(embeddings[0], embeddings[2])


def random_lonlat_deg(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.uniform(-180, 180, count), np.degrees(np.arcsin(rng.uniform(-1, 1, count)))], axis=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_without_gradients_equal_the_whole_with_gradients(dtype: torch.dtype) -> None:
    encoder = build_location_encoder(CONFIG, seed=0).to(dtype)
    lonlat_deg = torch.from_numpy(random_lonlat_deg(2 * 8192 + 7, seed=1))
    whole = encoder(lonlat_deg).detach()
    with torch.no_grad():
        blocks = encoder(lonlat_deg)
    assert blocks.dtype == dtype
    torch.testing.assert_close(blocks, whole, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-5)


def test_no_places_give_no_embeddings() -> None:
    encoder = build_location_encoder(CONFIG, seed=0)
    assert encoder.encode(np.empty((0, 2))).shape == (0, 5)
    assert encoder.encode_grid([0.0, 1.0], []).shape == (0, 2, 5)
    assert encoder.encode_grid([], [0.0, 1.0]).shape == (2, 0, 5)
    assert encoder(torch.empty(0, 2)).shape == (0, 5)


def test_gradients_reach_the_weights_and_the_places() -> None:
    encoder = build_location_encoder(CONFIG, seed=0).double()
    lonlat_deg = LONLAT_DEG[[0, 3]].clone().requires_grad_()
    assert torch.autograd.gradcheck(encoder, (lonlat_deg,))
    encoder(LONLAT_DEG).sum().backward()
    assert all(bool(each.grad.abs().sum() > 0) for each in encoder.parameters())


def test_encode_takes_arrays_switches_dropout_off_and_leaves_the_encoder_alone() -> None:
    encoder = build_location_encoder(CONFIG, seed=0).train()
    lonlat_deg = random_lonlat_deg(9, seed=2)
    embeddings = encoder.encode(lonlat_deg.tolist(), dtype=torch.float64)
    assert (embeddings.dtype, embeddings.shape) == (np.float64, (9, 5))
    assert encoder.training
    assert encoder.dtype == torch.float32
    with torch.no_grad():
        expected = encoder.eval().double()(torch.from_numpy(lonlat_deg)).numpy()
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=1e-14)
    unit = encoder.encode(lonlat_deg, normalize=True)
    np.testing.assert_allclose(unit, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-13)


def test_float32_stays_near_float64_at_forty_degrees() -> None:
    encoder = build_location_encoder(LocationEncoderConfig(), seed=0)
    lonlat_deg = np.concatenate([random_lonlat_deg(500, seed=3), [[7.0, 89.999], [180.0, -89.9], [0.0, 90.0]]])
    single, double = (encoder.encode(lonlat_deg, dtype=dtype) for dtype in (torch.float32, torch.float64))
    assert np.abs(single - double).max() < 5e-6 * np.abs(double).max()


@settings(max_examples=25, deadline=None)
@given(
    lon_deg=hnp.arrays(np.float64, st.integers(1, 5), elements=st.floats(-360, 360)),
    lat_deg=hnp.arrays(np.float64, st.integers(1, 70), elements=st.floats(-90, 90)),
    convention=st.sampled_from(["orthonormal", "analytic", "closed-form"]),
)
def test_grid_equals_its_places_one_by_one(lon_deg: np.ndarray, lat_deg: np.ndarray, convention: str) -> None:
    harmonics = SphericalHarmonicsConfig(num_degrees=7, convention=convention)
    config = CONFIG.model_copy(update={"positional_encoding": harmonics})
    encoder = build_location_encoder(config, seed=1).double()
    lat, lon = np.meshgrid(lat_deg, lon_deg, indexing="ij")
    expected = encoder.encode(np.stack([lon.ravel(), lat.ravel()], axis=1))
    grid = encoder.encode_grid(lon_deg, lat_deg)
    assert grid.shape == (len(lat_deg), len(lon_deg), 5)
    np.testing.assert_allclose(grid.reshape(-1, 5), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("lon_deg", "lat_deg", "message"),
    [
        ([0.0, 100.0], [1.0, -91.0], r"lat_deg: number 1 is -91\.0; latitude must lie"),
        ([0.0, np.nan], [1.0], "lon_deg: number 1 is not finite"),
        ([0.0], [np.inf], "lat_deg: number 0 is not finite"),
        ([[0.0]], [1.0], "expected one axis each"),
    ],
)
def test_bad_grids_are_refused(lon_deg: list[float], lat_deg: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_location_encoder(CONFIG, seed=0).encode_grid(lon_deg, lat_deg)


@pytest.mark.parametrize("lonlat_deg", [[[10.0, 91.0]], [[np.nan, 0.0]], [[1.0, 2.0, 3.0]]])
def test_bad_places_are_refused_by_every_way_in(lonlat_deg: list[list[float]]) -> None:
    encoder = build_location_encoder(CONFIG, seed=0)
    with pytest.raises(ValueError, match="lonlat_deg"):
        encoder.encode(lonlat_deg)
    with pytest.raises(ValueError, match="lonlat_deg"):
        encoder(torch.tensor(lonlat_deg))
    with pytest.raises(ValueError, match="dtype"):
        encoder.encode([[0.0, 0.0]], dtype=torch.float16)


def test_tensors_frames_and_masked_arrays_are_places_too() -> None:
    encoder = build_location_encoder(CONFIG, seed=0)
    expected = encoder.encode(LONLAT_DEG.numpy())
    frame = pd.DataFrame(LONLAT_DEG.numpy(), columns=["lon", "lat"])
    for places in (LONLAT_DEG.clone().requires_grad_(), frame, frame.astype(object), np.ma.array(LONLAT_DEG.numpy())):
        np.testing.assert_array_equal(encoder.encode(places), expected)
    with pytest.raises(ValueError, match=r"row 1 is \[nan, 71.0\]; coordinates must be finite"):
        encoder.encode(np.ma.masked_equal(LONLAT_DEG.numpy(), 180.0))


@pytest.mark.parametrize(
    "places",
    [
        np.array([[1 + 1j, 2]]),
        np.array([["2020-01-01"] * 2], "M8[D]"),
        [[{}, 1]],
        pd.DataFrame({"lon": [pd.NA], "lat": 1}),
    ],
    ids=["complex", "dates", "objects", "absent"],
)
def test_what_is_no_number_is_refused(places: object) -> None:
    with pytest.raises(ValueError, match="coordinates are"):
        build_location_encoder(CONFIG, seed=0).encode(places)


def test_compiled_encoder_gives_the_same_embeddings() -> None:
    encoder = build_location_encoder(CONFIG, seed=0).double()
    compiled = torch.compile(encoder, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(LONLAT_DEG), encoder(LONLAT_DEG), rtol=0, atol=1e-13)
