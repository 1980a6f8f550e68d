"""What the public face promises to a type checker; read by mypy and pyright, never run."""

from collections.abc import AsyncIterator
from typing import assert_type

from runtime import Agent, Budget, RunResult, RunSpec, Runtime, Task
from runtime.models import ScriptedModel
from topologies import Single, Star, Topology


async def face(task: Task) -> None:
    """The first lines of a user's program."""
    async with Runtime(models={"m": ScriptedModel(["42"])}) as runtime:
        assert_type(runtime, Runtime)
        result = await runtime.run(Star(4, model="m"), task, budget=Budget(tokens=100))
        assert_type(result, RunResult)
        assert_type(result.answer, str | None)
        assert_type(result.correct, bool | None)
        assert_type(result.spend.total.tokens, int)
        spec = runtime.spec("run", Single(model="m"), task, Budget(usd="0.1"), 7)
        assert_type(spec, RunSpec)
        assert_type(runtime.map([spec]), AsyncIterator[tuple[RunSpec, RunResult]])


def build() -> Topology:
    """Teams may be mixed, and take a model later."""
    team = Star([Agent("executor", model="small")] * 3, verifier=Agent("verifier", model="large"))
    assert_type(team.with_model("m"), Topology)
    return team
