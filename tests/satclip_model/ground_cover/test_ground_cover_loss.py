import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from satclip_model.ground_cover.loss import class_probabilities, multi_positive_loss
from satclip_model.loss import contrastive_loss

SCALE = torch.tensor(math.log(1 / 0.07))


def _unit(*shape, seed=0):
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_one_image_per_class_gives_the_loss_of_clip():
    images, classes = _unit(5, 8), _unit(5, 8, seed=1)
    found = multi_positive_loss(images, classes, torch.eye(5), SCALE)
    torch.testing.assert_close(found, contrastive_loss(images, classes, SCALE))


def test_equal_embeddings_give_the_mean_of_both_logarithms():
    images, classes = torch.ones(6, 4) / 2, torch.ones(3, 4) / 2
    fractions = functional.one_hot(torch.tensor([0, 0, 1, 1, 1, 2])).float()
    found = multi_positive_loss(images, classes, fractions, SCALE)
    assert float(found) == pytest.approx(0.5 * (math.log(3) + math.log(6)), rel=1e-5)


def test_images_of_one_class_are_no_negatives():
    classes = torch.eye(3)
    dominant = torch.tensor([0, 0, 0, 0, 1, 2])
    sharp = torch.tensor(math.log(200.0))
    found = multi_positive_loss(classes[dominant], classes, functional.one_hot(dominant).float(), sharp)
    assert float(found) == pytest.approx(0.5 * math.log(4) / 3, abs=1e-5)


def test_a_class_that_the_batch_lacks_has_no_term_among_images():
    images, classes = _unit(4, 8), _unit(3, 8, seed=1)
    fractions = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0.2, 0.8, 0]])
    found = multi_positive_loss(images, classes, fractions, SCALE)
    logits = SCALE.exp() * images @ classes.T
    to_classes = -(fractions * logits.log_softmax(1)).sum(1).mean()
    to_images = [-(fractions[:, c] / fractions[:, c].sum() * logits[:, c].log_softmax(0)).sum() for c in (0, 1)]
    torch.testing.assert_close(found, 0.5 * (to_classes + torch.stack(to_images).mean()))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), num_images=st.integers(2, 9), num_classes=st.integers(2, 6))
def test_order_of_images_and_classes_does_not_matter(seed, num_images, num_classes):
    generator = torch.Generator().manual_seed(seed)
    images, classes = _unit(num_images, 5, seed=seed), _unit(num_classes, 5, seed=seed + 1)
    fractions = torch.rand(num_images, num_classes, generator=generator) + 0.01
    fractions = fractions / fractions.sum(1, keepdim=True)
    rows, columns = torch.randperm(num_images, generator=generator), torch.randperm(num_classes, generator=generator)
    found = multi_positive_loss(images[rows], classes[columns], fractions[rows][:, columns], SCALE)
    torch.testing.assert_close(found, multi_positive_loss(images, classes, fractions, SCALE), rtol=1e-4, atol=1e-5)


def test_fractions_of_other_classes_are_refused():
    with pytest.raises(ValueError, match=r"fractions have shape \(4, 2\); expected \(images, classes\) = \(4, 3\)"):
        multi_positive_loss(_unit(4, 8), _unit(3, 8), torch.ones(4, 2) / 2, SCALE)


def test_probabilities_sum_to_one_and_prefer_the_nearest():
    found = class_probabilities(torch.eye(3)[[2, 0]], torch.eye(3), SCALE)
    torch.testing.assert_close(found.sum(1), torch.ones(2))
    assert found.argmax(1).tolist() == [2, 0]
