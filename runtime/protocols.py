"""Owns the ports: what a topology, a router, a pacing policy and a bank's journal look like to the rest."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from runtime.messages import Bid, Lost, Message, Part, Plan, Refusal, Reply, Report, Verdict
from runtime.models.base import ChatReply
from runtime.task import Task

if TYPE_CHECKING:
    from runtime.agents.agent import Agent
    from runtime.bank.book import Held, Need
    from runtime.budget import Budget
    from runtime.errors import OrchestrationError, RunHalted, StaleEpoch
    from runtime.journal import Attempt, Key
    from runtime.order import Order

OUTSIDE = "task"
"""The sender of whatever the user hands in: every seat may receive from it without a declared channel."""


class FinishCall(NamedTuple):
    """One call that a team needs to end with an answer; it is priced beforehand and its floor is kept back."""

    seat: str
    mails: int
    """How many mails stand in its prompt at most."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A team's answer. Topologies may also return a Report, a Verdict, a Plan (its parts, a line each) or plain text."""

    text: str


Outcome = Answer | Plan | Report | Verdict | str | Refusal | None
Mailable = Plan | Report | Verdict
"""What a seat can answer with."""


class Team(Protocol):
    """What `solve()` sees of the runtime."""

    async def ask(self, seat: str, message: Message, *, finish: bool = False) -> Mailable:
        """Deliver a message to a seat and wait for its typed reply.

        Raises:
            BudgetExceeded: the seat's call does not fit any more.
            UnknownSeat, NoChannel: the wiring does not allow it.
            ModelError: the model failed for good.
        """
        ...

    async def ask_all(self, asks: Sequence[tuple[str, Message]]) -> list[Mailable | Lost]:
        """Ask several seats at once; replies come in the order of `asks`, a Refusal where the budget did not suffice, a Failure
        where the model failed for good."""
        ...

    def offer(self, answer: Outcome) -> None:
        """Record the best answer so far, so that a refusal or a deadline still has one."""
        ...


@runtime_checkable
class Topology(Protocol):
    """Who may write to whom, and in which order."""

    @property
    def name(self) -> str:
        """Label in tables, for example `Star(4)`."""
        ...

    @property
    def message_tokens(self) -> int:
        """Length m of a message along its channels: a longer mail is clipped on delivery."""
        ...

    @property
    def summarise(self) -> bool:
        """Whether a longer mail is told shorter by its reader's model, at its reader's cost, instead of clipped."""
        ...

    @property
    def pacing(self) -> "Pacing":
        """How the budget becomes effort, in its own seats."""
        ...

    @property
    def ceiling(self) -> "Budget | None":
        """What all of it together may spend where it is a seat of another topology; None for as much as the run."""
        ...

    def seats(self) -> "Mapping[str, Agent | Topology]":
        """The members by seat, in the order in which they are served when it matters; one may be a whole topology."""
        ...

    def channels(self) -> Iterable[tuple[str, str]]:
        """Permitted directions (sender, receiver). Everybody may receive from the task."""
        ...

    def finish(self) -> Sequence[FinishCall]:
        """The calls that end a run with an answer; empty where none does."""
        ...

    def asks(self) -> Mapping[str, int]:
        """How often each seat is asked in one full run; 1 where a seat is left out."""
        ...

    def mails(self) -> Mapping[str, int]:
        """The most messages that each seat's prompt holds, what it said itself included; 0 where a seat is left out."""
        ...

    def calls(self) -> int:
        """How many agents are asked in one full run, inner ones included; the even split of a budget rests on it."""
        ...

    async def solve(self, task: Task, team: Team) -> Outcome:
        """Work on the task with the team and return the answer."""
        ...


class PacingView(NamedTuple):
    """What a pacing policy may look at when a seat is about to be asked. All of it is the seat's own or fixed before the
    run begins, so that effort never depends on what others happen to do at the same instant."""

    share_tokens: int | None
    """This ask's even share of the tokens that are not kept for finishing; None without a token limit."""
    share_pico: int | None
    """The same in pico-dollars."""
    spent_tokens: int
    """What routing this ask, and summaries of its mail, have cost already."""
    spent_pico: int
    input_tokens: int
    """Upper bound of this request's prompt."""
    input_pico: int
    output_pico: int
    """Prices per token of the model that will answer."""
    window_tokens: int


class Pacing(Protocol):
    """Splits a budget into effort. A pure function."""

    def effort(self, view: PacingView) -> int:
        """Tokens that one answer may think and write."""
        ...


class Award(NamedTuple):
    """A router's decision."""

    model: str
    strategy: tuple[str, ...] = ()
    """The plan the winner applied with; it is shown to it as its roadmap."""


class Work(NamedTuple):
    """What a router is asked to place: a task, or a part of it."""

    task: Task
    part: Part | None
    role: str


class Caller(Protocol):
    """What a router sees of the seat that asks it; every call through it is one attempt, paid by that seat."""

    @property
    def seed(self) -> int:
        """Seed of this decision."""
        ...

    def price_per_million_usd(self, model: str) -> float:
        """Blended list price, input and output in equal parts; 0 where the price is unknown."""
        ...

    async def ask_role(
        self, role: str, models: Sequence[str], work: Work, bids: Sequence[Bid] = ()
    ) -> list[Reply | Refusal]:
        """Ask several models in a role (bidder, judge) about the work, one after another; replies in the order of `models`."""
        ...


@runtime_checkable
class Router(Protocol):
    """Gives a task or a part to a model."""

    @property
    def name(self) -> str:
        """Label in tables, for example `sim/auction(small,large)`."""
        ...

    @property
    def models(self) -> tuple[str, ...]:
        """Every model it may award or consult."""
        ...

    async def route(self, work: Work, caller: Caller) -> Award:
        """Decide. A refusal of its own calls must not end the run: fall back to a model that needs none."""
        ...


class Journal(Protocol):
    """Makes the attempts of a live run durable; a return means committed. Virtual runs have none."""

    halted: "RunHalted | StaleEpoch | None"
    """Why nothing more may be sent; None while it may."""

    async def sent(self, held: "Held", need: "Need", order: "Order", digest: str, began_s: float) -> None:
        """Commit that the bytes are about to leave, with the bound that is held and the run's own time."""
        ...

    async def closed(
        self,
        row: "Attempt",
        charged: int | None,
        reply: ChatReply | None,
        digest: str,
        failed: "OrchestrationError | None",
    ) -> None:
        """Commit how the attempt ended, what it was charged, and its reply, if one came, or why it cannot be used."""
        ...

    async def unanswered(self, key: "Key", digest: str, error: "OrchestrationError") -> None:
        """Commit that a piece of work gets no reply, before its asker is told so and goes on."""
        ...

    def replay(self, key: "Key", digest: str) -> ChatReply | None:
        """The reply to a piece of work in an earlier, interrupted life of this run; None where that life was told nothing.

        Raises:
            ConfigError: the request differs from the recorded one, so this is another run.
            OrchestrationError: that life was told this error instead.
        """
        ...

    def asked_inside(self, tool: "Key") -> Mapping[str, int]:
        """The next step of each seat that a tool call of an earlier life asked, as far as it had come then."""
        ...
