"""Progress on the screen: stage headings, and a bar or one line per step for GRPO.

On a terminal the bar is live; anywhere else (a log file, CI) each step is one plain line. The recipes own the console
and hand it over; nothing here writes anywhere else.
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

from alphamed_nemo.report.advisories import Watch
from alphamed_nemo.report.scale import duration


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
    under_way = "waiting for the first step"

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for line in filter(None, (self.numbers, self.under_way)):
            yield Padding(line, (0, 0, 0, 5))


class GrpoProgress:
    """Progress of GRPO steps, fed with one metrics row per step.

    Use as a context manager; call `update` with rows of metrics.jsonl. Rows of steps already shown are ignored, so a
    resumed run can be followed from its start.
    """

    def __init__(self, steps: int, console: Console | None = None) -> None:
        self.steps = steps
        self.console = console or Console(highlight=False)
        self.shown = 0
        self.watch = Watch()
        self.bar: StepBar | None = None

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
        if self.bar is not None:
            self.bar.under_way = text
            self.bar.refresh()
        else:
            self.console.print(f"{text} …", soft_wrap=True)

    def update(self, metrics: Mapping[str, float]) -> None:
        """Show one step. `metrics` is a row of metrics.jsonl; absent metrics are left out."""
        step = int(metrics["step"])
        if step <= self.shown:
            return
        self.shown = step
        if self.bar is not None:
            self.bar.numbers, self.bar.under_way = step_text(metrics), ""
            self.bar.update(self.task, completed=step)
        else:
            self.console.print(
                f"step {step:>{len(str(self.steps))}}/{self.steps}  {step_text(metrics)}", soft_wrap=True
            )
        if step == self.steps:
            self.say("saving, then stopping the trainer")
        for advice in self.watch.see(metrics):
            self.console.print(f"[yellow]warning:[/yellow] step {step}: {escape(advice)}", soft_wrap=True)


@contextmanager
def counter(what: str, total: int, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """A bar for work that is counted, with the time left; yields a function of (done, total).

    Away from a terminal it prints nothing: the stage's heading and its result say enough there.
    """
    console = console or Console(highlight=False)
    columns = (TextColumn(f"      {what}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    left = (TextColumn("[dim]left[/dim]"), TimeRemainingColumn())
    with Progress(*columns, *left, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, of: bar.update(task, completed=done, total=of)


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
    ):
        if metrics.get(key) is not None:
            parts.append(form.format(metrics[key]))
    split = [
        f"{name} {metrics[f'timing/{key}']:.1f}"
        for key, name in (("generation", "sampling"), ("training", "training"), ("refit", "refit"))
        if metrics.get(f"timing/{key}") is not None
    ]
    return "  ".join(parts) + (f" ({', '.join(split)})" if split else "")
