"""Owns what `solve()` sees of the runtime: asking seats along declared channels, fan-out, and the answer so far."""

from collections.abc import Mapping, Sequence

import anyio

from runtime.agents.context import content_of
from runtime.agents.loop import Desk, Place, Turn
from runtime.boundary import contained
from runtime.errors import BudgetExceeded, ConfigError, NoChannel, OrchestrationError, UnknownSeat
from runtime.messages import Message, Refusal
from runtime.protocols import OUTSIDE, Mailable, Outcome
from runtime.task import Task
from runtime.trampoline import side_by_side


class RunTeam:
    """The team of one run.

    Args:
        task: the run's own task; messages that bring no task of their own are about it.
        channels: permitted (sender, receiver) pairs.
    """

    def __init__(
        self, task: Task, places: Mapping[str, Place], channels: frozenset[tuple[str, str]], desk: Desk
    ) -> None:
        self.offered: Outcome = None
        """The best answer so far."""
        self.refusals: list[Refusal] = []
        """Every refusal, in the order they came."""
        self.messages = 0
        """Mails delivered along channels; what comes from the task does not count."""
        self._task = task
        self._places = places
        self._channels = channels
        self._desk = desk
        self._virtual = desk.attempts.journal is None

    async def ask(self, seat: str, message: Message, *, finish: bool = False) -> Mailable:
        """Deliver a message to a seat and wait for its typed reply (see `runtime.protocols.Team`).

        Args:
            finish: this is one of the calls listed by `topology.finish()`; it may draw on what was kept back for it.
        """
        place = self._places.get(seat)
        if place is None:
            raise UnknownSeat(seat, ", ".join(self._places))
        content = content_of(message, self._task)
        for sender in content.senders:
            if sender not in (OUTSIDE, seat):  # what it said itself is its own memory and needs no channel
                if (sender, seat) not in self._channels:
                    raise NoChannel(sender, seat)
                self.messages += 1
        if place.busy:
            raise ConfigError(f"seat {seat!r} is being asked already: an agent does one thing at a time; use ask_all")
        place.busy = True
        try:
            # A user's model may raise anything; from here on it is one of ours.
            turn = Turn(place, self._desk, content, place.floor if finish else 0)
            return await contained(f"seat {seat}", turn.answer)
        except BudgetExceeded as error:
            self.refusals.append(Refusal(seat, *error.args))
            raise
        finally:
            place.busy = False

    async def ask_all(self, asks: Sequence[tuple[str, Message]]) -> list[Mailable | Refusal]:
        """Ask several seats at once; replies in the order of `asks`, a Refusal where the budget did not suffice.

        Asks to the same seat run one after another in their order: an agent does one thing at a time. All of them come to
        their end before an error is raised, and then it is that of the first in `asks`: which of two that fail at the same
        instant came first is chance, and a run's spend must not hang on it.
        """
        replies: dict[int, Mailable | Refusal] = {}
        errors: dict[int, OrchestrationError] = {}
        by_seat: dict[str, list[int]] = {}
        for i, (seat, _) in enumerate(asks):
            by_seat.setdefault(seat, []).append(i)

        async def in_turn(indices: list[int]) -> None:
            for i in indices:
                seat, message = asks[i]
                try:
                    replies[i] = await self.ask(seat, message)
                except BudgetExceeded as error:
                    replies[i] = Refusal(seat, *error.args)
                except OrchestrationError as error:
                    errors[i] = error
                    return

        if len(by_seat) == 1:
            await in_turn(list(range(len(asks))))
        elif self._virtual:
            await side_by_side([in_turn(indices) for indices in by_seat.values()])
        else:
            async with anyio.create_task_group() as group:
                for indices in by_seat.values():
                    group.start_soon(in_turn, indices)
        if errors:
            raise errors[min(errors)]
        return [replies[i] for i in range(len(asks))]

    def offer(self, answer: Outcome) -> None:
        """Record the best answer so far, so that a refusal or a deadline still has one."""
        self.offered = answer
