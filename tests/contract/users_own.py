"""A file of a user, as experiments are: loaded by path, under a name that no host can import. See the fixture `own`."""

import socket
from typing import Any
from uuid import uuid4

import anyio

from runtime import Agent, Answer, Task
from runtime.models import ScriptedModel
from runtime.models.base import ChatRequest, ToolCall
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


class Hold:
    """A tool that waits, in a task, for what never comes."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def __call__(self) -> str:
        async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
            await stream.receive()
        return "never"


class Block:
    """The same in a thread."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __call__(self) -> str:
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.recv(1)
        return "when the other side has had enough"


def use_the_first_tool(request: ChatRequest) -> Any:
    return (ToolCall("1", request.tools[0].name, "{}"),)


MODELS: dict[str, Any] = {
    "m": ScriptedModel(["42"], input_tokens=500, output_tokens=500, latency_s=0.05),
    "live": ScriptedModel(["42"], input_tokens=500, output_tokens=500, latency_s=0.05, virtual=False),
    "new": ScriptedModel(unlike_any_other, output_tokens=10),
    "handy": ScriptedModel(use_the_first_tool, input_tokens=500, output_tokens=500, virtual=False),
    "new-live": ScriptedModel(unlike_any_other, output_tokens=10, virtual=False),
}
