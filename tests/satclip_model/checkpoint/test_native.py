import errno
import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from satclip_model.checkpoint.archive import write_whole
from satclip_model.checkpoint.native import read_checkpoint, read_location_encoder, write_checkpoint
from satclip_model.config import (
    ImageHeadConfig,
    LocationEncoderConfig,
    RandomFeaturesConfig,
    SatCLIPConfig,
    SirenConfig,
    SphericalHarmonicsConfig,
)
from satclip_model.errors import CheckpointError
from satclip_model.satclip import SatCLIP, build_satclip
from tests.satclip_model.pickle_bomb import Bomb

CONFIG = SatCLIPConfig(
    location=LocationEncoderConfig(
        positional_encoding=SphericalHarmonicsConfig(num_degrees=4), network=SirenConfig(hidden_dim=8), embedding_dim=6
    ),
    image_backbone=RandomFeaturesConfig(num_filters=4, pool_factors=(1, 4)),
    image_head=ImageHeadConfig(hidden_dim=10),
)
LONLAT_DEG = torch.tensor([[10.0, 50.0], [-70.0, -20.0], [140.0, 35.0]], dtype=torch.float64)
RECORD = {"dataset_version": "abc", "metrics": {"val_loss": 1.25}, "split": {"seed": 3}}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "satclip.ckpt"
    write_checkpoint(path, build_satclip(CONFIG, seed=1), RECORD)
    return path


def rewrite(path: Path, **changes: object) -> None:
    content = torch.load(path, weights_only=True)
    content.update(changes)
    torch.save(content, path)


def test_round_trip_keeps_model_and_record(checkpoint: Path) -> None:
    written = build_satclip(CONFIG, seed=1).eval()
    model, record = read_checkpoint(checkpoint)
    assert record == RECORD
    assert model.config == CONFIG
    assert not model.training
    reflectance = torch.rand(2, 12, 16, 16)
    assert torch.equal(model.encode_image(reflectance), written.encode_image(reflectance))
    encoder, record_again = read_location_encoder(checkpoint)
    assert record_again == RECORD
    assert torch.equal(encoder(LONLAT_DEG), written.location_encoder(LONLAT_DEG))
    assert [each.name for each in checkpoint.parent.iterdir()] == ["satclip.ckpt"]


def test_same_model_gives_the_same_bytes(checkpoint: Path, tmp_path: Path) -> None:
    again = tmp_path / "again" / "satclip.ckpt"
    write_checkpoint(again, build_satclip(CONFIG, seed=1), RECORD)
    assert again.read_bytes() == checkpoint.read_bytes()


def test_differing_keys_and_shapes_are_named(checkpoint: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    del state["image_projection.layers.1.bias"]
    state["surplus"] = torch.zeros(2)
    state["location_encoder.location_network.layers.0.weight"] = torch.zeros(8, 25)
    rewrite(checkpoint, state_dict=state)
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(checkpoint)
    for part in (
        "missing: image_projection.layers.1.bias",
        "unexpected: surplus",
        "layers.0.weight has shape (8, 25), expected (8, 16)",
    ):
        assert part in str(error.value)
    with pytest.raises(CheckpointError, match=r"\(8, 25\), expected \(8, 16\)"):
        read_location_encoder(checkpoint)


@pytest.mark.parametrize("length", [0, 10, 1000, -1, -200])
def test_truncated_file_is_refused(checkpoint: Path, length: int) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"satclip\.ckpt"):
        read_checkpoint(checkpoint)


def test_garbage_and_missing_files_are_refused(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.ckpt"
    garbage.write_bytes(b"\x80\x04 not a checkpoint" * 50)
    with pytest.raises(CheckpointError, match=r"garbage\.ckpt: 950 bytes"):
        read_checkpoint(garbage)
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint(tmp_path / "absent.ckpt")


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_code_in_a_file_is_not_run(tmp_path: Path, how: str) -> None:
    path, target = tmp_path / "bomb.ckpt", tmp_path / "exploded"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Bomb(target)))
    else:
        torch.save({"format": "satclip-two-towers", "record": Bomb(target)}, path)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "format is 'other'"),
        ({"format_version": 99}, "version 99; expected 'satclip-two-towers' version 2"),
        ({"config": json.dumps({"surprise": 1})}, "surprise"),
        ({"record": "{"}, "not valid"),
        ({"state_dict": {"a": "text"}}, "state_dict of tensors"),
    ],
)
def test_other_formats_are_refused(checkpoint: Path, changes: dict[str, object], message: str) -> None:
    rewrite(checkpoint, **changes)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(checkpoint)


def test_a_lightning_checkpoint_is_refused_by_its_format(tmp_path: Path) -> None:
    path = tmp_path / "lightning.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {"embed_dim": 256}}, path)
    with pytest.raises(CheckpointError, match="format is None"):
        read_checkpoint(path)


def test_weights_that_are_not_finite_are_refused_both_ways(checkpoint: Path, tmp_path: Path) -> None:
    model: SatCLIP = build_satclip(CONFIG, seed=1)
    with torch.no_grad():
        model.location_encoder.location_network.last_layer.bias[2] = float("nan")
    with pytest.raises(CheckpointError, match=r"last_layer\.bias is not finite"):
        write_checkpoint(tmp_path / "nan.ckpt", model, {})
    assert not (tmp_path / "nan.ckpt").exists()
    rewrite(checkpoint, state_dict=model.state_dict())
    with pytest.raises(CheckpointError, match=r"last_layer\.bias is not finite"):
        read_checkpoint(checkpoint)


def test_a_failed_write_keeps_the_old_file(checkpoint: Path) -> None:
    before = checkpoint.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_checkpoint(checkpoint, build_satclip(CONFIG, seed=2), {"val_loss": float("nan")})
    assert checkpoint.read_bytes() == before
    assert len(list(checkpoint.parent.iterdir())) == 1


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    class FullDisk(io.BytesIO):
        def write(self, content: Any) -> int:
            if self.tell() > 10_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(content)

    content = {name: torch.zeros(2000) for name in "abcdef"}
    with pytest.raises(OSError, match="No space left on device"):
        write_whole(tmp_path / "satclip.ckpt", lambda _: torch.save(content, FullDisk()))
    assert list(tmp_path.glob("satclip.ckpt*")) == []
