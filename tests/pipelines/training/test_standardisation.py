import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.training.standardisation import RunningMoments, fit_standardisation
from pipelines.training.towers import build_towers_over
from satclip_model.satclip import SatCLIP
from tests.pipelines.training.pixel_trainings import SMALL, tiny_backbone


@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=6), offset=st.sampled_from([0.0, 1e4, -3e-3]))
@settings(max_examples=30, deadline=None)
def test_moments_of_batches_are_those_of_all_rows(sizes: list[int], offset: float) -> None:
    rows = torch.randn(sum(sizes), 5, generator=torch.Generator().manual_seed(len(sizes))) + offset
    moments = RunningMoments()
    for batch in torch.split(rows, sizes):
        moments.add(batch)
    deviation, mean = torch.std_mean(rows.double(), dim=0, correction=0)
    torch.testing.assert_close(moments.mean, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(moments.deviation, deviation, rtol=1e-9, atol=1e-9)


def standardised(trainable: bool) -> tuple[SatCLIP, list[torch.Tensor]]:
    towers = build_towers_over(tiny_backbone(trainable), SMALL).train()
    images = torch.rand(19, 12, 32, 32, generator=torch.Generator().manual_seed(1))
    batches = list(torch.split(images, 6))
    fit_standardisation(towers, [(batch, torch.zeros(len(batch), 2)) for batch in batches])
    return towers, batches[:3] if trainable else batches


@pytest.mark.parametrize("trainable", [True, False])
def test_features_are_standardised_as_training_sees_them_and_the_backbone_is_left_alone(trainable: bool) -> None:
    towers, batches = standardised(trainable)
    backbone, head = towers.image_backbone, towers.image_projection
    torch.testing.assert_close(backbone.state_dict(), tiny_backbone().state_dict(), rtol=0, atol=0)
    assert (towers.training, backbone.training) == (True, trainable)
    with torch.no_grad():
        features = torch.cat([towers.image_features(batch) for batch in batches])
    deviation, mean = torch.std_mean(features, dim=0, correction=0)
    torch.testing.assert_close(head.feature_mean, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(head.feature_scale, deviation, rtol=1e-3, atol=0)
