import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
import torchgeo.models
from lightning.fabric.utilities.data import AttributeDict

from satclip_model.checkpoint.official import (
    RECORD_KEY,
    read_official_checkpoint,
    read_official_location_encoder,
    write_official_checkpoint,
)
from satclip_model.config import (
    ImageHeadConfig,
    LocationEncoderConfig,
    RandomFeaturesConfig,
    SatCLIPConfig,
    SirenConfig,
    SphericalHarmonicsConfig,
    VisionTransformerConfig,
)
from satclip_model.errors import CheckpointError
from satclip_model.location_encoder import LocationEncoder, build_location_encoder
from satclip_model.satclip import build_satclip
from tests.satclip_model.official_files import (
    CAPACITY,
    EMBED_DIM,
    FORMER,
    HYPER_PARAMETERS,
    NUM_DEGREES,
    official_content,
    siren_weights,
    write_official,
)

GENERATOR = np.random.default_rng(4)
LONLAT_DEG = torch.from_numpy(GENERATOR.uniform([-180.0, -89.9], [180.0, 89.9], (200, 2)))
LOCATION = LocationEncoderConfig(
    positional_encoding=SphericalHarmonicsConfig(num_degrees=NUM_DEGREES),
    network=SirenConfig(hidden_dim=CAPACITY, dropout=0.1),
    embedding_dim=EMBED_DIM,
)
TRANSFORMER = SatCLIPConfig(
    location=LOCATION,
    image_backbone=VisionTransformerConfig(image_size=32, patch_size=16, width=64, num_layers=1, output_dim=EMBED_DIM),
    image_head=ImageHeadConfig(kind="identity"),
    min_temperature=0.02,
)
NUM_LAYERS, LEARNING_RATE = np.int64(2), np.float64(1e-4)
RECORD = {"dataset_version": "abc", "metrics": {"val_loss": 1.25}}


def by_torchgeo(path: Path, *, exact_harmonics: bool = True) -> torchgeo.models.SatCLIP:
    """Loads as ``torchgeo.models.satclip(weights)`` does, and casts.

    Its harmonics keep coefficients that were rounded to float32 even then, unless they are made anew.
    """
    content = torch.load(path, weights_only=True)
    model = torchgeo.models.SatCLIP(NUM_DEGREES, CAPACITY, EMBED_DIM, 2)
    prefix = "model.location."
    state = {
        name.removeprefix(prefix): tensor
        for name, tensor in content["state_dict"].items()
        if name.startswith(f"{prefix}nnet.")
    }
    model.load_state_dict(state, strict=True)
    model = model.eval().double()
    if exact_harmonics:
        model.posenc = type(model.posenc)(NUM_DEGREES)
    return model


@pytest.mark.parametrize("families", [("nnet", "location.nnet"), ("nnet",), ("location.nnet",)])
@pytest.mark.parametrize("images", [True, False])
def test_location_tower_is_read_in_float64_under_either_name(
    tmp_path: Path, families: tuple[str, ...], images: bool
) -> None:
    path = write_official(tmp_path / "a.ckpt", official_content(3, families=families, images=images))
    encoder, record = read_official_location_encoder(path)
    assert record == {}
    assert encoder.dtype == torch.float64
    assert not encoder.training
    for name, tensor in siren_weights(3).items():
        assert torch.equal(encoder.location_network.state_dict()[name], tensor)


def test_both_towers_are_read_each_in_its_type(tmp_path: Path) -> None:
    path = write_official(tmp_path / "a.ckpt")
    model, _ = read_official_checkpoint(path)
    assert (model.config.min_temperature, float(model.clamped_logit_scale.detach())) == (0.0, 3.25)
    assert model.location_encoder.dtype == torch.float64
    assert {each.dtype for each in model.image_backbone.parameters()} == {torch.float32}
    assert model.encode_image(torch.rand(2, 12, 32, 32)).shape == (2, EMBED_DIM)


