"""Questions held out of one's own file: how many, which, and that nothing like them stays in training."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from alphamed_nemo.data.dedup import DedupSettings, decontaminate, group_alike
from alphamed_nemo.data.holdout import hold_out
from alphamed_nemo.data.io import read_questions
from alphamed_nemo.data.prepare import prepare
from alphamed_nemo.data.question import Question
from alphamed_nemo.data.sources import SourceConfig, SourcesConfig

SETTINGS = DedupSettings()
WORDS = [f"word{i}" for i in range(2000)]


def prose(seed: object, words: int = 40) -> str:
    return " ".join(random.Random(str(seed)).choices(WORDS, k=words))


def ask(number: object, stem: str, answer: str = "A", options: tuple[str, ...] = ("Iron", "Zinc", "Lead")) -> Question:
    return Question(f"ward-{number}", "ward", stem, options, answer)


def families(count: int, size: int) -> list[Question]:
    """`count` vignettes of 60 words, each asked about in `size` ways with answers of their own."""
    return [
        ask(f"{i}.{j}", f"{prose(i, 60)} What about {prose((i, j), 6)}?", "ABC"[j % 3])
        for j in range(size)
        for i in range(count)
    ]


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., SourceConfig]:
    def write(name: str, questions: list[Question], **settings: object) -> SourceConfig:
        path = tmp_path / f"{name}.jsonl"
        rows = [{"id": q.id, "question": q.stem, "options": q.options, "answer": q.answer} for q in questions]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return SourceConfig(set="questions", path=str(path), **settings)

    return write


def test_groups_hold_all_that_match_by_any_rule_also_through_a_third() -> None:
    words = prose(1, 40).split()

    def changed(*places: int) -> str:
        return " ".join("other" if place in places else word for place, word in enumerate(words))

    chain = [ask(0, changed()), ask(1, changed(3), "B"), ask(2, changed(3, 30), "C")]
    same_answer = [ask(3, "Which metal?"), ask(4, "Which metal?", "B", ("Tin", "Iron"))]
    vignette = [ask(5, f"{prose(5, 60)} Why?"), ask(6, f"{prose(5, 60)} {prose(6, 20)}?", "B", ("x", "y"))]
    alone = [ask(7, "Which metal?", "B"), ask(8, prose(8))]
    questions = [*chain, *same_answer, *vignette, *alone]
    groups = [[int(question.id[5:]) for question in group] for group in group_alike(questions, SETTINGS)]
    # 7 has the stem and the options of 3, though another key: one of the two would give the other away.
    assert groups == [[0, 1, 2], [3, 4, 7], [5, 6], [8]]


def test_groups_are_what_comparing_every_pair_gives() -> None:
    questions = families(6, 3) + [ask(i, prose(("alone", i), 12)) for i in range(8)]
    random.Random(2).shuffle(questions)
    group_of = {q.id: n for n, group in enumerate(group_alike(questions, SETTINGS)) for q in group}
    assert len(set(group_of.values())) == 14
    for one in questions:
        for other in questions:
            if one is not other and decontaminate([one], [other], SETTINGS)[1]:
                assert group_of[one.id] == group_of[other.id]


@pytest.mark.parametrize(("wanted", "count"), [(0.25, 25), (0.001, 1), (1, 1), (30, 30), (99, 99)])
def test_as_many_are_held_out_as_asked_for(wanted: float, count: int) -> None:
    questions = [ask(i, prose(i)) for i in range(100)]
    held = hold_out("ward", questions, wanted, 1, SETTINGS)
    assert len(held.questions) == held.asked == count
    assert held.questions == [question for question in questions if question in held.questions]


def test_the_draw_follows_from_the_seed_and_not_from_the_order() -> None:
    questions = [ask(i, prose(i)) for i in range(60)]

    def drawn(questions: list[Question], seed: int) -> set[str]:
        return {question.id for question in hold_out("ward", questions, 20, seed, SETTINGS).questions}

    assert drawn(questions, 1) == drawn(questions[::-1], 1) != drawn(questions, 2)


@pytest.mark.parametrize("seed", range(5))
def test_like_questions_are_never_on_both_sides(seed: int) -> None:
    questions = families(15, 3)
    held = hold_out("ward", questions, 0.3, seed, SETTINGS)
    rest = [question for question in questions if question not in held.questions]
    assert len(held.questions) == 12 and held.asked == 14 and held.groups == 4  # 14 are no whole groups of three
    assert decontaminate(rest, held.questions, SETTINGS)[1] == []


@pytest.mark.parametrize(
    ("questions", "wanted", "message"),
    [
        (families(1, 3), 1, r"heldout: 1 asked for, and the smallest group of like questions has 3"),
        ([ask(i, prose(i)) for i in range(4)], 4, r"heldout: 4 asks for 4 of 4 questions; leave some"),
        ([ask(0, prose(0))], 0.5, "asks for 1 of 1 questions"),
        ([], 0.5, "asks for 1 of 0 questions"),
    ],
)
def test_a_side_without_questions_is_refused(questions: list[Question], wanted: float, message: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^sources\.train\.ward\.{message}|^sources\.train\.ward\.heldout: .*{message}"
    ):
        hold_out("ward", questions, wanted, 1, SETTINGS)


def test_every_question_is_in_one_file_and_counted_once(save: Callable[..., SourceConfig], tmp_path: Path) -> None:
    ward = save("ward", families(20, 2) + [ask("again", families(1, 1)[0].stem)], heldout=0.25)
    leaked = families(20, 1)[7]
    test = save("test", [Question("t", "test", leaked.stem, leaked.options, leaked.answer)])
    out = tmp_path / "prepared"
    report = prepare(SourcesConfig(train={"ward": ward}, evaluation={"test": test}), out, seed=3)
    train, heldout = report.of("ward", "train"), report.of("ward", "evaluation")
    assert train.duplicates == {"exact": 1} and train.leaks == {"test": 2}  # with the other question of its vignette
    assert (train.heldout, train.questions, heldout.questions) == (10, 28, 10)  # a quarter of 38, in pairs
    assert train.rows == train.outside + 1 + 2 + train.heldout + train.questions == 41
    assert heldout.origin == f"held out of {ward.path}" and heldout.rows == 10
    left, held = read_questions(out / "train/ward.parquet"), read_questions(out / "evaluation/ward.parquet")
    assert (len(left), len(held)) == (28, 10) and left == read_questions(out / "train.parquet")
    assert not {q.id for q in left} & {q.id for q in held} and decontaminate(left, held, SETTINGS)[1] == []
    assert "<th>held out</th>" in (out / "statistics.html").read_text()
    sets = [(item["dataset"], item["role"]) for item in json.loads((out / "statistics.json").read_text())["sets"]]
    assert sets == [("ward", "train"), ("test", "evaluation"), ("ward", "evaluation")]


def test_other_training_sets_lose_what_matches_a_held_out_question(
    save: Callable[..., SourceConfig], tmp_path: Path
) -> None:
    """The second set asks other questions about the same vignettes, which duplicates within training may do."""
    first, second = families(10, 2)[:10], families(10, 2)[10:]
    cfg = SourcesConfig(train={"ward": save("ward", first, heldout=4), "other": save("other", second)})
    report = prepare(cfg, tmp_path / "prepared")
    assert report.of("other", "train").leaks == {"ward": 4} and report.of("other", "train").questions == 6
    held = {q.id.split(".")[0] for q in read_questions(tmp_path / "prepared/evaluation/ward.parquet")}
    assert not held & {
        q.id.replace("other", "ward").split(".")[0] for q in read_questions(tmp_path / "prepared/train/other.parquet")
    }
    cfg.decontaminate = False
    with pytest.raises(ValueError, match="4 training questions match held-out ones; first: other-.*decontaminate=true"):
        prepare(cfg, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_without_deduplication_copies_stay_on_one_side(save: Callable[..., SourceConfig], tmp_path: Path) -> None:
    copies = [ask(f"{i}.{j}", prose(i)) for i in range(10) for j in range(3)]
    cfg = SourcesConfig(train={"ward": save("ward", copies, heldout=9)}, deduplicate=False, decontaminate=False)
    report = prepare(cfg, tmp_path / "prepared")
    assert report.of("ward", "train").questions == 21
    held = {q.id.split(".")[0] for q in read_questions(tmp_path / "prepared/evaluation/ward.parquet")}
    assert len(held) == 3


@pytest.mark.parametrize(
    ("heldout", "message"),
    [
        (-1, "found -1, expected a share below 1, or a number of questions"),
        (2.5, "found 2.5, expected a share below 1, or a whole number"),
        (True, "found True, expected a share"),
        ("20%", "found '20%', expected a share"),
        (float("nan"), "found nan, expected a share"),
        (float("inf"), "found inf, expected a share"),
    ],
)
def test_what_is_no_share_and_no_number_is_refused(heldout: object, message: str, tmp_path: Path) -> None:
    cfg = SourcesConfig(train={"ward": {"set": "questions", "path": str(tmp_path), "heldout": heldout}})
    with pytest.raises(ValueError, match=rf"^sources\.train\.ward\.heldout: {message}"):
        prepare(cfg, tmp_path / "prepared")


def test_a_name_for_two_evaluation_sets_is_refused(tmp_path: Path) -> None:
    source = {"set": "questions", "path": str(tmp_path), "heldout": 0.5}
    with pytest.raises(ValueError, match="sources.evaluation has a ward too"):
        prepare(SourcesConfig(train={"ward": source}, evaluation={"ward": source | {"heldout": 0}}), tmp_path)
    with pytest.raises(ValueError, match=r"sources\.evaluation\.ward\.heldout: an evaluation set is held out whole"):
        prepare(SourcesConfig(evaluation={"ward": source}), tmp_path)
