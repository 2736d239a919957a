"""What a killed run leaves behind, and what of it is believed."""

from __future__ import annotations

import json

import pytest

from alphamed_nemo.evaluation.journal import Journal, model_identity

SETTINGS = {"model": "base", "samples": 5}


def test_rows_survive_and_the_torn_one_is_dropped(tmp_path):
    path = tmp_path / "parts.jsonl"
    with Journal(path, SETTINGS) as journal:
        journal.append({"id": "a", "responses": ["line\nbreak \u2028 ß"]})
        journal.append({"id": "b", "responses": []})
    complete = path.read_bytes()
    path.write_bytes(complete + b'{"id": "c", "respo')
    with Journal(path, SETTINGS) as journal:
        assert list(journal.rows) == ["a", "b"]
        assert path.read_bytes() == complete
        journal.append({"id": "c", "responses": []})
    assert [json.loads(line).get("id") for line in path.read_text().split("\n") if line] == [None, "a", "b", "c"]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_journal_cut_at_any_byte_can_be_continued(cut, tmp_path):
    path = tmp_path / "parts.jsonl"
    with Journal(path, SETTINGS) as journal:
        journal.append({"id": "a"})
    path.write_bytes(path.read_bytes()[:cut])
    with Journal(path, SETTINGS) as journal:
        if "a" not in journal.rows:
            journal.append({"id": "a"})
    with Journal(path, SETTINGS) as journal:
        assert list(journal.rows) == ["a"]


def test_other_settings_are_refused_by_name(tmp_path):
    path = tmp_path / "parts.jsonl"
    Journal(path, SETTINGS).close()
    with pytest.raises(ValueError, match="samples=5, now it is 8.*delete that file"):
        Journal(path, SETTINGS | {"samples": 8})


def test_damage_before_the_end_is_an_error(tmp_path):
    path = tmp_path / "parts.jsonl"
    with Journal(path, SETTINGS) as journal:
        journal.append({"id": "a"})
    path.write_bytes(path.read_bytes().replace(b'{"id"', b'{id"') + b'{"id": "b"}\n')
    with pytest.raises(ValueError, match="line 2: damaged"):
        Journal(path, SETTINGS)


def test_a_question_is_not_recorded_twice(tmp_path):
    with Journal(tmp_path / "parts.jsonl", SETTINGS) as journal:
        journal.append({"id": "a"})
        with pytest.raises(ValueError, match="'a' is there already"):
            journal.append({"id": "a"})


def test_other_weights_are_another_model(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(10**6))
    before = model_identity(tmp_path)
    assert model_identity(tmp_path) == before
    weights.write_bytes(bytes(10**6 - 1) + b"\1")
    assert model_identity(tmp_path) != before
    assert model_identity("served/elsewhere") == "served/elsewhere"


def test_what_a_release_says_of_itself_makes_no_other_model_and_a_chat_template_does(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    before = model_identity(tmp_path)
    (tmp_path / "provenance.json").write_text('{"created": "today"}')
    (tmp_path / "README.md").write_text("# A card")
    assert model_identity(tmp_path) == before
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert model_identity(tmp_path) != before