def test_random_official_file_through_ours_is_read_by_torchgeo(tmp_path: Path) -> None:
    encoder, _ = read_official_location_encoder(write_official(tmp_path / "a.ckpt", official_content(5)))
    write_official_checkpoint(tmp_path / "b.ckpt", encoder)
    expected = by_torchgeo(tmp_path / "a.ckpt")(LONLAT_DEG)
    torch.testing.assert_close(encoder(LONLAT_DEG), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(by_torchgeo(tmp_path / "b.ckpt")(LONLAT_DEG), expected, rtol=0, atol=0)
    rounded = [by_torchgeo(tmp_path / name, exact_harmonics=False)(LONLAT_DEG) for name in ("a.ckpt", "b.ckpt")]
    torch.testing.assert_close(rounded[1], rounded[0], rtol=0, atol=0)
    torch.testing.assert_close(encoder(LONLAT_DEG), rounded[1], rtol=0, atol=2e-6)
    assert float(expected.detach().std()) > 0.05


def test_our_own_model_is_read_by_torchgeo(tmp_path: Path) -> None:
    model = build_satclip(TRANSFORMER, seed=3).eval()
    write_official_checkpoint(tmp_path / "ours.ckpt", model, RECORD)
    with torch.no_grad():
        expected = model.location_encoder.double()(LONLAT_DEG)
        torch.testing.assert_close(by_torchgeo(tmp_path / "ours.ckpt")(LONLAT_DEG), expected, rtol=0, atol=2e-6)
        again, _ = read_official_location_encoder(tmp_path / "ours.ckpt")
        torch.testing.assert_close(again(LONLAT_DEG), expected, rtol=0, atol=1e-12)


def test_round_trip_keeps_logits_settings_and_record(tmp_path: Path) -> None:
    model = build_satclip(TRANSFORMER, seed=1).eval()
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    write_official_checkpoint(tmp_path / "ours.ckpt", model, RECORD)
    again, record = read_official_checkpoint(tmp_path / "ours.ckpt")
    assert record == RECORD
    analytic = SphericalHarmonicsConfig(num_degrees=NUM_DEGREES, convention="analytic")
    assert again.config == TRANSFORMER.model_copy(
        update={"location": LOCATION.model_copy(update={"positional_encoding": analytic})}
    )
    images, lonlat_deg = torch.rand(3, 12, 32, 32), LONLAT_DEG[:3]
    with torch.no_grad():
        logits = again(again.image_backbone(images), lonlat_deg)[0]
        torch.testing.assert_close(logits, model(model.image_backbone(images), lonlat_deg)[0], rtol=0, atol=1e-4)
        assert float(again.logit_scale) == pytest.approx(-np.log(0.02))
    assert not list(tmp_path.glob("*.partial"))


def test_written_file_holds_what_the_original_loader_takes_out(tmp_path: Path) -> None:
    write_official_checkpoint(tmp_path / "ours.ckpt", build_satclip(TRANSFORMER, seed=1))
    content = torch.load(tmp_path / "ours.ckpt", weights_only=True)
    assert content.keys() == {
        "epoch", "global_step", "pytorch-lightning_version", "state_dict", "hyper_parameters", RECORD_KEY,
    }  # fmt: skip
    assert content["hyper_parameters"].keys() == HYPER_PARAMETERS.keys() | FORMER.keys()
    state = content["state_dict"]
    assert state.keys() == official_content()["state_dict"].keys()
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in state.items()} == {
        name: (tensor.dtype, tensor.shape) for name, tensor in official_content()["state_dict"].items()
    }
    for name in siren_weights(0):
        assert state[f"model.nnet.{name}"].data_ptr() == state[f"model.location.nnet.{name}"].data_ptr()


def test_image_tower_the_original_lacks_can_be_left_out(tmp_path: Path) -> None:
    config = SatCLIPConfig(location=LOCATION, image_backbone=RandomFeaturesConfig(num_filters=2, pool_factors=(1,)))
    model = build_satclip(config, seed=2).eval()
    path = tmp_path / "ours.ckpt"
    with pytest.raises(ValueError, match="location_only=True"):
        write_official_checkpoint(path, model)
    assert not path.exists()
    write_official_checkpoint(path, model, RECORD, location_only=True)
    encoder, record = read_official_location_encoder(path)
    assert record == RECORD
    with torch.no_grad():
        torch.testing.assert_close(encoder(LONLAT_DEG), model.location_encoder.double()(LONLAT_DEG), rtol=0, atol=1e-12)
    with pytest.raises(CheckpointError, match=r"location tower alone.*load_location_encoder"):
        read_official_checkpoint(path)


class Trained(lightning.LightningModule):
    """Has the weights of `official_content`, and saves its arguments as the original does."""

    def __init__(
        self,
        embed_dim: int = EMBED_DIM,
        legendre_polys: int = NUM_DEGREES,
        capacity: int = CAPACITY,
        num_hidden_layers: Any = NUM_LAYERS,
        learning_rate: Any = LEARNING_RATE,
        vision_layers: tuple[int, ...] = (1, 2, 3, 1),
        le_type: str = "sphericalharmonics",
        pe_type: str = "siren",
        harmonics_calculation: str = "analytic",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = torch.nn.Module()
        self.model.nnet = LocationEncoder(LOCATION).double().location_network
        self.model.nnet.load_state_dict(siren_weights(6))
        self.model.location = torch.nn.Module()
        self.model.location.nnet = self.model.nnet

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = 0.0 * self.model.nnet(batch).sum()
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.0)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "train_loss"}}


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:.*isinstance\\(treespec, LeafSpec\\).*")
@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated")
def test_a_checkpoint_of_a_real_trainer_is_read(tmp_path: Path) -> None:
    saved = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path / "saved", monitor="train_loss", save_last=True)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[saved, lightning.pytorch.callbacks.EarlyStopping("train_loss")], default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Trained(), torch.utils.data.DataLoader(torch.rand(4, NUM_DEGREES**2).double(), batch_size=2))
    path = tmp_path / "trained.ckpt"
    trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=False)
    assert {"loops", "callbacks", "optimizer_states", "lr_schedulers", "hparams_name"} <= content.keys()
    assert isinstance(content["hyper_parameters"]["learning_rate"], np.float64)
    encoder, _ = read_official_location_encoder(path)
    for name, tensor in siren_weights(6).items():
        assert torch.equal(encoder.location_network.state_dict()[name], tensor)


