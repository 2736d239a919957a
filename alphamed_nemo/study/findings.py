"""What a study shows and what it cannot show, in sentences that follow from its numbers by fixed rules."""

from __future__ import annotations

from alphamed_nemo.evaluation.stats import wilson
from alphamed_nemo.report.html import share
from alphamed_nemo.report.scale import number
from alphamed_nemo.study.outcome import Comparison, StudyOutcome

ALPHA = 0.05  # of a corrected p-value
CEILING = 0.97  # mean accuracy from which there is little room above
FEW_SEEDS = 5  # below it Student's interval is at least 1.6 times a normal one, and rests on a guess of the shape


def shows(outcome: StudyOutcome) -> list[str]:
    """What can be said, each with the number that it rests on; empty where no run is finished."""
    if not outcome.finished:
        return []
    return [sentence for sentence in (above_base(outcome), *compared(outcome)) if sentence]


def above_base(outcome: StudyOutcome) -> str:
    """How the finished runs stand to the base model."""
    if outcome.base is None:
        return ""
    low, high = outcome.base.summary.interval
    runs = [run.accuracy for variant in outcome.finished for run in variant.runs]
    better = sum(accuracy > high for accuracy in runs)
    base = f"the base model's 95% interval ({share(low)} to {share(high)})"
    if better == len(runs):
        return f"{_all(len(runs))} above {base}: {share(min(runs))} to {share(max(runs))}."
    return f"{better} of {len(runs)} runs are above {base}; the others do not show that they learned to answer."


def compared(outcome: StudyOutcome) -> list[str]:
    """A sentence for each comparison that chance does not explain, or one that there is none."""
    tested = [each for each in outcome.comparisons if each.adjusted is not None]
    found = [each for each in tested if each.adjusted is not None and each.adjusted < ALPHA]
    if found:
        return [_difference(each) for each in found]
    if not tested:
        return ["No two variants have been tested against each other."] if len(outcome.finished) > 1 else []
    smallest = min(tested, key=lambda each: each.adjusted or 0.0)
    return [
        f"No difference between variants is larger than chance explains: the smallest corrected p is "
        f"{number(smallest.adjusted or 0.0)}, of “{smallest.first}” and “{smallest.second}” "
        f"({points(smallest.difference)}, 95% interval {between(smallest)}). That is no proof that they are alike."
    ]


def _difference(comparison: Comparison) -> str:
    word = "better" if comparison.difference > 0 else "worse"
    over = f"over {comparison.seeds} seeds" if comparison.seeds > 1 else "over the questions, of one run each"
    return (
        f"“{comparison.second}” is {points(abs(comparison.difference), sign=False)} {word} than “{comparison.first}” "
        f"(95% interval of the difference {between(comparison)}, {over}; corrected p "
        f"{number(comparison.adjusted or 0.0)})."
    )


def limits(outcome: StudyOutcome) -> list[str]:
    """What the numbers do not say."""
    rules = (
        unfinished,
        few_seeds,
        no_test,
        one_set,
        ceiling,
        sizes,
        filled,
        equal_compute,
        not_asked,
        other_than_paper,
    )
    return [sentence for rule in rules if (sentence := rule(outcome))]


def unfinished(outcome: StudyOutcome) -> str:
    if outcome.runs == outcome.planned:
        return ""
    return f"{outcome.runs} of {outcome.planned} runs are finished; the others are not in any number here."


def few_seeds(outcome: StudyOutcome) -> str:
    """What the intervals are over."""
    if outcome.seeds == 1:
        return (
            "One seed: intervals and tests are over the questions, for these very models. How much another seed, or "
            "another draw of the subset, would change is not known (study.seeds)."
        )
    if 1 < outcome.seeds < FEW_SEEDS:
        return (
            f"{outcome.seeds} seeds are few: Student's intervals over them are wide, and assume a normal spread that "
            "so few cannot show. A difference that is not found here may exist."
        )
    return ""


