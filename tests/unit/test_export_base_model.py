"""A base model's name and license, from what its folder says."""

from __future__ import annotations

import json

import pytest

from alphamed_nemo.export.base_model import BaseModel, License, front_matter

LLAMA = "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\nLlama 3.1 Version Release Date: July 23, 2024\n"


@pytest.fixture
def base(tmp_path):
    def write(name="some-model", readme="", config=None, **files):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | (config or {})))
        (folder / "README.md").write_text(readme)
        for file, text in files.items():
            (folder / file).write_text(text)
        return folder

    return write


@pytest.mark.parametrize(
    ("name", "readme", "config", "expected"),
    [
        ("m", "", {"_name_or_path": "meta-llama/Llama-3.1-8B-Instruct"}, "meta-llama/Llama-3.1-8B-Instruct"),
        ("models--Qwen--Qwen2.5-7B-Instruct/snapshots/0a1b2c", "", {}, "Qwen/Qwen2.5-7B-Instruct"),
        (
            "m",
            "---\nlicense_link: https://huggingface.co/Qwen/Qwen2.5-3B/blob/main/LICENSE\n---",
            {},
            "Qwen/Qwen2.5-3B",
        ),
        ("m", "---\nmodel-index:\n- name: org/m\n  results: []\n---", {}, "org/m"),
        ("Qwen3-8B", 'model_name = "Qwen/Qwen3-8B"', {}, "Qwen/Qwen3-8B"),
        ("m", "", {"_name_or_path": "/home/alice/models/m"}, ""),
        ("m", "", {"_name_or_path": "./out/m"}, ""),
        ("m", "", {"_name_or_path": "models/m"}, ""),
        ("m", "a choice of the rate/m", {}, ""),
        ("Qwen3-8B", "https://huggingface.co/Qwen/Qwen3-8B/tree/main and models/Qwen3-8B", {}, "Qwen/Qwen3-8B"),
        ("m", "---\nmodel-index: []\nbase_model:\n---", {}, ""),
    ],
)
def test_its_name_on_the_hub_where_the_folder_tells(base, name, readme, config, expected):
    found = BaseModel.of(base(name, readme, config))
    assert found.hub == expected
    assert found.name == (expected or name)


def test_what_a_base_model_was_made_from_is_not_its_name(base):
    found = BaseModel.of(base("mine", "---\nbase_model: meta-llama/Llama-3.1-8B\n---\n# Mine"))
    assert (found.name, found.hub, found.made_from) == ("mine", "", "meta-llama/Llama-3.1-8B")


def test_a_base_model_that_has_moved_keeps_the_name_that_it_was_trained_under(base):
    assert BaseModel.of(base("copy-7"), "/models/Clinic-8B").name == "Clinic-8B"


@pytest.mark.parametrize(
    ("readme", "files", "expected"),
    [
        ("---\nlicense: apache-2.0\n---", {}, License("apache-2.0")),
        ("---\nlicense: [mit, apache-2.0]\n---", {}, License("mit")),
        (
            "---\nlicense: other\nlicense_name: qwen-research\nlicense_link: LICENSE\n---",
            {"LICENSE": "x"},
            License("other", "qwen-research", "LICENSE", ("LICENSE",)),
        ),
        ("", {"LICENSE": LLAMA}, License("llama3.1", files=("LICENSE",))),
        ("", {"License": "\n  Apache License\n   Version 2.0, 2004"}, License("apache-2.0", "", "", ("License",))),
        ("", {"LICENSE": "Ours alone."}, License("other", "see-license-file", "LICENSE", ("LICENSE",))),
        ("---\nlicense: [\n---", {}, License("unknown")),
        ("", {}, License("unknown")),
    ],
)  # fmt: skip
def test_its_license_from_its_card_or_its_license_file(base, readme, files, expected):
    assert BaseModel.of(base("m", readme, **files)).license == expected


def test_what_licenses_ask_of_whoever_passes_a_model_on():
    llama = License("llama3.1").terms
    assert (llama.display, llama.name_starts) == ("Built with Llama", "Llama")
    assert llama.notice.startswith("Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright ©")
    assert License("llama3").terms.display == "Built with Meta Llama 3"
    assert License("llama2").terms.display == "" and "LLAMA 2" in License("llama2").terms.notice
    assert License("other", "llama-3.3-community").terms.display == "Built with Llama"
    assert License("other", "qwen-research").terms.display == "Built with Qwen"
    assert License("apache-2.0").terms is None and License().terms is None


def test_front_matter_that_cannot_be_read_is_none(tmp_path):
    for text in ("", "# Title", "---\n: [\n---\n", "---\n- a\n---\n", "---\nlicense: mit\n"):
        (tmp_path / "README.md").write_text(text)
        assert front_matter(tmp_path / "README.md") == {}
