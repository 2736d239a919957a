"""What a run's own files say of a checkpoint: its config.yaml, its question files, and the checkpoint itself.

Nothing here comes from the command line of a conversion. What a run does not record stays unknown.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from alphamed_nemo import provenance
from alphamed_nemo.config import DataConfig
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.io import read_questions
from alphamed_nemo.data.question import Question
from alphamed_nemo.data.sources import LOADERS
from alphamed_nemo.export.base_model import is_hub_name
from alphamed_nemo.grpo.identity import KEY, questions_contents
from alphamed_nemo.policy.checkpoint import folder as checkpoint
from alphamed_nemo.policy.checkpoint import manifest
from alphamed_nemo.rewards.functions import part_of


@dataclass(frozen=True)
class DataSet:
    """Questions of one data set that a run was trained on.

    Attributes:
        name: what the questions carry.
        hub: the repository that they were read from; empty for local files.
        levels: difficulty level → questions; the level of those that have none is None.
    """

    name: str
    hub: str
    levels: dict[int | None, int]

    @property
    def questions(self) -> int:
        return sum(self.levels.values())


@dataclass(frozen=True)
class TrainingRecord:
    """A checkpoint and the run that it is from.

    Attributes:
        checkpoint: its folder.
        folder: the run's; None where the checkpoint lies in none with a config.yaml.
        settings: config.yaml as it was written, by whatever version, with those settings of training that the
            checkpoint itself records: a later attempt may have changed them. Empty without a config.yaml.
        step: updates of the weights.
        weights_only: it holds no optimizer: a converted model, not a trained one.
        made_with: layout and versions, from the checkpoint's manifest.
        questions: what it was trained on; empty where the file is gone or is another one now.
        data_sets: the same, counted.
        labelled: questions that have a difficulty level, of which those were drawn; 0 where that is not known.
        passes: over the questions; None where it cannot be told.
    """

    checkpoint: Path
    folder: RunFolder | None
    settings: dict[str, Any]
    step: int
    weights_only: bool
    made_with: dict[str, Any]
    questions: list[Question] = field(default_factory=list)
    data_sets: list[DataSet] = field(default_factory=list)
    labelled: int = 0
    passes: float | None = None

    @classmethod
    def of(cls, source: str | Path) -> TrainingRecord:
        """Reads what lies around a whole checkpoint.

        Raises:
            ValueError: a file that is there cannot be read; names it.
        """
        source = Path(source)
        about, state = manifest.read(source), provenance.read_json(source / checkpoint.STATE)
        weights_only = not about["optimizer"]  # then config.yaml is of another model's training
        folder = None if weights_only else _run_folder(source)
        known = {
            "checkpoint": source,
            "folder": folder,
            "settings": _as_trained(_settings(folder.config), state) if folder else {},
            "step": state.get("step", 0),
            "weights_only": weights_only,
            "made_with": {key: about[key] for key in ("layout", "torch", "megatron")},
        }
        if folder is None:
            return cls(**known)
        questions = _questions(cls(**known), state)
        labelled = folder.labelled if folder.labelled.is_file() else None
        return cls(
            **known,
            questions=questions,
            data_sets=_counted(questions, known["settings"]),
            labelled=len(read_questions(labelled)) if labelled else 0,
            passes=_passes(state, len(questions)),
        )

    def get(self, name: str, default: Any = None) -> Any:
        """A setting of config.yaml by its dotted name."""
        value: Any = self.settings
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return default if value is None else value

    def __getitem__(self, name: str) -> Any:
        """As `get`. Raises: KeyError: config.yaml does not have it."""
        if (value := self.get(name)) is None:
            raise KeyError(name)
        return value

    @property
    def reward_functions(self) -> dict[str, float]:
        """Weight by name of each of `reward.functions`; empty where the reward is the rule alone."""
        places = self.get("reward.functions") or []
        return dict(zip(map(part_of, places), self.get("reward.weights") or [1.0] * len(places), strict=False))

    @property
    def name(self) -> str:
        """The run's; empty where it is not known."""
        return str(self.get("run.name", ""))

    @property
    def dtype(self) -> str:
        """The type that it was trained in."""
        return manifest.read(self.checkpoint)["dtype"]

    @property
    def data(self) -> DataConfig:
        """How its prompts are made."""
        known = {item.name for item in fields(DataConfig)}
        return DataConfig(**{key: value for key, value in self.get("data", {}).items() if key in known})

    def locate(self, path: str) -> Path | None:
        """A file that the run's settings name, also where the run's folder has moved; None where it is gone."""
        if not path:
            return None
        candidates = [Path(path)]
        before = Path(str(self.get("run.dir", ""))) / self.name
        if self.folder and candidates[0].is_relative_to(before):
            candidates.insert(0, self.folder.root / candidates[0].relative_to(before))
        return next((candidate for candidate in candidates if candidate.exists()), None)


def hub_sets(settings: dict[str, Any], role: str) -> dict[str, str]:
    """Data sets that `sources.train` or `sources.evaluation` reads from the hub: name → repository."""
    found = {}
    for name, source in ((settings.get("sources") or {}).get(role) or {}).items():
        source = source or {}
        loader = LOADERS.get(source.get("set") or name)
        repository = source.get("hub") or (loader.hub.repository if loader and loader.hub else "")
        if not source.get("path") and is_hub_name(repository) and not Path(repository).exists():
            found[name] = repository
    return found


def _run_folder(source: Path) -> RunFolder | None:
    """The run that a checkpoint lies in."""
    for place in (source, source.resolve()):
        folder = RunFolder(place.parent.parent)
        if place.parent == folder.checkpoints and folder.config.is_file():
            return folder
    return None


def _settings(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: found {type(values).__name__}, expected a run's settings")
    return values


def _as_trained(settings: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    for name, value in state.get(KEY, {}).get("settings", {}).items():
        group, _, leaf = name.partition(".")
        settings.setdefault(group, {})[leaf] = value
    return settings


def _questions(record: TrainingRecord, state: dict[str, Any]) -> list[Question]:
    """The training questions, if the file still holds those that the checkpoint was trained on."""
    path = record.locate(record.get("grpo.questions", ""))
    questions = read_questions(path) if path else []
    contents = state.get(KEY, {}).get("contents", {}).get("grpo.questions")
    if contents is not None:
        return questions if questions and questions_contents(questions) == contents else []
    known = {question.id for question in questions}
    pending = (state.get("stream") or {}).get("pending", [])
    return questions if known.issuperset(pending) else []


def _counted(questions: list[Question], settings: dict[str, Any]) -> list[DataSet]:
    hubs = hub_sets(settings, "train") if (settings.get("data") or {}).get("source") == "sources" else {}
    levels: dict[str, Counter[int | None]] = {}
    for question in questions:
        levels.setdefault(question.dataset, Counter())[question.level] += 1
    return [DataSet(name, hubs.get(name, ""), dict(counts)) for name, counts in sorted(levels.items())]


def _passes(state: dict[str, Any], questions: int) -> float | None:
    """From the order of the questions in the checkpoint: complete passes, and how far the last one is."""
    stream = state.get("stream") or {}
    if not questions or "epoch" not in stream:
        return None
    return stream["epoch"] + 1 - len(stream.get("pending", [])) / questions
