"""Where each file of a run is. Everything that a run writes lies under `run.dir/run.name`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from alphamed_nemo.config.schema import Config

STATE = "state.json"  # of a checkpoint: the loop's own state beside the policy's
ACCURACY = "validation/accuracy"  # in a row of metrics.jsonl that a validation wrote
_OF_STEP = re.compile(r"step_(\d+)(.*)")


@dataclass(frozen=True)
class RunFolder:
    """The files of one run, by what they are."""

    root: Path

    @classmethod
    def of(cls, cfg: Config) -> RunFolder:
        return cls(Path(cfg.run.dir) / cfg.run.name)

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def attempts(self) -> Path:
        """The config.yaml of every start of the training but the last, numbered from 1."""
        return self.root / "attempts"

    @property
    def lock(self) -> Path:
        """Held by the recipe that writes what a training reads or makes."""
        return self.root / ".lock"

    @property
    def trainer_lock(self) -> Path:
        """Held by the trainer's rank 0, which may outlive its recipe for the seconds of a save."""
        return self.root / ".trainer.lock"

    @property
    def quickstart(self) -> Path:
        """Says that a quickstart made the folder, and that nothing but a quickstart has trained in it."""
        return self.root / ".quickstart"

    @property
    def hashes(self) -> Path:
        """SHA-256 of the base model's files, so that each is read once."""
        return self.root / ".hashes.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    @property
    def train(self) -> Path:
        return self.root / "data" / "train.jsonl"

    @property
    def heldout(self) -> Path:
        return self.root / "data" / "heldout.jsonl"

    @property
    def validation_questions(self) -> Path:
        return self.root / "data" / "validation.jsonl"

    @property
    def labelling(self) -> Path:
        """Every response of the difficulty labelling."""
        return self.root / "data" / "labelling.jsonl"

    @property
    def labelled(self) -> Path:
        return self.root / "data" / "labelled.jsonl"

    @property
    def subset(self) -> Path:
        return self.root / "data" / "subset.jsonl"

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def hf(self) -> Path:
        return self.root / "hf"

    @property
    def adapter(self) -> Path:
        return self.root / "adapter"

    @property
    def eval(self) -> Path:
        return self.root / "eval"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def validation(self) -> Path:
        """Every answer of the validations, by step."""
        return self.root / "validation"

    @property
    def rollouts(self) -> Path:
        """Every response of every step."""
        return self.root / "rollouts"

    def rollouts_of(self, step: int) -> Path:
        """The responses of one step, counted from 1."""
        return self.rollouts / step_name(step, ".parquet")

    @property
    def samples(self) -> Path:
        return self.root / "samples"

    @property
    def traces(self) -> Path:
        """What torch's profiler recorded of single steps."""
        return self.root / "traces"

    @property
    def report(self) -> Path:
        return self.root / "report" / "index.html"

    @property
    def responses(self) -> Path:
        """The report's page of every response."""
        return self.root / "report" / "responses.html"

    @property
    def responses_data(self) -> Path:
        """The scripts that this page loads."""
        return self.root / "report" / "responses"

    @property
    def simulation(self) -> Path:
        """The page of recipes/simulate.py."""
        return self.root / "report" / "simulation.html"

    @property
    def done(self) -> Path:
        """Exists once training has reached its last step."""
        return self.root / "DONE"


def step_name(step: int, ending: str = "") -> str:
    """What every folder of a run calls the file, or the folder, of one step."""
    return f"step_{step}{ending}"


def step_of(path: Path) -> int:
    """The step in a name that `step_name` made."""
    found = _OF_STEP.fullmatch(path.name)
    assert found is not None, f"{path} is of no step"
    return int(found[1])


def by_step(folder: Path, ending: str = "") -> dict[int, Path]:
    """step → path, earliest first, of what a folder has under the names that `step_name` gives with this ending."""
    named = ((path, _OF_STEP.fullmatch(path.name)) for path in folder.glob(f"step_*{ending}"))
    found = {int(name[1]): path for path, name in named if name and name[2] == ending}
    return dict(sorted(found.items()))


def fill_paths(cfg: Config) -> Config:
    """Gives every empty path its place in the run folder. Changes `cfg` and returns it."""
    folder = RunFolder.of(cfg)
    cfg.data.train = cfg.data.train or str(folder.train)
    cfg.data.heldout = cfg.data.heldout or str(folder.heldout)
    cfg.data.validation = cfg.data.validation or str(folder.validation_questions)
    cfg.validate.questions = cfg.validate.questions or [cfg.data.validation]
    cfg.label.questions = cfg.label.questions or cfg.data.train
    cfg.grpo.questions = cfg.grpo.questions or str(folder.subset)
    cfg.evaluate.model = cfg.evaluate.model or str(folder.hf)
    cfg.evaluate.questions = cfg.evaluate.questions or cfg.data.heldout
    cfg.evaluate.label = cfg.evaluate.label or Path(cfg.evaluate.model).name
    cfg.export.out = cfg.export.out or str(folder.adapter if cfg.export.adapter else folder.hf)
    cfg.sources.out = cfg.sources.out or str(folder.root / "data" / "prepared")
    cfg.tiny.out = cfg.tiny.out or str(folder.base)
    return cfg
