"""Known vulnerabilities of what is pinned, by pip-audit, from the OSV database. `./run test audit` alone runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
UNREACHABLE = ("ConnectionError", "ConnectTimeout", "ReadTimeout", "ServiceError")  # what pip-audit ends with


@pytest.fixture(scope="module")
def pip_audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pip-audit and what it asks for."""
    folder = tmp_path_factory.mktemp("pip-audit")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--target", folder]
    done = subprocess.run([*install, "--requirement", REQUIREMENTS / "audit.lock"], capture_output=True, text=True)
    if done.returncode:
        assert "DO NOT MATCH THE HASHES" not in done.stderr, done.stderr
        pytest.skip(f"pip-audit cannot be installed: {done.stderr.strip()[-300:]}")
    return folder


@pytest.fixture(scope="module")
def pins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run is made of: the locks, and what pyproject.toml pins beyond them (torch, and the GPU builds)."""
    lines = [line for lock in ("cpu", "smollm2") for line in (REQUIREMENTS / f"{lock}.lock").read_text().splitlines()]
    lines = [line.split()[0] for line in lines if line[:1].isalnum()]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pinned = {Requirement(line) for line in chain(lines, *extras.values())}
    found = {f"{canonicalize_name(one.name)}{one.specifier}" for one in pinned if one.specifier}
    file = tmp_path_factory.mktemp("pins") / "requirements.txt"
    file.write_text("\n".join(sorted(found)))
    return file


def audit(pip_audit: Path, pins: Path, *options: str) -> list[str]:
    """What is known of the pins, a line for each advisory.

    Skips the test where the database cannot be asked. pip-audit itself reports no vulnerability of a package that it
    could not ask about; here that is a failure.
    """
    command = [sys.executable, "-m", "pip_audit", "--requirement", pins, "--no-deps", "--disable-pip", "--format=json"]
    command += ["--vulnerability-service=osv", "--progress-spinner=off", "--aliases=on", *options]
    env = os.environ | {"PYTHONPATH": str(pip_audit)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if not done.stdout:
        last = done.stderr.strip().splitlines()[-1]
        assert any(name in last for name in UNREACHABLE), done.stderr
        pytest.skip(f"nothing was audited, as the database cannot be reached: {last}")
    packages = json.loads(done.stdout)["dependencies"]
    assert [one for one in packages if "vulns" not in one] == []
    assert len(packages) == len(pins.read_text().splitlines())
    return [
        f"{one['name']}=={one['version']}: {found['id']} ({', '.join(found['aliases'])}), "
        f"fixed in {', '.join(found['fix_versions']) or 'no release'}"
        for one in packages
        for found in one["vulns"]
    ]


def test_no_pin_has_a_known_vulnerability(pip_audit: Path, pins: Path) -> None:
    assert audit(pip_audit, pins) == []


@pytest.fixture
def database() -> Iterator[str]:
    """A stand-in that has one advisory: for the pinned Jinja2."""
    advisory = {
        "id": "CVE-0000",
        "aliases": ["GHSA-0000"],
        "summary": "A stand-in.",
        "affected": [
            {
                "package": {"name": "jinja2", "ecosystem": "PyPI"},
                "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "999"}]}],
            }
        ],
    }

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = {"vulns": [advisory]} if asked["package"]["name"] == "jinja2" else {}
            body = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_known_vulnerability_is_found_and_named(pip_audit: Path, pins: Path, database: str) -> None:
    (found,) = audit(pip_audit, pins, f"--osv-url={database}")
    assert found.startswith("jinja2==") and found.endswith(": CVE-0000 (GHSA-0000), fixed in 999")
