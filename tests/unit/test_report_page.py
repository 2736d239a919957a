"""The report of a synthetic run folder: what the page says, that it stands alone, and what it does without data."""

import html
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from alphamed_nemo.report.figures import training_figures
from alphamed_nemo.report.html import build_comparison, build_report
from alphamed_nemo.report.run_data import read_run
from alphamed_nemo.report.scale import percent
from tests.unit.synthetic_run import make_run, sample_row, write_lines

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Text by tag, every URL that a browser would fetch, and the tags left open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.fetched, self.open, self.text = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = build_report(make_run(tmp_path_factory.mktemp("runs") / "quickstart"))
    assert path.parts[-3:] == ("quickstart", "report", "index.html")
    return path.read_text(encoding="utf-8")


def test_the_page_stands_alone_and_is_well_formed(page):
    parsed = Page(page)
    assert parsed.fetched == [] and parsed.open == []
    assert "<script" not in page and "@import" not in page and "url(" not in page


def test_the_headline_and_the_table_give_the_result(page):
    text = re.sub(r"\s+", " ", Page(page).text)
    assert "Accuracy went from 25.5% to 95.8% on 384 held-out questions in 40 GRPO steps" in text
    assert "responses went from 11 to 33 tokens" in text
    rows = re.findall(r"<td>(base|base, forced to reason|trained)</td><td>([\d.]+%)</td>", page)
    assert rows == [("base", "25.5%"), ("base, forced to reason", "89.1%"), ("trained", "95.8%")]
    assert "22.5% to 28.0%" in text, "the base's interval"


def test_every_chart_is_valid_svg_with_finite_coordinates(page):
    charts = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(charts) == 13
    for chart in charts:
        for element in ElementTree.fromstring(chart).iter():
            assert not any("nan" in value or "inf" in value for value in element.attrib.values() if " " not in value)
            assert not re.search(r"\b(nan|inf)\b", element.attrib.get("d", ""))


def test_models_words_are_escaped_and_boxed_answers_marked(page):
    assert "dalor &lt;i&gt;2&lt;/i&gt;" in page and "<i>2</i>" not in page
    assert r"<mark>\boxed{B}</mark>" in page


def test_early_and_late_responses_to_the_same_question_stand_side_by_side(page):
    cards = re.findall(r"Step (\d+)</p>\s*<p class=\"question\">.*?&lt;i&gt;(\d)&lt;/i&gt;", page)
    assert cards == [(step, str(question)) for question in (2, 3, 4, 5) for step in ("1", "40")]


def test_api_keys_stay_out_and_settings_are_shown(page):
    assert "do-not-show-this" not in page and "nor-this" not in page
    assert "<td>clip_high</td><td>0.28</td>" in page and "<td>megatron-core</td><td>0.16.1</td>" in page


def test_a_run_in_its_first_step_already_has_a_report(tmp_path):
    root = tmp_path / "young"
    root.mkdir()
    write_lines(root / "metrics.jsonl", [{"step": 1, "reward/mean": 0.25}])
    with (root / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "rew')  # being written at this moment
    html = build_report(root).read_text()
    assert "Mean reward went from 0.25 to 0.25 in 1 GRPO step." in html
    assert "Before and after" not in html and "Responses, early and late" not in html


def test_absent_keys_of_an_evaluation_are_tolerated(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "hf.json").write_text(json.dumps({"accuracy": 0.5}))
    (tmp_path / "eval" / "other.json").write_text(json.dumps({"p_value": 0.1}))
    html = build_report(tmp_path).read_text()
    assert "<td>hf</td><td>50.0%</td>" in html


def test_metrics_that_are_not_finite_leave_gaps(tmp_path):
    rows = [{"step": step, "grad_norm": float("nan") if step == 5 else 1.0, "reward/mean": 0.5} for step in range(1, 9)]
    write_lines(tmp_path / "metrics.jsonl", rows)
    chart = re.search(r'aria-label="Gradient norm".*?</svg>', build_report(tmp_path).read_text()).group()
    assert re.search(r'class="line s1" d="M[^"]*M[^"]*"', chart), "one line before the gap, one after"


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "found nothing there"),
        (lambda root: root.mkdir(), "nothing to report yet"),
        (lambda root: (root.mkdir(), (root / "metrics.jsonl").write_text("{]\n")), r"metrics.jsonl, line 1"),
    ],
)
def test_an_unusable_folder_is_named(tmp_path, prepare, message):
    root = tmp_path / "run"
    prepare(root)
    with pytest.raises(ValueError, match=message) as error:
        build_report(root)
    assert str(root) in str(error.value)


