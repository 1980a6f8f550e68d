"""A file of a user, as experiments are: loaded by path, under a name that no host can import. See the fixture `own`."""

from typing import Any
from uuid import uuid4

from runtime import Agent, Answer, Task
from runtime.models import ScriptedModel
from runtime.models.base import ChatRequest
from runtime.protocols import Outcome, Team
from topologies import Topology


class Echo(Topology):
    """Two seats, and an answer made of both."""

    def __init__(self, model: str) -> None:
        super().__init__("Echo", {seat: Agent("executor", model=model) for seat in ("left", "right")})

    async def solve(self, task: Task, team: Team) -> Outcome:
        replies = await team.ask_all([("left", task), ("right", task)])
        return Answer("+".join(getattr(reply, "answer", "refused") for reply in replies))


class Broken(Echo):
    async def solve(self, task: Task, team: Team) -> Outcome:
        await team.ask("left", task)
        raise KeyError("a fault of the user's")


class Misdirected(Echo):
    async def solve(self, task: Task, team: Team) -> Outcome:
        return await team.ask("middle", task)


def unlike_any_other(request: ChatRequest) -> str:
    return uuid4().hex


def confused(answer: str) -> bool:
    raise LookupError("no idea")


MODELS: dict[str, Any] = {
    "m": ScriptedModel(["42"], input_tokens=500, output_tokens=500, latency_s=0.05),
    "live": ScriptedModel(["42"], input_tokens=500, output_tokens=500, latency_s=0.05, virtual=False),
    "new": ScriptedModel(unlike_any_other, output_tokens=10),
    "new-live": ScriptedModel(unlike_any_other, output_tokens=10, virtual=False),
}
