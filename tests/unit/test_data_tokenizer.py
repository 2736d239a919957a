"""The tiny tokenizer round-trips, keeps names whole, and prompts are encoded as the model was trained on them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from alphamed_nemo.clinic.bank import embedded_bank
from alphamed_nemo.clinic.corpus import FORCED_PREFIX, corpus
from alphamed_nemo.clinic.tokenizer import build_tokenizer, save_tokenizer
from alphamed_nemo.clinic.world import clinic
from alphamed_nemo.config import DataConfig
from alphamed_nemo.data.prompts import TEMPLATES, encode_prompt, encode_prompts, format_prompt, sent_prompt
from alphamed_nemo.data.question import Question

QUESTION = Question("q", "d", "Which vitamin?", ("A", "B12", "C"), "B", context="Scurvy.")
CHAT = (
    "{{ bos_token }}{% for m in messages %}<u>{{ m.content }}</u>{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


@settings(max_examples=100, deadline=None)
@given(text=st.text())
def test_any_text_round_trips(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_names_are_one_token_each(tokenizer):
    for name in clinic().names():
        assert len(tokenizer.encode(f" {name}", add_special_tokens=False)) == 1


def test_vocabulary_has_the_size_of_the_model_and_special_tokens_their_ids(tokenizer):
    assert len(tokenizer) == 1024
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2)


def test_vocabulary_too_small_for_the_names_is_refused():
    with pytest.raises(ValueError, match="tiny.vocab=300 is too small"):
        build_tokenizer(vocab=300)


def test_building_twice_gives_the_same_tokenizer(tokenizer):
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()


def test_prompt_and_response_are_tokenised_alike_together_and_apart(tokenizer):
    for text in corpus(200, 50, 20, seed=5):
        apart = tokenizer.encode(text.prompt) + tokenizer.encode(text.response, add_special_tokens=False)
        assert apart == tokenizer.encode(text.prompt + text.response)
        if text.prompt:
            assert len(tokenizer.encode(text.response, add_special_tokens=False)) + 1 <= 48  # conf/experiment/tiny.yaml


def test_templates():
    options = "A: A\nB: B12\nC: C"
    assert format_prompt(QUESTION, "alphamed") == (
        f"Scurvy.\n\nWhich vitamin?\n{options}\n\nPlease reason step by step, and put the final answer in \\boxed{{}}"
    )
    assert "reason step by step" not in format_prompt(QUESTION, "direct")
    assert format_prompt(QUESTION, "tiny") == "Scurvy.\nWhich vitamin?\nA A\nB B12\nC C\n"


def test_unknown_template_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="data.prompt='alpha'.*one of alphamed, .*direct, tiny"):
        format_prompt(QUESTION, "alpha")


@pytest.mark.parametrize("template", TEMPLATES)
def test_encoded_prompt_begins_with_one_bos_and_decodes_to_the_prompt(tokenizer, template):
    ids = encode_prompt(QUESTION, tokenizer, DataConfig(prompt=template))
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]) == sent_prompt(QUESTION, tokenizer, DataConfig(prompt=template))


def test_response_prefix_is_the_beginning_of_a_trained_response(tokenizer):
    question = embedded_bank(1, 0)[0][0]
    cfg = DataConfig(prompt="tiny")
    forced = encode_prompt(question, tokenizer, cfg, FORCED_PREFIX)
    assert forced == tokenizer.encode(format_prompt(question, "tiny") + FORCED_PREFIX)
    assert forced[: len(encode_prompt(question, tokenizer, cfg))] == encode_prompt(question, tokenizer, cfg)


def test_chat_template_wraps_the_prompt_without_a_second_bos():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHAT
    ids = encode_prompt(QUESTION, tokenizer, DataConfig(prompt="alphamed", chat_template=True))
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(ids[1:]) == f"<u>{format_prompt(QUESTION, 'alphamed')}</u><a>"


def test_many_prompts_are_encoded_as_each_alone():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHAT
    questions = embedded_bank(20, 0)[0]
    for cfg in (DataConfig(prompt="tiny"), DataConfig(prompt="alphamed", chat_template=True)):
        alone = [encode_prompt(question, tokenizer, cfg, FORCED_PREFIX) for question in questions]
        assert encode_prompts(questions, tokenizer, cfg, FORCED_PREFIX) == alone
        assert encode_prompts([], tokenizer, cfg) == []


def test_chat_template_that_is_missing_is_refused(tokenizer):
    with pytest.raises(ValueError, match="data.chat_template=true"):
        encode_prompt(QUESTION, tokenizer, DataConfig(chat_template=True))