def test_a_comparison_shows_both_runs_and_only_the_settings_that_differ(tmp_path):
    first, second = make_run(tmp_path / "plain"), make_run(tmp_path / "dapo", steps=60, seed=2)
    config = second / "config.yaml"
    config.write_text(config.read_text().replace("dynamic_sampling: false", "dynamic_sampling: true"))
    html = build_comparison([first, second], tmp_path / "out" / "compare.html").read_text()
    assert Page(html).open == []
    differing = re.findall(r"<td><code>(.*?)</code></td><td>(.*?)</td><td>(.*?)</td>", html)
    assert differing == [("grpo.dynamic_sampling", "no", "yes")]
    assert "plain · trained" in html and "dapo · trained" in html


def test_a_comparison_needs_two_names(tmp_path):
    run = make_run(tmp_path / "one")
    with pytest.raises(ValueError, match="two runs or more"):
        build_comparison([run, run], tmp_path / "compare.html")


def test_a_response_of_any_length_is_cut(tmp_path):
    root = make_run(tmp_path / "long", steps=2)
    write_lines(root / "samples" / "step_2.jsonl", [sample_row(1, True) | {"response": "word " * 50_000}])
    assert build_report(root).stat().st_size < 200_000


def test_a_comparison_has_a_chart_a_benchmark_with_the_base_once(tmp_path):
    runs = [make_run(tmp_path / name) for name in ("medqa_l1", "medqa_l1_l2", "medqa_l1_l3")]
    html = build_comparison(runs, tmp_path / "compare.html").read_text()
    chart = re.search(r'aria-label="Accuracy on medmcqa".*?</svg>', html, flags=re.DOTALL).group()
    shown = re.findall(r"<title>(.*?): ([\d.]+%), 95%", chart)
    assert shown == [("base", "23.5%"), *((name, "93.8%") for name in ("medqa_l1", "medqa_l1_l2", "medqa_l1_l3"))]
    assert 'aria-label="Accuracy on medqa"' in html and 'aria-label="Question length"' in html


def test_the_trained_model_is_compared_with_each_row_question_by_question(tmp_path):
    run = make_run(tmp_path / "run")
    for path in (run / "eval").glob("*.json"):  # the trained model alone has questions 3 to 11 right
        record = json.loads(path.read_text())
        right = range(12) if record["label"] == "trained" else range(3)
        answers = [[{"answer": "A" if i in right else None}] for i in range(20)]
        questions = [{"id": f"q{i}", "key": "A", "responses": found} for i, found in enumerate(answers)]
        path.write_text(json.dumps(record | {"questions": questions}))
    text = " ".join(Page(build_report(run).read_text(encoding="utf-8")).text.split())
    assert "On the same questions, “trained” alone was right on 9 and “base” alone on 0 (p = 0.0039, McNemar" in text


def test_rows_of_other_questions_are_not_compared(tmp_path):
    run = make_run(tmp_path / "run")
    for number, path in enumerate((run / "eval").glob("*.json")):
        questions = [{"id": f"q{number}", "key": "A", "responses": [{"answer": "A"}]}]
        path.write_text(json.dumps(json.loads(path.read_text()) | {"questions": questions}))
    assert "On the same questions" not in build_report(run).read_text(encoding="utf-8")


def test_the_mismatch_reads_as_a_distance_with_its_limit(tmp_path):
    run = make_run(tmp_path / "run")
    rows = [{"step": step, "reward/mean": 0.5, "token_mult_prob_error": 1 + 0.002 * step} for step in (1, 2, 3)]
    write_lines(run / "metrics.jsonl", rows)
    tile = "<dt>Mismatch</dt><dd>0.006<small>largest between trainer and rollout engine; limit 0.05</small>"
    assert tile in build_report(run).read_text(encoding="utf-8")


def test_exact_agreement_is_a_mismatch_of_zero(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "reward/mean": 0.5, "token_mult_prob_error": 1.0}])
    assert "<dt>Mismatch</dt><dd>0<small>" in build_report(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("clipped", "sentence"),
    [
        (0.0, "No response reached the limit of tokens."),
        (0.0026, "At most 0.26% of a step's responses reached"),
        (0.64, "At most 64% of a step's responses reached"),
    ],
)
def test_a_share_that_is_not_zero_never_reads_as_zero(tmp_path, clipped, sentence):
    row = {"step": 1, "response_length/mean": 20.0, "response_length/clip_ratio": clipped}
    write_lines(tmp_path / "metrics.jsonl", [row])
    assert sentence in html.unescape(build_report(tmp_path).read_text(encoding="utf-8"))


@pytest.mark.parametrize(("share", "text"), [(0, "0%"), (0.025, "2.5%"), (0.075, "7.5%"), (0.07, "7%"), (1, "100%")])
def test_percentages_keep_the_digits_of_round_ticks(share, text):
    assert percent(share) == text


def test_powers_of_ten_on_a_logarithmic_axis_are_written_alike(page):
    chart = re.search(r'aria-label="Trainer and rollout engine".*?</svg>', page, flags=re.DOTALL).group()
    ticks = [text for text in re.findall(r'class="tick"[^>]*>([^<]*)<', chart) if text.startswith("10⁻")]
    assert ticks == ["10⁻⁷", "10⁻⁵", "10⁻³", "10⁻¹"]


