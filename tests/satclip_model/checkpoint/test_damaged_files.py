"""Files that are damaged, or hold what no checkpoint holds: one clear error each."""

import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from satclip_model.checkpoint.loading import load_location_encoder, load_model
from satclip_model.checkpoint.native import write_checkpoint
from satclip_model.checkpoint.official import write_official_checkpoint
from satclip_model.config import (
    ImageHeadConfig,
    LocationEncoderConfig,
    RandomFeaturesConfig,
    SatCLIPConfig,
    SirenConfig,
    SphericalHarmonicsConfig,
)
from satclip_model.errors import CheckpointError
from satclip_model.satclip import build_satclip
from tests.satclip_model.official_files import official_content, siren_weights, write_official
from tests.satclip_model.pickle_bomb import Bomb

CONFIG = SatCLIPConfig(
    location=LocationEncoderConfig(
        positional_encoding=SphericalHarmonicsConfig(num_degrees=4), network=SirenConfig(hidden_dim=8), embedding_dim=6
    ),
    image_backbone=RandomFeaturesConfig(num_filters=4, pool_factors=(1, 4)),
    image_head=ImageHeadConfig(hidden_dim=10),
)
LONLAT_DEG = torch.tensor([[10.0, 50.0], [-70.0, -20.0], [140.0, 35.0]], dtype=torch.float64)


def test_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = write_official(tmp_path / "flipped.ckpt")
    content = bytearray(path.read_bytes())
    start = content.index(official_content()["state_dict"]["model.logit_scale"].numpy().tobytes())
    content[start] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"flipped\.ckpt: .*data/\d+ does not have its checksum"):
        load_location_encoder(path)


def test_compressed_archive_is_refused_unread(tmp_path: Path) -> None:
    path = write_official(tmp_path / "bomb.ckpt")
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(CheckpointError, match="compressed or overlapping parts"):
        load_location_encoder(path)


def test_archive_of_another_kind_is_told(tmp_path: Path) -> None:
    path = tmp_path / "program.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("program/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript program"):
        load_location_encoder(path)
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")) + path.read_bytes())
    with pytest.raises(CheckpointError, match="not a zip archive"):
        load_location_encoder(path)
    assert not (tmp_path / "exploded").exists()


def replaced(tensor: object) -> dict[str, Any]:
    content = official_content(images=False)
    names = [f"model.{family}layers.0.weight" for family in ("nnet.", "location.nnet.")]
    return content | {"state_dict": content["state_dict"] | dict.fromkeys(names, tensor)}


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (torch.zeros(24, 36, dtype=torch.int64), r"layers\.0\.weight is torch\.int64, expected torch\.float32"),
        (torch.zeros(24, 36, dtype=torch.complex64), r"layers\.0\.weight is torch\.complex64"),
        (torch.zeros(24, 36).to_sparse(), r"layers\.0\.weight is torch\.float32, torch\.sparse_coo"),
        (torch.zeros(24, 36, device="meta"), r"layers\.0\.weight is .* on meta; expected a dense tensor"),
        (torch.zeros(1).expand(10**6, 10**6), r"layers\.0\.weight has shape .* but the file holds 4 bytes of it"),
        ([0.0], "found other things than tensors"),
    ],
    ids=["whole numbers", "complex", "sparse", "meta", "expanded", "list"],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_what_is_no_weight_is_told(tmp_path: Path, tensor: object, told: str) -> None:
    path = write_official(tmp_path / "a.ckpt", replaced(tensor))
    with pytest.raises(CheckpointError, match=told):
        load_location_encoder(path)


def test_names_that_are_no_text_are_told(tmp_path: Path) -> None:
    content = official_content(images=False)
    path = write_official(tmp_path / "a.ckpt", content | {"state_dict": content["state_dict"] | {5: torch.zeros(1)}})
    with pytest.raises(CheckpointError, match="other things than tensors under names"):
        load_location_encoder(path)
    write_checkpoint(path, build_satclip(CONFIG, seed=1), {})
    content = torch.load(path)
    torch.save(content | {"state_dict": content["state_dict"] | {5: torch.zeros(1)}}, path)
    for load in (load_model, load_location_encoder):
        with pytest.raises(CheckpointError, match="other things than tensors under names"):
            load(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in siren_weights(2).items()}
    encoder = load_location_encoder(write_official(tmp_path / "a.ckpt", official_content(weights=weights)))
    assert encoder.dtype == torch.float32
    assert torch.equal(encoder.location_network.state_dict()["layers.0.weight"], weights["layers.0.weight"].float())
    assert encoder.encode([[10, 50]]).dtype == "float32"


def test_weights_of_mixed_types_are_computed_in_the_widest(tmp_path: Path) -> None:
    weights = siren_weights(2)
    mixed = weights | {"layers.1.weight": weights["layers.1.weight"].float()}
    encoder = load_location_encoder(write_official(tmp_path / "a.ckpt", official_content(weights=mixed)))
    whole = load_location_encoder(write_official(tmp_path / "b.ckpt", official_content(weights=weights)))
    assert encoder.dtype == torch.float64
    assert torch.equal(encoder(LONLAT_DEG), whole(LONLAT_DEG))


@pytest.mark.parametrize(
    "changed",
    [
        {"capacity": 60_000},
        {"capacity": 10**30},
        {"embed_dim": 60_000},
        {"embed_dim": -3},
        {"embed_dim": 16.5},
        {"num_hidden_layers": 1000},
        {"num_hidden_layers": 10**9},
        {"vision_layers": 10**9},
        {"vision_layers": (1, 1, 1, 10**9)},
        {"vision_width": 64 * 10**9},
        {"image_resolution": 10**9},
        {"in_channels": 10**12},
        {"le_type": "grid", "min_radius": 1.0, "max_radius": float("inf")},
    ],
    ids=str,
)
def test_settings_of_another_size_cost_no_memory(tmp_path: Path, changed: dict[str, Any]) -> None:
    path = write_official(tmp_path / "a.ckpt", official_content(**changed))
    with pytest.raises(CheckpointError, match=r"a\.ckpt: .*(do not fit|none of SatCLIP's)") as refusal:
        load_model(path)
    assert "\n" not in str(refusal.value)


def test_record_nested_too_deep_is_told(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "own.ckpt", build_satclip(CONFIG, seed=1), {})
    write_official_checkpoint(tmp_path / "official.ckpt", build_satclip(CONFIG, seed=1), location_only=True)
    for name, key in (("own.ckpt", "record"), ("official.ckpt", "satclip_pipeline")):
        torch.save(torch.load(tmp_path / name) | {key: "[" * 100_000}, tmp_path / name)
        with pytest.raises(CheckpointError, match=f"{name}: the part .* is not valid"):
            load_location_encoder(tmp_path / name)


def test_pickle_of_any_bytes_gives_a_checkpoint_error_or_a_model(tmp_path: Path) -> None:
    path, rng = write_official(tmp_path / "a.ckpt", official_content(images=False)), random.Random(4)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = next(each for each in parts if each.endswith("/data.pkl"))
    refused = 0
    for _ in range(150):
        damaged = bytearray(parts[name][: rng.choice([len(parts[name]), rng.randrange(len(parts[name]))])])
        for _ in range(3):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with zipfile.ZipFile(path, "w") as archive:
            for each, content in parts.items():
                archive.writestr(each, bytes(damaged) if each == name else content)
        try:
            load_location_encoder(path)
        except CheckpointError:
            refused += 1
    assert refused > 100
