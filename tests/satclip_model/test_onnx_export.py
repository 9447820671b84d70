import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from satclip_model.config import (
    CoordinatesConfig,
    FCNetConfig,
    LinearConfig,
    LocationEncoderConfig,
    MLPConfig,
    MultiScaleConfig,
    SirenConfig,
    SphericalHarmonicsConfig,
)
from satclip_model.location_encoder import build_location_encoder
from satclip_model.onnx_export.export import export_onnx

POLES_AND_EDGES = [[180.0, 90.0], [-180.0, -90.0], [180.0, 10.0], [-180.0, 10.0], [0.0, 89.9999], [12.0, 0.0], [359, 5]]


def build(encoding, network=None, dtype=torch.float64):
    config = LocationEncoderConfig(
        positional_encoding=encoding, network=network or SirenConfig(hidden_dim=32), embedding_dim=7
    )
    return build_location_encoder(config, seed=5).to(dtype)


def run(path, lonlat_deg):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (embedding,) = session.run(["embedding"], {"lonlat_deg": lonlat_deg})
    return embedding


def places(number):
    rng = np.random.default_rng(2)
    others = np.column_stack([rng.uniform(-180, 180, number), rng.uniform(-90, 90, number)])
    return np.concatenate([np.array(POLES_AND_EDGES), others])


@pytest.mark.parametrize("num_degrees", [1, 2, 10, 40])
@pytest.mark.parametrize("convention", ["orthonormal", "analytic", "closed-form"])
def test_harmonics_equal_pytorch_in_float64(tmp_path, num_degrees, convention):
    encoder = build(SphericalHarmonicsConfig(num_degrees=num_degrees, convention=convention))
    path = tmp_path / "new" / "model.onnx"
    export_onnx(encoder, path)
    lonlat_deg = places(200)
    for start, stop in ((0, 1), (0, 7), (3, 4), (0, 207)):
        embedding = run(path, lonlat_deg[start:stop])
        assert embedding.dtype == np.float64
        np.testing.assert_allclose(embedding, encoder.encode(lonlat_deg[start:stop]), rtol=0, atol=1e-12)


def test_a_full_size_encoder_equals_pytorch(tmp_path):
    config = LocationEncoderConfig(positional_encoding=SphericalHarmonicsConfig(num_degrees=40, convention="analytic"))
    encoder = build_location_encoder(config, seed=1).double()
    export_onnx(encoder, tmp_path / "model.onnx")
    lonlat_deg = places(300)
    difference = np.abs(run(tmp_path / "model.onnx", lonlat_deg) - encoder.encode(lonlat_deg)).max()
    assert difference < 1e-11


def test_a_network_in_float32_follows_an_encoding_in_float64(tmp_path):
    encoder = build(SphericalHarmonicsConfig(num_degrees=40, convention="analytic"))
    export_onnx(encoder, tmp_path / "model.onnx", dtype=torch.float32)
    assert encoder.dtype == torch.float64
    embedding = run(tmp_path / "model.onnx", places(200))
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, encoder.encode(places(200), dtype=torch.float32), rtol=0, atol=5e-6)


@pytest.mark.parametrize(
    "encoding",
    [
        *(CoordinatesConfig(kind=kind) for kind in ("direct", "cartesian3d", "wrap")),
        *(
            MultiScaleConfig(kind=kind, num_frequencies=5, min_radius=0.3, max_radius=90.0)
            for kind in ("theory", "grid", "spherec", "spherecplus", "spherem", "spheremplus")
        ),
    ],
    ids=lambda encoding: encoding.kind,
)
def test_every_encoding_from_coordinates_equals_pytorch(tmp_path, encoding):
    encoder = build(encoding)
    export_onnx(encoder, tmp_path / "model.onnx")
    np.testing.assert_allclose(run(tmp_path / "model.onnx", places(50)), encoder.encode(places(50)), rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "network",
    [
        SirenConfig(hidden_dim=9, num_hidden_layers=3, w0_initial=7.3),
        FCNetConfig(hidden_dim=9),
        MLPConfig(hidden_dim=9, num_hidden_layers=0),
        MLPConfig(hidden_dim=9, num_hidden_layers=3),
        MLPConfig(hidden_dim=9, num_hidden_layers=3, tie_hidden_layers=True),
        LinearConfig(),
    ],
    ids=lambda network: network.kind,
)
def test_every_network_equals_pytorch(tmp_path, network):
    encoder = build(SphericalHarmonicsConfig(num_degrees=4), network)
    export_onnx(encoder, tmp_path / "model.onnx")
    np.testing.assert_allclose(run(tmp_path / "model.onnx", places(50)), encoder.encode(places(50)), rtol=0, atol=1e-12)


def test_dropout_is_not_exported(tmp_path):
    encoder = build(SphericalHarmonicsConfig(num_degrees=4), SirenConfig(hidden_dim=9, dropout=0.5)).train()
    export_onnx(encoder, tmp_path / "model.onnx")
    assert encoder.training
    np.testing.assert_allclose(run(tmp_path / "model.onnx", places(9)), encoder.encode(places(9)), rtol=0, atol=1e-12)


def test_the_graph_does_not_grow_with_the_degrees(tmp_path):
    numbers = []
    for num_degrees in (5, 40):
        export_onnx(build(SphericalHarmonicsConfig(num_degrees=num_degrees)), tmp_path / "model.onnx")
        numbers.append(len(onnx.load(tmp_path / "model.onnx").graph.node))
    assert numbers[0] == numbers[1] < 40


def test_the_file_describes_itself(tmp_path):
    encoder = build(SphericalHarmonicsConfig(num_degrees=4), dtype=torch.float32)
    export_onnx(encoder, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["location_encoder"]) == encoder.config.model_dump(mode="json")
    assert metadata["embedding_dim"] == "7"
    assert metadata["coordinates"] == "longitude, latitude in degrees"
    assert metadata["dtype"] == "float32"
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, given.type) == ("lonlat_deg", ["n", 2], "tensor(double)")
    assert (returned.name, returned.shape, returned.type) == ("embedding", ["n", 7], "tensor(float)")


def test_what_has_no_onnx_form_is_refused_and_leaves_nothing(tmp_path):
    discretized = build(SphericalHarmonicsConfig(num_degrees=4, convention="discretized"))
    with pytest.raises(ValueError, match="DiscretizedSphericalHarmonics has no ONNX form"):
        export_onnx(discretized, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"dtype is torch.float16; expected torch.float32 or torch.float64"):
        export_onnx(build(CoordinatesConfig(kind="wrap")), tmp_path / "model.onnx", dtype=torch.float16)
    assert not list(tmp_path.glob("*.onnx*"))


def test_without_onnx_the_error_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'satclip-pipeline\[onnx\]'"):
        export_onnx(build(CoordinatesConfig(kind="wrap")), tmp_path / "model.onnx")
