"""The page of a run's responses: what is written for it, of any text and at any size."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest

from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.report import response_texts, responses
from alphamed_nemo.report.html import build_report
from alphamed_nemo.report.responses import SCRIPTS, spread, write_responses
from tests.unit.kept_run import QUESTIONS, make_kept_run, response, write_step

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!-- <script> --> ]]> &lt;b&gt; &amp;",
    "line\u2028and\u2029paragraph, tab\t, zero \x00, bell \x07",
    "`${alert(1)}` ' \" \\ \\u003c \\\\",
    "𝔘𝔫𝔦 العربية \u202egnisrever\u202c 😀",
    "]);alert(1);//",
]


def index_of(root: Path) -> dict:
    (path,) = (root / "report" / "responses").glob("index_*.js")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("alphamedIndex(") and text.endswith(");\n")
    return json.loads(text.removeprefix("alphamedIndex(").removesuffix(");\n"))


def chunk_of(root: Path, number: int) -> list[dict]:
    build = index_of(root)["build"]
    text = (root / "report" / "responses" / f"chunk_{build}_{number}.js").read_text(encoding="utf-8")
    head = f'alphamedChunk("{build}",{number},'
    assert text.startswith(head) and text.endswith(");\n")
    return json.loads(text.removeprefix(head).removesuffix(");\n"))


def texts_of(root: Path) -> dict[int, object]:
    """Number of a response → its text, of those that have one."""
    found = {}
    for number, (first, count) in enumerate(index_of(root)["chunks"]):
        rows = [row for group in chunk_of(root, number) for row in group["responses"]]
        assert len(rows) == count
        found |= {first + place: row["text"] for place, row in enumerate(rows)}
    return found


def test_the_index_has_every_response_in_columns(tmp_path):
    build_report(make_kept_run(tmp_path / "run"))
    index = index_of(tmp_path / "run")
    assert (index["steps"], index["stepGroups"]) == ([1, 2, 3], [2, 2, 2])
    assert index["groupSize"] == [2] * 6 and index["groupTrained"] == [1, 0] * 3
    asked = [index["questions"][number][0] for number in index["groupQuestion"]]
    assert asked == ["q0", "q2", "q0", "q3", "q0", "q4"]
    assert index["questions"][0] == ["q0", 1, "Which drug treats illness 0?"]
    assert index["outcome"] == [1, 1] + [0] * 10 and index["reward"] == [0, 0] + [1] * 10
    assert index["tokens"] == [3] * 12 and index["version"] == [0, 0, 0, 0, 1, 1, 0, 0, 2, 2, 0, 0]
    assert [text for _, text in sorted(texts_of(tmp_path / "run").items())][-3:] == [
        r"\boxed{A} 3",
        r"\boxed{A} 3 0",
        r"\boxed{A} 3 1",
    ]


def test_a_response_has_its_question_answer_and_the_parts_of_its_reward(tmp_path):
    root = make_kept_run(tmp_path / "run", steps=1)
    parts = {"correct": 1.0, "__proto__": 0.5}
    write_step(
        root,
        1,
        [
            response("q1", 0, reward=1.25, shaped_reward=0.75, parts=json.dumps(parts), advantage=1 / 3),
            response("q1", 0, "", reason="no_answer", answer=None, truncated=True, reward=0.0),
        ],
    )
    build_report(root)
    ((group,), index) = (chunk_of(root, 0), index_of(root))
    assert group["question"] == {
        "dataset": "bank",
        "context": "",
        "stem": QUESTIONS[1].stem,
        "options": [["A", "yes"], ["B", "no"], ["C", "both"]],
        "key": "B",
    }
    assert group["responses"] == [
        {
            "text": r"\boxed{A}",
            "answer": "A",
            "advantage": 0.333,
            "parts": list(map(list, parts.items())),
            "shaped": 0.75,
        },
        {"text": "", "answer": None, "advantage": 0.5},
    ]
    assert index["outcome"] == [0, 2 + 4]


def test_hostile_texts_come_back_as_they_were_and_end_no_script(tmp_path):
    root = make_kept_run(tmp_path / "run", steps=1)
    write_step(root, 1, [response("q0", 0, text) for text in HOSTILE] + [response("</script>", 1)])
    subset = root / "data" / "subset.jsonl"
    rows = [json.loads(line) for line in subset.read_text().splitlines()]
    rows[0] |= {"stem": "</script>\u2028<img src=x onerror=alert(1)>", "options": ["<b>", "no", "both"]}
    subset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    build_report(root)
    assert [texts_of(root)[number] for number in range(len(HOSTILE))] == HOSTILE
    assert chunk_of(root, 0)[0]["question"]["stem"] == rows[0]["stem"]
    assert index_of(root)["questions"] == [["q0", 1, "</script> <img src=x onerror=alert(1)>"], ["</script>", None, ""]]
    for path in (root / "report" / "responses").glob("[ci]*_*.js"):
        assert not re.search("[<\u2028\u2029]", path.read_text(encoding="utf-8"))
    page = (root / "report" / "responses.html").read_text(encoding="utf-8")
    assert "onerror" not in page and "1 questions are shown by id alone" in page


def test_half_a_character_in_a_question_is_written_as_one(tmp_path):
    assert response_texts.script_json("\ud83d") == '"\\ud83d"'


def test_the_page_loads_its_own_files_alone_and_makes_no_markup_of_texts(tmp_path):
    root = make_kept_run(tmp_path / "run")
    build_report(root)
    page = (root / "report" / "responses.html").read_text(encoding="utf-8")
    loaded = re.findall(r'<script src="([^"]*)"', page)
    assert len(loaded) == len(SCRIPTS) + 1 and page.count("<script") == len(loaded)
    assert all((root / "report" / name).is_file() for name in loaded)
    assert "default-src 'none'" in page and "//" not in re.sub(r"/\*.*?\*/", "", page).replace("<!--", "")
    for name in SCRIPTS:
        script = (files("alphamed_nemo.report") / "templates" / name).read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(|fetch\(|https?:", script
        )


def test_the_report_leads_there_and_only_where_rollouts_were_kept(tmp_path):
    root = make_kept_run(tmp_path / "run")
    assert '<a href="responses.html">All 12 responses</a>' in build_report(root).read_text(encoding="utf-8")
    assert "responses.html" not in build_report(root, responses_mb=0).read_text(encoding="utf-8")
    assert sorted(path.name for path in (root / "report").iterdir()) == ["index.html"]


def test_texts_stop_at_the_limit_and_are_of_steps_all_over_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(responses, "MEGABYTE", 1)
    root = make_kept_run(tmp_path / "run", steps=9, text="x" * 1000)
    limit = 25_000  # five steps and a half
    made = write_responses(RunFolder(root), "", limit)
    assert made is not None and made.texts < made.listed == made.kept == 36
    written = sum(path.stat().st_size for path in (root / "report" / "responses").glob("chunk_*.js"))
    assert limit * 0.8 < written <= limit * 1.02
    with_text = sorted({1 + number // 4 for number in texts_of(root)})
    assert with_text == [1, 2, 3, 5, 7, 9]
    build_report(root, limit)
    page = (root / "report" / "responses.html").read_text(encoding="utf-8")
    assert f"The texts of {made.texts} responses are here, of steps spread over the run" in page


def test_a_list_that_is_too_long_has_steps_from_all_over_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(responses, "LISTED", 13)
    root = make_kept_run(tmp_path / "run", steps=9)
    report = build_report(root).read_text(encoding="utf-8")
    assert index_of(root)["steps"] == [1, 5, 9] and len(index_of(root)["reward"]) == 12
    assert ">12 of 36 responses</a>" in report
    assert "kept 36 responses of 9 steps" in (root / "report" / "responses.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 100])
def test_every_beginning_of_a_spread_covers_the_whole(count):
    items = list(range(0, 10 * count, 10))
    order = list(spread(items))
    assert sorted(order) == items
    for length in range(2, count + 1):
        gaps = [(after - before) / 10 for before, after in pairwise(sorted(order[:length]))]
        assert gaps and sum(gaps) == count - 1 and max(gaps) <= 2 * (min(gaps) + 1)


def test_a_long_response_keeps_its_beginning_and_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(response_texts, "LONGEST", 10)
    root = make_kept_run(tmp_path / "run", steps=1)
    write_step(root, 1, [response("q0", 0, "0123456789abc"), response("q0", 0, "0123456789")])
    build_report(root)
    assert texts_of(root) == {0: ["01234", 3, "89abc"], 1: "0123456789"}


def test_many_texts_are_in_several_files_of_whole_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(response_texts, "CHUNK", 3000)
    root = make_kept_run(tmp_path / "run", steps=1)
    rows = [response("q0", group, f"{group} {number} " + "x" * 400) for group in range(7) for number in range(3)]
    write_step(root, 1, rows)
    build_report(root)
    chunks = index_of(root)["chunks"]
    assert len(chunks) > 2 and all(count % 3 == 0 for _, count in chunks)
    assert [text for _, text in sorted(texts_of(root).items())] == [row["text"] for row in rows]


def test_a_report_made_again_leaves_no_file_of_the_earlier_page(tmp_path):
    root = make_kept_run(tmp_path / "run")
    build_report(root)
    first = index_of(root)["build"]
    write_step(root, 4, [response("q1", 0)])
    build_report(root)
    names = [path.name for path in (root / "report" / "responses").iterdir()]
    assert index_of(root)["build"] != first and not any(first in name for name in names)
    assert index_of(root)["steps"] == [1, 2, 3, 4] and set(SCRIPTS) < set(names)


def test_without_its_questions_a_run_is_shown_by_ids(tmp_path):
    root = make_kept_run(tmp_path / "run")
    (root / "data" / "subset.jsonl").unlink()
    build_report(root)
    assert index_of(root)["questions"][0] == ["q0", None, ""] and chunk_of(root, 0)[0]["question"] is None
    assert "4 questions are shown by id alone" in (root / "report" / "responses.html").read_text(encoding="utf-8")


def test_a_broken_file_of_rollouts_is_named(tmp_path):
    root = make_kept_run(tmp_path / "run")
    (root / "rollouts" / "step_2.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"step_2\.parquet: not the rollouts of a step"):
        build_report(root)
