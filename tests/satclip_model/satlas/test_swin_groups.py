"""Stages of Swin in groups of attention windows, beside torchvision's blocks."""

import pytest
import torch
from torch import nn
from torchvision.models.swin_transformer import SwinTransformerBlockV2

from satclip_model.satlas import build_satlas, swin_groups
from satclip_model.satlas.backbone import SwinBackbone
from satclip_model.satlas.config import SatlasConfig, SegmentationConfig
from satclip_model.satlas.swin_groups import fits_groups, run_stage
from tests.satclip_model.name_seeding import seed_by_name


def stage_of(num_heads: int = 2, dim: int = 16) -> nn.Sequential:
    """Two blocks, as torchvision makes them: the second one's windows are shifted."""
    blocks = nn.Sequential(*(SwinTransformerBlockV2(dim, num_heads, [8, 8], [shift, shift]) for shift in (0, 4)))
    drawn = {key: value for key, value in blocks.state_dict().items() if "relative" not in key}
    blocks.load_state_dict({**blocks.state_dict(), **seed_by_name(drawn)})
    return blocks.eval()


@pytest.mark.parametrize("group_tokens", [1, 100, 256, 2048])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (2, 8, 24), (5, 24, 16), (2, 40, 32)])
def test_a_stage_gives_what_its_blocks_give(
    shape: tuple[int, int, int], group_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups smaller than an attention window, than a map, and larger than several maps."""
    monkeypatch.setattr(swin_groups, "GROUP_TOKENS", group_tokens)
    blocks = stage_of().double()
    maps = torch.randn(*shape, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given = maps.clone()
    with torch.inference_mode():
        wanted = blocks(maps)
        torch.testing.assert_close(run_stage(blocks, given), wanted, atol=1e-11, rtol=1e-11)
    assert torch.equal(given, maps)
    assert (wanted - maps).abs().mean() > 0.1


@pytest.mark.parametrize(("rows", "columns", "fits"), [(8, 16, True), (12, 16, False), (16, 4, False)])
def test_maps_that_would_be_padded_are_left_to_torchvision(rows: int, columns: int, fits: bool) -> None:
    assert fits_groups(stage_of(), rows, columns) is fits


@pytest.fixture(scope="module")
def model() -> nn.Module:
    config = SatlasConfig(
        backbone="swin_v2_t", num_channels=3, num_images=2, temporal=True, pyramid_dim=16,
        heads=(SegmentationConfig(kind="binary_segmentation", categories=("a",)),),
    )  # fmt: skip
    return build_satlas(config)


@pytest.mark.parametrize("size_px", [256, 96])
def test_a_model_for_inference_predicts_the_same(model: nn.Module, size_px: int) -> None:
    images = torch.rand(1, 2, 3, size_px, size_px, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        (wanted,) = model.eval()(images)
        fast = build_satlas(model.config).for_inference()
        (found,) = fast(images)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_gradients_and_training_go_through_torchvision(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("satclip_model.satlas.backbone.run_stage", refuse)
    own = build_satlas(model.config).for_inference()
    (backbone,) = (module for module in own.modules() if isinstance(module, SwinBackbone))
    images = torch.rand(1, 3, 64, 64)
    assert backbone(images)[0].requires_grad
    with torch.no_grad():
        backbone.train()(images)
        with torch.autocast("cpu", torch.bfloat16):
            backbone.eval()(images)
        with pytest.raises(AssertionError):
            backbone(torch.rand(1, 3, 256, 256))
