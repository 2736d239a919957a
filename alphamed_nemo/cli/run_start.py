"""The start of a run in its folder: who may write it, what happens to an earlier run there, and what is kept of it.

A recipe that writes what a training reads or makes (train_grpo, quickstart, prepare_data, label_difficulty,
convert_from_hf) owns the folder while it runs. The others write files of their own under eval/, hf/ and report/, and
may run beside a training.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from alphamed_nemo.cli.preflight import check_training
from alphamed_nemo.config import Config
from alphamed_nemo.config.file_writing import remove_parts, whole_file
from alphamed_nemo.config.files import write_config
from alphamed_nemo.config.limits import setting
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.hf_tokenizer import load_tokenizer
from alphamed_nemo.errors import CheckpointError
from alphamed_nemo.grpo.identity import KEY, compare, identity
from alphamed_nemo.policy.checkpoint import manifest
from alphamed_nemo.run_lock import check_free, hold

INPUTS = ("data", "base")  # what a run is made from; it stays where settings name it
READ = ("model.path", "grpo.questions", "data.train", "data.heldout")

log = logging.getLogger(__name__)


@contextmanager
def owned(cfg: Config, what: str) -> Iterator[RunFolder]:
    """The run folder, owned by this process and by no trainer that is left of another. What owners that were killed
    left half-written in it is removed.

    Raises:
        InUse: another process writes it.
    """
    folder = RunFolder.of(cfg)
    with hold(folder.lock, what):
        check_free(folder.trainer_lock)
        for path in (folder.config, folder.metrics, folder.hashes):
            remove_parts(folder.root, path.name)
        for inside in (folder.attempts, folder.train.parent):
            remove_parts(inside)
        yield folder


@contextmanager
def training(cfg: Config, what: str) -> Iterator[RunFolder]:
    """The owned run folder, in which a training may start: afresh, or from its newest checkpoint.

    Raises:
        InUse: another process writes it.
        ValueError: a setting cannot work, the newest checkpoint is of another run, or a fresh run reads what it would
            move aside. Nothing is written then.
    """
    finish_move(cfg)
    check_training(cfg)
    with ExitStack() as owning:
        folder = owning.enter_context(owned(cfg, what))
        if cfg.run.resume:
            check_resume(cfg)
        elif any(path.exists() for path in (folder.checkpoints, folder.metrics, folder.config, folder.done)):
            aside = move_aside(cfg)
            owning.enter_context(owned(cfg, what))
            log.info("run.resume=false: the earlier run in %s is now %s", folder.root, aside)
        folder.quickstart.unlink(missing_ok=True)  # no longer a quickstart's alone
        yield folder


@contextmanager
def own_quickstart(cfg: Config) -> Iterator[RunFolder]:
    """The owned run folder, emptied of an earlier quickstart.

    Raises:
        InUse: another process writes it.
        ValueError: there is something in it that no quickstart has made.
    """
    with owned(cfg, "quickstart") as folder:
        ours = (folder.lock, folder.trainer_lock, folder.quickstart)
        others = [path for path in folder.root.iterdir() if path not in ours]
        if others and not folder.quickstart.exists():
            raise ValueError(
                f"run.name: {folder.root} holds {others[0].name}, and was not made by a quickstart, which removes its "
                "earlier run; set another run.name, or move the folder"
            )
        if others:
            log.info("replacing the earlier quickstart in %s", folder.root)
        for path in others:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        folder.quickstart.touch()
        yield folder


def check_resume(cfg: Config) -> None:
    """Compares the settings with the newest checkpoint that can be read, before anything is started.

    Raises:
        ValueError: it is of another run.
    """
    for path in reversed(manifest.checkpoints_in(RunFolder.of(cfg).checkpoints)):
        if manifest.damage(path, checksums=False):  # which of them are whole is the trainer's to say
            continue
        try:
            stored = manifest.read_state(path).get(KEY)
        except CheckpointError:
            continue
        tokenizer = load_tokenizer(cfg.model.path)
        compare(stored, identity(cfg, tokenizer), cfg.run.accept_changes, path)
        return


def move_aside(cfg: Config) -> Path:
    """Gives an earlier run a folder of its own, named after the time; copies of its inputs stay.

    Raises:
        ValueError: a setting names a file that would go with it.
    """
    root = RunFolder.of(cfg).root
    for key in READ:
        path = Path(setting(cfg, key)).resolve()
        if path.is_relative_to(root.resolve()) and path.relative_to(root.resolve()).parts[0] not in INPUTS:
            raise ValueError(
                f"{key}: {path} is part of the run that run.resume=false moves aside; set another run.name, or copy it"
            )
    name = f"{root.name}.{datetime.now():%Y%m%d-%H%M%S}"
    aside = next(path for n in range(100) if not (path := root.with_name(name + (f"-{n}" if n else ""))).exists())
    fresh = _fresh(root)
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for part in INPUTS:
        if (root / part).is_dir():
            shutil.copytree(root / part, fresh / part, symlinks=True)
    root.rename(aside)
    fresh.rename(root)
    return aside


def finish_move(cfg: Config) -> None:
    """Gives a run folder its place where a start was killed after the earlier run had left it, and before."""
    root = RunFolder.of(cfg).root
    if _fresh(root).exists() and not root.exists():
        _fresh(root).rename(root)


def _fresh(root: Path) -> Path:
    """Where the folder of a fresh run is prepared: complete once `root` is gone."""
    return root.with_name(f".{root.name}.fresh")


def keep_config(cfg: Config) -> None:
    """Writes config.yaml; that of an earlier attempt goes to `attempts`, numbered from 1."""
    folder = RunFolder.of(cfg)
    if folder.config.exists():
        numbers = [int(path.stem) for path in folder.attempts.glob("*.yaml") if path.stem.isdecimal()]
        last = max(numbers, default=0)
        if not _is_copy(folder.attempts / f"{last}.yaml", folder.config):
            with whole_file(folder.attempts / f"{last + 1}.yaml") as part:
                shutil.copy2(folder.config, part)
    write_config(cfg, folder.config)


def _is_copy(path: Path, of: Path) -> bool:
    """Whether a start that was killed between the two has kept that very config.yaml already."""
    same_time = path.exists() and path.stat().st_mtime_ns == of.stat().st_mtime_ns
    return same_time and path.read_bytes() == of.read_bytes()
