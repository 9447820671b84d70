import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipelines.errors import ConfigurationError
from pipelines.features.backbones import open_backbone
from pipelines.features.config import ImageBackboneSettings, ViewsConfig
from pipelines.features.encoding import ViewEncoder, choose_device
from satclip_model.errors import CheckpointError
from satclip_model.image_encoder import MOCO_WEIGHTS, RandomConvolutionalFeatures, moco

RESNET = ImageBackboneSettings(kind="moco_resnet18")


def test_default_is_the_demo_s_random_filters() -> None:
    backbone = open_backbone(ImageBackboneSettings(seed=3, num_filters=8))
    assert isinstance(backbone, RandomConvolutionalFeatures)
    assert (backbone.config.seed, backbone.config.num_filters) == (3, 8)


def test_untrained_weights_follow_from_the_seed_and_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    state = torch.random.get_rng_state()
    with caplog.at_level(logging.WARNING, logger="pipelines.features.backbones"):
        first, again, other = (
            open_backbone(RESNET.model_copy(update={"seed": seed})).fingerprint for seed in (0, 0, 1)
        )
    assert first == again != other
    assert torch.equal(torch.random.get_rng_state(), state)
    assert "moco_resnet18: no weights chosen, they are random from seed 0" in caplog.messages[0]


def test_weights_of_a_file_are_loaded(tmp_path: Path) -> None:
    trained = open_backbone(RESNET.model_copy(update={"seed": 5}))
    torch.save(trained.network.state_dict(), tmp_path / "weights.pth")
    opened = open_backbone(ImageBackboneSettings(kind="moco_resnet18", weights=str(tmp_path / "weights.pth")))
    assert opened.fingerprint == trained.fingerprint
    assert not opened.training
    assert not any(weights.requires_grad for weights in opened.parameters())


def test_published_weights_are_those_of_the_kind_and_only_fetched_when_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def refuse(source: str, *, download: bool) -> Path:
        asked.append((source, download))
        raise CheckpointError("not here")

    monkeypatch.setattr("satclip_model.hub.resolve", refuse)
    for download in (False, True):
        with pytest.raises(CheckpointError, match="not here"):
            open_backbone(RESNET.model_copy(update={"weights": "published", "download": download}))
    assert asked == [(MOCO_WEIGHTS["moco_resnet18"], False), (MOCO_WEIGHTS["moco_resnet18"], True)]
    assert moco.MOCO_WEIGHTS is MOCO_WEIGHTS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "published"}, "random_convolutional has none to load; choose a MoCo kind"),
        ({"kind": "moco_vit16", "num_filters": 8}, "num_filters is 8, but moco_vit16 has its own"),
        ({"kind": "moco_vit16", "weights": "published", "seed": 4}, "seed is 4, but the weights 'published' replace"),
    ],
)
def test_settings_that_would_have_no_effect_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ImageBackboneSettings.model_validate(settings)


def test_batches_shrink_with_larger_patches_and_grow_on_a_gpu() -> None:
    backbone = open_backbone(ImageBackboneSettings(num_filters=1))
    cpu, gpu = (ViewEncoder(backbone, ViewsConfig(), torch.device(name)) for name in ("cpu", "meta"))
    assert cpu.batch_size((12, 256, 256)) == 16
    assert cpu.batch_size((12, 512, 512)) == 4
    assert cpu.batch_size((12, 9000, 9000)) == 1
    assert gpu.batch_size((12, 256, 256)) == 128
    assert ViewEncoder(backbone, ViewsConfig(), torch.device("cpu"), 3).batch_size((12, 256, 256)) == 3


def test_a_batch_that_does_not_fit_is_named_with_its_remedy() -> None:
    class Huge(RandomConvolutionalFeatures):
        def forward(self, reflectance: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("out of memory")

    backbone = open_backbone(ImageBackboneSettings(num_filters=1))
    encoder = ViewEncoder(Huge(backbone.config), ViewsConfig(), torch.device("cpu"))
    dn = np.ones((5, 12, 16, 32), np.uint16)
    with pytest.raises(
        ConfigurationError, match=r"5 patches of 12 x 16 x 32 do not fit .* cpu; set batch_size below 5"
    ):
        encoder.encode(dn, np.zeros(5, np.int64), np.arange(5))


def test_device_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (choose_device("auto").type, choose_device("cpu").type) == ("cpu", "cpu")
    with pytest.raises(ConfigurationError, match="finds no CUDA device; set device to 'auto' or 'cpu'"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"
