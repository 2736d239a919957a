"""How long clients of the run's servers pause."""

from __future__ import annotations

import random

from alphamed_nemo.patience import LONGEST_PAUSE_S, pause_s


def test_pauses_double_up_to_a_limit_and_are_scattered() -> None:
    for attempt, longest in ((1, 0.2), (2, 0.4), (3, 0.8), (20, LONGEST_PAUSE_S)):
        drawn = [pause_s(attempt) for _ in range(200)]
        assert 0.5 * longest <= min(drawn) < max(drawn) <= longest


def test_a_server_may_ask_for_a_longer_pause() -> None:
    assert pause_s(1, {"retry-after": "3"}) == 3.0
    assert pause_s(1, {"retry-after": "3600"}) == LONGEST_PAUSE_S


def test_waiting_draws_nothing_from_the_generator_whose_state_is_in_the_checkpoints() -> None:
    before = random.getstate()
    pause_s(3)
    assert random.getstate() == before
