"""What the tests take from the Dockerfile's text."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "Dockerfile"
TEXT = DOCKERFILE.read_text()


def argument(name: str) -> str:
    """The default of a build argument."""
    return re.search(rf"^ARG {name}=(\S+)$", TEXT, re.MULTILINE)[1]


def last_instruction_on(image: str, *before: str) -> str:
    """A Dockerfile that runs other instructions, and then this one's last, with the same arguments in sight."""
    arguments = re.findall(r"^ARG \w+_VERSION=\S+$", TEXT, re.MULTILINE)
    return (
        "\n".join([f"FROM {image}", *dict.fromkeys(arguments), *before, TEXT[TEXT.rindex("\nRUN ") :].strip()]) + "\n"
    )
