"""The further benchmarks, each from a small file of its authors' or the hub's shape; their published sizes."""

from __future__ import annotations

import csv
import json
import logging

import datasets
import pytest
import yaml

from alphamed_nemo.cli.preflight import check_questions
from alphamed_nemo.config.sources import SourcesConfig
from alphamed_nemo.data.io import read_questions, write_questions
from alphamed_nemo.data.prepare import prepare
from alphamed_nemo.data.prompts import format_prompt
from alphamed_nemo.data.sources import LOADERS, SourceConfig, load_source
from tests.documented import ROOT

FOUR = ["Thiamine", "Niacin", "Folate", "Retinol"]
NOTE = "A man of 60 kg and 150 cm comes for a check."
CALCULATOR = {
    "Row Number": 1,
    "Calculator ID": 6,
    "Calculator Name": "Body Mass Index",
    "Category": "physical",
    "Output Type": "decimal",
    "Patient Note": NOTE,
    "Question": "What is the patient's BMI in kg/m^2?",
    "Ground Truth Answer": "26.667",
    "Lower Limit": "25.333",
    "Upper Limit": "28.0",
}

# loader: (a row of that shape, number of options, the correct text, metadata)
SHAPES = {
    "mmlu": (
        {"question": "Which one?", "choices": FOUR, "answer": 2, "subject": "anatomy"},
        ("Folate", {"subject": "anatomy"}),
    ),
    "supergpqa": (
        {
            "uuid": "u1",
            "question": "Which one?",
            "options": FOUR,
            "answer": "Niacin",
            "answer_letter": "B",
            "discipline": "Medicine",
            "field": "Pharmacy",
            "difficulty": "hard",
        },
        ("Niacin", {"field": "Pharmacy", "difficulty": "hard"}),
    ),
    "m_arc": (
        {"question": "Which?", "options": dict(zip("ABCDEFG", [*FOUR, "", "", ""], strict=True)), "answer": "D"},
        ("Retinol", {}),
    ),
    "careqa": (
        {"question": "Which?", "op1": FOUR[0], "op2": FOUR[1], "op3": FOUR[2], "op4": FOUR[3], "cop": 1},
        ("Thiamine", {}),
    ),
    "headqa": (
        {"qtext": "Which?", "answers": [{"aid": i + 1, "atext": t} for i, t in enumerate(FOUR)], "ra": 4},
        ("Retinol", {}),
    ),
    "medconceptsqa": (
        {
            "question": "What is the code?\nA. Thiamine\nB. Niacin\nC. Folate\nD. Retinol",
            "option1": FOUR[0],
            "option2": FOUR[1],
            "option3": FOUR[2],
            "option4": FOUR[3],
            "answer_id": "C",
            "vocab": "ICD10CM",
            "level": "easy",
        },
        ("Folate", {"vocabulary": "ICD10CM", "difficulty": "easy"}),
    ),
    "metamedqa": (
        {"question": "Which?", "options": dict(zip("ABCD", FOUR, strict=True)), "answer": "Folate"},
        ("Folate", {}),
    ),
    "pubhealthbench": (
        {"question_id": 7, "question": "Which?", "options": FOUR, "answer_index": 0, "category": "tb"},
        ("Thiamine", {"category": "tb"}),
    ),
    "medhalt": (
        {
            "id": "a-1",
            "subject_name": "Biochemistry",
            "split_type": "val",
            "question": "Which?",
            "options": str({str(place): option for place, option in enumerate(FOUR)} | {"correct answer": FOUR[1]}),
            "correct_index": 1,
            "correct_answer": FOUR[1],
        },
        ("Niacin", {"subject": "Biochemistry"}),
    ),
    "medbullets": (
        {"question": "Which?", "options": dict(zip("ABCDE", [*FOUR, None], strict=True)), "answer": "B"},
        ("Niacin", {}),
    ),
}


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("loader", SHAPES)
def test_each_set_is_read_from_a_row_of_its_shape(loader, tmp_path):
    row, (answer, metadata) = SHAPES[loader]
    path = jsonl(tmp_path / "rows.jsonl", [row])
    (question,) = load_source(loader, SourceConfig(path=path), evaluation=True).questions
    assert question.options == tuple(FOUR)
    assert (question.answer_text, question.metadata) == (answer, metadata)
    assert "Thiamine" not in question.stem


def test_med_halt_takes_the_rows_for_validation_and_refuses_options_that_are_no_object(tmp_path):
    row = SHAPES["medhalt"][0]
    rows = [row, row | {"id": "b-2", "split_type": "train"}]
    source = SourceConfig(set="medhalt", path=jsonl(tmp_path / "rows.jsonl", rows), where={"split_type": ["val"]})
    assert [question.id for question in load_source("medhalt_nota", source).questions] == ["medhalt_nota-a-1"]
    for options in ("{'0': 'x', ", "['x']", "x", "{'1': 'x', '3': 'y'}"):
        path = jsonl(tmp_path / "rows.jsonl", [row | {"options": options}])
        with pytest.raises(ValueError, match="option"):
            load_source("medhalt", SourceConfig(path=path), evaluation=True)


