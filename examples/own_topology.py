"""A topology of one's own, beside two shipped ones, at three budgets (simulated): `python examples/own_topology.py`."""

from collections.abc import Sequence

import anyio

from benchmarks.tasks import companies
from runtime import Agent, Budget, Report, Runtime, Task, bundle
from runtime.protocols import FinishCall, Outcome, Team
from topologies import Single, Star, Topology


class Review(Topology):
    """A writer drafts, two critics read the draft at the same time, the writer mends it."""

    def __init__(self) -> None:
        super().__init__("Review", {seat: Agent("executor") for seat in ("writer", "critic[0]", "critic[1]")})

    def channels(self) -> Sequence[tuple[str, str]]:
        """The writer and each critic, both ways."""
        return [pair for i in (0, 1) for pair in (("writer", f"critic[{i}]"), (f"critic[{i}]", "writer"))]

    def finish(self) -> Sequence[FinishCall]:
        """The writer's last word on two notes."""
        return [FinishCall("writer", 2)]

    async def solve(self, task: Task, team: Team) -> Outcome:
        """Draft, criticise, mend."""
        draft = await team.ask("writer", task)
        team.offer(draft)
        notes = await team.ask_all([("critic[0]", draft), ("critic[1]", draft)])
        heard = [note for note in notes if isinstance(note, Report)]
        return await team.ask("writer", bundle(heard), finish=True) if heard else draft


async def main() -> None:
    """Run each team on one task at each budget."""
    [task] = companies.generate(1, seed=5)
    async with Runtime() as rt:
        for tokens in (4_000, 8_000, 16_000):
            for team in (Single(), Star(3), Review()):
                result = await rt.run(team.with_model("sim/small"), task, budget=Budget(tokens=tokens))
                spent = result.spend.total.tokens
                print(
                    f"{tokens:6,} tokens  {team.name:8} {result.status:10} right: {result.correct!s:6} spent {spent:6,}"
                )


if __name__ == "__main__":
    anyio.run(main)