def test_the_histogram_of_lengths_has_a_bin_for_every_question(page):
    chart = re.search(r'aria-label="Question length".*?</svg>', page, flags=re.DOTALL).group()
    shares = {name: re.findall(rf"· {name} ([\d.]+)%", chart) for name in ("set0", "set1")}
    for name, found in shares.items():
        assert sum(map(float, found)) == pytest.approx(100, abs=0.5), name
    assert "<title>20 to 24 tokens · " in chart


def test_the_page_says_what_guessing_gets_and_whether_the_result_excludes_it(tmp_path):
    run = make_run(tmp_path / "run")
    records = {path: json.loads(path.read_text()) for path in (run / "eval").glob("*.json")}

    def page(guessing: float) -> str:
        for path, record in records.items():
            path.write_text(json.dumps(record | {"guessing": guessing}))
        return " ".join(build_report(run).read_text(encoding="utf-8").split())

    likely = page(0.25)
    assert "Guessing gets 25.0% on average." in likely and 'class="guessing"' in likely
    assert "does not exclude that" not in likely
    assert "on average. The interval of “trained” does not exclude that" in page(0.95)
    for path, record in records.items():
        path.write_text(json.dumps(record))
    assert "uessing gets" not in build_report(run).read_text(encoding="utf-8")


def test_validations_are_the_first_chart_with_their_interval_and_the_gain(tmp_path):
    root = make_run(tmp_path / "run")
    rows = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    for step, share in ((0, 0.3), (20, 0.6), (40, 0.9)):
        found = {"accuracy": share, "accuracy_low": share - 0.07, "accuracy_high": share + 0.06, "questions": 200.0}
        found |= {"guessing": 0.25, "pass@4": 0.95, "gain": share - 0.3, "gain_low": share - 0.4, "gain_high": share}
        rows.append({"step": step, **{f"validation/{name}": value for name, value in found.items()}})
    write_lines(root / "metrics.jsonl", rows)
    run = read_run(root)
    figure = training_figures(run)[0]
    assert figure.title == "Validation" and [name for name, _ in figure.legend] == ["greedy answers", "pass@4"]
    assert "of 200 questions that are not trained on" in figure.note
    assert "The last one: +60.0 points over the base model, on the same questions" in figure.note
    assert "(95% interval +50.0 to +90.0)" in figure.note
    assert "guessing" in figure.svg


def test_each_validation_is_a_dot_with_a_whisker_and_nothing_is_drawn_as_measured_between_them(tmp_path):
    root = make_run(tmp_path / "run")
    rows = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    measured = {0: 0.3, 20: 0.6, 40: 0.9}
    for step, share in measured.items():
        found = {"accuracy": share, "accuracy_low": share - 0.2, "accuracy_high": share + 0.1, "questions": 200.0}
        rows.append({"step": step, **{f"validation/{name}": value for name, value in found.items()}})
    write_lines(root / "metrics.jsonl", rows)
    svg = training_figures(read_run(root))[0].svg
    dots = [tuple(map(float, dot)) for dot in re.findall(r'<circle class="dot s1" cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert len(dots) == len(measured)
    ends = re.findall(r'<line class="whisker" x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="([\d.]+)"', svg)
    upright = [tuple(map(float, end)) for end in ends if end[0] == end[2]]
    for (x, y), (left, low, right, high) in zip(dots, upright, strict=True):
        assert left == right == x and low > y > high  # y grows downwards
        assert (low - y) / (y - high) == pytest.approx(2, abs=0.02)
    assert re.findall(r'class="(line[^"]*) s1"', svg) == ["line raw"]


def test_levels_are_averaged_over_the_same_steps_however_often_each_was_asked(tmp_path):
    root = make_run(tmp_path / "run")
    rows = [{"step": step, "effective_query_ratio": 1.0} for step in range(1, 31)]
    for row in rows:
        row["effective_query_ratio/L1"] = row["step"] / 30
        if row["step"] in (2, 4, 29):
            row["effective_query_ratio/L2"] = row["step"] / 30
    write_lines(root / "metrics.jsonl", rows)
    figure = next(each for each in training_figures(read_run(root)) if each.title == "Effective queries by level")
    hints = re.findall(r"<title>step ([\d.]+) · ([^<]*)</title>", figure.svg)
    assert dict(hints) == {
        "3": "L1 10% · L2 10%",  # of steps 1 to 5: 2 and 4
        "8": "L1 26.7%",
        "13": "L1 43.3%",
        "18": "L1 60%",
        "23": "L1 76.7%",
        "28": "L1 93.3% · L2 96.7%",
    }


def test_a_run_without_validations_has_no_chart_of_them(tmp_path):
    assert "Validation" not in [figure.title for figure in training_figures(read_run(make_run(tmp_path / "run")))]
