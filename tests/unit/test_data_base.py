"""The shipped tiny base model: it is what the code would make, and it is fit for what it is shipped for."""

import torch
from pytest import fixture
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

import alphamed_nemo
from alphamed_nemo.answers.reasoned import reasons
from alphamed_nemo.clinic.bank import development_questions
from alphamed_nemo.clinic.corpus import FORCED_PREFIX, boxed, corpus
from alphamed_nemo.clinic.tokenizer import build_tokenizer
from alphamed_nemo.config import DataConfig, TinyModelConfig
from alphamed_nemo.data.prompts import encode_prompt

BASE = next(iter(alphamed_nemo.__path__)) + "/assets/tiny_base"
QUESTIONS = development_questions(60)


@fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


@fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()


def answers(model, tokenizer, prefix=""):
    """Greedy responses to the questions, without the prefix; all in one batch, padded on the left."""
    prompts = [encode_prompt(question, tokenizer, DataConfig(prompt="tiny"), prefix) for question in QUESTIONS]
    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    ids = model.generate(**batch, max_new_tokens=48, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)


def right(responses):
    return sum(text.endswith(boxed(q.answer)) for text, q in zip(responses, QUESTIONS, strict=True)) / len(QUESTIONS)


def test_tokenizer_is_the_one_that_the_code_makes(tokenizer):
    made = build_tokenizer()
    assert made.get_vocab() == tokenizer.get_vocab()
    for text in corpus(200, 50, 20, seed=9):
        assert tokenizer.encode(text.prompt + text.response) == made.encode(text.prompt + text.response)


def test_config_and_weights_are_of_the_default_sizes():
    cfg, config = TinyModelConfig(), LlamaConfig.from_pretrained(BASE)
    found = (config.hidden_size, config.num_hidden_layers, config.intermediate_size, config.vocab_size)
    assert found == (cfg.hidden, cfg.layers, cfg.ffn, cfg.vocab)
    with safe_open(f"{BASE}/model.safetensors", "pt") as weights:
        tensors = [weights.get_tensor(name) for name in weights.keys()]
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}
    assert 1_000_000 < sum(tensor.numel() for tensor in tensors) < 1_100_000


def test_base_answers_at_once_and_near_chance(model, tokenizer):
    responses = answers(model, tokenizer)
    assert sum(map(reasons, responses)) <= 0.2 * len(responses)
    assert right(responses) <= 0.5


def test_base_made_to_reason_is_right_on_pairs_it_never_saw(model, tokenizer):
    assert right(answers(model, tokenizer, FORCED_PREFIX)) >= 0.88
