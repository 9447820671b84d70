import inspect
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch

import satclip_model
from satclip_model import compat
from satclip_model.checkpoint.loading import load_model
from satclip_model.checkpoint.native import write_checkpoint
from satclip_model.checkpoint.official import write_official_checkpoint
from satclip_model.config import LocationEncoderConfig, RandomFeaturesConfig, SatCLIPConfig, SphericalHarmonicsConfig
from satclip_model.errors import CheckpointError
from satclip_model.loss import contrastive_loss
from satclip_model.satclip import build_satclip
from tests.satclip_model.name_seeding import draw_uniform, seed_by_name
from tests.satclip_model.official_files import (
    CAPACITY,
    EMBED_DIM,
    HYPER_PARAMETERS,
    official_content,
    siren_weights,
    write_official,
)

REFERENCE = Path(__file__).parents[2] / "data" / "satclip_reference"
LONLAT_DEG = torch.tensor([[10.0, 50.0], [-70.0, -20.0], [140.0, 35.0]], dtype=torch.float64)

FIRST_SNIPPET = """
from satclip_model.compat import *

model = SatCLIP(
    embed_dim=512,
    image_resolution=224, in_channels=13, vision_layers=4, vision_width=768, vision_patch_size=32, # Image encoder
    le_type='sphericalharmonics', pe_type='siren', legendre_polys=10, frequency_num=16, max_radius=360, min_radius=1, harmonics_calculation='analytic'  # Location encoder
)

img_batch = torch.randn(2, 13, 224, 224) # Represents a batch of 2 images
loc_batch = torch.randn(2, 2) # Represents the corresponding 2 locations (lon/lat)

with torch.no_grad():
    logits_per_image, logits_per_coord = model(img_batch, loc_batch)
    probs = logits_per_image.softmax(dim=-1).detach().cpu().numpy()
"""  # noqa: E501

SECOND_SNIPPET = """
from satclip_model.compat import get_satclip
import torch

device = "cuda" if torch.cuda.is_available() else "cpu"

c = torch.randn(32, 2)  # Represents a batch of 32 locations (lon/lat)

model = get_satclip(
    path,
    device=device,
)  # Only loads location encoder by default
model.eval()
with torch.no_grad():
    emb = model(c.double().to(device)).detach().cpu()
"""


def test_first_snippet_of_the_original_runs() -> None:
    names: dict[str, Any] = {}
    exec(FIRST_SNIPPET, names)
    assert names["probs"].shape == (2, 2)
    np.testing.assert_allclose(names["probs"].sum(axis=1), 1, rtol=1e-6)
    assert torch.equal(names["logits_per_coord"], names["logits_per_image"].T)


def test_second_snippet_of_the_original_runs(tmp_path: Path) -> None:
    names: dict[str, Any] = {"path": str(write_official(tmp_path / "a.ckpt", official_content(1, images=False)))}
    exec(SECOND_SNIPPET, names)
    assert (names["emb"].shape, names["emb"].dtype) == ((32, EMBED_DIM), torch.float64)
    encoder = satclip_model.load_location_encoder(names["path"])
    torch.testing.assert_close(names["emb"], encoder(names["c"].double()).detach(), rtol=0, atol=1e-13)


def defaults(function: Any) -> dict[str, object]:
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


def test_signatures_are_those_of_the_original() -> None:
    assert list(inspect.signature(compat.SatCLIP).parameters) == [
        "embed_dim", "image_resolution", "vision_layers", "vision_width", "vision_patch_size", "in_channels", "le_type",
        "pe_type", "frequency_num", "max_radius", "min_radius", "harmonics_calculation", "legendre_polys",
        "sh_embedding_dims", "ffn", "num_hidden_layers", "capacity",
    ]  # fmt: skip
    assert defaults(compat.SatCLIP) == {
        "legendre_polys": 10, "sh_embedding_dims": 16, "ffn": True, "num_hidden_layers": 2, "capacity": 256,
    }  # fmt: skip
    assert defaults(compat.SatCLIPLightningModule) == {
        "embed_dim": 512, "image_resolution": 256, "vision_layers": 12, "vision_width": 768, "vision_patch_size": 32,
        "in_channels": 4, "le_type": "grid", "pe_type": "siren", "frequency_num": 16, "max_radius": 260,
        "min_radius": 1, "legendre_polys": 16, "harmonics_calculation": "analytic", "sh_embedding_dims": 32,
        "learning_rate": 1e-4, "weight_decay": 0.01, "num_hidden_layers": 2, "capacity": 256,
    }  # fmt: skip
    assert list(inspect.signature(compat.get_satclip).parameters) == ["ckpt_path", "device", "return_all"]
    assert list(inspect.signature(compat.get_satclip_loc_encoder).parameters) == ["ckpt_path", "device"]
    assert next(iter(inspect.signature(compat.get_positional_encoding).parameters)) == "name"
    assert defaults(compat.get_positional_encoding) == {
        "legendre_polys": 10, "harmonics_calculation": "analytic", "min_radius": 1, "max_radius": 360,
        "frequency_num": 10,
    }  # fmt: skip
    assert list(inspect.signature(compat.get_neural_network).parameters)[:2] == ["name", "input_dim"]
    assert defaults(compat.get_neural_network) == {"num_classes": 256, "dim_hidden": 256, "num_layers": 2}
    with pytest.raises(AttributeError, match="has no attribute 'Anything'"):
        _ = compat.Anything


