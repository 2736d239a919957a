"""What a release must not say, whichever of its texts says it."""

from __future__ import annotations

import json

import pytest

from alphamed_nemo.export import leaks
from alphamed_nemo.export.leaks import check_texts, leaks_of

NASTY = {
    "/home/alice/models/llama": "a path",
    "loaded from /scratch/project_7/base": "a path",
    "/mnt": "a path",
    "~/models/base": "a path",
    "C:\\Users\\alice\\base": "a path",
    "\\\\server\\share": "a path",
    "file:///data/x": "a path",
    "http://localhost:8000/v1": "a server's URL",
    "http://127.0.0.1/v1": "a local URL",
    "https://gpu17.cluster/health": "a local URL",
    "https://node4.hpc.example.org:8443": "a server's URL",
    "http://alice:hunter2@vllm.example.org": "a URL with a user",
    "tcp://10.0.0.7:29500": "a server's URL",
    "127.0.0.1:8000": "an address",
    "--api-key abcdef123": "a key",
    "--api-key=abcdef123": "a key",
    "api_key: abcdef123": "a key",
    "Authorization: Bearer abcdef.123456": "a key",
    "hf_abcdefghijklmnopqrstuv": "a key",
    "sk-proj-abcdefghijklmnop": "a key",
    "-----BEGIN RSA PRIVATE KEY-----": "a key",
}


@pytest.mark.parametrize(("text", "what"), NASTY.items(), ids=list(NASTY))
@pytest.mark.parametrize("name", ["README.md", "config.json", "tokenizer_config.json", "chat_template.jinja", "NOTICE"])
def test_a_text_that_must_not_be_published_is_refused_by_file_and_finding(tmp_path, name, text, what):
    content = json.dumps({"outer": [{"value": text}]}) if name.endswith(".json") else f"Some words.\n{text}\n"
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name}: {what}") as refused:
        check_texts(tmp_path)
    assert "hunter2" not in str(refused.value) and "abcdef" not in str(refused.value)


@pytest.mark.parametrize("key", ["api_key", "wandb_api_key", "password", "client_secret", "hf_token", "token"])
def test_a_value_under_the_name_of_a_key_is_refused_without_being_repeated(key):
    (found,) = leaks_of("provenance.json", json.dumps({"exp_manager": {key: "opensesame"}}))
    assert key in found and "opensesame" not in found


def test_a_key_of_the_environment_is_known_by_its_value(monkeypatch):
    monkeypatch.setenv("SITE_API_KEY", "open-sesame")
    monkeypatch.setenv("TOKENIZER", "some-tokenizer")  # no secret by its name
    assert leaks_of("config.json", '{"a": "x open-sesame y"}') == ["the value of the environment's SITE_API_KEY"]
    assert leaks_of("config.json", '{"a": "some-tokenizer"}') == []


def test_names_of_user_and_host_are_refused_where_they_are_names(monkeypatch):
    monkeypatch.setattr(leaks.getpass, "getuser", lambda: "jdoe42")
    monkeypatch.setattr(leaks.socket, "gethostname", lambda: "gpu-node-17.hpc.example.org")
    assert leaks_of("provenance.json", '{"run": "jdoe42_8b"}') == ["the name of the user, 'jdoe42'"]
    assert leaks_of("README.md", "# on gpu-node-17") == ["the name of the host, 'gpu-node-17'"]
    assert leaks_of("README.md", "jdoe421 and gpu-node-170") == []


@pytest.mark.parametrize("user", ["root", "model", "qwen", "ubuntu", "bob", "clinic"])
def test_a_users_name_that_is_a_word_of_every_card_refuses_nothing(monkeypatch, user):
    monkeypatch.setattr(leaks.getpass, "getuser", lambda: user)
    monkeypatch.setattr(leaks.socket, "gethostname", lambda: "x1")
    assert leaks_of("README.md", "The root model qwen, ubuntu, bob, clinic") == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LICENSE", "http://www.apache.org/licenses/ and/or the Work; contact LlamaUseReport@meta.com"),
        ("README.md", "[AlphaMed](https://arxiv.org/abs/2505.17952), 120/80, 5 mg/kg/day, ~50/min, ~/- 2, he/she"),
        ("chat_template.jinja", "<tools>\n</tools> {{- '<|im_end|>' }} </tool_call> /think [/INST] https://json-schema.org"),
        ("tokenizer.json", json.dumps({"model": {"vocab": {"/usr/local": 1, "localhost:80": 2}, "merges": ["/a b"]}})),
        ("tokenizer_config.json", '{"eos_token": "</s>", "pad_token": "<pad>", "bos_token": "<s>"}'),
        ("special_tokens_map.json", '{"unk_token": "<unk>"}'),
        ("vocab.json", '{"/usr/bin/env": 5}'),
        ("USE_POLICY.md", "must not collect passwords or credentials of others; see https://llama.com/llama3_1/use-policy"),
        ("model.safetensors", "/home/alice/x"),
    ],
)  # fmt: skip
def test_what_belongs_in_a_release_passes(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    check_texts(tmp_path)


def test_the_shipped_tokenizer_and_known_licenses_words_pass():
    from tests.unit.released_run import TINY

    check_texts(TINY)
