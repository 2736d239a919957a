"""Functions of this project in the place of vLLM's, here of stand-ins with the same kinds of functions."""

from __future__ import annotations

import types

import pytest

from alphamed_nemo.rollout.inside_vllm.replaced import replaces


def engine() -> type:
    class Engine:
        def __init__(self) -> None:
            self.calls = ["init"]

        def answer(self, text: str, *, loud: bool = False) -> str:
            """What vLLM says of it."""
            return text.upper() if loud else text

        @classmethod
        def configure(cls, value: int) -> tuple[type, int]:
            return cls, value

    return Engine


def test_a_method_is_called_with_what_it_replaces() -> None:
    owner = engine()

    @replaces(owner, "__init__")
    def init(original, self) -> None:
        original(self)
        self.calls.append("ours")

    @replaces(owner, "answer")
    def answer(original, self, *args, **kwargs) -> str:
        return f"<{original(self, *args, **kwargs)}>"

    made = owner()
    assert made.calls == ["init", "ours"]
    assert made.answer("yes", loud=True) == "<YES>"
    assert (owner.answer.__name__, owner.answer.__doc__) == ("answer", "What vLLM says of it.")


def test_a_class_method_keeps_its_class() -> None:
    owner = engine()

    @replaces(owner, "configure")
    def configure(original, cls, value: int) -> tuple[type, int]:
        return original(cls, value + 1)

    class Derived(owner):
        pass

    assert owner.configure(1) == (owner, 2)
    assert Derived.configure(1) == (Derived, 2)
    assert Derived().configure(1) == (Derived, 2)


def test_a_name_of_a_module_is_replaced_in_that_module_alone() -> None:
    importing, home = types.ModuleType("importing"), types.ModuleType("home")
    importing.width = home.width = lambda bits: bits // 8
    replaces(importing, "width")(lambda original, bits: original(bits) + 1)
    assert (importing.width(16), home.width(16)) == (3, 2)


@pytest.mark.parametrize("name", ["answer", "configure", "__init__"])
def test_nothing_is_replaced_twice(name: str) -> None:
    owner = engine()
    replaces(owner, name)(lambda original, *args: original(*args))
    once = owner.__dict__[name]
    replaces(owner, name)(lambda original, *args: 1 / 0)
    assert owner.__dict__[name] is once
