"""One agent says 13 where 42 is right: whom the wiring lets believe it, seat by seat.

Workers are honest and credulous: with mail in front of them they say what most of it says, else what they know. So what becomes
of the error is the wiring's doing alone.
"""

from collections import Counter
from collections.abc import Callable, Mapping

import pytest

from runtime.agents.agent import Agent
from runtime.agents.blocks import read_blocks
from runtime.budget import Budget
from runtime.host import run_virtual
from runtime.messages import Part, Plan, Reply, Report, Verdict, parse_reply
from runtime.models.base import ChatRequest
from runtime.models.scripted import ScriptedModel
from runtime.preflight import RunSpec
from runtime.task import Task
from topologies import Cascade, Chain, Graph, Hybrid, Independent, Mesh, Star, Topology, Tree
from topologies.wiring import Node

RIGHT, WRONG = "42", "13"


def worker(knows: Callable[[str, bool], str]) -> ScriptedModel:
    """Says what most mails say, ties to the first, else what it knows about its part; `knows` may also overrule the mails."""

    def reply(request: ChatRequest) -> Reply:
        blocks = read_blocks(request.messages[-1].content)
        part = next((block.body for block in blocks if block.tag == "part"), "")
        if request.reply == "plan":
            wanted = next(int(block.body) for block in blocks if block.tag == "parts")
            return Plan(tuple(Part(f"{part}/{i}") for i in range(wanted)))
        read = [block.body.split("\n")[0].removeprefix("Answer: ") for block in blocks if block.tag == "mail"]
        said = knows(part, bool(read)) or Counter(read).most_common(1)[0][0]
        return Report(said) if request.reply == "report" else Verdict("accept", said)

    return ScriptedModel(reply)


MODELS = {
    "m": worker(lambda part, read: "" if read else RIGHT),
    "wrong": worker(lambda part, read: WRONG),
    "slips": worker(lambda part, read: "" if read else WRONG),
    "checks": worker(lambda part, read: RIGHT),
    "leaf": worker(lambda part, read: "" if read else WRONG if part == "/1/0" else RIGHT),
    "leaves": worker(lambda part, read: "" if read else WRONG if part in ("/1/0", "/1/2") else RIGHT),
}


def trace(topology: Topology) -> tuple[str | None, Mapping[tuple[str, int], str]]:
    """The answer, and who said what in which step, plans left out."""
    spec = RunSpec("run", topology.with_model("m"), Task("How many?"), Budget(calls=999), 0)
    (result,) = run_virtual([spec], MODELS.__getitem__)
    kinds = {"planner": "plan", "hub": "plan", "verifier": "verdict", "join": "verdict", "last": "verdict"}
    said = {}
    for a in result.attempts:
        kind = next((kind for role, kind in kinds.items() if a.seat.rpartition("/")[2].startswith(role)), "report")
        reply = parse_reply(kind, a.reply, a.seat)
        if isinstance(reply, Report | Verdict):
            said[a.seat, a.step] = reply.answer
    return result.answer, said


def team(*models: str) -> list[Agent | Topology]:
    return [Agent("executor", model=model) for model in models]


NODES: dict[str, Node] = {name: Agent("executor") for name in ("a", "b", "c", "d")}
NODES |= {"b": Agent("executor", model="wrong"), "last": Agent("verifier")}
DIAMOND = Graph(NODES, [("a", "c"), ("b", "d"), ("a", "last"), ("c", "last"), ("d", "last")])


@pytest.mark.parametrize(
    ("topology", "wrong", "answer"),
    [
        # A star: the error reaches the verifier and, where that one only counts, stays a minority.
        (Star(team("m", "wrong", "m")), ["executor[1] 0"], RIGHT),
        (
            Star(team("wrong", "wrong", "m")),
            ["executor[0] 0", "executor[1] 0", "verifier 0"],
            WRONG,
        ),
        (
            Star(team("wrong", "wrong", "wrong"), verifier=Agent("verifier", model="checks")),
            ["executor[0] 0", "executor[1] 0", "executor[2] 0"],
            RIGHT,
        ),
        # A chain: everybody downstream believes it, and nobody upstream.
        (
            Chain(team("wrong", "m", "m")),
            ["executor[0] 0", "executor[1] 0", "executor[2] 0", "verifier 0"],
            WRONG,
        ),
        (Chain(team("m", "wrong", "m")), ["executor[1] 0", "executor[2] 0", "verifier 0"], WRONG),
        (Chain(team("wrong", "checks", "m")), ["executor[0] 0"], RIGHT),
        # A mesh outvotes it: a slip is mended in the next round, and one who insists stays alone.
        (Mesh(team("m", "slips", "m"), rounds=2), ["agent[1] 0"], RIGHT),
        (Mesh(team("m", "wrong", "m"), rounds=3), ["agent[1] 0", "agent[1] 1", "agent[1] 2"], RIGHT),
        (
            Mesh(team("wrong", "m", "wrong"), rounds=2),
            ["agent[0] 0", "agent[0] 1", "agent[1] 1", "agent[2] 0", "agent[2] 1"],
            WRONG,
        ),
        # Without messages nobody is misled; what becomes of it is in how answers are combined.
        (Independent(team("wrong", "m", "m")), ["agent[0] 0"], RIGHT),
        (Independent(team("wrong", "m", "m"), combine="best"), ["agent[0] 0"], RIGHT),
        (Independent(team("wrong", "m", "m"), combine="concatenate"), ["agent[0] 0"], "13\n\n42\n\n42"),
        (Cascade(team("wrong", "m", "m")), ["agent[0] 0"], RIGHT),
        # A tree contains it at the next join that hears a majority for the truth.
        (Tree(3, 2, executor=Agent("executor", model="leaf")), ["executor[1][0] 0"], RIGHT),
        (
            Tree(3, 2, executor=Agent("executor", model="leaves")),
            ["executor[1][0] 0", "executor[1][2] 0", "join[1] 0"],
            RIGHT,
        ),
        # Peers mend it before the verifier reads it.
        (Hybrid(team("m", "slips", "m")), ["executor[1] 0"], RIGHT),
        # A graph: those behind it, and no one beside it.
        (DIAMOND, ["b 0", "d 0"], RIGHT),
        # A team inside a seat contains what its own wiring contains.
        (Star([Independent(team("m", "wrong", "m")), *team("m")]), ["executor[0]/agent[1] 0"], RIGHT),
        (
            Chain([Chain(team("wrong", "m")), *team("m")]),
            [f"executor[0]/{seat} 0" for seat in ("executor[0]", "executor[1]", "verifier")]
            + ["executor[1] 0", "verifier 0"],
            WRONG,
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Topology) else "",
)
def test_an_error_goes_where_the_wiring_lets_it(topology: Topology, wrong: list[str], answer: str) -> None:
    got, said = trace(topology)

    assert sorted(f"{seat} {step}" for (seat, step), words in said.items() if words == WRONG) == wrong
    assert set(said.values()) <= {RIGHT, WRONG}
    assert got == answer
