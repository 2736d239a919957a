"""Every loader reads the hub's own schema, through `datasets`, from a folder laid out like the hub's repository."""

import datasets
import pytest

from alphamed_nemo.data.sources import SourceConfig, load_source

FOUR = ["Aspirin", "Heparin", "Warfarin", "Insulin"]


def medmcqa_rows(cops):
    options = dict(zip(("opa", "opb", "opc", "opd"), FOUR, strict=True))
    return [
        {"id": f"u{i}", "question": f"Antidote number {i}?", "exp": None, "cop": cop, "subject_name": "Medicine"}
        | options
        | {"topic_name": None, "choice_type": "single"}
        for i, cop in enumerate(cops)
    ]


def medmcqa_features():
    text = datasets.Value("string")
    names = ("id", "question", "opa", "opb", "opc", "opd", "exp", "subject_name", "topic_name", "choice_type")
    return datasets.Features({name: text for name in names} | {"cop": datasets.ClassLabel(names=["a", "b", "c", "d"])})


def test_medqa_reads_its_test_split_for_evaluation(hub):
    row = {
        "question": "Which drug lowers glucose?",
        "answer": "Insulin",
        "options": dict(zip("ABCD", FOUR, strict=True)),
        "meta_info": "step1",
        "answer_idx": "D",
        "metamap_phrases": ["drug"],
    }
    loaded = load_source("medqa", SourceConfig(hub=hub([row], "test")), evaluation=True)
    (question,) = loaded.questions
    assert (question.options, question.answer, question.answer_text) == (tuple(FOUR), "D", "Insulin")
    assert question.metadata == {"step": "step1"} and question.dataset == "medqa"


def test_medmcqa_class_label_counts_from_zero(hub):
    """1 and 2 alone would not tell; the class label of the schema does."""
    repository = hub(medmcqa_rows([1, 2]), "train", features=medmcqa_features())
    loaded = load_source("medmcqa", SourceConfig(hub=repository))
    assert [question.answer for question in loaded.questions] == ["B", "C"]


def test_medmcqa_schema_is_kept_in_a_downloaded_parquet_file(hub):
    repository = hub(medmcqa_rows([1, 2]), "train", features=medmcqa_features())
    loaded = load_source("medmcqa", SourceConfig(path=f"{repository}/data"))
    assert [question.answer for question in loaded.questions] == ["B", "C"]


def test_medmcqa_test_split_without_answers_is_an_error(hub):
    repository = hub(medmcqa_rows([-1, -1]), "test", features=medmcqa_features())
    with pytest.raises(ValueError, match="2 of 2 rows .* unusable .*no answer"):
        load_source("medmcqa", SourceConfig(hub=repository, split="test"))


def test_pubmedqa_unnests_its_contexts(hub):
    row = {
        "pubid": 21645374,
        "question": "Do mitochondria play a role in remodelling lace plant leaves?",
        "context": {
            "contexts": ["Cells die.", "They die again."],
            "labels": ["BACKGROUND", "RESULTS"],
            "meshes": ["Plants"],
            "reasoning_required_pred": ["y"],
            "reasoning_free_pred": ["y"],
        },
        "long_answer": "Depicted mitochondrial dynamics.",
        "final_decision": "maybe",
    }
    repository = hub([row], "train", subset="pqa_labeled")
    (question,) = load_source("pubmedqa", SourceConfig(hub=repository), evaluation=True).questions
    assert question.context == "Cells die.\nThey die again."
    assert (question.options, question.answer) == (("yes", "no", "maybe"), "C")
    assert question.id == "pubmedqa-21645374"
    (question,) = load_source("pubmedqa", SourceConfig(hub=repository, contexts=False)).questions
    assert question.context == ""


def test_mmlu_pro_takes_the_medical_categories(hub):
    def row(number, category, options):
        return {
            "question_id": number,
            "question": f"Question {number}?",
            "options": options,
            "answer": "C",
            "answer_index": 2,
            "cot_content": "",
            "category": category,
            "src": "ori_mmlu-anatomy",
        }

    ten = [f"option {i}" for i in range(10)]
    rows = [row(1, "health", ten), row(2, "law", ten), row(3, "biology", ten[:3])]
    loaded = load_source("mmlu_pro", SourceConfig(hub=hub(rows, "test")), evaluation=True)
    assert [(question.id, len(question.options)) for question in loaded.questions] == [
        ("mmlu_pro-1", 10),
        ("mmlu_pro-3", 3),
    ]
    assert loaded.outside == 1 and {question.answer_text for question in loaded.questions} == {"option 2"}


def gpqa_row(number, domain="Biology"):
    return {
        "Question": f"Which gene is number {number}?",
        "Correct Answer": "the right one\n",
        "Incorrect Answer 1": "wrong a",
        "Incorrect Answer 2": "wrong b",
        "Incorrect Answer 3": "wrong c",
        "High-level domain": domain,
        "Subdomain": "Genetics",
        "Record ID": f"rec{number}",
    }


def test_gpqa_takes_biology_and_keeps_its_key_whatever_rows_come_before(hub):
    rows = [gpqa_row(number) for number in range(40)] + [gpqa_row(99, "Physics")]
    loaded = load_source("gpqa", SourceConfig(hub=hub(rows, "train", subset="gpqa_main")), evaluation=True)
    assert len(loaded.questions) == 40 and loaded.outside == 1
    assert {question.answer_text for question in loaded.questions} == {"the right one"}
    assert {question.answer for question in loaded.questions} == set("ABCD")


def test_gpqa_order_follows_from_seed_and_question_alone(tmp_path):
    from alphamed_nemo.data.sources.gpqa import GPQA
    from alphamed_nemo.data.sources.rows import Rows

    def key(rows, seed):
        return GPQA("gpqa", SourceConfig(option_seed=seed), Rows("memory", rows)).question(rows[-1])

    rows = [gpqa_row(number) for number in range(20)]
    assert key(rows, 1) == key(rows[-1:], 1)
    assert len({key(rows, seed).options for seed in range(10)}) > 1


def test_medxpertqa_hub_options_are_a_mapping_and_leave_the_text(hub):
    options = dict(zip("ABCD", FOUR, strict=True))
    repeated = " ".join(f"({letter}) {option}" for letter, option in options.items())
    row = {
        "id": "Text-7",
        "question": f"Which drug lowers glucose?\nAnswer Choices: {repeated}",
        "options": options | {"E": None},
        "label": "D",
        "medical_task": "Treatment",
        "body_system": "Endocrine",
        "question_type": "Reasoning",
    }
    repository = hub([row], "test", subset="Text")
    (question,) = load_source("medxpertqa", SourceConfig(hub=repository), evaluation=True).questions
    assert (question.stem, question.options, question.answer) == ("Which drug lowers glucose?", tuple(FOUR), "D")
    assert question.metadata["body_system"] == "Endocrine"


def test_alphamed19k_reads_its_options_from_the_text(hub):
    text = "Which drug lowers glucose?\n" + "\n".join(f"{a}: {b}" for a, b in zip("ABCD", FOUR, strict=True))
    row = {"question": text, "answer": "D", "subset_name": "medqa"}
    (question,) = load_source("alphamed19k", SourceConfig(hub=hub([row], "train"))).questions
    assert (question.stem, question.options, question.answer) == ("Which drug lowers glucose?", tuple(FOUR), "D")
    assert question.metadata == {"subset": "medqa"}


def test_a_missing_repository_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="could not read .*nowhere.* set `path`"):
        load_source("medqa", SourceConfig(hub=str(tmp_path / "nowhere")))
