"""Settings that follow others: lengths and the chat template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alphamed_nemo.cli.derived import NEXT_QUESTION, fill_derived
from alphamed_nemo.config import Config
from alphamed_nemo.config.files import load_config, write_config
from alphamed_nemo.config.limits import check_values


def test_lengths_follow_the_rollouts_and_the_model_holds_prompt_and_longest_response():
    cfg = fill_derived(Config())
    lengths = cfg.rollout.max_new_tokens, cfg.label.max_new_tokens, cfg.evaluate.max_new_tokens
    assert lengths == (2048, 2048, 2048) and cfg.model.max_length == 1024 + 2048
    cfg = Config()
    cfg.rollout.max_new_tokens, cfg.evaluate.max_new_tokens, cfg.data.max_prompt_tokens = 100, 300, 50
    fill_derived(cfg)
    assert (cfg.label.max_new_tokens, cfg.evaluate.max_new_tokens, cfg.model.max_length) == (100, 300, 350)


def test_a_length_that_is_set_stays():
    cfg = Config()
    cfg.model.max_length, cfg.label.max_new_tokens = 4096, 77
    fill_derived(cfg)
    assert (cfg.model.max_length, cfg.label.max_new_tokens) == (4096, 77)


def test_urls_say_how_many_rollout_servers_there_are():
    cfg = Config()
    assert fill_derived(cfg).rollout.servers == 1
    cfg.rollout.urls, cfg.rollout.engines, cfg.rollout.tensor = ["http://a:1", "http://b:1"], 3, 2
    assert fill_derived(cfg).rollout.world_size == 2 * 3 * 2


@pytest.mark.parametrize(("eos", "expected"), [("<|end|>", True), ("<|endoftext|>", False)])
def test_the_chat_template_is_on_for_an_instruct_model(tmp_path: Path, eos: str, expected: bool):
    settings = {"chat_template": "{{ messages[0]['content'] }}<|end|>", "eos_token": eos}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    cfg = Config()
    cfg.model.path = str(tmp_path)
    assert fill_derived(cfg).data.chat_template is expected
    cfg.data.chat_template = not expected
    assert fill_derived(cfg).data.chat_template is not expected


def test_a_next_question_ends_a_response_where_no_chat_template_ends_the_turn():
    for template, stops in ((None, None), (True, []), (False, list(NEXT_QUESTION))):
        cfg = Config()
        cfg.data.chat_template = template
        assert fill_derived(cfg).evaluate.stop == stops
    cfg.evaluate.stop = ["\n\n"]
    assert fill_derived(cfg).evaluate.stop == ["\n\n"]


def test_what_was_filled_in_is_what_a_runs_config_holds(tmp_path: Path):
    cfg = Config()
    cfg.run.dir = str(tmp_path)
    write_config(fill_derived(cfg), tmp_path / "config.yaml")
    read = load_config(tmp_path / "config.yaml")
    assert read.model.max_length == 3072 and fill_derived(read) == read


@pytest.mark.parametrize("stop", [["a", "b", "c", "d", "e"], [""], ["a", ""]])
def test_more_stop_texts_than_vllm_takes_or_empty_ones_are_refused(stop: list[str]) -> None:
    cfg = Config()
    cfg.evaluate.stop = stop
    with pytest.raises(ValueError, match="evaluate.stop: found .*expected up to 4 texts, none of them empty"):
        check_values(cfg)


def test_the_texts_of_a_next_question_are_as_many_as_vllm_takes() -> None:
    cfg = Config()
    cfg.evaluate.stop = list(NEXT_QUESTION)
    check_values(cfg)
