"""Record a live team once and replay it for nothing: a test of your own prompts and teams that needs no key.

    python examples/replay.py

The model is a stand-in for one that bills; with your own in `models=` or ostrom.toml, nothing else changes.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from runtime import Agent, Budget, Recording, Runtime, Task
from runtime.errors import ReplayDiverged
from runtime.messages import Part, Plan, Reply, Report, Verdict
from runtime.models import ChatRequest, ScriptedModel
from topologies import Star

TASK = Task("A farm has 3 pens with 14 pigs each. How many pigs are there?", answer="42", check="numeric")
BUDGET = Budget(tokens=4_000, usd="0.05")


def answer(request: ChatRequest) -> Reply:
    """What the stand-in says, by the kind of reply that is asked for."""
    replies = {
        "plan": Plan((Part("Count the pens."), Part("Count the pigs in a pen."))),
        "verdict": Verdict("accept", "42"),
    }
    return replies.get(request.reply, Report("3 times 14"))


def team(words: str = "Check each sum, then give the answer.") -> Star:
    """A planner, two executors, and a verifier with words of its own."""
    return Star(2, verifier=Agent("verifier", prompt=words), model="far")


async def main() -> None:
    """Record, replay, and replay with one word changed."""
    model = ScriptedModel(answer, input_tokens=300, output_tokens=60, usd="0.004", latency_s=0.1, virtual=False)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pigs.jsonl"
        async with Runtime(models={"far": model}, record=path) as rt:
            live = await rt.run(team(), TASK, budget=BUDGET)
        recording = Recording.load(path)
    print(f"recorded: {live.status}, {live.answer}, ${live.spend.total.usd} real")

    async with Runtime(replay=recording) as rt:
        again = await rt.run(team(), TASK, budget=BUDGET)
    print(f"replayed: {again.status}, {again.answer}, ${again.spend.total.usd} virtual, nobody is billed")
    print("equal" if not recording.differences(again) else recording.differences(again))

    try:
        async with Runtime(replay=recording) as rt:
            await rt.run(team("Check each sum twice, then give the answer."), TASK, budget=BUDGET)
    except ReplayDiverged as error:
        print(error)


anyio.run(main)
