"""Secrets are hidden wherever they stand, in files that only their owner reads; what looks like them stays."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from alphamed_nemo.config import Config
from alphamed_nemo.config.files import load_config, write_config
from alphamed_nemo.config.limits import check_values
from alphamed_nemo.config.private import owner_only
from alphamed_nemo.config.scrub import HIDDEN, ScrubbedFormatter, scrub, scrub_text, secret_places
from alphamed_nemo.evaluation.journal import Journal
from alphamed_nemo.provenance import public_settings

SECRET = "opensesame-4711"


@pytest.mark.parametrize(
    "name",
    "api_key apikey API_KEY apiKey wandb_api_key X-Api-Key access_key secret_key private-key client_secret password "
    "passwd db_password passphrase token hf_token authToken refresh_token authorization Proxy-Authorization cookie "
    "credentials".split(),
)
@pytest.mark.parametrize("value", [SECRET, "abc", 4711, [SECRET], {"inner": {"deep": SECRET}}])
def test_a_value_is_hidden_by_its_name_however_deep(name: str, value: object) -> None:
    if value == "abc" and name.lower().endswith("token"):
        value = "abcdefgh"  # short ones are special tokens
    found = json.dumps(scrub({"outer": [{name: value, "other": 1}]}))
    assert "sesame" not in found and "4711" not in found and "abc" not in found and HIDDEN in found
    assert '"other": 1' in found


@pytest.mark.parametrize(
    "kept",
    [
        {"max_new_tokens": 2048, "tokenizer": "some/path", "token_mean": "x", "tokens_per_microbatch": 5},
        {"eos_token": "</s>", "pad_token": "<|endoftext|>", "unk_token": "[UNK]", "bos_token": None, "sep_token": "!"},
        {"api_key": "", "password": None, "use_api_key": True, "key": "C", "answer_key": "B", "keys": ["a"]},
        {"args": ["--max-num-batched-tokens", "8192", "--tokenizer-mode", "auto", "--enable-x", "--ssl-keyfile", "k"]},
        {"url": "https://host.example.org:8000/a@b?x=1", "mail": "someone@example.org", "path": "/a/b@c"},
        {"text": "The bearer of basic information: a token of thanks. Secret: none. key=C"},
        {"error": "rollout.api_key: empty, expected a key; hf_token=None"},
    ],
)
def test_what_is_no_secret_stays(kept: dict) -> None:
    assert scrub(kept) == kept


@pytest.mark.parametrize(
    "arguments",
    [
        ["--api-key", SECRET],
        [f"--api-key={SECRET}"],
        ["--hf-token", SECRET, "--x", "1"],
        ["--api_key", SECRET],
        ["--some-other-key", SECRET],
        [f"--db.password={SECRET}"],
        ["-key", SECRET],
    ],
)
def test_a_value_of_an_argument_is_hidden(arguments: list[str]) -> None:
    found = scrub({"extra_args": ["--first", "1", *arguments]})["extra_args"]
    assert SECRET not in str(found) and HIDDEN in str(found)
    assert found[:2] == ["--first", "1"] and len(found) == 2 + len(arguments)
    assert found[4:] == arguments[2:]
    assert SECRET not in scrub_text(" ".join(arguments) if arguments[0] != "-key" else f"--key {SECRET}")


@pytest.mark.parametrize(
    "text",
    [
        f"https://user:{SECRET}@host.example.org/x",
        f"postgresql+psycopg://{SECRET}@db:5432/runs",
        f"https://user:p@{SECRET}@host",
        f"Authorization: Bearer {SECRET}",
        f"{{'Authorization': 'Basic {SECRET}'}}",
        f'{{"authorization": "{SECRET}"}}',
        f"curl -H 'Authorization: Token {SECRET}'",
        f"api_key={SECRET}",
        f"Namespace(api_key=['{SECRET}'], x=1)",
        f"WANDB_API_KEY={SECRET} python",
        f'"password": "{SECRET}"',
        f"hf_token: {SECRET}",
        "key hf_abcdefghijklmnopqrsesame",
        "sk-proj-abcdefghijklmnsesame",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIopensesame\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_a_secret_in_a_text_is_hidden(text: str) -> None:
    for found in (scrub_text(text), scrub([text])[0], scrub_text(f"before {text} after")):
        assert "sesame" not in found and HIDDEN in found
    record = logging.LogRecord("x", logging.INFO, "x", 1, "said %s", (text,), None)
    assert "sesame" not in ScrubbedFormatter("%(message)s").format(record)


def test_a_secret_of_the_environment_is_hidden_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE_API_KEY", "plain-words-only")
    monkeypatch.setenv("TOKENIZER", "some-tokenizer")
    monkeypatch.setenv("SSH_KEY_PATH", "some-tokenizer")
    assert scrub({"a": "x plain-words-only y", "b": "some-tokenizer"}) == {"a": f"x {HIDDEN} y", "b": "some-tokenizer"}


def with_secrets() -> Config:
    cfg = Config()
    cfg.rollout.api_key = cfg.reward.api_key = SECRET
    cfg.rollout.extra_args = ["--hf-token", SECRET, f"--x-key={SECRET}"]
    cfg.reward.url = f"https://user:{SECRET}@host"
    cfg.exp_manager = {
        "wandb_logger_kwargs": {"api_key": SECRET, "project": "p"},
        "mlflow_logger_kwargs": {
            "tracking_uri": f"https://me:{SECRET}@mlflow",
            "headers": [f"Authorization: {SECRET}"],
        },
    }
    return cfg


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_no_secret_is_in_config_yaml_and_only_its_owner_reads_it(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("an older one, open to everybody")
    path.chmod(0o644)
    before = os.umask(umask)
    try:
        write_config(with_secrets(), path)
    finally:
        os.umask(before)
    assert "sesame" not in path.read_text() and path.stat().st_mode & 0o777 == 0o600
    loaded = load_config(path)
    assert loaded.exp_manager["wandb_logger_kwargs"] == {"api_key": HIDDEN, "project": "p"}
    assert (loaded.rollout.api_key, loaded.reward.api_key) == ("", "")


def test_no_secret_is_in_what_a_release_tells_of_the_settings() -> None:
    settings = {"sources": {"train": {"own": {"hub": f"https://u:{SECRET}@host/x"}}}, "data": {"token": SECRET}}
    assert "sesame" not in json.dumps(public_settings(settings))


@pytest.mark.parametrize("name", ["new", "old"])
def test_a_private_file_is_its_owners_from_the_beginning(tmp_path: Path, name: str) -> None:
    (tmp_path / "old").touch(0o666)
    with open(tmp_path / name, "ab", opener=owner_only) as file:
        assert os.fstat(file.fileno()).st_mode & 0o777 == 0o600


def test_a_journal_is_its_owners(tmp_path: Path) -> None:
    Journal(tmp_path / "parts.jsonl", {"model": "x"}).close()
    assert (tmp_path / "parts.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("group", "name", "value", "place"),
    [
        ("", "exp_manager", {"wandb_logger_kwargs": {"api_key": SECRET}}, "exp_manager.wandb_logger_kwargs.api_key"),
        ("rollout", "extra_args", ["--x", "--hf-token", SECRET], r"rollout\.extra_args\[2\]"),
        ("rollout", "extra_args", [f"--hf-token={SECRET}"], r"rollout\.extra_args\[0\]"),
        ("rollout", "urls", ["http://host", f"https://user:{SECRET}@host"], r"rollout\.urls\[1\]"),
        ("reward", "url", f"https://user:{SECRET}@host", r"reward\.url"),
        ("rollout", "extra_args", ["--api_key=x"], "found a key, token"),
        ("rollout", "host", "0.0.0.0", "listens on all interfaces"),
        ("rollout", "host", "::", "listens on all interfaces"),
    ],
)
def test_settings_that_would_show_a_secret_or_open_a_server_are_refused(
    group: str, name: str, value: object, place: str
) -> None:
    cfg = Config()
    setattr(getattr(cfg, group) if group else cfg, name, value)
    with pytest.raises(ValueError, match=place) as refused:
        check_values(cfg)
    assert "sesame" not in str(refused.value) and "\n" not in str(refused.value)


def test_the_defaults_and_keys_of_the_servers_are_accepted() -> None:
    cfg = Config()
    cfg.rollout.api_key = cfg.reward.api_key = SECRET
    check_values(cfg)
    assert list(secret_places({"a": [{"password": "x"}], "b": 1})) == ["a[0].password"]
