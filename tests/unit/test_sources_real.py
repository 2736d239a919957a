"""The loaders on real records, where a folder of them lies beside the project."""

import json
import re
from pathlib import Path

import pytest

from alphamed_nemo.data.dedup import DedupSettings, deduplicate
from alphamed_nemo.data.sources import SourceConfig, load_source

REAL = Path(__file__).parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="no folder of real questions at ../shared/data")

MEDQA = "medqa/questions_us_4_options_300.jsonl"
MEDMCQA = "medmcqa/dev_300.json"
PUBMEDQA = "pubmedqa/ori_pqal_300.json"
MEDXPERTQA = "medxpertqa/text_100.jsonl"


def lines(name):
    return [json.loads(line) for line in (REAL / name).read_text(encoding="utf-8").split("\n") if line]


def read(name, file, **settings):
    loaded = load_source(name, SourceConfig(path=str(REAL / file), **settings))
    assert loaded.rows == len(loaded.questions) + len(loaded.set_aside)
    return loaded


def test_medqa_keeps_every_row_and_its_key():
    loaded, rows = read("medqa", MEDQA), lines(MEDQA)
    assert not loaded.set_aside
    assert [question.answer for question in loaded.questions] == [row["answer_idx"] for row in rows]
    assert [question.answer_text for question in loaded.questions] == [row["answer"].strip() for row in rows]
    assert [question.stem for question in loaded.questions] == [row["question"].strip() for row in rows]


def test_medmcqa_keeps_a_question_with_two_equal_wrong_options_for_evaluation_only():
    assert read("medmcqa", MEDMCQA).reasons == {"duplicate options": 1}
    loaded = load_source("medmcqa", SourceConfig(path=str(REAL / MEDMCQA)), evaluation=True)
    assert len(loaded.questions) == 300 and not loaded.set_aside
    repeated = [question for question in loaded.questions if len(set(question.options)) < 4]
    assert len(repeated) == 1 and repeated[0].options.count(repeated[0].answer_text) == 1


def test_medmcqa_keys_agree_with_the_explanations_that_name_a_letter():
    """The explanation is independent of `cop`; a reading that counts from the wrong number agrees with none."""
    rows = {row["id"]: row for row in lines(MEDMCQA)}
    checked = 0
    for question in read("medmcqa", MEDMCQA).questions:
        row = rows[question.id.removeprefix("medmcqa-")]
        assert question.answer_text == row["op" + "abcd"[row["cop"] - 1]].strip()
        named = re.match(r"Ans(?:wer)?[\s.:\-]+\(?([A-Da-d])\)?[.: ]", row["exp"] or "")
        if named:
            checked += 1
            assert question.answer == named[1].upper()
    assert checked > 50


def test_medmcqa_counted_from_zero_gives_the_same_questions(tmp_path):
    hub = tmp_path / "hub.jsonl"
    hub.write_text("".join(json.dumps(row | {"cop": row["cop"] - 1}) + "\n" for row in lines(MEDMCQA)))
    assert load_source("medmcqa", SourceConfig(path=str(hub))).questions == read("medmcqa", MEDMCQA).questions
    for path, wrong in ((hub, 1), (REAL / MEDMCQA, 0)):
        with pytest.raises(ValueError, match="cop_base"):
            load_source("medmcqa", SourceConfig(path=str(path), cop_base=wrong))


def test_pubmedqa_keeps_every_row_its_key_and_its_contexts():
    rows = json.loads((REAL / PUBMEDQA).read_text(encoding="utf-8"))
    loaded = read("pubmedqa", PUBMEDQA)
    assert not loaded.set_aside and len(loaded.questions) == 300
    for question in loaded.questions:
        row = rows[question.id.removeprefix("pubmedqa-")]
        assert question.answer_text == row["final_decision"]
        assert question.context.split("\n") == [paragraph.strip() for paragraph in row["CONTEXTS"]]
    assert not any(question.context for question in read("pubmedqa", PUBMEDQA, contexts=False).questions)


def test_medxpertqa_keeps_every_row_and_its_key_and_drops_the_repeated_options():
    loaded = read("medxpertqa", MEDXPERTQA)
    assert not loaded.set_aside
    for question, row in zip(loaded.questions, lines(MEDXPERTQA), strict=True):
        assert "Answer Choices" not in question.stem and row["question"].startswith(question.stem)
        assert len(question.options) == 10
        assert question.answer_text == {item["letter"]: item["content"] for item in row["options"]}[row["label"][0]]


def test_real_samples_hold_no_duplicates_of_each_other():
    """All different by their authors' account, so whatever is removed here is a false alarm."""
    files = {"medqa": MEDQA, "medmcqa": MEDMCQA, "pubmedqa": PUBMEDQA, "medxpertqa": MEDXPERTQA}
    questions = [question for name, file in files.items() for question in read(name, file).questions]
    kept, removed = deduplicate(questions, DedupSettings())
    assert removed == [] and kept == questions
