"""Values that no run can have: each is refused in one line that names the setting, and says what it may be."""

from __future__ import annotations

import math

import pytest

from alphamed_nemo.config import Config, SourceConfig
from alphamed_nemo.config.files import known_settings, settings_of, to_config
from alphamed_nemo.config.limits import check_values, setting
from alphamed_nemo.config.ranges import RANGE, Range


def put(cfg: Config, key: str, value: object) -> None:
    section, name = key.split(".")
    setattr(getattr(cfg, section), name, value)


CHOICES = [key for key, hint, _ in known_settings() if "Literal" in str(hint)]
NUMBERS = {
    key: field.metadata.get(RANGE)
    for key, hint, field in known_settings()
    if hint in (int, float, int | None, float | None)
}


def test_the_defaults_are_allowed() -> None:
    check_values(Config())
    assert len(CHOICES) > 20 and len(NUMBERS) > 110


def test_every_number_has_a_range() -> None:
    assert [key for key, limits in NUMBERS.items() if limits is None] == []
    of_a_source = settings_of(SourceConfig)
    assert [
        key for key, hint, field in of_a_source if hint in (int, float, int | None) and RANGE not in field.metadata
    ] == []


@pytest.mark.parametrize("key", CHOICES)
def test_an_unknown_choice_is_refused_with_the_known_ones(key: str) -> None:
    cfg = Config()
    put(cfg, key, ["nosuch"] if isinstance(setting(cfg, key), list) else "nosuch")
    with pytest.raises(ValueError, match=rf"^{key}: found 'nosuch', expected one of \w+"):
        check_values(cfg)


def outside(limits: Range) -> list[float]:
    ends = [limits.low] * limits.above + [limits.high] * limits.below
    return [limits.low - 1, math.nan, math.inf, *ends] + [limits.high + 1] * math.isfinite(limits.high)


@pytest.mark.parametrize("key", list(NUMBERS))
def test_a_number_out_of_range_is_refused(key: str) -> None:
    limits = NUMBERS[key]
    assert limits is not None
    for value in outside(limits):
        cfg = Config()
        put(cfg, key, value)
        with pytest.raises(ValueError, match=rf"^{key}: found .*expected "):
            check_values(cfg)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rows": -1}, r"^sources\.train\.mine\.rows: found -1, expected at least 0$"),
        ({"rows": "ten"}, r"^sources\.train\.mine\.rows: found 'ten' \(str\), expected int$"),
        ({"cop_base": 2}, r"^sources\.train\.mine\.cop_base: found 2, expected 0 to 1$"),
        ({"contexts": 1}, r"^sources\.train\.mine\.contexts: found 1 \(int\), expected bool$"),
        ("medqa", r"^sources\.train\.mine: found 'medqa', expected a group of settings$"),
    ],
)
def test_a_source_of_the_users_own_name_is_checked_too(values: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_values(to_config({"sources": {"train": {"mine": values}}}))


def test_the_parts_of_a_mixture_are_whole_numbers_above_0() -> None:
    check_values(to_config({"label": {"mixture": {"medqa": 5}}}))
    with pytest.raises(ValueError, match=r"^label\.mixture\.medqa: found 0, expected at least 1$"):
        check_values(to_config({"label": {"mixture": {"medqa": 0}}}))
    with pytest.raises(ValueError, match=r"^label\.mixture\.medqa: found 2\.5 \(float\), expected int$"):
        check_values(to_config({"label": {"mixture": {"medqa": 2.5}}}))


def test_servers_and_their_urls_may_not_contradict() -> None:
    cfg = Config()
    cfg.rollout.urls, cfg.rollout.servers = ["http://a:1", "http://b:1"], 3
    with pytest.raises(ValueError, match=r"^rollout\.servers: found 3 with 2 rollout\.urls"):
        check_values(cfg)
    for servers in (1, 2):
        cfg.rollout.servers = servers
        check_values(cfg)


def test_levels_need_samples_that_differ() -> None:
    cfg = Config()
    cfg.label.temperature = 0.0
    with pytest.raises(
        ValueError, match=r"^label\.temperature: found 0, at which all 5 samples of a question are alike"
    ):
        check_values(cfg)
    cfg.label.samples = 1
    check_values(cfg)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/tmp", "two\nlines", "a\tb", "x" * 256, "ü" * 128])
def test_a_run_is_one_folder_in_run_dir(name: str) -> None:
    cfg = Config()
    cfg.run.name = name
    with pytest.raises(ValueError, match=r"^run\.name: .*expected") as caught:
        check_values(cfg)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 120


@pytest.mark.parametrize("name", ["x" * 255, "Versuch für Ärzte, 2. Teil", "lr=1e-6", "it's", "$HOME", "run.7"])
def test_a_run_may_have_any_printable_name(name: str) -> None:
    cfg = Config()
    cfg.run.name = name
    check_values(cfg)
