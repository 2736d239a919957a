"""Progress on the screen: stage headings, and a bar or one line per step for GRPO.

On a terminal what goes on is live; anywhere else (a log file, CI) each step is one plain line, and what takes long says
every now and then how far it is. The recipes own the console and hand it over; nothing here writes anywhere else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.status import Status

from alphamed_nemo.config.run_folder import ACCURACY
from alphamed_nemo.report.scale import duration
from alphamed_nemo.report.watch import Watch

FIRST_LINE_S, LONGEST_PAUSE_S = 10.0, 60.0  # between the lines of what takes long, away from a terminal


class NowAndThen:
    """Tells when another line is due: after FIRST_LINE_S, then after pauses that double up to LONGEST_PAUSE_S."""

    def __init__(self) -> None:
        self.begun = self.last = time.monotonic()
        self.pause_s = FIRST_LINE_S

    def is_due(self) -> bool:
        now = time.monotonic()
        if now - self.last < self.pause_s:
            return False
        self.last, self.pause_s = now, min(2 * self.pause_s, LONGEST_PAUSE_S)
        return True

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.begun


class Waiting:
    """Shows what is waited for. Called again and again with the line as it is, and with "" once the wait is over."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.status: Status | None = None
        self.lines: NowAndThen | None = None

    def __call__(self, text: str) -> None:
        if not text:
            if self.status is not None:
                self.status.stop()
            self.status = self.lines = None
        elif self.console.is_terminal:
            if self.status is None:
                self.status = self.console.status("")
                self.status.start()
            self.status.update(f"[dim]{escape(text)}[/dim]")
        else:
            self.lines = self.lines or NowAndThen()
            if self.lines.is_due():
                self.console.print(f"      {text}", markup=False, soft_wrap=True)


class Stages:
    """Numbered headings of a recipe's stages, with the seconds that each took.

    Attributes:
        seconds: stage name -> seconds, in order; `write_summary` takes it as it is.
    """

    def __init__(self, total: int, console: Console | None = None) -> None:
        self.total = total
        self.console = console or Console(highlight=False)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, note: str = "") -> Iterator[None]:
        """Print the heading, run the block, print how long it took. A failing block is recorded too, and raises."""
        number = len(self.seconds) + 1
        self.console.print(f"[bold]\\[{number}/{self.total}] {name}[/bold]{f'  [dim]{note}[/dim]' if note else ''}")
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - started
        self.console.print(f"[dim]      {duration(self.seconds[name])}[/dim]")


class StepBar(Progress):
    """A bar; the last step's numbers and what is under way have lines of their own, so that a narrow terminal cuts
    neither."""

    numbers = ""
    validated = ""
    under_way = "waiting for the first step"

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for line in filter(None, (self.numbers, self.validated, self.under_way)):
            yield Padding(line, (0, 0, 0, 5))


