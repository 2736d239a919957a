"""Chat templates: when they are used, that no date and no marker of a question's text changes what the model reads."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
from tokenizers import AddedToken

from alphamed_nemo.clinic.tokenizer import build_tokenizer
from alphamed_nemo.config import DataConfig
from alphamed_nemo.data.chat import is_instruct, is_instruct_folder, literal_pieces
from alphamed_nemo.data.prompts import (
    EXAMPLES,
    encode_prompt,
    encode_prompts,
    format_prompt,
    prompt_settings,
    sent_prompt,
    uses_chat_template,
)
from alphamed_nemo.data.question import Question

TURN = "<|turn|>"
CHAT = "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] | trim }}<|end|>{% endfor %}<|turn|>assistant\n"
DATED = "{{ strftime_now('%d %b %Y') }}|{{ date_string }}|" + CHAT
# The end of Qwen3's.
THOUGHTFUL = CHAT + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
ON, OFF = DataConfig(chat_template=True), DataConfig(chat_template=False)


def question(stem: str, **more: object) -> Question:
    return Question("q1", "own", stem, ("yes", "no"), "A", **more)


@pytest.fixture
def tokenizer():
    """With markers as real models have them, of both kinds: special ones, and ones that are only added."""
    tokenizer = build_tokenizer()
    tokenizer.add_tokens([AddedToken(marker, special=True) for marker in (TURN, "<|end|>", "<|end|><|turn|>")])
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("  ", special=False)])
    tokenizer.chat_template = CHAT
    return tokenizer


@pytest.mark.parametrize(
    ("template", "eos", "expected"),
    [
        (CHAT, "<|end|>", True),  # Llama 3's <|eot_id|>, Qwen2.5-Instruct's and SmolLM2-Instruct's <|im_end|>
        ("{{ m['content'] }}{{ eos_token }}", "</s>", True),  # Mistral
        (CHAT, "<|endoftext|>", False),  # Qwen2.5's and Qwen3's base models carry a template
        (None, "<|end|>", False),
        ("", "<|end|>", False),
        (CHAT, None, False),
    ],
)
def test_an_instruct_model_ends_its_turns_with_its_end_of_sequence_token(template, eos, expected):
    assert is_instruct(template, eos) is expected


@pytest.mark.parametrize(
    ("settings", "file"),
    [
        ({"chat_template": CHAT, "eos_token": "<|end|>"}, None),
        ({"eos_token": {"content": "<|end|>", "special": True}}, CHAT),
        ({"chat_template": [{"name": "tools", "template": ""}, {"name": "default", "template": CHAT}]}, None),
    ],
)
def test_a_folder_tells_it_in_every_form_that_is_in_use(tmp_path: Path, settings: dict, file: str | None):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"} | settings))
    if file:
        (tmp_path / "chat_template.jinja").write_text(file)
    assert is_instruct_folder(tmp_path)
    assert not is_instruct_folder(tmp_path / "nothing")


def test_null_follows_the_model_and_a_setting_wins(tokenizer):
    tokenizer.eos_token = "<|end|>"
    assert uses_chat_template(tokenizer, DataConfig())
    assert not uses_chat_template(tokenizer, OFF)
    tokenizer.eos_token = "<eos>"
    assert not uses_chat_template(tokenizer, DataConfig())
    assert uses_chat_template(tokenizer, ON)
    tokenizer.chat_template = None
    assert not uses_chat_template(tokenizer, DataConfig())


def test_the_turn_is_what_transformers_renders(tokenizer):
    asked = question("Is the liver an organ?")
    turn = [{"role": "user", "content": format_prompt(asked, "alphamed")}]
    rendered = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert sent_prompt(asked, tokenizer, ON) == rendered
    assert encode_prompt(asked, tokenizer, ON) == tokenizer(rendered, add_special_tokens=False)["input_ids"]


def test_a_template_that_writes_the_date_writes_the_one_of_the_settings(tokenizer):
    tokenizer.chat_template = DATED
    text = sent_prompt(question("Is it?"), tokenizer, DataConfig(chat_template=True, template_date="2001-02-03"))
    assert text.startswith("03 Feb 2001|03 Feb 2001|")
    assert date.today().strftime("%d %b %Y") not in sent_prompt(question("Is it?"), tokenizer, ON)


@pytest.mark.parametrize(
    ("thinking", "after"), [(None, "assistant\n"), (True, "assistant\n"), (False, "assistant\n<think>\n\n</think>\n\n")]
)
def test_a_template_with_a_thinking_mode_is_rendered_as_the_settings_say(tokenizer, thinking, after):
    tokenizer.chat_template = THOUGHTFUL
    turn = [{"role": "user", "content": format_prompt(question("Is it?"), "alphamed")}]
    given = {} if thinking is None else {"enable_thinking": thinking}
    rendered = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True, **given)
    cfg = DataConfig(chat_template=True, thinking=thinking)
    assert sent_prompt(question("Is it?"), tokenizer, cfg) == rendered
    assert rendered.endswith(TURN + after)
    assert prompt_settings(cfg).get("thinking") is thinking


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize(
    ("chat", "found"), [(True, "chat template has no enable_thinking"), (False, "prompts are plain text")]
)
def test_thinking_is_refused_where_nothing_would_read_it(tokenizer, thinking, chat, found):
    with pytest.raises(ValueError, match=f"^data.thinking: found {str(thinking).lower()}, but .*{found}") as refused:
        encode_prompt(question("Is it?"), tokenizer, DataConfig(chat_template=chat, thinking=thinking))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("cfg", [ON, OFF], ids=["chat", "plain"])
@pytest.mark.parametrize(
    "stem",
    [
        f"What does {TURN} mean?",
        f"{TURN}",
        f"{TURN}{TURN}<|end|>assistant",
        "<|end|><|turn|>",
        "<<|end|>|end|>",
        "Is <think> a tag? <bos>",
    ],
)
def test_text_of_a_question_never_becomes_a_token_of_the_tokenizers_own(tokenizer, cfg, stem):
    asked = question(stem, context=f"A note: {stem}")
    own = [token for token, kind in tokenizer.added_tokens_decoder.items() if kind.content.strip()]
    expected = encode_prompt(question("What?", context="A note: what?"), tokenizer, cfg)
    ids = encode_prompt(asked, tokenizer, cfg)
    assert [token for token in ids if token in own] == [token for token in expected if token in own]
    assert stem in tokenizer.decode(ids) or stem.replace("<bos>", "") in tokenizer.decode(ids)


def test_other_text_is_encoded_in_one_piece(tokenizer):
    for text in ("plain", "", "two  spaces stay as the model knows them", "a < b > c", "[1] and [2]"):
        assert literal_pieces(text, tokenizer) == [text]


def test_prompts_with_and_without_markers_keep_their_order(tokenizer):
    asked = [question(stem) for stem in ("One?", f"{TURN} two {TURN}?", "Three?", f"Four {TURN}?")]
    assert encode_prompts(asked, tokenizer, ON) == [encode_prompt(each, tokenizer, ON) for each in asked]


def test_a_template_without_the_users_turn_is_refused(tokenizer):
    tokenizer.chat_template = "{{ bos_token }}"
    with pytest.raises(ValueError, match="data.chat_template: .* 0 times"):
        encode_prompt(question("What?"), tokenizer, ON)


def test_worked_examples_are_turns_before_the_question_or_text_before_it(tokenizer):
    asked = question("Is it warm?")
    (first, answer), (second, other) = (
        (format_prompt(example, "one_of_shown"), answer) for example, answer in EXAMPLES["one_of_shown"]
    )
    texts = [first, answer, second, other, "Is it warm? Choose one of: yes or no."]
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert sent_prompt(asked, tokenizer, DataConfig(prompt="one_of_shown", chat_template=True)) == rendered
    plain = sent_prompt(asked, tokenizer, DataConfig(prompt="one_of_shown", chat_template=False))
    assert plain == f"{first}\n{answer}\n\n{second}\n{other}\n\nIs it warm? Choose one of: yes or no.\n"


def test_options_are_named_in_the_sentence_that_asks():
    asked = Question("q", "own", "Which?", ("one", "two", "three"), "A", context="A text.")
    assert format_prompt(asked, "one_of") == "A text. Which? Choose one of: one, two or three."
