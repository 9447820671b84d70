import pytest
import torch

from satclip_model.errors import CheckpointError
from satclip_model.ground_cover.config import GroundCoverClass, TextEncoderConfig
from satclip_model.ground_cover.text_encoder import (
    PROMPTS,
    STOP_WORDS,
    AttributeBag,
    HuggingFaceText,
    class_prompts,
    open_text_encoder,
)

BAG = AttributeBag(4096)


def _similarity(first, second):
    vectors = BAG([first, second])
    return float(vectors[0] @ vectors[1])


def test_a_bag_has_unit_length_and_forgets_order_case_and_stop_words():
    vectors = BAG(["Tall trees, dry land", "the LAND is dry and of trees tall", "sealed surface"])
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(vectors[0], vectors[1])
    assert not torch.allclose(vectors[0], vectors[2])


def test_words_that_share_parts_are_alike_and_others_are_not():
    assert _similarity("tree", "trees") > 0.1
    assert abs(_similarity("trees", "asphalt")) < 0.02


def test_a_negated_word_is_another_word_within_its_clause():
    assert abs(_similarity("without snow", "snow")) < 0.02
    assert _similarity("without trees, snow", "snow") > 0.3


def test_a_text_of_stop_words_is_zeros():
    assert not BAG([" ".join(sorted(STOP_WORDS)[:4])]).any()


def test_prompts_of_a_class_without_description_need_none():
    named = GroundCoverClass(code=1, name="Trees")
    assert class_prompts(named) == ("Trees.",)
    assert len(class_prompts(named.model_copy(update={"description": "Tall trees."}))) == len(PROMPTS)


@pytest.mark.parametrize("settings", [{"kind": "hugging_face"}, {"name": "owner/name"}])
def test_a_name_belongs_to_a_language_model(settings):
    with pytest.raises(ValueError, match="hugging_face needs one"):
        TextEncoderConfig(**settings)


def test_a_language_model_that_is_not_cached_is_not_fetched_unasked(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="nothing is fetched unasked"):
        open_text_encoder(TextEncoderConfig(kind="hugging_face", name="no-such-owner/no-such-model"))


def test_a_folder_without_a_model_is_told(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(CheckpointError, match="does not hold a model"):
        HuggingFaceText(str(tmp_path))


@pytest.mark.filterwarnings("ignore")
def test_a_language_model_in_a_folder_reads_texts(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: number for number, word in enumerate(["[UNK]", "[PAD]", "trees", "water", "snow", "dark"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(tmp_path)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.BertModel(transformers.BertConfig(vocab_size=len(words), **shape)).save_pretrained(tmp_path)
    encode = HuggingFaceText(str(tmp_path))
    vectors = encode(["dark water", "trees", "dark water"])
    assert vectors.shape == (3, 16)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(vectors[0], vectors[2])
    torch.testing.assert_close(encode(["trees"])[0], vectors[1], atol=1e-5, rtol=1e-5)  # padding counts for nothing
