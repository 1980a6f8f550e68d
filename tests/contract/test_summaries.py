"""Summaries of mail in runs as they are shipped: on every kind of host, virtual ones and over HTTP."""

from typing import Any

import pytest

from benchmarks.tasks import companies
from policies import FixedPacing
from runtime import Budget
from topologies import Star

EFFORT_TOKENS = 200
"""Little, because a model behind HTTP takes its time for real."""


@pytest.mark.parametrize("model", ["sim/small", "far/small"])
def test_a_reader_of_long_mail_asks_for_summaries_and_pays_them(driven: Any, model: str) -> None:
    (task,) = companies.generate(1, seed=3)
    team = Star(2, model=model)
    team.summarise, team.message_tokens, team.pacing = True, 20, FixedPacing(EFFORT_TOKENS)

    result = driven.run(team, task, budget=Budget(tokens=60_000), seed=5)

    told = [a for a in result.attempts if a.kind == "summary"]
    assert result.status == "completed"
    assert {a.seat for a in told} == {"verifier"}
    assert sorted(a.senders for a in told) == [("executor[0]",), ("executor[1]",)]
    assert all((a.state, a.max_tokens) == ("settled", 20) and a.output_tokens <= 20 for a in told)
    assert all(a.reply.startswith("Answer: ") for a in told), "plain text, not a typed reply"