def test_small_model_of_the_original_gives_its_logits() -> None:
    model = compat.get_satclip(REFERENCE / "small_clip_vit_l10.ckpt", "cpu", return_all=True)
    assert isinstance(model, compat.SatCLIP)
    with np.load(REFERENCE / "towers.npz") as reference, torch.no_grad():
        rng = np.random.default_rng(int(reference["clip_vit_image_seed"]))
        images = torch.tensor(rng.random((4, 13, 64, 64)).astype(np.float16).astype(np.float32))
        lonlat_deg = torch.tensor(reference["clip_vit_lonlat_deg"])
        np.testing.assert_allclose(model.encode_image(images), reference["clip_vit_image_features"], rtol=0, atol=1e-5)
        locations = model.encode_location(lonlat_deg)
        np.testing.assert_allclose(locations, reference["clip_vit_location_features"], rtol=0, atol=1e-6)
        per_image, per_coord = model(images, lonlat_deg)
        np.testing.assert_allclose(per_image, reference["clip_vit_logits_per_image"], rtol=0, atol=1e-4)
        assert torch.equal(per_coord, per_image.T)


@pytest.mark.parametrize("kind", ["moco_resnet18", "moco_vit16"])
def test_full_size_lightning_module_has_the_names_and_logits_of_the_original(kind: str) -> None:
    module = compat.SatCLIPLightningModule(
        embed_dim=256, vision_layers=kind, in_channels=13, le_type="sphericalharmonics", legendre_polys=10, capacity=512
    ).eval()
    with np.load(REFERENCE / "towers.npz") as reference, torch.no_grad():
        assert sorted(module.state_dict()) == reference[f"{kind}_keys"].tolist()
        module.load_state_dict(seed_by_name(module.state_dict()))
        images = draw_uniform(f"{reference[f'{kind}_tag']}image", tuple(reference[f"{kind}_image_shape"]))
        logits = module.model(images, torch.tensor(reference[f"{kind}_lonlat_deg"]))[0]
        np.testing.assert_allclose(logits, reference[f"{kind}_logits_per_image"], rtol=0, atol=1e-4)
    assert {name for name, each in module.model.visual.named_parameters() if each.requires_grad} == {
        f"{'head' if kind == 'moco_vit16' else 'fc'}.{part}" for part in ("weight", "bias")
    }


def test_positional_encodings_are_those_of_the_original() -> None:
    with np.load(REFERENCE / "positional_encodings.npz") as reference:
        lonlat = torch.tensor(reference["lonlat_deg"])
        for key in reference.files:
            if "_f" not in key:
                continue
            name, frequencies, smallest, largest = key.split("_")
            encoding = compat.get_positional_encoding(
                name,
                frequency_num=int(frequencies[1:]),
                min_radius=float(smallest.removeprefix("min")),
                max_radius=float(largest.removeprefix("max")),
            )
            np.testing.assert_allclose(encoding(lonlat), reference[key], rtol=0, atol=1e-9, err_msg=key)
            assert encoding.embedding_dim == reference[key].shape[1]
            assert encoding.state_dict() == {}
            assert encoding(lonlat.float()).dtype == torch.float32
    harmonics = compat.get_positional_encoding("sphericalharmonics", 7, "closed-form")
    assert (harmonics.embedding_dim, harmonics(LONLAT_DEG).shape) == (49, (3, 49))
    with pytest.raises(ValueError, match="'geohash' is no positional encoding"):
        compat.get_positional_encoding("geohash")


def test_networks_are_those_of_the_original() -> None:
    reference = torch.load(REFERENCE / "location_networks.pt", weights_only=True)
    for name in ("linear", "mlp", "fcnet"):
        network = compat.get_neural_network(name, 100, num_classes=64, dim_hidden=48, num_layers=3).double().eval()
        network.load_state_dict(reference[name]["state_dict"])
        torch.testing.assert_close(network(reference["x"]), reference[name]["y"], rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="pe_type 'kan', expected siren"):
        compat.get_neural_network("kan", 4)


def test_a_location_encoder_is_made_of_its_parts() -> None:
    posenc = compat.get_positional_encoding("sphericalharmonics", legendre_polys=6)
    nnet = compat.get_neural_network("siren", posenc.embedding_dim, EMBED_DIM, CAPACITY, 2)
    nnet.load_state_dict(siren_weights(2))
    encoder = compat.LocationEncoder(posenc, nnet).double().eval()
    assert encoder.state_dict().keys() == {f"nnet.{name}" for name in siren_weights(2)}
    assert encoder(LONLAT_DEG).dtype == torch.float64
    single = compat.LocationEncoder(posenc, nnet).float()
    assert single(LONLAT_DEG.float()).dtype == torch.float32


