"""Content addresses: the same ingredients give the same one, and whatever changes an outcome changes it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from policies import EvenPacing, FixedPacing, StrategyAuction
from runtime.addresses import canonical, run_address
from runtime.agents.agent import Agent
from runtime.agents.tools import Tool
from runtime.budget import Budget
from runtime.errors import ConfigError
from runtime.ids import address, check_name, draw, seed_of
from runtime.models.base import ChatModel
from runtime.models.scripted import ScriptedModel
from runtime.task import Task
from runtime.usage import Price
from topologies import Chain, Single, Star, Topology


def near(answer: str, expected: int = 42) -> bool:
    return answer == str(expected)


def far(answer: str, expected: int = 42) -> bool:
    return answer != str(expected)


class Shop:
    def __init__(self, stock: int) -> None:
        self.stock = stock

    def look(self) -> str:
        return str(self.stock)


@dataclass
class Judge:
    expected: int

    def __call__(self, answer: str) -> bool:
        return answer == str(self.expected)


class Slotted:
    __slots__ = ("x",)


def models(price: Price | None = None) -> Mapping[str, ChatModel]:
    model = ScriptedModel(["42"], name="m")
    model.price = price or Price(1, 2)
    return {"m": model}


def tooled(**more: Any) -> Single:
    tool = Tool("look", "Looks.", near, {"type": "object"}, **more)
    return Single(Agent("executor", model="m", tools=(tool,)))


def priced(topology: Topology, pacing: Any) -> Topology:
    topology.pacing = pacing
    return topology


def at(
    topology: Topology | None = None,
    task: Task = Task("q", "a"),  # noqa: B008
    budget: Budget = Budget(tokens=9),  # noqa: B008
    seed: int = 0,
    price: Price | None = None,
) -> str:
    return run_address(topology or Star(2, model="m"), task, budget, seed, models(price))


def test_the_same_ingredients_made_anew_have_the_same_address() -> None:
    assert at(Star(2, model="m")) == at(Star(2, model="m")) == at(Star([Agent("executor")] * 2, model="m"))
    assert at(task=Task("q", "a")) == at(task=Task("q", "a", id="label"))


def test_whatever_changes_the_outcome_changes_the_address() -> None:
    star = Star(2, model="m")
    variants = {
        "plain": at(star),
        "size": at(Star(3, model="m")),
        "kind": at(Chain(2, model="m")),
        "model": at(Star(2, verifier=Agent("verifier", model="other"), model="m")),
        "router": at(Star(2, verifier=Agent("verifier", model=StrategyAuction("m", "n")), model="m")),
        "bidder": at(Star(2, verifier=Agent("verifier", model=StrategyAuction("m", "o")), model="m")),
        "prompt": at(Star(2, verifier=Agent("verifier", prompt="Be strict."), model="m")),
        "effort": at(Star(2, verifier=Agent("verifier", effort_tokens=99), model="m")),
        "role": at(Star(2, verifier=Agent("executor"), model="m")),
        "pacing": at(priced(Star(2, model="m"), FixedPacing(300))),
        "pacing value": at(priced(Star(2, model="m"), FixedPacing(301))),
        "pacing setting": at(priced(Star(2, model="m"), EvenPacing(most_tokens=9))),
        "task": at(star, Task("p", "a")),
        "answer": at(star, Task("q", "b")),
        "check": at(star, Task("q", "a", "contains")),
        "family": at(star, Task("q", "a", family="f")),
        "checker": at(star, Task("q", "a", checker=near)),
        "other checker": at(star, Task("q", "a", checker=far)),
        "checker's argument": at(star, Task("q", "a", checker=partial(near, expected=1))),
        "its value": at(star, Task("q", "a", checker=partial(near, expected=2))),
        "its function": at(star, Task("q", "a", checker=partial(far, expected=1))),
        "checker's state": at(star, Task("q", "a", checker=Judge(1))),
        "its other value": at(star, Task("q", "a", checker=Judge(2))),
        "budget": at(star, budget=Budget(tokens=10)),
        "dimension": at(star, budget=Budget(calls=9)),
        "second limit": at(star, budget=Budget(tokens=9, seconds=1)),
        "seed": at(star, seed=1),
        "great seed": at(star, seed=2**70),
        "greater seed": at(star, seed=2**70 + 1),
        "price": at(star, price=Price(1, 3)),
        "tool": at(tooled()),
        "tool's price": at(tooled(usd=1)),
        "tool's kind": at(tooled(virtual=True)),
        "tool's units": at(tooled(units=near)),
    }

    assert len(set(variants.values())) == len(variants)


def test_a_method_is_known_by_its_object_too() -> None:
    one, two = ({"call": Shop(stock).look} for stock in (1, 2))

    assert canonical(one) != canonical(two)
    assert canonical(one) == canonical({"call": Shop(1).look})


@pytest.mark.parametrize(
    "thing",
    [
        lambda answer: True,
        partial(lambda answer, x: True, x=1),
        Slotted(),
        object(),
        len,
        replace(Task("q"), checker=lambda answer: True),
    ],
)
def test_what_nothing_identifies_is_refused(thing: Any) -> None:
    with pytest.raises(ConfigError):
        canonical(thing)


def test_a_nested_function_is_refused_with_its_cure() -> None:
    def nested(answer: str) -> bool:
        return True

    with pytest.raises(ConfigError, match="define it at the top of a module"):
        at(task=Task("q", checker=nested))


@pytest.mark.parametrize(
    ("one", "other"),
    [(True, 1), (1, "1"), (1, 1.5), (None, "None"), ((1, (2,)), ((1, 2),)), ({"a": 1}, {"a": 2}), ({1, 2}, {1, 3})],
)
def test_different_values_have_different_forms(one: Any, other: Any) -> None:
    assert address(canonical(one)) != address(canonical(other))


def test_sets_have_no_order() -> None:
    assert canonical({"b", "a", "c"}) == canonical({"c", "b", "a"})
    assert canonical(frozenset({1, "a", (2, 3)})) == canonical(frozenset({(2, 3), 1, "a"}))


def test_seeds_tell_their_parts_apart_and_stay_in_63_bits() -> None:
    assert seed_of("a", "bc") != seed_of("ab", "c")
    assert all(0 <= seed_of(i) < 2**63 for i in range(1000))
    assert seed_of(7, "x") == 3342883595432647715, "the same on every machine, for ever"
    draws = [draw(i) for i in range(10_000)]
    assert all(0 <= x < 1 for x in draws)
    assert abs(sum(draws) / len(draws) - 0.5) < 0.01


@pytest.mark.parametrize("name", ["a", "run-1", "0.x_y", "a" * 64])
def test_a_usable_name_is_returned(name: str) -> None:
    assert check_name(name, "run_id") == name


@pytest.mark.parametrize("name", ["", "A", "-a", ".a", "a/b", "a b", "a" * 65, "a..b", "é", "a\n"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a usable name"):
        check_name(name, "run_id")
