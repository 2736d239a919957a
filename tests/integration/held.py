"""Points of a run at which its processes stand still while a test wants them to, so that a fault hits exactly there.

A test arms one point at a time. A process that comes to it says so in a file, and waits there until the point is no
longer armed. The trainer's points are in `held_worker`; `held_reward` is the reward server's.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

FOLDER = "HELD_IN"  # variable: where the files below are
ARMED = "armed"
REWARD = "reward"
ASKED = " was asked to stop"
LIMIT_S = 600.0  # a test that died releases nobody; one that lives waits for servers meanwhile


def armed(folder: Path) -> str:
    try:
        return (folder / ARMED).read_text()
    except FileNotFoundError:
        return ""


def reach(point: str, who: str) -> bool:
    """Says that `who` is at the point, if it is armed; whether it is."""
    folder = Path(os.environ[FOLDER])
    if armed(folder) != point:
        return False
    (folder / f"{who} at {point}").touch()
    return True


def hold(point: str, who: str) -> None:
    """Stands still at the point while it is armed."""
    folder, deadline = Path(os.environ[FOLDER]), time.monotonic() + LIMIT_S
    if reach(point, who):
        while armed(folder) == point:
            assert time.monotonic() < deadline, f"{who} was not released from {point}"
            time.sleep(0.005)


def held_reward(response: str) -> float:
    """A reward function that gives nothing, in its time."""
    hold("scoring", REWARD)
    return 0.0


class Points:
    """The test's side."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.variable = folder, f"{FOLDER}={folder}"
        folder.mkdir(parents=True)
        os.environ[FOLDER] = str(folder)  # inherited by all that is started

    def arm(self, point: str) -> None:
        """In the place of the one before, whose processes go on: none of them comes past this one meanwhile."""
        for path in self.folder.iterdir():
            if path.name != ARMED:
                path.unlink()
        part = self.folder / "part"
        part.write_text(point)
        part.rename(self.folder / ARMED)

    def is_reached_by(self, who: str) -> bool:
        return (self.folder / f"{who} at {armed(self.folder)}").exists()

    def release(self) -> None:
        for path in (self.folder / ARMED, *self.folder.iterdir()):
            path.unlink(missing_ok=True)