def test_both_loaders_give_the_same_encoder(tmp_path: Path) -> None:
    path = write_official(tmp_path / "a.ckpt", official_content(3))
    first, second = compat.get_satclip(path, "cpu"), compat.get_satclip_loc_encoder(path, torch.device("cpu"))
    both = compat.get_satclip(path, "cpu", return_all=True)
    assert not first.training
    for encoder in (second, both.location):
        assert torch.equal(encoder(LONLAT_DEG), first(LONLAT_DEG))
    state = {f"model.{name}": tensor for name, tensor in both.state_dict().items()}
    expected = official_content(3)["state_dict"]
    assert state.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


def test_models_of_ours_come_under_the_names_of_the_original(tmp_path: Path) -> None:
    config = SatCLIPConfig(
        location=LocationEncoderConfig(positional_encoding=SphericalHarmonicsConfig(num_degrees=5)),
        image_backbone=RandomFeaturesConfig(num_filters=2, pool_factors=(1,)),
    )
    model = build_satclip(config, seed=0).eval()
    write_checkpoint(tmp_path / "ours.ckpt", model, {})
    encoder = compat.get_satclip(str(tmp_path / "ours.ckpt"), "cpu")
    torch.testing.assert_close(encoder(LONLAT_DEG), model.location_encoder.double()(LONLAT_DEG), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="the original has no image tower"):
        compat.get_satclip(tmp_path / "ours.ckpt", "cpu", return_all=True)
    with pytest.raises(CheckpointError, match="no such file"):
        compat.get_satclip("absent.ckpt", "cpu")


def test_towers_are_alike_but_for_the_length_of_their_embeddings() -> None:
    arguments = {
        name: value for name, value in HYPER_PARAMETERS.items() if "learning" not in name and "decay" not in name
    }
    model = compat.SatCLIP(**arguments).eval()
    assert model.dtype == torch.float32
    images = torch.rand(3, 13, 32, 32, generator=torch.Generator().manual_seed(0))
    images_64, locations = model.encode_image(images.double()), model.encode_location(LONLAT_DEG.float())
    assert (images_64.dtype, locations.dtype) == (torch.float32, torch.float64)
    cosine = torch.cosine_similarity(images_64[2], model.encode_location(LONLAT_DEG)[0].float(), dim=0)
    torch.testing.assert_close(model(images, LONLAT_DEG)[0][2, 0], cosine / 0.07, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="num_blocks"):
        compat.SatCLIP(**{**arguments, "vision_layers": (1, 1)})


def test_loss_is_the_contrastive_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    images, locations = torch.nn.functional.normalize(torch.randn(2, 5, 4, generator=generator), dim=2)
    logits = torch.tensor(2.0).exp() * images @ locations.T
    loss = compat.SatCLIPLoss()(logits, logits.T)
    torch.testing.assert_close(loss, contrastive_loss(images, locations, torch.tensor(2.0)))
    assert compat.SatCLIPLoss()(logits, logits.T, output_dict=True) == {"contrastive_loss": loss}
    with pytest.raises(ValueError, match="world_size=2"):
        compat.SatCLIPLoss(world_size=2)


class Pairs(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        return {"image": torch.rand(13, 32, 32, generator=generator), "point": LONLAT_DEG[index % 3]}


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:.*isinstance\\(treespec, LeafSpec\\).*")
def test_training_writes_a_file_that_every_loader_reads(tmp_path: Path) -> None:
    lightning.seed_everything(0, verbose=False)
    module = compat.SatCLIPLightningModule(**{**HYPER_PARAMETERS, "learning_rate": 1e-3})
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    pairs = torch.utils.data.DataLoader(Pairs(), batch_size=4)
    trainer.fit(module, pairs, pairs)
    path = tmp_path / "trained.ckpt"
    trainer.save_checkpoint(path)
    assert {"train_loss", "val_loss"} <= trainer.callback_metrics.keys()
    assert not torch.equal(module.state_dict()["model.nnet.last_layer.weight"], before["model.nnet.last_layer.weight"])

    module.eval()
    model, _ = load_model(path)
    assert torch.equal(model.location_encoder(LONLAT_DEG), module.model.encode_location(LONLAT_DEG))
    assert torch.equal(compat.get_satclip(path, "cpu")(LONLAT_DEG), module.model.encode_location(LONLAT_DEG))
    write_official_checkpoint(tmp_path / "ours.ckpt", model)
    again = compat.SatCLIPLightningModule.load_from_checkpoint(tmp_path / "ours.ckpt", weights_only=True)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in module.state_dict().items())


def test_norms_biases_and_the_temperature_have_no_weight_decay() -> None:
    module = compat.SatCLIPLightningModule(**HYPER_PARAMETERS)
    plain, decayed = module.configure_optimizers().param_groups
    assert (plain["weight_decay"], decayed["weight_decay"], plain["lr"]) == (0.0, 0.01, 1e-4)
    assert {each.ndim for each in plain["params"]} == {0, 1}
    assert len(plain["params"]) + len(decayed["params"]) == len(list(module.parameters()))
