"""The locks name every file by its hash, and renewing one takes the files that fit, and nothing else."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from requirements.renew_lock import File, NoHash, renewed

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
ONE, TWO, THREE, FOUR = (digit * 64 for digit in "1234")


def entries(lock: Path) -> list[str]:
    """What each line that begins at the margin pins, with the lines that continue it."""
    lines = [line for line in lock.read_text().splitlines() if line and not line.startswith("#")]
    return re.sub(r" \\\n", "", "\n".join(lines)).splitlines()


@pytest.mark.parametrize("name", ["audit.lock", "cpu.lock", "smollm2.lock"])
def test_every_line_pins_one_version_and_its_files(name: str) -> None:
    entry = re.compile(r"[\w.-]+==\S+( ; [^-]+)?(\s+--hash=sha256:[0-9a-f]{64})+")
    found = entries(REQUIREMENTS / name)
    assert found and [line for line in found if not entry.fullmatch(line)] == []


def test_the_lock_has_what_the_project_imports_and_what_installs_it() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = [Requirement(line) for part in ("core", "cpu", "dev") for line in extras[part]]
    wanted = {(canonicalize_name(one.name), str(one.specifier)) for one in wanted if one.specifier}
    pinned = [Requirement(line.partition("--hash")[0].strip()) for line in entries(REQUIREMENTS / "cpu.lock")]
    versions = {canonicalize_name(one.name): str(one.specifier) for one in pinned}
    assert len(versions) == len(pinned) and {"pip", "setuptools"} <= versions.keys()
    assert {name for name, version in wanted if versions.get(name) != version} == {"torch"}  # two builds, two files


def of(*files: tuple[str, str]):
    return lambda name: [File(*file) for file in files]


def locked(*hashes: str, pin: str = "some-thing==1.2") -> str:
    return " \\\n".join([pin, *(f"    --hash=sha256:{found}" for found in hashes)]) + "\n"


@pytest.mark.parametrize(
    "wheel",
    [
        "some_thing-1.2-py3-none-any.whl",
        "some_thing-1.2-py2.py3-none-any.whl",
        "some_thing-1.2-py311-none-any.whl",
        "some_thing-1.2-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "some_thing-1.2-cp312-cp312-manylinux_2_28_x86_64.whl",
        "some_thing-1.2-cp312-cp312-manylinux_2_39_aarch64.whl",
        "some_thing-1.2-cp38-abi3-manylinux1_x86_64.manylinux_2_5_x86_64.whl",
        "some_thing-1.2-1-py3-none-manylinux2014_aarch64.whl",
        "some_thing-1.2.0-py3-none-linux_x86_64.whl",
    ],
)
def test_a_wheel_that_pip_may_choose_is_taken(wheel: str) -> None:
    assert renewed("some-thing==1.2\n", of((wheel, ONE))) == locked(ONE)


@pytest.mark.parametrize(
    "file",
    [
        "some_thing-1.3-py3-none-any.whl",
        "some_thing-1.2rc1-py3-none-any.whl",
        "some_thing-1.2-cp310-cp310-manylinux_2_17_x86_64.whl",
        "some_thing-1.2-cp313-cp313-manylinux_2_17_x86_64.whl",
        "some_thing-1.2-cp313-abi3-manylinux_2_17_x86_64.whl",
        "some_thing-1.2-cp311-cp311-musllinux_1_2_x86_64.whl",
        "some_thing-1.2-cp312-cp312-macosx_11_0_arm64.whl",
        "some_thing-1.2-cp312-cp312-win_amd64.whl",
        "some_thing-1.2-py2-none-any.whl",
        "some_thing-1.2-py3.11.egg",
        "some_thing-one-py3-none-any.whl",
        "some_thing-1.2.tar.gz",  # wheels have precedence
        "some_thing-1.2.exe",
    ],
)
def test_no_other_file_is_taken(file: str) -> None:
    files = of((file, TWO), ("some_thing-1.2-py3-none-any.whl", ONE))
    assert renewed("some-thing==1.2\n", files) == locked(ONE)


def test_the_source_is_taken_where_there_is_no_wheel() -> None:
    files = of(
        ("some_thing-1.2.tar.gz", THREE), ("some_thing-1.3.tar.gz", TWO), ("some_thing-1.2-cp39-cp39-any.whl", ONE)
    )
    assert renewed("some-thing==1.2\n", files) == locked(THREE)


def test_old_hashes_go_and_comments_order_and_markers_stay() -> None:
    wheels = {
        "b": [File("b-2-py3-none-any.whl", TWO), File("b-2-cp311-cp311-linux_x86_64.whl", ONE)],
        "A.a": [File("a_a-1+cpu-py3-none-any.whl", FOUR), File("a_a-1-py3-none-any.whl", THREE)],
    }
    marked = 'A.a==1 ; platform_machine == "x86_64"'
    old = f"# Why.\n{locked(FOUR, FOUR, pin='b==2')}\n{marked}\n# End.\n"
    new = f"# Why.\n{locked(ONE, TWO, pin='b==2')}\n{locked(THREE, pin=marked)}# End.\n"
    assert renewed(old, wheels.__getitem__) == new
    assert renewed(new, wheels.__getitem__) == new


def test_one_file_on_two_indexes_is_one_hash() -> None:
    wheel = ("some_thing-1.2-py3-none-any.whl", ONE)
    assert renewed("some-thing==1.2\n", of(wheel, wheel)) == locked(ONE)


@pytest.mark.parametrize(
    ("lock", "files", "words"),
    [
        ("some-thing==1.2\n", of(), "some-thing==1.2: the index has no file of it for Python 3.11 or 3.12 on Linux"),
        ("some-thing==1.2\n", of(("some_thing-1.2-py3-none-any.whl", "")), "shows no SHA-256 for some_thing-1.2-py3"),
        (
            "some-thing==1.2\n",
            of(("some_thing-1.2-py3-none-any.whl", ONE), ("some_thing-1.2-py3-none-any.whl", TWO)),
            "some_thing-1.2-py3-none-any.whl is not the same file on each index that pip is set to",
        ),
        ("some-thing>=1.2\n", of(), "'some-thing>=1.2': expected NAME==VERSION"),
        ("some-thing==1.2 @ there\n", of(), "expected NAME==VERSION"),
    ],
)
def test_what_cannot_be_locked_is_named(lock: str, files, words: str) -> None:
    with pytest.raises(NoHash, match=re.escape(words)):
        renewed(lock, files)
