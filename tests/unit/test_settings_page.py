"""docs/settings.md is what the schema says now."""

from pathlib import Path

from alphamed_nemo.cli.settings_page import page
from alphamed_nemo.config.files import known_settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


def test_the_page_is_what_the_schema_says() -> None:
    assert PAGE.read_text() == page(), "python -m alphamed_nemo.cli.settings_page > docs/settings.md"


def test_every_setting_is_on_it() -> None:
    text = page()
    assert not [name for name, *_ in known_settings() if f"`{name}`" not in text]