def test_medbullets_from_the_authors_csv_with_four_and_five_options(tmp_path):
    for letters, options in (("abcd", FOUR), ("abcde", [*FOUR, "Biotin"])):
        path = tmp_path / f"op{len(options)}.csv"
        header = ["link", "question", *(f"op{letter}" for letter in letters), "answer_idx", "answer", "explanation"]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([header, ["x", "Which, then?", *options, "C", "Folate", "long,\ntext"]])
        (question,) = load_source("medbullets_x", SourceConfig(set="medbullets", path=str(path))).questions
        assert (question.options, question.answer) == (tuple(options), "C")


def test_a_key_whose_letter_and_text_disagree_is_no_key(tmp_path):
    row = {**SHAPES["supergpqa"][0], "answer_letter": "A"}
    path = jsonl(tmp_path / "rows.jsonl", [row])
    with pytest.raises(ValueError, match="letter and text of the answer disagree"):
        load_source("supergpqa", SourceConfig(path=path))
    for cop in (0, 5, "x"):
        path = jsonl(tmp_path / "rows.jsonl", [{**SHAPES["careqa"][0], "cop": cop}])
        with pytest.raises(ValueError, match="answer not among the options"):
            load_source("careqa", SourceConfig(path=path))


def test_the_hub_gives_mmlu_as_a_class_label_and_medbullets_by_split(hub):
    row = SHAPES["mmlu"][0]
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "choices": datasets.List(datasets.Value("string")),
            "answer": datasets.ClassLabel(names=list("ABCD")),
            "subject": datasets.Value("string"),
        }
    )
    rows = [row, {**row, "question": "Another?", "subject": "astronomy"}]
    loaded = load_source("mmlu", SourceConfig(hub=hub(rows, "test", "all", features)), evaluation=True)
    assert [question.answer for question in loaded.questions] == ["C"] and loaded.outside == 1


def test_where_takes_the_rows_that_are_asked_for_and_names_what_there_is(tmp_path):
    rows = [
        {**SHAPES["supergpqa"][0], "uuid": f"u{i}", "difficulty": d} for i, d in enumerate(("easy", "middle", "hard"))
    ]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    source = SourceConfig(path=path, where={"difficulty": ["easy", "hard"]})
    loaded = load_source("supergpqa", source, evaluation=True)
    assert [question.id for question in loaded.questions] == ["supergpqa-u0", "supergpqa-u2"]
    assert (loaded.rows, loaded.outside) == (3, 1)
    with pytest.raises(ValueError, match="no row of .* has difficulty Hard; found easy, hard, middle"):
        load_source("supergpqa", SourceConfig(path=path, where={"difficulty": ["Hard"]}), evaluation=True)


def test_medxpertqa_is_read_by_halves(tmp_path):
    rows = [
        {"id": f"T{i}", "question": "Which?", "options": dict(zip("ABCD", FOUR, strict=True)), "label": "A"}
        | {"question_type": kind, "body_system": "Nervous"}
        for i, kind in enumerate(("Reasoning", "Understanding", "Reasoning"))
    ]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    halves = [
        load_source("medxpertqa", SourceConfig(path=path, where={"question_type": [kind]}), evaluation=True).questions
        for kind in ("Reasoning", "Understanding")
    ]
    assert [len(half) for half in halves] == [2, 1]
    assert halves[0][0].metadata["body_system"] == "Nervous"


def test_ids_take_pubmedqas_test_half_and_a_missing_one_is_named(tmp_path):
    rows = {str(i): {"QUESTION": "Is it?", "CONTEXTS": ["Text."], "final_decision": "yes"} for i in range(4)}
    (tmp_path / "ori_pqal.json").write_text(json.dumps(rows))
    ids = tmp_path / "test_ground_truth.json"
    ids.write_text(json.dumps({"1": "yes", "3": "yes"}))
    source = SourceConfig(set="pubmedqa", path=str(tmp_path / "ori_pqal.json"), ids=str(ids))
    loaded = load_source("pubmedqa_test", source, evaluation=True)
    assert [question.id for question in loaded.questions] == ["pubmedqa_test-1", "pubmedqa_test-3"]
    ids.write_text(json.dumps(["1", "17"]))
    with pytest.raises(ValueError, match="1 of 2 ids .* are not in .*; first: 17"):
        load_source("pubmedqa_test", source, evaluation=True)
    ids.write_text("[[1]]")
    with pytest.raises(ValueError, match="holds no list of ids"):
        load_source("pubmedqa_test", source, evaluation=True)


