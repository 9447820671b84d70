import pickle
from pathlib import Path

import pytest
import torch

from satclip_model.checkpoint.loading import load_location_encoder, load_model
from satclip_model.checkpoint.native import write_checkpoint
from satclip_model.checkpoint.official import write_official_checkpoint
from satclip_model.checkpoint.safetensors import write_safetensors
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
from tests.satclip_model.official_files import official_content, siren_weights, write_official
from tests.satclip_model.pickle_bomb import Bomb

CONFIG = SatCLIPConfig(
    location=LocationEncoderConfig(
        positional_encoding=SphericalHarmonicsConfig(num_degrees=4, convention="analytic"),
        network=SirenConfig(hidden_dim=8),
        embedding_dim=6,
    ),
    image_backbone=RandomFeaturesConfig(num_filters=4, pool_factors=(1, 4)),
    image_head=ImageHeadConfig(hidden_dim=10),
)
LONLAT_DEG = torch.tensor([[10.0, 50.0], [-70.0, -20.0], [140.0, 35.0]], dtype=torch.float64)
RECORD = {"dataset_version": "abc"}


def model_in_float64() -> SatCLIP:
    model = build_satclip(CONFIG, seed=1).eval()
    model.location_encoder.double()
    return model


@pytest.mark.parametrize("name", ["own.ckpt", "own.safetensors", "without_suffix"])
def test_both_towers_come_back_from_every_format_of_ours(tmp_path: Path, name: str) -> None:
    path, model = tmp_path / name, model_in_float64()
    if name == "own.ckpt":
        write_checkpoint(path, model, RECORD)
    else:
        write_safetensors(path, model, RECORD)
    for source in (path, str(path)):
        again, record = load_model(source)
        assert (record, again.config, again.training) == (RECORD, CONFIG, False)
        for key, tensor in again.state_dict().items():
            assert (tensor.dtype, torch.equal(tensor, model.state_dict()[key])) == (model.state_dict()[key].dtype, True)
    assert torch.equal(load_location_encoder(path)(LONLAT_DEG), model.location_encoder(LONLAT_DEG))


@pytest.mark.parametrize("kind", [Path, str])
def test_the_same_embeddings_come_from_every_format(tmp_path: Path, kind: type) -> None:
    model = model_in_float64()
    write_checkpoint(kind(tmp_path / "own.ckpt"), model, RECORD)
    write_safetensors(kind(tmp_path / "own.safetensors"), model)
    write_official_checkpoint(kind(tmp_path / "official.ckpt"), model, location_only=True)
    for name in ("own.ckpt", "own.safetensors", "official.ckpt"):
        encoder = load_location_encoder(tmp_path / name)
        assert torch.equal(encoder(LONLAT_DEG), model.location_encoder(LONLAT_DEG))


def test_official_files_are_told_by_their_content(tmp_path: Path) -> None:
    path = write_official(tmp_path / "renamed.bin", official_content(4))
    model, record = load_model(path)
    assert (record, model.config.embedding_dim) == ({}, 16)
    weights = load_location_encoder(path).location_network.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in siren_weights(4).items())


def test_a_location_tower_alone_is_no_model(tmp_path: Path) -> None:
    path = write_official(tmp_path / "location.ckpt", official_content(4, images=False))
    with pytest.raises(CheckpointError, match="read it with load_location_encoder"):
        load_model(path)
    assert load_location_encoder(path).config.embedding_dim == 16


def test_a_checkpoint_without_a_location_tower_is_told(tmp_path: Path) -> None:
    path = write_official(tmp_path / "images.ckpt", official_content(4, families=()))
    with pytest.raises(CheckpointError, match=r"missing: location_network\.last_layer\.bias"):
        load_location_encoder(path)


@pytest.mark.parametrize("how", ["pickle", "hyper_parameters", "state_dict", "callbacks", "legacy"])
def test_code_in_a_file_is_not_run(tmp_path: Path, how: str) -> None:
    path, target = tmp_path / "satclip-vit16-l40.ckpt", tmp_path / "exploded"
    bomb = Bomb(target)
    if how == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    elif how == "legacy":
        torch.save({"state_dict": bomb}, path, _use_new_zipfile_serialization=False)
    else:
        torch.save(official_content(0) | {how: {"model.nnet.layers.0.weight": bomb}}, path)
    for load in (load_model, load_location_encoder):
        with pytest.raises(CheckpointError, match=r"satclip-vit16-l40\.ckpt"):
            load(path)
    assert not target.exists()


def test_what_a_file_asks_for_is_named(tmp_path: Path) -> None:
    torch.save({"hyper_parameters": Bomb(tmp_path / "exploded")}, tmp_path / "bomb.ckpt")
    with pytest.raises(CheckpointError, match=r"\(it asks for (posix|nt)\.mkdir\).*never unpickled"):
        load_model(tmp_path / "bomb.ckpt")


@pytest.mark.parametrize("length", [0, 5, 1000, -1, -300])
def test_truncated_file_is_refused(tmp_path: Path, length: int) -> None:
    path = write_official(tmp_path / "cut.ckpt")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"cut\.ckpt"):
        load_location_encoder(path)


def test_weights_of_another_architecture_are_told(tmp_path: Path) -> None:
    path = tmp_path / "resnet.ckpt"
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)).state_dict(), path)
    with pytest.raises(
        CheckpointError, match=r"found keys 0\.weight, 0\.bias, 1\.weight, 1\.bias, .* \.\.\.; expected"
    ):
        load_model(path)
    torch.save(torch.zeros(3), path)
    with pytest.raises(CheckpointError, match="found Tensor; expected a checkpoint of this project"):
        load_location_encoder(path)


def test_lightning_checkpoint_of_another_module_is_told(tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    content = {"state_dict": {"net.weight": torch.zeros(2)}, "pytorch-lightning_version": "2.6.0"}
    torch.save(content | {"hyper_parameters": {"num_classes": 10, "lr": 0.1}}, path)
    with pytest.raises(CheckpointError, match=r"other\.ckpt: hyper_parameters hold lr, num_classes"):
        load_location_encoder(path)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="found keys state_dict, pytorch-lightning_version, expected"):
        load_location_encoder(path)


def test_missing_files_and_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.ckpt: no such file, and no name on the Hugging Face Hub"):
        load_model(str(tmp_path / "absent.ckpt"))
    for path in (tmp_path / "absent.ckpt", tmp_path / "absent.safetensors"):
        with pytest.raises(CheckpointError, match="no such file"):
            load_model(path)
    with pytest.raises(CheckpointError, match="is no file; expected a checkpoint"):
        load_model(tmp_path)
    for source in ("x" * 5000, Path("x" * 5000)):
        with pytest.raises(CheckpointError, match=r"no such file|too long"):
            load_model(source)


def test_file_that_cannot_be_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_safetensors(tmp_path / "model.safetensors", model_in_float64())
    write_checkpoint(tmp_path / "model.ckpt", model_in_float64(), {})

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    for name in ("model.safetensors", "model.ckpt"):
        with pytest.raises(CheckpointError, match=f"{name}.*Permission denied"):
            load_location_encoder(tmp_path / name)
