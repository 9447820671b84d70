import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from satclip_model.checkpoint.safetensors import (
    read_safetensors,
    read_safetensors_location_encoder,
    write_safetensors,
)
from satclip_model.config import (
    ImageHeadConfig,
    LocationEncoderConfig,
    RandomFeaturesConfig,
    SatCLIPConfig,
    SirenConfig,
    SphericalHarmonicsConfig,
)
from satclip_model.errors import CheckpointError
from satclip_model.location_encoder import build_location_encoder
from satclip_model.satclip import build_satclip

LOCATION = LocationEncoderConfig(
    positional_encoding=SphericalHarmonicsConfig(num_degrees=4), network=SirenConfig(hidden_dim=8), embedding_dim=6
)
CONFIG = SatCLIPConfig(
    location=LOCATION,
    image_backbone=RandomFeaturesConfig(num_filters=4, pool_factors=(1, 4)),
    image_head=ImageHeadConfig(hidden_dim=10),
)
LONLAT_DEG = torch.tensor([[10.0, 50.0], [-70.0, -20.0], [140.0, 35.0]], dtype=torch.float64)
RECORD = {"dataset_version": "abc", "metrics": {"val_loss": 1.25}}


@pytest.fixture
def both(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "model.safetensors"
    write_safetensors(path, build_satclip(CONFIG, seed=1), RECORD)
    return path


def test_round_trip_keeps_model_and_record(both: Path) -> None:
    written = build_satclip(CONFIG, seed=1).eval()
    model, record = read_safetensors(both)
    assert (record, model.config, model.training) == (RECORD, CONFIG, False)
    assert all(torch.equal(tensor, written.state_dict()[name]) for name, tensor in model.state_dict().items())
    encoder, record_again = read_safetensors_location_encoder(both)
    assert record_again == RECORD
    assert torch.equal(encoder(LONLAT_DEG), written.location_encoder(LONLAT_DEG))
    assert sorted(each.name for each in both.parent.iterdir()) == ["config.json", "model.safetensors"]


def test_same_model_gives_the_same_bytes(both: Path, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "again" / "model.safetensors", build_satclip(CONFIG, seed=1), RECORD)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (both.parent / name).read_bytes()


def test_a_location_encoder_alone_keeps_its_type(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    encoder = build_location_encoder(LOCATION, seed=3).double()
    write_safetensors(path, encoder)
    again, record = read_safetensors_location_encoder(path)
    assert (record, again.dtype) == ({}, torch.float64)
    assert torch.equal(again(LONLAT_DEG), encoder(LONLAT_DEG))
    with pytest.raises(CheckpointError, match="location tower alone; read it with load_location_encoder"):
        read_safetensors(path)


def test_weights_without_their_settings_are_refused(both: Path) -> None:
    (both.parent / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no config\.json beside it"):
        read_safetensors(both)
    with pytest.raises(CheckpointError, match="no such file"):
        read_safetensors(both.with_name("other.safetensors"))


def test_a_mixture_of_two_models_is_noticed(both: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "model.safetensors"
    write_safetensors(other, build_satclip(CONFIG, seed=2))
    both.write_bytes(other.read_bytes())
    with pytest.raises(CheckpointError, match=r"not the weights that .*config\.json was written with"):
        read_safetensors(both)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_truncated_weights_are_refused(both: Path, length: int) -> None:
    both.write_bytes(both.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: .* damaged"):
        read_safetensors(both)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "bert"}, "format is 'bert' version 1; expected 'satclip-safetensors' version 1"),
        ({"format_version": 7}, "version 7"),
        ({"towers": "three"}, "'towers'"),
        ({"record": []}, "'record'"),
        ({"config": {"surprise": 1}}, "surprise"),
    ],
)
def test_other_descriptions_are_refused(both: Path, changes: dict[str, object], message: str) -> None:
    beside = both.parent / "config.json"
    beside.write_text(json.dumps(json.loads(beside.read_text()) | changes))
    with pytest.raises(CheckpointError, match=message):
        read_safetensors(both)


def test_a_description_that_lacks_parts_or_is_no_json_is_refused(both: Path) -> None:
    beside = both.parent / "config.json"
    description = json.loads(beside.read_text())
    del description["weights_sha256"]
    beside.write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match="weights_sha256 missing"):
        read_safetensors(both)
    beside.write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        read_safetensors(both)


def test_weights_that_are_not_finite_or_do_not_fit_are_refused(both: Path, tmp_path: Path) -> None:
    model = build_satclip(CONFIG, seed=1)
    with torch.no_grad():
        model.logit_scale.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="logit_scale is not finite"):
        write_safetensors(tmp_path / "nan.safetensors", model)
    assert not (tmp_path / "nan.safetensors").exists()

    state = load_file(both)
    state["logit_scale"] = torch.zeros(2)
    save_file(state, both)
    beside = both.parent / "config.json"
    digest = hashlib.sha256(both.read_bytes()).hexdigest()
    beside.write_text(json.dumps(json.loads(beside.read_text()) | {"weights_sha256": digest}))
    with pytest.raises(CheckpointError, match=r"logit_scale has shape \(2,\), expected \(\)"):
        read_safetensors(both)


def test_a_record_that_is_no_json_leaves_the_old_files(both: Path) -> None:
    before = {each.name: each.read_bytes() for each in both.parent.iterdir()}
    with pytest.raises(ValueError, match="JSON"):
        write_safetensors(both, build_satclip(CONFIG, seed=2), {"val_loss": float("nan")})
    assert {each.name: each.read_bytes() for each in both.parent.iterdir()} == before