def test_medcalc_asks_for_values_with_the_authors_limits(tmp_path):
    rows = [
        CALCULATOR,
        CALCULATOR | {"Row Number": 2, "Calculator ID": 13, "Output Type": "date", "Ground Truth Answer": "03/05/2014"},
        CALCULATOR | {"Row Number": 3, "Calculator ID": 69, "Ground Truth Answer": "('17 weeks', '4 days')"},
        CALCULATOR | {"Row Number": 4, "Calculator ID": 21, "Output Type": "integer", "Ground Truth Answer": "3"},
    ]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    questions = load_source("medcalc", SourceConfig(path=path), evaluation=True).questions
    assert [question.value.kind for question in questions] == ["decimal", "date", "weeks", "integer"]
    assert (questions[0].value.low, questions[0].value.high) == (25.333, 28.0)
    assert questions[0].metadata["calculator"] == "Body Mass Index"
    prompt = format_prompt(questions[0], "alphamed")
    assert prompt.startswith(f"{NOTE}\n\nWhat is the patient's BMI") and "A:" not in prompt
    with pytest.raises(ValueError, match="asks for a value; use data.prompt=alphamed"):
        format_prompt(questions[0], "one_of")
    for name in ("q.jsonl", "q.parquet"):
        write_questions(questions, tmp_path / name)
        again = read_questions(tmp_path / name)
        assert again == questions and [q.value for q in again] == [q.value for q in questions]
    with pytest.raises(ValueError, match="4 of 4 rows .*asks for a value"):
        load_source("medcalc", SourceConfig(path=path))


def test_questions_that_ask_for_a_value_are_for_evaluation_alone(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", [CALCULATOR])
    write_questions(load_source("medcalc", SourceConfig(path=path), evaluation=True).questions, tmp_path / "q.jsonl")
    assert len(check_questions(str(tmp_path / "q.jsonl"), "evaluate.questions")) == 1
    for key in ("grpo.questions", "label.questions"):
        with pytest.raises(ValueError, match=rf"{key}: .*question medcalc-1 asks for a value"):
            check_questions(str(tmp_path / "q.jsonl"), key)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"Lower Limit": "30", "Upper Limit": "40"}, "not within its own limits"),
        ({"Ground Truth Answer": "many"}, "is no decimal"),
        ({"Output Type": "colour"}, "unknown kind of value"),
        ({"Ground Truth Answer": ""}, "no answer"),
    ],
)
def test_a_value_that_cannot_be_graded_is_set_aside(changed, message, tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", [CALCULATOR | changed])
    with pytest.raises(ValueError, match=message):
        load_source("medcalc", SourceConfig(path=path), evaluation=True)


def test_evaluation_sets_keep_the_published_size_and_say_what_training_drops(tmp_path, caplog):
    """Genotypes that differ by case are different options; equal wrong options stay where a set is evaluated on."""
    shapes = [["BB", "Bb", "bb", "none"], ["Iron", "Zinc", "zinc", "Copper"], ["Iron", "Zinc", "Zinc", "Copper"], FOUR]
    rows = [
        {"question": f"Which of {i}?", "options": dict(zip("ABCD", options, strict=True)), "answer_idx": "A"}
        for i, options in enumerate(shapes)
    ]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    asked = SourceConfig(set="medqa", path=path, published=4)
    cfg = SourcesConfig(evaluation={"asked": asked, "short": SourceConfig(set="medqa", path=path, published=5)})
    with caplog.at_level(logging.WARNING):
        report = prepare(cfg, tmp_path / "out")
    done = report.of("asked", "evaluation")
    assert (done.questions, done.published, done.evaluation_only) == (4, 4, {"duplicate options": 2})
    assert [m for m in caplog.messages if "published" in m] == [
        "short: 4 questions, but published results count 5; set aside: none"
    ]
    assert "kept for evaluation alone" in (tmp_path / "out" / "statistics.html").read_text()
    trained = load_source("asked", asked, max_unusable_share=1.0)
    assert (len(trained.questions), trained.reasons) == (2, {"duplicate options": 2})


@pytest.mark.parametrize("name", ["benchmarks", "medmarks", "more", "pubmedqa_test"])
def test_every_shipped_set_has_a_loader_and_a_place(name):
    content = yaml.safe_load((ROOT / "conf" / "sources" / f"{name}.yaml").read_text())
    cfg = SourcesConfig(evaluation=content["evaluation"])
    for key, source in cfg.evaluation.items():
        loader = LOADERS[source.set or key]
        assert source.path or loader.hub
        assert source.published or key.startswith(("medxpertqa_", "medconceptsqa_"))  # sizes that could not be checked
