"""This machine's own pip settings, for a build that runs on another root: indexes, wheels on disk, the CA bundle."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

PASSED_ON = ("index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "proxy", "timeout", "cert")
SAME_AS = {"default-timeout": "timeout"}
QUICK = {"no-compile": "no", "progress-bar": "off"}  # for this one, pip's files say "no" and mean yes
CA_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")  # in the order in which pip looks


@dataclass
class PipSettings:
    """
    Attributes:
        values: settings by name; those that are lists are separated by white space.
        mounts: files and folders of this machine that the settings name.
    """

    values: dict[str, str]
    mounts: list[Path]

    def text(self, wheels: str) -> str:
        """A pip.conf, with one more folder of wheels, and without what takes time and shows nothing here."""
        values = self.values | {"find-links": f"{self.values.get('find-links', '')} {wheels}".strip()} | QUICK
        return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())


def pip_settings() -> PipSettings:
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True)
    values = parse_settings(listed.stdout)
    bundle = next((os.environ[name] for name in CA_BUNDLES if os.environ.get(name)), "")
    if bundle:
        values.setdefault("cert", bundle)
    return PipSettings(values, local_paths(values))


def parse_settings(listed: str) -> dict[str, str]:
    """From `pip config list`, whose lines are section.name='value'; the environment is the section ':env:'."""
    lines = dict(line.split("=", 1) for line in listed.splitlines() if "=" in line)
    values = {}
    for section in ("global", "install", ":env:"):  # later ones win, as for `pip install`
        for key, value in lines.items():
            found, _, name = key.rpartition(".")
            name = SAME_AS.get(name, name)
            if found == section and name in PASSED_ON:
                values[name] = " ".join(str(ast.literal_eval(value)).split())
    return values


def local_paths(values: dict[str, str]) -> list[Path]:
    """What of the settings is on this machine's disk, with the folder that an index's pages point into."""
    paths = [Path(values["cert"])] if "cert" in values else []
    for name in ("find-links", "index-url", "extra-index-url"):
        for place in values.get(name, "").split():
            path = Path(urlsplit(place).path) if place.startswith("file:") else Path(place)
            if path.is_absolute():
                paths.append(path if name == "find-links" else path.parent)
    return list(dict.fromkeys(path for path in paths if path.exists()))
