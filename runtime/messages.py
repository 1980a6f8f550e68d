"""Owns the typed content that agents send each other, and its form in JSON and in prompts.

Each kind has two faces: the *typed reply* a model is asked for (JSON, validated here, the only place where text from a
model becomes a value) and the *block* in which the value appears in a later prompt. `sender` is stamped by the team when a
reply is accepted and never read from a model's text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from runtime.errors import AgentFailed, BudgetExceeded, ModelError, OrchestrationError
from runtime.task import Task


@dataclass(frozen=True, slots=True)
class Part:
    """One subtask of a plan."""

    text: str
    """What is to be done, complete in itself beside the task."""
    needs: tuple[int, ...] = ()
    """Indices of the parts of the same plan whose results this one builds on."""
    sender: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Subtasks with their dependencies: a planner's reply."""

    parts: tuple[Part, ...]
    sender: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """A result: an executor's reply."""

    answer: str
    work: str = ""
    """How it was reached, for whoever checks it."""
    covers: str = ""
    """Which part of the task the answer is about, in the executor's words; empty for all of it."""
    sender: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement over reports, and the answer that follows from them: a verifier's reply."""

    decision: Literal["accept", "mend", "reject"]
    """accept: the reports hold; mend: a fault was found and corrected; reject: no answer can be given."""
    answer: str
    reason: str = ""
    sender: str = ""


@dataclass(frozen=True, slots=True)
class Bid:
    """A short plan with which a model applies for a task in an auction."""

    steps: tuple[str, ...]
    sender: str = ""


@dataclass(frozen=True, slots=True)
class Vote:
    """Scores 0 to 5 for the bids in the order they were shown: a judge's reply."""

    scores: tuple[int, ...]
    sender: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Stands in a seat's place in the result of `ask_all` when its request did not fit the budget any more."""

    seat: str
    scope: str
    dimension: str
    need: int
    left: int

    @property
    def error(self) -> BudgetExceeded:
        """What its `ask` raised."""
        return BudgetExceeded(self.scope, self.dimension, self.need, self.left)


@dataclass(frozen=True, slots=True)
class Failure:
    """Stands in a seat's place in the result of `ask_all` when its model failed for good, or its own code raised."""

    seat: str
    error: OrchestrationError
    """What its `ask` raised."""


Lost = Refusal | Failure
"""What may stand in a seat's place instead of its reply."""


def lost_seat(seat: str, error: OrchestrationError) -> Lost:
    """What stands in the place of a seat whose `ask` raised this error.

    Raises:
        OrchestrationError: the error itself, where it is not the seat's: wiring that does not allow the ask, an operator's
            ruling, a store that cannot be written. It ends the run.
    """
    if isinstance(error, BudgetExceeded):
        return Refusal(seat, *error.args)
    if isinstance(error, ModelError | AgentFailed):
        return Failure(seat, error)
    raise error


@dataclass(frozen=True, slots=True)
class Bundle:
    """Several mails delivered at once, in the order given, with an optional part to work on.

    A mail that is in it twice is delivered once; two replies of one seat that say the same are two mails.
    """

    mails: "tuple[Mail, ...]"
    part: Part | None = None
    parts_wanted: int = 0
    """For planners: into how many parts the work is to be cut; 0 leaves it to the planner."""


@dataclass(frozen=True, slots=True)
class Shortened:
    """A mail as it is delivered, where it was too long for its channel."""

    mail: "Mail"
    text: str
    """What stands in the place of what it said."""

    @property
    def sender(self) -> str:
        """Whoever sent the mail."""
        return self.mail.sender


Reply = Plan | Report | Verdict | Bid | Vote
Mail = Plan | Part | Report | Verdict
Delivered = Mail | Shortened
Message = Task | Bundle | Part | Plan | Report | Verdict

KINDS: dict[str, type[Reply]] = {"plan": Plan, "report": Report, "verdict": Verdict, "bid": Bid, "vote": Vote}
"""The typed replies a model can be asked for, by the name that travels in `ChatRequest.reply`."""


def bundle(
    mails: "Mail | Lost | Sequence[Mail | Lost]" = (), *, part: Part | None = None, parts_wanted: int = 0
) -> Bundle:
    """Put mails, and the part they are for, into one message; the task itself is always delivered with it.

    Raises:
        OrchestrationError: one of the mails is a Refusal or a Failure, which is no mail: what its seat raised when it was asked.
            Leave them out to go on without them.
    """
    many = (mails,) if isinstance(mails, Mail | Lost) else tuple(mails)
    for mail in many:
        if isinstance(mail, Lost):
            raise mail.error
    return Bundle(tuple(mail for mail in many if not isinstance(mail, Lost)), part, parts_wanted)


@cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(KINDS[kind])


def parse_reply(kind: str, text: str, sender: str) -> Reply:
    """Turn a model's JSON into the typed reply `kind`, stamped with the seat that gave it.

    Unknown keys are ignored; a `sender` in the text is overwritten.

    Raises:
        ValueError: the text is no JSON or does not have the shape; the message says where.
    """
    try:
        reply: Reply = _adapter(kind).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the reply"
        raise ValueError(f"not a {kind}: {where}: {first['msg']}") from None
    # The value was made a moment ago and nobody else holds it; dataclasses.replace would cost more than the parsing.
    for value in (reply, *reply.parts) if isinstance(reply, Plan) else (reply,):
        object.__setattr__(value, "sender", sender)
    return reply


def reply_json(reply: Reply) -> str:
    """The JSON a model would answer with, `sender` left out."""
    return (
        _adapter(kind_of(reply)).dump_json(reply, exclude={"sender": True, "parts": {"__all__": {"sender"}}}).decode()
    )


def kind_of(reply: Reply) -> str:
    """The name of a typed reply, as it stands in KINDS."""
    return type(reply).__name__.lower()


@cache
def reply_schema(kind: str) -> dict[str, Any]:
    """JSON schema of the typed reply, without `sender`, for endpoints that enforce one."""
    schema = _adapter(kind).json_schema()
    for shape in (schema, *schema.get("$defs", {}).values()):
        shape.get("properties", {}).pop("sender", None)
    return schema