@pytest.mark.parametrize("kind", [AttributeDict, OrderedDict])
def test_dictionaries_of_lightning_and_numbers_of_numpy_are_read(tmp_path: Path, kind: type[dict[str, Any]]) -> None:
    content = official_content(
        1,
        embed_dim=np.int64(EMBED_DIM),
        capacity=np.int32(CAPACITY),
        learning_rate=np.float32(0.5),
        eval_downstream=np.bool_(False),
    )
    content["hyper_parameters"] = kind(content["hyper_parameters"])
    path = write_official(tmp_path / "a.ckpt", content)
    encoder, _ = read_official_location_encoder(path)
    assert encoder.config.network == SirenConfig(hidden_dim=CAPACITY, dropout=0.5)


def test_files_without_former_keys_are_read(tmp_path: Path) -> None:
    content = official_content(1)
    content["hyper_parameters"] = HYPER_PARAMETERS
    model, _ = read_official_checkpoint(write_official(tmp_path / "a.ckpt", content))
    assert model.config.embedding_dim == EMBED_DIM


def test_the_two_names_of_a_weight_must_agree(tmp_path: Path) -> None:
    content = official_content(1)
    content["state_dict"]["model.nnet.last_layer.bias"] = torch.zeros(EMBED_DIM, dtype=torch.float64)
    path = write_official(tmp_path / "a.ckpt", content)
    for read in (read_official_location_encoder, read_official_checkpoint):
        with pytest.raises(CheckpointError, match=r"a\.ckpt: weight model\.\S*nnet\.last_layer\.bias differs"):
            read(path)


def test_settings_and_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = write_official(tmp_path / "a.ckpt", official_content(1, capacity=48, num_hidden_layers=3))
    with pytest.raises(CheckpointError) as error:
        read_official_location_encoder(path)
    assert "missing: location_network.layers.2.bias, location_network.layers.2.weight" in str(error.value)
    assert "location_network.layers.0.weight has shape (24, 36), expected (48, 36)" in str(error.value)


def test_weights_that_are_not_finite_are_refused_both_ways(tmp_path: Path) -> None:
    weights = siren_weights(1)
    weights["layers.1.bias"][3] = float("nan")
    path = write_official(tmp_path / "a.ckpt", official_content(weights=weights))
    with pytest.raises(CheckpointError, match=r"nnet\.layers\.1\.bias is not finite"):
        read_official_location_encoder(path)
    encoder = build_location_encoder(LOCATION, seed=0)
    with torch.no_grad():
        encoder.location_network.layers[1].bias[3] = float("inf")
    with pytest.raises(CheckpointError, match=r"layers\.1\.bias is not finite"):
        write_official_checkpoint(tmp_path / "b.ckpt", encoder)
    assert not (tmp_path / "b.ckpt").exists()


def test_missing_and_unknown_hyper_parameters_are_named_with_the_file(tmp_path: Path) -> None:
    content = official_content(1, temperature=0.1)
    with pytest.raises(CheckpointError, match=r"a\.ckpt: hyper_parameters hold temperature"):
        read_official_location_encoder(write_official(tmp_path / "a.ckpt", content))
    del content["hyper_parameters"]["temperature"], content["hyper_parameters"]["capacity"]
    with pytest.raises(CheckpointError, match=r"b\.ckpt: hyper_parameters lack 'capacity'"):
        read_official_checkpoint(write_official(tmp_path / "b.ckpt", content))


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        ("{", "not valid"),
        ("[1]", "not valid"),
        (json.dumps({"config": {"depth": 2}, "record": {}}), "depth"),
        (
            json.dumps({"config": LOCATION.model_copy(update={"embedding_dim": 3}).model_dump(), "record": {}}),
            "no orthonormal",
        ),
        (
            json.dumps(
                {
                    "config": LocationEncoderConfig(
                        positional_encoding=SphericalHarmonicsConfig(num_degrees=3, convention="analytic")
                    ).model_dump(),
                    "record": {},
                }
            ),
            "contradict",
        ),
    ],
)
def test_settings_of_ours_that_contradict_are_refused(tmp_path: Path, ours: str, message: str) -> None:
    content = official_content(1) | {RECORD_KEY: ours}
    with pytest.raises(CheckpointError, match=message):
        read_official_location_encoder(write_official(tmp_path / "a.ckpt", content))
