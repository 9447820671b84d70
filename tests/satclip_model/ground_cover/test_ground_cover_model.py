import pytest
import torch

from satclip_model.config import RandomFeaturesConfig
from satclip_model.errors import CheckpointError
from satclip_model.ground_cover.checkpoint import read_ground_cover, write_ground_cover
from satclip_model.ground_cover.config import GroundCoverClass, GroundCoverConfig
from satclip_model.ground_cover.model import build_ground_cover_clip
from satclip_model.ground_cover.text_encoder import AttributeBag

CLASSES = (
    GroundCoverClass(code=11, name="Cold forest", description="Tall trees in a cold climate.", color=(1, 90, 60)),
    GroundCoverClass(code=22, name="Warm shrubland", description="Low shrubs in a warm climate."),
    GroundCoverClass(code=80, name="Water"),
)
CONFIG = GroundCoverConfig(
    classes=CLASSES, image_backbone=RandomFeaturesConfig(num_filters=2), embedding_dim=16, min_temperature=0.05
)


@pytest.fixture(scope="module")
def model():
    return build_ground_cover_clip(CONFIG, 3).eval()


def test_the_same_seed_gives_the_same_weights_and_leaves_the_random_state():
    before = torch.get_rng_state()
    first, second, other = (build_ground_cover_clip(CONFIG, seed) for seed in (3, 3, 4))
    torch.testing.assert_close(torch.get_rng_state(), before)
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], tensor)
    assert not torch.equal(first.class_embedding.weight, other.class_embedding.weight)


def test_classes_of_training_are_embedded_as_their_texts_are(model):
    torch.testing.assert_close(model.encode_classes(CLASSES), model.described_classes())
    torch.testing.assert_close(model.described_classes().norm(dim=1), torch.ones(3))


def test_an_unseen_class_lies_among_those_it_shares_words_with(model):
    unseen = GroundCoverClass(code=12, name="Warm forest", description="Tall trees in a warm climate.")
    similar = (model.encode_classes([unseen]) @ model.described_classes().T)[0]
    assert similar[:2].min() > similar[2] + 0.2


def test_words_that_no_class_of_training_has_move_nothing(model):
    plain = GroundCoverClass(code=1, name="forest")
    adorned = GroundCoverClass(code=1, name="forest xylophone")
    torch.testing.assert_close(model.encode_classes([plain]), model.encode_classes([adorned]), atol=1e-5, rtol=1e-5)
    assert float(model.encode_classes([GroundCoverClass(code=1, name="xylophone")]).norm()) < 1e-3


def test_the_temperature_is_clamped(model):
    with torch.no_grad():
        before = model.logit_scale.clone()
        model.logit_scale.fill_(50.0)
        assert float(torch.exp(-model.clamped_logit_scale)) == pytest.approx(0.05)
        model.logit_scale.copy_(before)


def test_a_prompt_is_drawn_among_those_that_a_class_has(model):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([model.draw_prompts(generator) for _ in range(40)])
    assert set(drawn[:, 0].tolist()) == {0, 1, 2, 3}
    assert set(drawn[:, 2].tolist()) == {0}


def test_a_checkpoint_comes_back_whole_and_needs_no_text_encoder_for_its_classes(model, tmp_path):
    class Unwanted:
        def __call__(self, texts):
            raise AssertionError(texts)

    path = tmp_path / "ground_cover.ckpt"
    write_ground_cover(path, model, {"dataset_version": "abc"})
    found, record = read_ground_cover(path, Unwanted())
    assert record == {"dataset_version": "abc"}
    assert found.config == CONFIG
    torch.testing.assert_close(found.described_classes(), model.described_classes())
    features = torch.rand(4, model.config.image_backbone.feature_dim)
    torch.testing.assert_close(
        found.probabilities(features, found.learned_classes()), model.probabilities(features, model.learned_classes())
    )
    reopened, _ = read_ground_cover(path, AttributeBag(4096))
    torch.testing.assert_close(reopened.encode_classes(CLASSES), model.encode_classes(CLASSES))


def test_other_files_are_refused(model, tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_ground_cover(tmp_path / "none.ckpt")
    torch.save({"format": "satclip-two-towers", "format_version": 2}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="expected 'ground-cover-clip'"):
        read_ground_cover(tmp_path / "other.ckpt")
    path = tmp_path / "cut.ckpt"
    write_ground_cover(path, model, {})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError):
        read_ground_cover(path)


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        ((CLASSES[0], CLASSES[0].model_copy(update={"code": 9})), "name Cold forest stands twice"),
        ((CLASSES[0], CLASSES[0].model_copy(update={"name": "x"})), "code 11 stands twice"),
    ],
)
def test_classes_that_stand_twice_are_refused(classes, told):
    with pytest.raises(ValueError, match=told):
        GroundCoverConfig(classes=classes)
