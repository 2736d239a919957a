"""Writes into the locks the SHA-256 of every file that may be installed, as the package index shows them.

.venv/bin/python requirements/renew_lock.py [requirements/cpu.lock ...]

Pins, their order, markers and comments stay as they are: to change a pin, edit its version and run this. .venv's pip
reads the index, so index, certificates and proxies are those that `pip install` uses. No package is downloaded.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

PYTHONS = ((3, 11), (3, 12))
MACHINES = ("x86_64", "aarch64")
NEWEST_GLIBC = 60  # 2.60: far ahead of any distribution
PIN = re.compile(r"(?P<name>[\w.-]+)==(?P<version>[^\s;\\]+)\s*(?P<marker>;[^\\]*)?")
HASH = re.compile(r"\s+--hash=")


@dataclass(frozen=True)
class File:
    """One file of a page of the index; `sha256` is empty where the index shows none."""

    name: str
    sha256: str


FilesOf = Callable[[str], Iterable[File]]


class NoHash(Exception):
    """A pin that cannot be locked; the text names it and says why."""


def renewed(lock: str, files_of: FilesOf) -> str:
    """The text of the lock with the hashes of now.

    Args:
        lock: pins by line, with or without hashes.
        files_of: all files that the index has by a distribution's name.

    Raises:
        NoHash: a line that is no pin, or a pin without a file that fits.
    """
    lines = []
    for line in lock.splitlines():
        if HASH.match(line):
            continue
        if not line or line.startswith("#"):
            lines.append(line)
            continue
        pin = PIN.fullmatch(line.rstrip("\\ "))
        if pin is None:
            raise NoHash(f"{line!r}: expected NAME==VERSION")
        name, version, marker = pin["name"], pin["version"], (pin["marker"] or "").strip()
        hashes = hashes_of(name, Version(version), files_of(name))
        head = f"{name}=={version} {marker}".strip()
        lines.append(" \\\n".join([head, *(f"    --hash=sha256:{found}" for found in hashes)]))
    return "\n".join(lines) + "\n"


def hashes_of(name: str, version: Version, files: Iterable[File]) -> list[str]:
    """The sorted hashes of all wheels of one version that fit; of its source distribution where no wheel does.

    Raises:
        NoHash: nothing fits, a file has no hash, or two indexes show two hashes for one file.
    """
    files = list(files)
    fitting = [file for file in files if fits(file.name, version)]
    fitting = fitting or [file for file in files if is_source(file.name, version)]
    if not fitting:
        raise NoHash(f"{name}=={version}: the index has no file of it for Python 3.11 or 3.12 on Linux")
    hashes: dict[str, str] = {}
    for file in fitting:
        if not file.sha256:
            raise NoHash(f"{name}=={version}: the index shows no SHA-256 for {file.name}")
        if hashes.setdefault(file.name, file.sha256) != file.sha256:
            raise NoHash(f"{name}=={version}: {file.name} is not the same file on each index that pip is set to")
    return sorted(set(hashes.values()))


def fits(file: str, version: Version) -> bool:
    """Whether it is a wheel of that version for one of the Pythons and machines."""
    try:
        _, found, _, tags = parse_wheel_filename(file)
    except (InvalidWheelFilename, InvalidVersion):
        return False
    return found == version and not tags.isdisjoint(TAGS)


def is_source(file: str, version: Version) -> bool:
    try:
        return parse_sdist_filename(file)[1] == version
    except (InvalidSdistFilename, InvalidVersion):
        return False


def tags() -> frozenset[Tag]:
    """All that a wheel's name may say of the Pythons and machines that the lock is for."""
    platforms = [
        f"{system}_{machine}"
        for machine in MACHINES
        for system in ("linux", "manylinux2014", *(f"manylinux_2_{minor}" for minor in range(5, NEWEST_GLIBC)))
    ]
    platforms += ["manylinux1_x86_64", "manylinux2010_x86_64"]
    return frozenset(
        tag
        for python in PYTHONS
        for tag in (
            *cpython_tags(python, platforms=platforms),
            *compatible_tags(python, interpreter=f"cp{python[0]}{python[1]}", platforms=platforms),
        )
    )


TAGS = tags()


@contextmanager
def pips_index() -> Iterator[FilesOf]:
    """The indexes that pip is set to. pip offers no interface for it; its version is pinned in the lock itself."""
    from pip._internal.commands import create_command
    from pip._internal.index.collector import parse_links
    from pip._internal.models.link import Link

    command = create_command("index")
    options, _ = command.parse_args(["versions", "any"])
    with command.main_context():
        finder = command._build_package_finder(options=options, session=command._build_session(options))
        collector = finder._link_collector

        def files_of(name: str) -> Iterator[File]:
            for url in collector.search_scope.get_index_urls_locations(name):
                page = collector.fetch_response(Link(url))
                for link in parse_links(page) if page else ():
                    yield File(link.filename, link.hash or "" if link.hash_name == "sha256" else "")

        yield files_of


def main(locks: list[Path]) -> None:
    with pips_index() as files_of:
        for lock in locks:
            try:
                text = renewed(lock.read_text(), files_of)
            except NoHash as error:
                sys.exit(f"error: {error}; {lock} is as it was")
            lock.write_text(text)
            print(f"{lock}: {text.count('--hash=')} hashes")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or sorted(Path(__file__).parent.glob("*.lock")))
