"""Owns the synthetic trials on which the tests of tables, audit, plots and report stand."""

import itertools
import math
from collections.abc import Callable, Sequence

import polars as pl
import pytest

from runtime.ids import address, draw, seed_of

_STRENGTH = {"Single(fill)": 0.0, "Star(4)": 0.7, "Chain(3)": 0.3, "Mesh(3)": -0.2, "Tree(2, 2)": 0.45}
_SKILL = {"small": (-0.7, 1.0), "large": (0.5, 2.6), "auction": (0.45, 1.7)}
_CAPS = {"$0.0004": 400_000_000, "$0.0012": 1_200_000_000, "$0.0036": 3_600_000_000}


def trials_of(
    topologies: Sequence[str] = tuple(_STRENGTH),
    models: Sequence[str] = tuple(_SKILL),
    budgets: Sequence[str] = tuple(_CAPS),
    families: Sequence[str] = ("companies", "craft"),
    n_tasks: int = 10,
    n_seeds: int = 3,
) -> pl.DataFrame:
    """A full factorial of trials whose chances depend on task, topology, model and budget."""
    tasks, seeds = range(n_tasks), range(n_seeds)
    rows = [
        _trial(*cell, f"{family}-{task:03d}", seed, list(budgets).index(cell[2]), family)
        for cell in itertools.product(topologies, models, budgets)
        for family in families
        for task in tasks
        for seed in seeds
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def _trial(topology: str, model: str, budget: str, task: str, seed: int, rank: int, family: str) -> dict[str, object]:
    cap = _CAPS.get(budget, 10**9)
    skill, price = _SKILL.get(model, (0.0, 1.0))
    hard = 2.4 * (draw("item", task) - 0.5)
    logit = _STRENGTH.get(topology, 0.0) + skill - hard + 1.1 * (math.log10(cap) - 9)
    solved = draw("trial", task, seed, model) < 1 / (1 + math.exp(-1.6 * logit))
    used = 0.35 + 0.6 * draw("spend", topology, model, task, seed)
    spent = int(cap * (used if topology != "Single(fill)" else 0.93 + 0.06 * used))
    roll = draw("end", topology, model, budget, task, seed)
    status = "exhausted" if roll < 0.12 / (rank + 1) else "deadline" if roll > 0.985 else "completed"
    tokens = int(spent / (price * 90_000))
    return {
        "experiment": "which-team",
        "family": family,
        "topology": topology,
        "model": model,
        "budget": budget,
        "budget_rank": rank,
        "cap_tokens": None,
        "cap_pico_usd": cap,
        "cap_calls": None,
        "cap_tool_calls": 30,
        "cap_seconds": 120.0,
        "task": task,
        "seed": seed,
        "address": address([topology, model, budget, task, seed]),
        "status": status,
        "reason": {"exhausted": "the next call does not fit", "deadline": "120 s are over"}.get(status, ""),
        "answer": str(seed_of(task) % 97),
        "correct": solved,
        "tokens": tokens,
        "pico_usd": spent,
        "calls": 3 + rank * 4,
        "tool_calls": 2 + rank,
        "seconds": 10 + 80 * draw("time", topology, model, task, seed),
        **dict.fromkeys(("over_tokens", "over_pico_usd", "over_calls", "over_tool_calls"), 0),
        **dict.fromkeys(("charged_max_tokens", "charged_max_pico_usd", "slack_tokens"), 0),
        "slack_pico_usd": cap // 400,
        "refusals": int(status == "exhausted" or topology == "Single(fill)"),
        "deterministic": "D1",
        "disturbed": False,
        "prices": "5f" * 32,
        "kind": "simulated",
    }


@pytest.fixture(scope="session")
def make_trials() -> Callable[..., pl.DataFrame]:
    return trials_of


@pytest.fixture(scope="session")
def trials() -> pl.DataFrame:
    """Five topologies, three models, two budgets, two families, eight tasks, two seeds."""
    return trials_of(budgets=("$0.0004", "$0.0012"), n_tasks=8, n_seeds=2)
