"""Random damage to every file of a real checkpoint: each is passed over by name, or changes nothing of what is loaded.

Then the same with a manifest that fits: loading refuses it with CheckpointError, or loads something.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from alphamed_nemo.config import ParallelConfig
from alphamed_nemo.policy.checkpoint import folder as checkpoint
from alphamed_nemo.policy.checkpoint import manifest
from tests.integration.forged import sign
from tests.integration.policy_runs import build, draws, train, weights_of
from tests.spawn import spawn
from tests.tiny_hf import write_model

SEED = 20_261_127


def flip(draw: random.Random, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def overwrite(draw: random.Random, path: Path) -> None:
    content = bytearray(path.read_bytes())
    start = draw.randrange(len(content))
    for place in range(start, min(len(content), start + draw.randint(2, 64))):
        content[place] = draw.randrange(256)
    path.write_bytes(content)


def insert(draw: random.Random, path: Path) -> None:
    content = path.read_bytes()
    place = draw.randrange(len(content) + 1)
    path.write_bytes(content[:place] + draw.randbytes(1) + content[place:])


def drop(draw: random.Random, path: Path) -> None:
    content = path.read_bytes()
    place = draw.randrange(len(content))
    path.write_bytes(content[:place] + content[place + 1 :])


def truncate(draw: random.Random, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))])


def delete(draw: random.Random, path: Path) -> None:
    path.unlink()


def make_folder(draw: random.Random, path: Path) -> None:
    path.unlink()
    path.mkdir()


def swap(draw: random.Random, path: Path) -> None:
    other = draw.choice([each for each in sorted(path.parent.iterdir()) if each != path])
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def take_from_another(draw: random.Random, path: Path) -> None:
    shutil.copy(path.parent.parent / "step_1" / path.name, path)


def restructure(draw: random.Random, path: Path) -> None:
    """Changes a value or a key somewhere in a JSON file; leaves others as they are."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return flip(draw, path)
    place = content
    while isinstance(place, dict):
        key = draw.choice(sorted(place))
        inner = place[key]
        if isinstance(inner, dict) and inner and draw.random() < 0.7:
            place = inner
            continue
        if draw.random() < 0.3:
            place["x" + key] = place.pop(key)
        else:
            place[key] = draw.choice([None, [], {}, "", "x", -1, 10**30, 1.5, True, [inner], {"x": inner}, 0])
        break
    path.write_text(json.dumps(content))


DAMAGES = (
    flip,
    overwrite,
    insert,
    drop,
    truncate,
    delete,
    make_folder,
    swap,
    take_from_another,
    restructure,
)
KEEPING_FILES = (flip, overwrite, insert, drop, truncate, swap, take_from_another, restructure)


def damaged(draw: random.Random, whole: Path, kinds: tuple[Callable[[random.Random, Path], None], ...]) -> str:
    """Makes `step_2` beside `whole` anew and damages one of its files; says what and how."""
    path = whole.parent / "step_2"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(whole, path)
    kind, name = draw.choice(kinds), draw.choice(sorted(file.name for file in path.iterdir()))
    kind(draw, path / name)
    return f"{kind.__name__} {name}"


def everything(policy) -> list[object]:
    """What a checkpoint brings back: weights, optimizer, schedule, random states."""
    states = [values[key] for values in policy.optimizer.optimizer.state.values() for key in sorted(values)]
    groups = [[group[key] for key in ("lr", "weight_decay", "betas", "eps")] for group in policy.optimizer.param_groups]
    return [*weights_of(policy).values(), *states, groups, policy.scheduler.state_dict(), draws()]


def same(one: list[object], other: list[object]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(one, other, strict=True)
    )


def fuzz(hf: str, folder: str, seed: int, count: int, forged: int) -> tuple[Counter[str], Counter[str], list[str]]:
    """Outcomes of `count` damages and of `forged` damages under a manifest that fits, and what should not have been."""
    draw, wrong = random.Random(seed), []
    policy, whole = build(hf, ParallelConfig()), Path(folder, "whole")
    for step, path in ((1, Path(folder, "step_1")), (2, whole)):
        train(policy, step)
        checkpoint.save(policy, path, {"step": step, "stream": {"epoch": 0, "pending": ["q1"]}})
    checkpoint.load(policy, whole)
    expected = everything(policy)

    outcomes: Counter[str] = Counter()
    for number in range(count):
        what = f"{number}: {damaged(draw, whole, DAMAGES)}"
        try:
            taken = checkpoint.latest(folder)
            if taken == Path(folder, "step_1"):
                outcomes["passed over"] += 1
                continue
            assert taken is not None
            state = checkpoint.load(policy, taken)
            outcomes["harmless"] += 1
            if state["step"] != 2 or not same(everything(policy), expected):
                wrong.append(f"{what}: loaded, but is not the same")
        except Exception as error:
            wrong.append(f"{what}: {type(error).__name__}: {error}")

    under_a_fitting_one: Counter[str] = Counter()
    for number in range(forged):
        what = f"forged {number}: {damaged(draw, whole, KEEPING_FILES)}"
        path = Path(folder, "step_2")
        try:
            if (path / manifest.NAME).read_bytes() == (whole / manifest.NAME).read_bytes():
                sign(path)
            checkpoint.load(policy, path)
            under_a_fitting_one["loaded"] += 1
        except checkpoint.CheckpointError as error:
            under_a_fitting_one["refused"] += 1
            if str(path) not in str(error):
                wrong.append(f"{what}: not named: {error}")
        except Exception as error:
            wrong.append(f"{what}: {type(error).__name__}: {error}")
    return outcomes, under_a_fitting_one, wrong


@pytest.mark.parametrize(
    ("count", "forged"),
    [(300, 40), pytest.param(5_000, 500, marks=pytest.mark.nightly)],
    ids=["short", "long"],
)
def test_no_damage_is_loaded(tmp_path, count, forged):
    hf = str(write_model(tmp_path / "model", "llama"))
    ((outcomes, under_a_fitting_one, wrong),) = spawn(
        fuzz, 1, hf, str(tmp_path / "run"), SEED, count, forged, timeout_s=3600.0
    )
    print(f"seed {SEED}: {dict(outcomes)}; with a manifest that fits: {dict(under_a_fitting_one)}")
    assert wrong == []
    assert outcomes.total() == count and outcomes["passed over"] > 0.9 * count
    assert under_a_fitting_one.total() == forged
