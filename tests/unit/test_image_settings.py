"""What the image's build is given of a machine's pip settings."""

from __future__ import annotations

import configparser
from pathlib import Path

from tests.image.pip_settings import PipSettings, local_paths, parse_settings

LISTED = """\
:env:.default-timeout='180'
:env:.find-links='/wheels'
global.cert='/etc/ca.crt'
global.disable-pip-version-check='1'
global.extra-index-url='file:///indexes/a/simple\\nhttps://example.org/simple'
global.find-links='/other'
install.timeout='60'
"""


def test_the_environment_wins_over_files_and_only_the_way_to_packages_is_passed_on() -> None:
    assert parse_settings(LISTED) == {
        "cert": "/etc/ca.crt",
        "extra-index-url": "file:///indexes/a/simple https://example.org/simple",
        "find-links": "/wheels",
        "timeout": "180",
    }
    assert parse_settings("") == {}


def test_what_the_settings_name_on_disk_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "a" / "simple").mkdir(parents=True)
    (tmp_path / "wheels").mkdir()
    values = {
        "extra-index-url": f"file://{tmp_path}/a/simple/ https://example.org/simple",
        "find-links": f"{tmp_path}/wheels {tmp_path}/nowhere",
    }
    assert local_paths(values) == [tmp_path / "wheels", tmp_path / "a"]


def test_pips_file_has_the_settings_and_one_more_folder_of_wheels() -> None:
    conf = configparser.ConfigParser()
    conf.read_string(PipSettings({"find-links": "/wheels", "timeout": "180"}, []).text("/stand-ins"))
    assert conf["global"]["find-links"] == "/wheels /stand-ins" and conf["global"]["timeout"] == "180"
    conf.read_string(PipSettings({}, []).text("/stand-ins"))
    assert conf["global"]["find-links"] == "/stand-ins"
