"""The speed benchmarks of models: each role is really played, and every benchmark keeps its own key of the file."""

from functools import partial
from pathlib import Path

import orjson
import pytest

from benchmarks.speed.simulated_call import ROLES, Ready, measured, requests
from benchmarks.speed.timing import merge
from benchmarks.tasks import companies
from runtime.messages import parse_reply
from runtime.models.base import ChatRequest
from runtime.models.simulated import Move, SimulatedModel, Solver, small


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("solver", [companies.SOLVER, Ready(Move("1", "", "", 3, True), ())])
def test_every_call_of_a_role_is_answered(role: str, solver: Solver) -> None:
    replies: list[str] = []

    async def ask(model: SimulatedModel, request: ChatRequest) -> None:
        replies.append((await model.complete(request)).text)

    sample = measured(partial(ask, small([solver])), requests(role, 10))

    assert sample.n == len(replies) == 10
    for text in replies if solver is companies.SOLVER else ():
        parse_reply(ROLES[role], text, role)


def test_a_benchmark_keeps_its_key_and_leaves_the_others(tmp_path: Path) -> None:
    file = tmp_path / "new" / "models.json"

    for key, figure in (("one", 1), ("other", 2), ("one", 3)):
        merge(file, key, {"figure": figure})

    assert orjson.loads(file.read_bytes()) == {"one": {"figure": 3}, "other": {"figure": 2}}
