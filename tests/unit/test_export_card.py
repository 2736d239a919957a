"""The model card of a run: what it says, where from, and that its code runs."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCardData
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from alphamed_nemo.config import Config, ExportConfig, ModelConfig
from alphamed_nemo.config.files import write_config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.config.sources import SourceConfig
from alphamed_nemo.data.io import read_questions, write_questions
from alphamed_nemo.data.prompts import encode_prompt
from alphamed_nemo.export.base_model import front_matter
from alphamed_nemo.export.convert import origin_of
from alphamed_nemo.export.leaks import check_texts
from alphamed_nemo.export.training_record import TrainingRecord
from alphamed_nemo.export.usage import EXAMPLE
from tests.unit.released_run import TINY, copy_base, make_checkpoint, make_run, release, settings

LLAMA_README = "---\nlicense: llama3.1\nbase_model: meta-llama/Llama-3.1-8B\n---\n"
CHAT = "{% for m in messages %}<|begin_of_text|>[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] "
DATED = "Today is {{ date_string if date_string is defined else strftime_now('%d %b %Y') }}. " + CHAT
THOUGHTFUL = CHAT + "{% if enable_thinking is false %}<think></think>{% endif %}"


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def provenance_of(folder: Path) -> dict:
    return json.loads((folder / "provenance.json").read_text())


@pytest.fixture
def cfg(tmp_path):
    return settings(tmp_path / "runs")


@pytest.fixture
def checkpoint(cfg):
    return make_run(cfg).checkpoints / "step_20"


def test_the_card_says_what_the_run_recorded(cfg, checkpoint, tmp_path):
    out = release(checkpoint, tmp_path / "hf")
    card = card_of(out)
    front = front_matter(out / "README.md")
    assert front["base_model"] == "tiny_base" and front["datasets"] == ["clinic"] and front["license"] == "unknown"
    assert "# demo\n" in card and "invented clinic" in card and "no medical advice" in card and "HealthBench" in card
    assert "| license | unknown: see the base model |" in card
    assert "| trained on | 60 questions: clinic 60 |" in card
    assert "| clinic | 60 | L1 10, L2 10, L3 10, L4 10, L5 10, L6 10 |" in card
    assert "120 questions were labelled" in card
    assert "| steps | 20; 9.67 passes over the questions |" in card
    assert "| optimizer | AdamW, learning rate 1e-06, constant, weight decay 0, gradient norm clipped at 1 |" in card
    assert "at most 48 tokens in a response, 192 with the prompt" in card and "rule `boxed`" in card
    assert "| layout | Megatron-Core, tensor 1 × pipeline 1 × data 1 |" in card
    assert "This model has not been evaluated." in card
    assert str(tmp_path) not in card + json.dumps(provenance_of(out))


def test_the_front_matter_is_the_hubs(checkpoint, tmp_path):
    out = release(checkpoint, tmp_path / "hf")
    data = ModelCardData(**front_matter(out / "README.md"))
    assert (data.library_name, data.pipeline_tag, data.language) == ("transformers", "text-generation", ["en"])
    assert "medical" in data.tags and data.base_model == "tiny_base"


def test_settings_of_the_conversion_change_nothing(cfg, checkpoint, tmp_path):
    first = release(checkpoint, tmp_path / "first")
    other = Config(model=ModelConfig(path=str(copy_base(tmp_path / "other")), dtype="bfloat16"))
    other.grpo.steps, other.optim.lr, other.data.prompt, other.run.name = 999, 1.0, "alphamed", "another"
    for given in (other, Config()):
        origin = origin_of(given, checkpoint)
        assert origin.base.folder == TINY and origin.record.name == "demo"
        assert origin.record["optim.lr"] == cfg.optim.lr and origin.record["model.dtype"] == "float32"
    assert card_of(release(checkpoint, tmp_path / "second")) == card_of(first)


def test_a_run_that_has_moved_finds_its_files(cfg, checkpoint, tmp_path):
    before = TrainingRecord.of(checkpoint)
    shutil.move(tmp_path / "runs", tmp_path / "elsewhere")
    record = TrainingRecord.of(tmp_path / "elsewhere" / "demo" / "checkpoints" / "step_20")
    assert record.data_sets == before.data_sets and record.passes == before.passes


def test_a_question_file_that_is_another_one_now_is_not_claimed(cfg, checkpoint, tmp_path):
    questions = read_questions(cfg.grpo.questions)
    write_questions([dataclasses.replace(one, id=f"new-{one.id}") for one in questions], cfg.grpo.questions)
    card = card_of(release(checkpoint, tmp_path / "hf"))
    assert "| trained on | not known |" in card and "or no longer the one" in card
    assert "| steps | 20 |" in card and "datasets" not in front_matter(tmp_path / "hf" / "README.md")


def test_a_checkpoint_without_a_run_says_what_is_not_known(tmp_path):
    checkpoint = make_checkpoint(tmp_path / "loose" / "step_7", {"step": 7})
    with pytest.raises(ValueError, match="model.path is not set; .*no run names it"):
        origin_of(Config(), checkpoint)
    assert origin_of(Config(model=ModelConfig(path=str(TINY))), checkpoint).base.folder == TINY
    out = release(checkpoint, tmp_path / "hf")
    card = card_of(out)
    assert "after 7 updates" in card and "is not known here" in card and "## Training\n\nNot known." in card
    assert "| base model | tiny_base" in card and "# tiny_base-step-7\n" in card
    assert provenance_of(out)["config"] is None and provenance_of(out)["run"] is None


def test_converted_weights_are_not_called_trained(cfg, tmp_path):
    folder = make_run(cfg)  # its config.yaml is of another model's training
    out = release(make_checkpoint(folder.checkpoints / "step_0", {"step": 0}, optimizer=False), tmp_path / "hf")
    card = card_of(out)
    assert "knows of no training" in card and "| training | none |" in card and "GRPO)" not in card
    assert provenance_of(out)["config"] is None


def test_real_data_sets_are_named_with_their_place_on_the_hub(cfg, tmp_path):
    cfg.data.source = "sources"
    cfg.sources.train = {"medqa": SourceConfig(), "mine": SourceConfig(set="questions", path=str(tmp_path / "m.jsonl"))}
    folder = make_run(cfg)
    questions = [
        dataclasses.replace(one, dataset="medqa" if i % 3 else "mine")
        for i, one in enumerate(read_questions(cfg.grpo.questions))
    ]
    write_questions(questions, cfg.grpo.questions)
    out = release(folder.checkpoints / "step_20", tmp_path / "hf")
    assert front_matter(out / "README.md")["datasets"] == ["GBaker/MedQA-USMLE-4-options", "mine"]
    assert "| [medqa](https://huggingface.co/datasets/GBaker/MedQA-USMLE-4-options) | 40 |" in card_of(out)
    assert "\n| mine | 20 |" in card_of(out) and "duplicates and questions that occur in an evaluation set" in card_of(
        out
    )
    assert EXAMPLE.stem in card_of(out)  # no question of a data set is shown
    assert provenance_of(out)["config"]["sources"]["train"]["mine"]["path"] == "m.jsonl"


def test_a_llama_is_released_as_its_license_asks(cfg, tmp_path):
    base = copy_base(tmp_path / "base", LLAMA_README, LICENSE="LLAMA 3.1 COMMUNITY LICENSE", USE_POLICY__md="Be good.")
    cfg.model.path = str(base)
    out = release(make_run(cfg).checkpoints / "step_20", tmp_path / "hf", base)
    card, front = card_of(out), front_matter(out / "README.md")
    assert card.split("# Llama-demo\n\n")[1].startswith("**Built with Llama**")
    assert front["license"] == "llama3.1" and front["base_model"] == "meta-llama/Llama-3.1-8B"
    assert "itself made from [meta-llama/Llama-3.1-8B]" in card and "| base model | base (llama" in card
    assert {"LICENSE", "USE_POLICY.md", "NOTICE"} <= {path.name for path in out.iterdir()}
    assert "Llama 3.1 Community License, Copyright © Meta" in (out / "NOTICE").read_text()
    assert "`LICENSE`, `NOTICE`, `USE_POLICY.md`" in card and "no copy of it" not in card


def test_a_notice_is_carried_over_and_a_missing_license_text_is_said(cfg, tmp_path):
    base = copy_base(tmp_path / "base", LLAMA_README, NOTICE="Tuned by someone.")
    cfg.model.path = str(base)
    out = release(make_run(cfg).checkpoints / "step_20", tmp_path / "hf", base)
    notice = (out / "NOTICE").read_text()
    assert notice.startswith("Tuned by someone.\n\nLlama 3.1 is licensed under")
    assert "held no copy of it" in card_of(out)
    again = copy_base(tmp_path / "again", LLAMA_README, NOTICE=notice)
    cfg.run.name, cfg.model.path = "second", str(again)
    out = release(make_run(dataclasses.replace(cfg)).checkpoints / "step_20", tmp_path / "hf2", again)
    assert (out / "NOTICE").read_text() == notice


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_name_of_the_type_agrees_with_the_files(cfg, tmp_path, dtype):
    base = copy_base(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"torch_dtype": "float16", "dtype": "float16"}))
    cfg.model.path, cfg.model.dtype = str(base), dtype
    checkpoint = make_run(cfg).checkpoints / "step_20"
    assert ExportConfig().dtype == "" and origin_of(Config(), checkpoint).trained_dtype == dtype
    out = release(checkpoint, tmp_path / "hf", base, dtype)
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == provenance_of(out)["dtype"] == dtype
    with safe_open(out / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {getattr(torch, dtype)}  # noqa: SIM118
    assert f"| weights | {dtype}; trained in {dtype} |" in card_of(out)


def test_the_type_is_the_one_that_the_checkpoint_was_trained_in(cfg, tmp_path):
    cfg.model.dtype = cfg.rollout.dtype = "auto"  # was settled on another machine, after config.yaml was written
    checkpoint = make_run(cfg, dtype="bfloat16").checkpoints / "step_20"
    assert origin_of(Config(), checkpoint).trained_dtype == "bfloat16"
    card = card_of(release(checkpoint, tmp_path / "hf", dtype="bfloat16"))
    assert "| weights | bfloat16; trained in bfloat16 |" in card and "| precision | bfloat16 |" in card
    assert "top-p 1.0, bfloat16 |" in card and "auto" not in card.replace('dtype="auto"', "").replace("Auto", "")


def test_logits_of_another_type_than_the_weights_are_said(cfg, tmp_path):
    cfg.model.dtype, cfg.model.head_dtype = "bfloat16", "float32"
    checkpoint = make_run(cfg, dtype="bfloat16").checkpoints / "step_20"
    card = card_of(release(checkpoint, tmp_path / "hf", dtype="bfloat16"))
    assert "| precision | bfloat16, logits in float32 (sampling, too) |" in card


def nasty(cfg: Config, base: Path) -> Config:
    """Settings with everything that must stay at home."""
    cfg.model.path = str(base)
    cfg.rollout.urls, cfg.rollout.host = ["http://alice:hunter2@gpu17:8000"], "gpu17"
    cfg.rollout.api_key = cfg.reward.api_key = "sk-opensesame12345678"
    cfg.rollout.extra_args = ["--api-key", "opensesame1", "--download-dir=/home/alice/models"]
    cfg.reward.url = "http://10.0.0.7:9000"
    cfg.exp_manager = {"wandb_logger_kwargs": {"api_key": "opensesame2"}, "explicit_log_dir": "/home/alice/logs"}
    cfg.sources.train = {"medqa": SourceConfig(path="/home/alice/medqa.jsonl", hub="/home/alice/hub")}
    cfg.sources.tokenizer = "~alice/tokenizer"
    return cfg


def test_nothing_of_the_machine_leaves_with_a_release(cfg, tmp_path):
    base = copy_base(tmp_path / "home" / "alice" / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"_name_or_path": "/home/alice/base"}))
    tokenizer = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"name_or_path": "/home/alice/base"}))
    folder = make_run(nasty(cfg, base))
    settings = folder.config.read_text()  # as an older version, or a person, might have left it
    folder.config.write_text(settings.replace("api_key: ''", "api_key: opensesame3"))
    out = release(folder.checkpoints / "step_20", tmp_path / "hf", base)
    text = "".join(path.read_text() for path in out.iterdir() if path.suffix != ".safetensors")
    for secret in ("alice", "opensesame", "hunter2", "gpu17", "10.0.0.7", str(tmp_path)):
        assert secret not in text, secret
    assert {"rollout.urls", "rollout.extra_args", "exp_manager"} <= set(provenance_of(out)["config_left_out"])
    assert provenance_of(out)["config"]["sources"]["train"]["medqa"]["path"] == "medqa.jsonl"


@pytest.mark.parametrize(
    ("file", "content", "what"),
    [
        ("generation_config.json", '{"url": "http://localhost:8000"}', "generation_config.json: a server's URL"),
        ("chat_template.jinja", "{# from /home/alice/x #}", "chat_template.jinja: a path, '/home/alice/x'"),
        ("LICENSE", "See /mnt/licenses/ours", "LICENSE: a path"),
    ],
)
def test_a_base_model_that_would_give_something_away_is_refused_before_any_weight(cfg, tmp_path, file, content, what):
    base = copy_base(tmp_path / "base")
    (base / file).write_text(content)
    cfg.model.path = str(base)
    checkpoint = make_run(cfg).checkpoints / "step_20"
    with pytest.raises(ValueError, match=re.escape(what)):
        release(checkpoint, tmp_path / "out" / "hf", base)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_run_name_that_is_a_path_is_refused(cfg, tmp_path):
    folder = make_run(cfg)
    folder.config.write_text(folder.config.read_text().replace("name: demo", "name: /home/alice/demo"))
    with pytest.raises(ValueError, match="README.md: a path, '/home/alice/demo'"):
        release(folder.checkpoints / "step_20", tmp_path / "hf")


@pytest.mark.parametrize("chat", ["", CHAT, DATED, THOUGHTFUL], ids=["plain", "chat", "dated chat", "no thinking"])
def test_the_cards_code_asks_as_training_did(cfg, tmp_path, monkeypatch, chat):
    base = copy_base(tmp_path / "base")
    if chat:
        tokenizer = json.loads((base / "tokenizer_config.json").read_text())
        (base / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"chat_template": chat}))
    cfg.model.path, cfg.data.chat_template = str(base), bool(chat)
    cfg.data.thinking = False if chat == THOUGHTFUL else None
    folder = make_run(cfg)
    out = release(folder.checkpoints / "step_20", tmp_path / "hf", base)
    card = card_of(out)
    code, vllm = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert ("llm.chat(" in vllm, "llm.generate(" in vllm) == (bool(chat), not chat)
    form = "with the chat template" + ", thinking off" * (chat == THOUGHTFUL)
    assert f"| prompt | {form if chat else 'plain text, no chat template'} |" in card
    compile(vllm, "vllm", "exec")
    assert ('"date_string": "26 Jul 2024"' in vllm) == (chat == DATED)
    assert ('chat_template_kwargs={"enable_thinking": False}' in vllm) == (chat == THOUGHTFUL)
    monkeypatch.chdir(out)
    printed, names = io.StringIO(), {}
    with contextlib.redirect_stdout(printed):
        exec(code, names)

    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    question = read_questions(cfg.grpo.questions)[0]
    ids = encode_prompt(question, tokenizer, cfg.data)
    assert names["inputs"]["input_ids"].tolist() == [ids]
    assert tokenizer.decode(ids) in card
    answer = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=48)[0, len(ids) :]
    assert printed.getvalue() == tokenizer.decode(answer, skip_special_tokens=True) + "\n"
    if not chat:
        assert r"\boxed{" in printed.getvalue()  # the model has understood


def test_a_text_in_a_name_breaks_no_table(cfg, tmp_path):
    cfg.grpo.advantage = "group|std"
    card = card_of(release(make_run(cfg).checkpoints / "step_20", tmp_path / "hf"))
    assert "| advantage | `group\\|std` |" in card


def test_settings_that_an_older_run_does_not_have_get_no_row(cfg, tmp_path):
    folder = make_run(cfg)
    write_config(cfg, folder.config)
    lines = [line for line in folder.config.read_text().splitlines() if "kl_" not in line and "staleness" not in line]
    folder.config.write_text("\n".join([*lines, "gone: {by: now}"]))
    card = card_of(release(RunFolder.of(cfg).checkpoints / "step_20", tmp_path / "hf"))
    assert "KL to the base" not in card and "age of the samples" not in card and "| advantage |" in card
    check_texts(tmp_path / "hf")


def test_a_run_with_its_own_reward_and_loss_says_so(cfg, tmp_path):
    cfg.reward.functions = ["correct", f"{tmp_path}/secret/own.py:own_reward"]
    cfg.reward.weights = [1.0, 0.25]
    cfg.grpo.loss = f"{tmp_path}/secret/own.py:own_loss"
    checkpoint = make_run(cfg).checkpoints / "step_20"
    folder = release(checkpoint, tmp_path / "hf")
    card = card_of(folder)
    assert "1 × `correct` + 0.25 × `own_reward`; rule `boxed`" in card
    assert "a weighted sum of functions as its reward: `correct`, `own_reward`" in card
    assert "rewarded for what the functions `correct`, `own_reward` measure" in card
    assert "one rule as its reward" not in card and "the final answer alone" not in card
    assert "`own_loss`, a function of this run's own" in card
    assert provenance_of(folder)["config"]["reward"]["functions"] == ["correct", "own.py:own_reward"]
    assert "secret" not in card + json.dumps(provenance_of(folder))
