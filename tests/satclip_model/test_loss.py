import math

import pytest
import torch
from torch.nn import functional

from satclip_model.loss import contrastive_loss


@pytest.mark.parametrize("batch", [2, 7, 256])
def test_equal_embeddings_give_log_of_the_batch(batch: int) -> None:
    embeddings = functional.normalize(torch.ones(batch, 5), dim=1)
    loss = contrastive_loss(embeddings, embeddings, torch.tensor(2.3))
    assert float(loss) == pytest.approx(math.log(batch), rel=1e-5)


def test_orthogonal_pairs_give_the_closed_form() -> None:
    scale = 3.0
    loss = contrastive_loss(torch.eye(4), torch.eye(4), torch.tensor(math.log(scale)))
    assert float(loss) == pytest.approx(math.log(1 + 3 * math.exp(-scale)), rel=1e-5)


def test_towers_are_treated_alike_and_pairs_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    images, locations = (functional.normalize(torch.randn(6, 4, generator=generator), dim=1) for _ in range(2))
    scale = torch.tensor(1.5)
    loss = contrastive_loss(images, locations, scale)
    torch.testing.assert_close(loss, contrastive_loss(locations, images, scale))
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(loss, contrastive_loss(images[order], locations[order], scale))
    assert not torch.isclose(loss, contrastive_loss(images, locations[order], scale))


def test_towers_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(4, 2\)"):
        contrastive_loss(torch.eye(3, 2), torch.eye(4, 2), torch.tensor(1.0))