class GrpoProgress:
    """Progress of GRPO steps, fed with one metrics row per step.

    Use as a context manager; call `update` with rows of metrics.jsonl. Rows of steps already shown are ignored, so a
    resumed run can be followed from its start.

    Args:
        steps: of the whole run.
        console: where to show it.
        servers: rollout servers of the run; a step that fewer have sampled says so.
    """

    def __init__(self, steps: int, console: Console | None = None, servers: int = 1) -> None:
        self.steps = steps
        self.servers = servers
        self.console = console or Console(highlight=False)
        self.shown = 0
        self.validated = -1
        self.watch = Watch()
        self.bar: StepBar | None = None
        self.lines = NowAndThen()

    def __enter__(self) -> GrpoProgress:
        if self.console.is_terminal:
            self.bar = StepBar(
                TextColumn("GRPO"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("[dim]left[/dim]"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.task = self.bar.add_task("grpo", total=self.steps)
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.under_way = ""
            self.bar.stop()

    def say(self, text: str) -> None:
        """What happens before the first step and after the last."""
        self.lines = NowAndThen()
        if self.bar is not None:
            self.bar.under_way = text
            self.bar.refresh()
        else:
            self.console.print(f"{text} …", soft_wrap=True)

    def still(self, doing: Callable[[], str]) -> None:
        """To be called again and again: before the first step and after the last, says now and then what is done."""
        if 0 < self.shown < self.steps or not self.lines.is_due():
            return
        text = f"{doing()} ({_rounded(self.lines.seconds)})"
        if self.bar is not None:
            self.bar.under_way = escape(text)
            self.bar.refresh()
        else:
            self.console.print(f"      {text}", markup=False, soft_wrap=True)

    def update(self, metrics: Mapping[str, float]) -> None:
        """Show one step, or one validation. `metrics` is a row of metrics.jsonl; absent metrics are left out."""
        step = int(metrics["step"])
        if metrics.get(ACCURACY) is not None:
            self._update_validation(step, metrics)
            return
        if step <= self.shown:
            return
        self.shown = step
        text = step_text(metrics)
        if (serving := int(metrics.get("rollout_servers", self.servers))) < self.servers:
            text += f"  {serving} of {self.servers} rollout servers"
        if self.bar is not None:
            self.bar.numbers, self.bar.under_way = text, ""
            self.bar.update(self.task, completed=step)
        else:
            self.console.print(f"step {step:>{len(str(self.steps))}}/{self.steps}  {text}", soft_wrap=True)
        if step == self.steps:
            validating = "validating and " if self.validated >= 0 else ""
            self.say(f"{validating}saving, then stopping the trainer")
        self._advise(step, metrics)

    def _update_validation(self, step: int, metrics: Mapping[str, float]) -> None:
        if step <= self.validated:
            return
        self.validated = step
        text = f"{f'after step {step}' if step else 'of the base model'}: {validation_text(metrics)}"
        if self.bar is not None:
            self.bar.validated, self.bar.under_way = f"validation {text}", ""
            self.bar.refresh()
        else:
            self.console.print(f"validation {text}", soft_wrap=True)
        self._advise(step, metrics)

    def _advise(self, step: int, metrics: Mapping[str, float]) -> None:
        for notice in self.watch.see(metrics):
            self.console.print(f"[yellow]warning:[/yellow] step {step}: {escape(notice.text)}", soft_wrap=True)


@contextmanager
def counter(what: str, total: int, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """A bar for work that is counted, with the time left; yields a function of (done, total)."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        yield _counted_lines(what, console)
        return
    columns = (TextColumn(f"      {what}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    left = (TextColumn("[dim]left[/dim]"), TimeRemainingColumn())
    with Progress(*columns, *left, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _rounded(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else duration(seconds)


def _counted_lines(what: str, console: Console) -> Callable[[int, int], None]:
    """A function of (done, total) that prints a line now and then."""
    lines = NowAndThen()

    def show(done: int, total: int) -> None:
        if lines.is_due():
            left = f", about {_rounded(lines.seconds * (total - done) / done)} left" if 0 < done < total else ""
            console.print(f"      {done:,} of {total:,} {what} in {_rounded(lines.seconds)}{left}", soft_wrap=True)

    return show


class MetricsFollower:
    """Reads the rows that another process appends to metrics.jsonl; call `new_rows` again and again.

    A file that a resumed run has rewritten (shorter, or another file) is read from its start.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        self.inode = 0

    def new_rows(self) -> list[dict]:
        """Complete rows since the last call; [] where there is no file yet."""
        if not self.path.exists():
            return []
        status = self.path.stat()
        if status.st_size < self.position or status.st_ino != self.inode:
            self.position, self.inode = 0, status.st_ino
        with self.path.open("rb") as file:
            file.seek(self.position)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        self.position += len(complete)
        try:
            return [json.loads(line) for line in complete.splitlines() if line.strip()]
        except ValueError as error:
            raise ValueError(
                f"{self.path}: a line is no JSON, or no UTF-8 ({error}); who else writes to it?"
            ) from error


def step_text(metrics: Mapping[str, float]) -> str:
    """The numbers of a step that a person watches, in one line."""
    if (ratio := metrics.get("token_mult_prob_error")) is not None:
        metrics = {**metrics, "mismatch": ratio - 1}  # of vLLM's and Megatron's probabilities, relative
    parts = []
    for key, form in (
        ("reward/mean", "reward {:.2f}"),  # with reward.functions their weighted sum, and the next one is there
        ("reward/correct", "correct {:.0%}"),
        ("effective_query_ratio", "effective {:.0%}"),
        ("response_length/mean", "length {:.0f}"),
        ("mismatch", "mismatch {:.1e}"),
        ("timing/step", "{:.1f} s"),
        ("throughput/tokens_per_s_per_device", "{:,.0f} tokens/s/device"),
        ("throughput/mfu", "MFU {:.0%}"),
    ):
        if metrics.get(key) is not None:
            parts.append(form.format(metrics[key]))
    split = [
        f"{name} {metrics[f'timing/{key}']:.1f}"
        for key, name in (("generation", "sampling"), ("training", "training"), ("refit", "refit"))
        if metrics.get(f"timing/{key}") is not None
    ]
    return "  ".join(parts) + (f" ({', '.join(split)})" if split else "")


def validation_text(metrics: Mapping[str, float]) -> str:
    """What a validation found, in one line: accuracy, its interval, and the gain over the base model with its own."""
    value = {name.removeprefix("validation/"): found for name, found in metrics.items()}
    text = f"accuracy {value['accuracy']:.1%} (95% interval {100 * value['accuracy_low']:.1f} to "
    text += f"{100 * value['accuracy_high']:.1f}, n = {value['questions']:.0f})"
    if value.get("gain") is not None and metrics["step"] > 0:
        bounds = f"({100 * value['gain_low']:+.1f} to {100 * value['gain_high']:+.1f})"
        text += f"  {100 * value['gain']:+.1f} points {bounds} over the base model"
    if value["unparsable_ratio"] > 0:
        text += f"  {value['unparsable_ratio']:.0%} without an answer"
    return text + f"  {value['timing/validation']:.1f} s"
