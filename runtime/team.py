"""Owns what `solve()` sees of the runtime: asking seats along declared channels, fan-out, and the answer so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import anyio

from runtime.agents.blocks import clip, mail_text, shortened, too_long
from runtime.agents.context import Content, content_of
from runtime.agents.loop import Desk, Place, Turn
from runtime.boundary import contained, containing
from runtime.errors import (
    AgentFailed,
    BudgetExceeded,
    ConfigError,
    ModelError,
    NoChannel,
    OrchestrationError,
    UnknownSeat,
)
from runtime.messages import Delivered, Failure, Lost, Message, Part, Refusal, Report, Shortened, lost_seat
from runtime.nesting import Wiring
from runtime.outcome import text_of
from runtime.protocols import OUTSIDE, Mailable, Outcome, Topology
from runtime.task import Task
from runtime.trampoline import handover, side_by_side


@dataclass(slots=True)
class Tally:
    """What is counted over a whole run, inner topologies included."""

    refusals: list[Refusal] = field(default_factory=list)
    """Every refusal, in the order they came."""
    failures: list[OrchestrationError] = field(default_factory=list)
    """What seats failed of, each once."""
    messages: int = 0
    """Mails delivered along channels; what comes from the task does not count."""
    busy: set[str] = field(default_factory=set)
    """Seats that are answering right now."""
    collided: bool = False
    """Whether a seat was asked while it was answering: of two who ask at one instant, chance says which one is heard."""

    def failed(self, error: OrchestrationError) -> None:
        """Note a failure, which may come through several seats on its way up."""
        if not any(error is known for known in self.failures):
            self.failures.append(error)


class RunTeam:
    """The team of one run; or, inside a seat that is a topology, that topology's team.

    Args:
        task: the run's own task; messages that bring no task of their own are about it.
        prefix: path of the seat this team stands for; empty for the run's own.
        given: what that seat was asked; its part and mails are for everybody inside who is asked about nothing else.
        finishes: whether what is kept back for its seats may be drawn on, since that seat was asked to finish.
    """

    def __init__(
        self,
        task: Task,
        wiring: Wiring,
        places: Mapping[str, Place],
        desk: Desk,
        tally: Tally | None = None,
        prefix: str = "",
        given: Content | None = None,
        *,
        finishes: bool = False,
    ) -> None:
        self.offered: Outcome = None
        """The best answer so far."""
        self.tally = tally or Tally()
        self._task = task
        self._wiring = wiring
        self._places = places
        self._desk = desk
        self._prefix = prefix
        self._given = given
        self._finishes = finishes
        self._virtual = desk.attempts.journal is None

    async def ask(self, seat: str, message: Message, *, finish: bool = False) -> Mailable:
        """Deliver a message to a seat and wait for its typed reply (see `runtime.protocols.Team`).

        Args:
            finish: this is one of the calls listed by `topology.finish()`; it may draw on what was kept back for it.
        """
        path = self._prefix + seat
        if path not in self._places and path not in self._wiring.inner:
            raise UnknownSeat(path, ", ".join(self._places))
        content = self._delivered(path, message)
        if path in self.tally.busy:
            self.tally.collided = True
            raise ConfigError(f"seat {path!r} is being asked already: an agent does one thing at a time; use ask_all")
        self.tally.busy.add(path)
        try:
            if path in self._wiring.inner:
                return await self._ask_within(path, self._wiring.inner[path], content, finish)
            try:
                with containing("seat", path):
                    return await self._turn(path, content, finish).answer()
            except BudgetExceeded as error:
                self.tally.refusals.append(Refusal(path, *error.args))
                raise
            except (ModelError, AgentFailed) as error:
                self.tally.failed(error)
                raise
        finally:
            self.tally.busy.discard(path)

    async def ask_all(self, asks: Sequence[tuple[str, Message]]) -> list[Mailable | Lost]:
        """Ask several seats at once; replies in the order of `asks`, a Refusal or a Failure where a seat could not answer.

        Asks to the same seat run one after another in their order: an agent does one thing at a time. What is no seat's own
        failure, such as mail without a channel, is raised. All asks come to their end before, and then it is the error of the
        first in `asks`: which of two that fail at the same instant came first is chance, and a run's spend must not hang on it.
        """
        replies: dict[int, Mailable | Lost] = {}
        errors: dict[int, OrchestrationError] = {}
        by_seat: dict[str, tuple[int, ...]] = {}
        for i, (seat, _) in enumerate(asks):
            by_seat[seat] = (*by_seat.get(seat, ()), i)

        async def in_turn(indices: Sequence[int]) -> None:
            for i in indices:
                try:
                    replies[i] = await self.ask(*asks[i])
                except OrchestrationError as error:
                    try:
                        replies[i] = lost_seat(asks[i][0], error)
                    except OrchestrationError:
                        errors[i] = error
                        return

        if len(by_seat) == 1:
            await in_turn(range(len(asks)))
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

    def _turn(self, path: str, content: Content, finish: bool) -> Turn:
        place = self._places[path]
        return Turn(place, self._desk, content, place.floor if finish or self._finishes else 0)

    def _delivered(self, path: str, message: Message) -> Content:
        """What the seat gets to see, once the channels it came along are checked and counted."""
        content = content_of(message, self._task)
        content = content._replace(mails=tuple({id(mail): mail for mail in content.mails}.values()))
        for sender in content.senders:
            if sender not in (OUTSIDE, path):  # what it said itself is its own memory and needs no channel
                if (sender, path) not in self._wiring.channels:
                    raise NoChannel(sender, path)
                self.tally.messages += 1
        if self._given is None or (isinstance(message, Task) and message is not self._task):
            return content
        part = self._given.part if content.part is None else content.part
        return content._replace(part=part, mails=content.mails or self._given.mails)

    async def _ask_within(self, path: str, topology: Topology, content: Content, finish: bool) -> Report:
        """Let a topology answer for its seat. Where that could not go on, it answers with the best it has, if it has anything."""
        # Inside, what the seat was given comes from outside, so that it needs no channel of the inner wiring.
        # It came along a channel of the topology around, so it is cut to that one's length, whatever holds inside.
        tokens = self._wiring.around(self._prefix).message_tokens
        part = None if content.part is None else Part(clip(content.part.text, tokens), content.part.needs)
        mails = tuple(_from_outside(mail, tokens) for mail in content.mails)
        given = Content(content.task, part, 0, mails)
        finishes = finish or self._finishes
        team = RunTeam(
            content.task, self._wiring, self._places, self._desk, self.tally, f"{path}/", given, finishes=finishes
        )
        await handover()  # a user's topology may wait for anything
        outcome: Outcome | Lost
        try:
            outcome = await contained(f"topology {topology.name}", topology.solve, content.task, team)
        except OrchestrationError as error:
            outcome = lost_seat(path, error)
            if isinstance(outcome, Failure):
                self.tally.failed(error)
        answer = text_of(team.offered if isinstance(outcome, Lost) else outcome)
        if answer is None:
            if isinstance(outcome, Lost):
                raise outcome.error
            raise AgentFailed(f"seat {path}", "nothing", f"its topology {topology.name} gave no answer")
        return Report(answer, covers="" if part is None else part.text, sender=path)


def _from_outside(mail: Delivered, tokens: int) -> Delivered:
    if too_long(mail, tokens):
        mail = shortened(mail, clip(mail_text(mail), tokens))
    if isinstance(mail, Shortened):
        return replace(mail, mail=replace(mail.mail, sender=OUTSIDE))
    return replace(mail, sender=OUTSIDE)
