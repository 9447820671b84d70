import numpy as np
import pytest
import torch

from satclip_model.config import RandomFeaturesConfig
from satclip_model.image_encoder import ImageProjection, RandomConvolutionalFeatures

CONFIG = RandomFeaturesConfig(seed=3, num_filters=8, pool_factors=(1, 4))


def random_reflectance(num: int, size: int = 32) -> torch.Tensor:
    rng = np.random.default_rng(11)
    return torch.tensor(rng.gamma(2.0, 0.08, (num, 12, size, size + 16)), dtype=torch.float32)


def test_features_follow_from_the_seed() -> None:
    reflectance = random_reflectance(3)
    first, again = RandomConvolutionalFeatures(CONFIG), RandomConvolutionalFeatures(CONFIG)
    other = RandomConvolutionalFeatures(CONFIG.model_copy(update={"seed": 4}))
    assert torch.equal(first(reflectance), again(reflectance))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint
    assert not torch.allclose(first(reflectance), other(reflectance))


def test_fingerprint_depends_on_settings_and_on_weights() -> None:
    strided = CONFIG.model_copy(update={"full_resolution_stride": 2})
    assert RandomConvolutionalFeatures(strided).fingerprint != RandomConvolutionalFeatures(CONFIG).fingerprint
    changed = RandomConvolutionalFeatures(CONFIG)
    before = changed.fingerprint
    changed.filters[0, 0, 0, 0, 0] += 1e-3
    assert changed.fingerprint != before


def test_feature_vector_has_the_announced_length_and_ends_with_band_statistics() -> None:
    reflectance = random_reflectance(2)
    features = RandomConvolutionalFeatures(CONFIG)(reflectance)
    assert features.shape == (2, CONFIG.feature_dim)
    pixels = reflectance.numpy().astype(np.float64)
    np.testing.assert_allclose(features[:, -24:-12], pixels.mean(axis=(2, 3)), rtol=1e-5)
    np.testing.assert_allclose(features[:, -12:], pixels.std(axis=(2, 3)), rtol=1e-4)


def test_filter_response_equals_a_sum_written_out() -> None:
    reflectance = random_reflectance(1)
    backbone = RandomConvolutionalFeatures(CONFIG)
    features = backbone(reflectance)[0].numpy()
    cells = reflectance[0].numpy().astype(np.float64).reshape(12, 8, 4, 12, 4).mean(axis=(2, 4))
    weights, threshold = backbone.filters[1, 5].numpy().astype(np.float64), float(backbone.thresholds[1, 5])
    response = np.array([[(cells[:, r : r + 3, c : c + 3] * weights).sum() for c in range(10)] for r in range(6)])
    response -= float(backbone.centers[1, 5])
    positive, negative = 2 * 8 + 5, 3 * 8 + 5
    assert features[positive] == pytest.approx(np.maximum(response - threshold, 0).mean(), rel=1e-4, abs=1e-6)
    assert features[negative] == pytest.approx(np.maximum(-response - threshold, 0).mean(), rel=1e-4, abs=1e-6)


def test_a_dark_patch_gives_finite_features() -> None:
    assert bool(torch.isfinite(RandomConvolutionalFeatures(CONFIG)(torch.zeros(1, 12, 32, 32))).all())


@pytest.mark.parametrize(("shape", "message"), [((1, 13, 32, 32), "13 bands"), ((1, 12, 30, 32), "30 x 32")])
def test_patches_that_do_not_fit_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomConvolutionalFeatures(CONFIG)(torch.zeros(shape))


def test_head_standardises_by_the_training_features() -> None:
    head = ImageProjection(feature_dim=4, embedding_dim=3, hidden_dim=0)
    rng = np.random.default_rng(0)
    features = torch.tensor(rng.normal([5, -2, 100, 7], [1, 0.1, 30, 0], (500, 4)), dtype=torch.float32)
    head.fit_standardisation(features)
    standardised = ((features - head.feature_mean) / head.feature_scale).numpy()
    np.testing.assert_allclose(standardised.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(standardised.std(axis=0), [1, 1, 1, 0], atol=1e-4)
    scaled = ImageProjection(feature_dim=4, embedding_dim=3, hidden_dim=0)
    scaled.load_state_dict(head.state_dict())
    scaled.fit_standardisation(features * 1000)
    torch.testing.assert_close(scaled(features * 1000), head(features), rtol=1e-3, atol=1e-4)


def test_head_drops_out_in_training_only() -> None:
    head = ImageProjection(feature_dim=4, embedding_dim=3, hidden_dim=16, feature_dropout=0.4, dropout=0.4)
    features = torch.randn(5, 4)
    assert not torch.equal(head(features), head(features))
    head.eval()
    assert torch.equal(head(features), head(features))
