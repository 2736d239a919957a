"""What a study has found: accuracy of every run, means and intervals over seeds, and paired comparisons.

With two seeds or more the unit is the run: intervals and tests are Student's, over seeds, and pair the runs of one
seed. With one seed nothing tells how much another run would differ: intervals (Wilson) and tests (McNemar) are then
over the held-out questions, of these very models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.io import read_questions
from alphamed_nemo.evaluation.paired import holm, paired_difference
from alphamed_nemo.evaluation.result import EvaluationResult
from alphamed_nemo.study.study_runs import StudyRun
from alphamed_nemo.study.variants import Variant

LEVEL = 0.95  # of every interval
BASE = "base"  # label of the evaluation before training
Interval = tuple[float, float]


@dataclass(frozen=True)
class RunOutcome:
    """One finished run.

    Attributes:
        seed: of the run.
        folder: of the run.
        result: on the held-out questions.
        levels: questions trained on by level.
    """

    seed: int
    folder: Path
    result: EvaluationResult
    levels: dict[int, int]

    @property
    def accuracy(self) -> float:
        return self.result.accuracy


@dataclass(frozen=True)
class VariantOutcome:
    """All finished runs of a variant.

    Attributes:
        variant: what they were trained on.
        runs: by seed; may be empty.
    """

    variant: Variant
    runs: tuple[RunOutcome, ...]

    @property
    def accuracies(self) -> list[float]:
        return [run.accuracy for run in self.runs]

    @property
    def mean(self) -> float:
        return fmean(self.accuracies)

    @property
    def interval(self) -> Interval:
        """Of the mean over seeds; with one seed, of that run's accuracy over questions."""
        if len(self.runs) == 1:
            return self.runs[0].result.summary.interval
        return share_interval(self.accuracies)

    @property
    def by_dataset(self) -> dict[str, list[float]]:
        """Accuracy of every run on each held-out data set."""
        parts = [run.result.by_dataset for run in self.runs]
        return {name: [part[name].accuracy for part in parts] for name in (parts[0] if parts else {})}

    @property
    def fewest(self) -> int:
        """Questions of its smallest subset."""
        return min(sum(run.levels.values()) for run in self.runs)


@dataclass(frozen=True)
class Comparison:
    """How much better `second` is than `first`, 0..1.

    Attributes:
        first, second: names of variants.
        seeds: seeds that both have finished.
        difference: of the means over those seeds.
        interval: 95%.
        p: two-sided; None where the differences of all seeds are the same to the last digit, which no test can judge.
        adjusted: Holm's, over all comparisons of the study; None as p.
    """

    first: str
    second: str
    seeds: int
    difference: float
    interval: Interval
    p: float | None
    adjusted: float | None = None


@dataclass(frozen=True)
class StudyOutcome:
    """Everything that the page is made of.

    Attributes:
        cfg: of the study.
        base: the base model before training; None where it has not been evaluated.
        others: further evaluations of the base model, such as with worked examples.
        variants: in the order of the study, those without a finished run included.
        comparisons: of neighbours, and of the first with the last.
        planned: runs of the study, finished or not.
    """

    cfg: Config
    base: EvaluationResult | None
    others: tuple[EvaluationResult, ...]
    variants: tuple[VariantOutcome, ...]
    comparisons: tuple[Comparison, ...]
    planned: int

    @property
    def finished(self) -> list[VariantOutcome]:
        """Variants with at least one finished run."""
        return [variant for variant in self.variants if variant.runs]

    @property
    def runs(self) -> int:
        return sum(len(variant.runs) for variant in self.variants)

    @property
    def seeds(self) -> int:
        """Seeds of the variant that has fewest, among those with any."""
        return min((len(variant.runs) for variant in self.finished), default=0)

    @property
    def questions(self) -> int:
        """Held-out questions."""
        return self.finished[0].runs[0].result.summary.n if self.finished else 0

    def passes(self, variant: VariantOutcome) -> float:
        """How often a run asks each of its questions, on average."""
        return self.cfg.grpo.steps * self.cfg.grpo.questions_per_step / variant.fewest


def read_outcome(cfg: Config, variants: Sequence[Variant], runs: Sequence[StudyRun]) -> StudyOutcome:
    """The outcome of all runs that are finished."""
    found: dict[Variant, list[RunOutcome]] = {variant: [] for variant in variants}
    for run in runs:
        if run.is_finished:
            levels = Counter(question.level or 0 for question in read_questions(run.folder.subset))
            result = EvaluationResult.read(run.result)
            found[run.variant].append(RunOutcome(run.seed, run.folder.root, result, dict(sorted(levels.items()))))
    outcomes = tuple(VariantOutcome(variant, tuple(of)) for variant, of in found.items())
    base, others = base_results(RunFolder.of(cfg).eval)
    return StudyOutcome(cfg, base, others, outcomes, compare_all(outcomes), len(runs))


def base_results(folder: Path) -> tuple[EvaluationResult | None, tuple[EvaluationResult, ...]]:
    """The base model's evaluation, and its further ones."""
    results = [EvaluationResult.read(path) for path in sorted(folder.glob("base*.json"))]
    base = next((result for result in results if result.label == BASE), None)
    return base, tuple(result for result in results if result is not base)


def compare_all(variants: Sequence[VariantOutcome]) -> tuple[Comparison, ...]:
    """Each variant with the one before it, and the last with the first; p-values corrected for their number."""
    pairs = list(zip(variants, variants[1:], strict=False))
    if len(variants) > 2:
        pairs.append((variants[0], variants[-1]))
    found = [compared for first, second in pairs if (compared := compare(first, second)) is not None]
    tested = [comparison.p for comparison in found if comparison.p is not None]
    adjusted = iter(holm(tested))
    return tuple(replace(each, adjusted=None if each.p is None else next(adjusted)) for each in found)


def compare(first: VariantOutcome, second: VariantOutcome) -> Comparison | None:
    """A paired comparison over the seeds that both have; None where they share none."""
    one, other = ({run.seed: run for run in variant.runs} for variant in (first, second))
    seeds = sorted(one.keys() & other.keys())
    names = first.variant.name, second.variant.name
    if not seeds:
        return None
    if len(seeds) == 1:
        before, after = one[seeds[0]].result, other[seeds[0]].result
        scores = {grade.id: sum(grade.correct) / len(grade.correct) for grade in before.grades}
        later = {grade.id: sum(grade.correct) / len(grade.correct) for grade in after.grades}
        found = paired_difference(list(scores.values()), [later[id] for id in scores])
        return Comparison(*names, 1, found.value, (found.low, found.high), before.compare(after).p)
    differences = [other[seed].accuracy - one[seed].accuracy for seed in seeds]
    return Comparison(*names, len(seeds), fmean(differences), mean_interval(differences), mean_p(differences))


def mean_interval(values: Sequence[float]) -> Interval:
    """Student's 95% interval of the mean of two values or more."""
    from scipy.special import stdtrit

    n = len(values)
    reach = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * stdev(values) / sqrt(n)
    return fmean(values) - reach, fmean(values) + reach


def share_interval(values: Sequence[float]) -> Interval:
    """`mean_interval` of shares, which are 0..1."""
    low, high = mean_interval(values)
    return max(0.0, low), min(1.0, high)


def mean_p(values: Sequence[float]) -> float | None:
    """Two-sided p-value of "the mean is 0" by Student's test; None where the values do not vary."""
    from scipy.special import stdtr

    n, spread = len(values), stdev(values)
    if spread < 1e-12:  # equal but for rounding
        return None
    return float(2 * stdtr(n - 1, -abs(fmean(values)) / (spread / sqrt(n))))