def no_test(outcome: StudyOutcome) -> str:
    alike = [each for each in outcome.comparisons if each.p is None]
    if not alike:
        return ""
    names = ", ".join(f"“{each.first}” and “{each.second}”" for each in alike)
    return f"Every seed gives the same difference for {names}, so that Student's test has no spread to judge it by."


def one_set(outcome: StudyOutcome) -> str:
    """Intervals over seeds say nothing about other questions."""
    if not outcome.finished or outcome.seeds == 1:
        return ""
    n = outcome.questions
    low, high = wilson(outcome.finished[-1].mean * n, n)
    return (
        f"All runs answer the same {n:,} held-out questions, which intervals over seeds take as given. Others would "
        f"move all variants together, by up to some {100 * (high - low) / 2:.1f} points."
    )


def ceiling(outcome: StudyOutcome) -> str:
    full = [variant.variant.name for variant in outcome.finished if variant.mean >= CEILING]
    if not full:
        return ""
    names = ", ".join(f"“{name}”" for name in full)
    return f"At {share(CEILING)} and above ({names}) there is no room left in which a better variant could show itself."


def sizes(outcome: StudyOutcome) -> str:
    """Whether the number of questions differs where it is not what is studied."""
    counts = [variant.variant.questions for variant in outcome.variants]
    if outcome.cfg.study.name == "quantity" or len(set(counts)) == 1:
        return ""
    what = {"diversity": "sources", "difficulty": "levels"}[outcome.cfg.study.name]
    return (
        f"Variants with more {what} also have more questions ({min(counts):,} to {max(counts):,}), as in the paper, so "
        f"that {what} and quantity are not told apart; study.same_size=true keeps the number equal."
    )


def filled(outcome: StudyOutcome) -> str:
    """Whether levels were short, and others took their place."""
    names = []
    for variant in outcome.finished:
        levels = variant.runs[0].levels
        if len(set(levels.values())) > 1 or len(levels) < _levels_asked(outcome, variant.variant.label):
            names.append(f"“{variant.variant.name}”")
    if not names:
        return ""
    return (
        f"Some levels are short of questions and filled from their neighbours (label.fill): {', '.join(names)}. Their "
        "mixtures of levels differ, as the table of levels shows."
    )


def _levels_asked(outcome: StudyOutcome, label: dict) -> int:
    own = outcome.cfg.label
    return (label.get("up_to") or own.up_to or own.samples + 1) - label.get("first", own.first) + 1


def equal_compute(outcome: StudyOutcome) -> str:
    """Equal compute means that small sets are repeated more often."""
    passes = [outcome.passes(variant) for variant in outcome.finished]
    if not passes or max(passes) == min(passes):
        return ""
    return (
        f"Every run has the same compute, so that small sets are asked more often: {number(min(passes))} to "
        f"{number(max(passes))} passes. What a variant would reach if trained to its own end is another question."
    )


def not_asked(outcome: StudyOutcome) -> str:
    """Whether a run ended before it had asked all of its questions."""
    names = [f"“{variant.variant.name}”" for variant in outcome.finished if outcome.passes(variant) < 1]
    if not names:
        return ""
    return (
        f"Runs ended before all of their questions were asked ({', '.join(names)}), so that those had fewer in effect; "
        "raise grpo.steps."
    )


def other_than_paper(outcome: StudyOutcome) -> str:
    """What is invented or small says nothing of the paper's models."""
    if outcome.cfg.data.source == "sources":
        return "The paper's settings of training are not published, so that its figures are not reproduced here."
    world = "an invented clinic" if outcome.cfg.data.source == "clinic" else "the project's own medical questions"
    return f"Model and questions are not the paper's ({world}): nothing here confirms or contradicts its figures."


def points(difference: float, sign: bool = True) -> str:
    """A difference of shares in percentage points."""
    return f"{100 * difference:{'+' if sign else ''}.1f} points"


def between(comparison: Comparison) -> str:
    low, high = comparison.interval
    return f"{100 * low:+.1f} to {100 * high:+.1f}"


def _all(count: int) -> str:
    return "The run is" if count == 1 else f"All {count} runs are"
