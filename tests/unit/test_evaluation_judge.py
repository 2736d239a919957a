"""Answers in free text, judged through a stand-in of an OpenAI-compatible endpoint."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from alphamed_nemo.config.schema import JudgeConfig
from alphamed_nemo.errors import JudgeError
from alphamed_nemo.evaluation import judge
from alphamed_nemo.evaluation.engine import parts_path
from alphamed_nemo.evaluation.judge import read_open_questions, summary, verdict_of
from alphamed_nemo.evaluation.judged import judge_responses
from alphamed_nemo.export.card_judged import NOT_DONE, free_text
from alphamed_nemo.export.card_results import section

RUBRICS = [("names the dose", 5), ("advises rest", 3), ("blames the patient", -4)]


class Endpoint(ThreadingHTTPServer):
    """Answers a chat completion by the criterion that the prompt holds: met where the answer has the word of it.

    Attributes:
        asked: the prompts, in order.
        before: what is answered first, one (status, body) a request.
        keys: the headers of authorization seen.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict] = []
        self.before: list[tuple[int, str]] = []
        self.keys: set[str] = set()


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.keys.add(self.headers.get("authorization", ""))
        prompt = request["messages"][0]["content"]
        answer, criterion = prompt.split("assistant: ")[1].split("\n\nCriterion:\n")
        status, text = 200, json.dumps({"criteria_met": criterion.split()[0] in answer})
        if self.server.before:
            status, text = self.server.before.pop(0)
        else:
            self.server.asked.append(request)
        body = json.dumps({"choices": [{"message": {"content": f"```json\n{text}\n```"}}]}).encode()
        self.send_response(status if self.path == "/v1/chat/completions" else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setattr(judge, "pause_s", lambda *_: 0.0)
    with _serving(Endpoint()) as server:
        yield server


@contextmanager
def _serving(server: Endpoint):
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def cfg(tmp_path, endpoint):
    rows = [
        {
            "prompt_id": f"p{i}",
            "prompt": [{"role": "user", "content": f"I have pain {i}."}],
            "rubrics": [{"criterion": text, "points": points, "tags": []} for text, points in RUBRICS],
        }
        for i in range(4)
    ]
    answers = {"p0": "It names advises", "p1": "It names and blames", "p2": "it blames"}  # none to p3
    (tmp_path / "healthbench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = (json.dumps({"id": id, "response": text}) + "\n" for id, text in answers.items())
    (tmp_path / "answers.jsonl").write_text("".join(lines))
    return JudgeConfig(
        url=f"http://127.0.0.1:{endpoint.server_port}/v1",
        model="somebody/judge",
        questions=str(tmp_path / "healthbench.jsonl"),
        responses=str(tmp_path / "answers.jsonl"),
        parallel=2,
        timeout_s=30.0,
    )


def test_points_of_the_criteria_that_are_met_over_those_that_could_be_gained(cfg, endpoint, tmp_path):
    out = tmp_path / "eval" / "judged" / "m.json"
    seen = []
    result = judge_responses(cfg, "secret", "", "m", out, lambda done, of: seen.append((done, of)))
    scores = {row["id"]: row["score"] for row in result["questions"]}
    assert scores == {"p0": 1.0, "p1": pytest.approx(1 / 8), "p2": pytest.approx(-4 / 8), "p3": 0.0}
    mean = (1 + 1 / 8 - 4 / 8) / 4
    assert (result["score"], result["n"], result["without_answer"]) == (pytest.approx(mean), 4, 1)
    assert result["interval"][0] == 0.0 and mean < result["interval"][1] <= 1.0
    assert json.loads(out.read_text()) == result and not parts_path(out).exists() and seen[-1] == (4, 4)
    assert len(endpoint.asked) == 9 and endpoint.keys == {"Bearer secret"}  # the missing answer is not sent
    assert endpoint.asked[0]["model"] == "somebody/judge" and "secret" not in out.read_text()


def test_failures_that_pass_are_repeated_and_what_is_judged_is_not_judged_again(cfg, endpoint, tmp_path):
    cfg.parallel = 1
    endpoint.before = [(503, "busy"), (200, "I think so"), (200, '{"criteria_met": "yes"}')]
    out = tmp_path / "m.json"
    first = judge_responses(cfg, "", "", "m", out)
    assert first["score"] > 0 and endpoint.keys == {""}
    out.unlink()
    endpoint.asked.clear()
    met = judge.Judge.met
    judge.Judge.met = lambda self, question, answer: (
        met(self, question, answer)
        if question.id != "p2"
        else endpoint.before.append((401, "no")) or met(self, question, answer)
    )
    try:
        with pytest.raises(JudgeError, match="refused: 401"):
            judge_responses(cfg, "", "", "m", out)
    finally:
        judge.Judge.met = met
    assert not out.exists() and len(endpoint.asked) == 6
    assert judge_responses(cfg, "", "", "m", out)["score"] == first["score"]
    assert len(endpoint.asked) == 9  # the third question's criteria alone


def test_a_judge_that_says_nothing_readable_is_an_error_and_no_score(cfg, endpoint, tmp_path):
    endpoint.before = [(200, "maybe")] * 50
    with pytest.raises(JudgeError, match="no verdict on question p. in 5 attempts"):
        judge_responses(cfg, "", "", "m", tmp_path / "m.json")
    assert not (tmp_path / "m.json").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"explanation": "x", "criteria_met": true}', True),
        ('Sure.\n{"criteria_met": false}', False),
        ('<think>{"criteria_met": true}</think>{"criteria_met": false}', False),
        ('{"criteria_met": "true"}', None),
        ("true", None),
        ("", None),
        (None, None),
    ],
)
def test_only_a_verdict_in_so_many_words_is_one(content, said):
    assert verdict_of(json.dumps({"choices": [{"message": {"content": content}}]}).encode()) is said
    assert verdict_of(b"<html>") is None and verdict_of(b'{"choices": []}') is None


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "[]",
        "x",
        '{"prompt_id": "a", "prompt": "hi", "rubrics": []}',
        '{"prompt_id": "a", "prompt": [], "rubrics": []}',
    ],
)
def test_a_file_of_another_form_is_named_with_its_line(line, tmp_path):
    path = tmp_path / "open.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(ValueError, match="open.jsonl, line 2"):
        read_open_questions(path)


def test_the_card_shows_a_score_of_exactly_its_weights_and_says_when_there_is_none(cfg, tmp_path):
    origin = {"model_sha256": "a" * 64, "weights": "b" * 16}
    assert free_text(tmp_path / "eval", origin) == [NOT_DONE]
    out = tmp_path / "eval" / "judged" / "m.json"
    result = judge_responses(cfg, "", "", "m", out)
    assert free_text(tmp_path / "eval", origin) == [NOT_DONE]  # answers of a model that is not known
    result["settings"] |= {"release": origin["model_sha256"], "weights": origin["weights"]}
    out.write_text(json.dumps(result))
    (line,) = free_text(tmp_path / "eval", origin)
    assert "15.6 [0.0, " in line and "`healthbench` (n = 4" in line and "`somebody/judge`" in line
    assert line in section([], [line]) and NOT_DONE not in section([], [line])


def test_a_score_is_clipped_as_the_authors_do():
    assert summary([-1.0, -0.5])["score"] == 0.0
    assert summary([0.5]) == {"score": 0.5, "interval": [0.0, 1.0], "n": 1}
