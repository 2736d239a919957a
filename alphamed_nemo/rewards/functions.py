"""A user's own rewards beside the rule: reward = Σ weight × value, over the functions of `reward.functions`.

    reward.functions=[correct,examples/format_reward.py:format_reward] reward.weights=[1.0,0.2]

`correct` is the rule. Any other is a function of one response, called by name with those of these that it asks for:

    prompt: str           as the model was given it, chat template included
    response: str         what the model wrote
    question: Question    stem, options, key, data set, level
    metadata: dict        the question's own

and returns a number, or a dict of named numbers, whose sum is then its value. What is no number, or none within
±1e9, or an exception, refuses the request: there is no reward of 0 for a function that failed. Functions get a response
of any length; the rule does not read one above `reward.max_response_chars`.
"""

from __future__ import annotations

import inspect
import logging
import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from alphamed_nemo import user_code
from alphamed_nemo.config import RewardConfig
from alphamed_nemo.config.limits import check_weights
from alphamed_nemo.rewards.rule import score_all
from alphamed_nemo.rewards.score import LARGEST_REWARD, RewardItem, Score

RULE = "correct"
ARGUMENTS = ("prompt", "response", "question", "metadata")
RESERVED = (RULE, "mean")  # reward/correct is the rule's, reward/mean the weighted sum
KEY = "reward.functions"
_NAME = re.compile(r"[A-Za-z0-9_.-]+")  # becomes the name of a metric

log = logging.getLogger(__name__)


class FunctionFailed(Exception):
    """A reward function raised, or returned something that is no reward; says which, of which item, and why."""


def needs_question(cfg: RewardConfig) -> bool:
    """Whether prompt, question and metadata travel to the server."""
    return any(place != RULE for place in cfg.functions)


def part_of(place: str) -> str:
    """The name that a function has in scores and metrics."""
    return user_code.name_of(place)


def check_functions(cfg: RewardConfig) -> None:
    """What can be known to be wrong without running any of it.

    Raises:
        ValueError: weights that cannot be, an unknown file, module or function, an argument that no function gets, or
            two functions of one name.
    """
    check_weights(cfg)
    seen: dict[str, str] = {}
    for place in cfg.functions:
        name = part_of(place)
        if place != RULE:
            if not user_code.is_place(place):
                raise ValueError(
                    f"{KEY}: found {place!r}, expected {RULE}, file.py:function or package.module:function"
                )
            user_code.find(place, KEY, ARGUMENTS)
            if name in RESERVED:
                raise ValueError(f"{KEY}: {place}: the name {name!r} has another meaning in the metrics; rename it")
        if name in seen:
            raise ValueError(f"{KEY}: {seen[name]} and {place} have one name in the metrics; rename or drop one")
        seen[name] = place


@dataclass(frozen=True)
class _Function:
    name: str
    weight: float
    call: Callable[..., Any]
    arguments: frozenset[str]

    @classmethod
    def load(cls, place: str, weight: float) -> _Function:
        call = user_code.load(place, KEY)
        if not callable(call):
            raise ValueError(f"{KEY}: {place} is a {type(call).__name__}, expected a function")
        if inspect.iscoroutinefunction(call):
            raise ValueError(f"{KEY}: {place} is async; expected a plain function")
        try:
            parameters = inspect.signature(call).parameters.values()
        except ValueError as error:  # some of those that are built in
            raise ValueError(f"{KEY}: {place}: {error}; wrap it in a function of your own") from error
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return cls(part_of(place), weight, call, frozenset(ARGUMENTS))
        named = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL}
        asked = {p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL}
        if not asked <= set(ARGUMENTS):
            unknown = ", ".join(sorted(asked - set(ARGUMENTS)))
            raise ValueError(f"{KEY}: {place} asks for {unknown}; expected arguments out of {', '.join(ARGUMENTS)}")
        return cls(part_of(place), weight, call, frozenset(named & set(ARGUMENTS)))


class RewardFunctions:
    """The functions of one server, loaded. Calls come one at a time, so a function need not be thread-safe.

    Args:
        cfg: its functions, weights and the rule's protocol.

    Raises:
        ValueError: a function cannot be loaded.
    """

    def __init__(self, cfg: RewardConfig) -> None:
        check_functions(cfg)
        self.protocol, self.max_chars = cfg.protocol, cfg.max_response_chars
        self.rule_weight = cfg.weighted.get(RULE, 0.0)
        self.own = [_Function.load(place, weight) for place, weight in cfg.weighted.items() if place != RULE]
        self._lock = threading.Lock()

    def score_all(self, items: Sequence[RewardItem]) -> list[Score]:
        """Scores in the order of the items; each has the rule's answer and reason, whatever the weights.

        Raises:
            FunctionFailed: no item is scored then.
        """
        with self._lock:
            by_rule = score_all(items, self.protocol, self.max_chars)
            return [
                self._score(index, item, score) for index, (item, score) in enumerate(zip(items, by_rule, strict=True))
            ]

    def _score(self, index: int, item: RewardItem, rule: Score) -> Score:
        reward, parts = self.rule_weight * rule.reward, {RULE: rule.reward}
        for function in self.own:
            value, named = _value(function, index, item)
            parts |= {function.name: value, **{f"{function.name}/{name}": part for name, part in named.items()}}
            reward += function.weight * value
        if not abs(reward) <= LARGEST_REWARD:
            raise FunctionFailed(
                f"items[{index}]: the weighted sum of {parts} is {reward}, expected at most ±{LARGEST_REWARD:g}"
            )
        return Score(reward, rule.answer, rule.reason, parts)


def _value(function: _Function, index: int, item: RewardItem) -> tuple[float, dict[str, float]]:
    """What a function says of an item: its value, and the named parts of it."""
    assert item.question is not None
    known = {
        "prompt": item.prompt,
        "response": item.response,
        "question": item.question,
        "metadata": item.question.metadata,
    }
    where = f"items[{index}] (question {item.question.id}): {function.name}"
    try:
        found = function.call(**{name: known[name] for name in function.arguments})
    except Exception as error:  # whatever the user's code raises
        log.exception("%s failed", where)
        raise FunctionFailed(f"{where} raised {type(error).__name__}: {error}") from error
    if not isinstance(found, Mapping):
        return _number(found, where), {}
    named = {}
    for name, part in found.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise FunctionFailed(f"{where} names a part {name!r}; expected letters, digits, '_', '-' and '.'")
        named[name] = _number(part, f"{where}: {name}")
    if not named:
        raise FunctionFailed(f"{where} returned no part")
    return _number(sum(named.values()), where), named


def _number(found: Any, where: str) -> float:
    """Raises: FunctionFailed: not a finite number. True and False are 1 and 0."""
    if not isinstance(found, Real):
        raise FunctionFailed(f"{where} returned {str(found)[:80]!r} ({type(found).__name__}), expected a number")
    try:
        value = float(found)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise FunctionFailed(f"{where} returned {value}, expected a finite number")
    if abs(value) > LARGEST_REWARD:
        raise FunctionFailed(f"{where} returned {value}, expected at most ±{LARGEST_REWARD:g}")
    return value
