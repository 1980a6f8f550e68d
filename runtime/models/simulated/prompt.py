"""Owns what a simulated model sees of a request: the blocks of its user and tool messages, and no word beside them."""

import re
from typing import NamedTuple

from runtime.agents.blocks import Block, read_blocks
from runtime.messages import Report
from runtime.models.base import ChatRequest
from runtime.models.simulated.port import Seen

_AIM = re.compile(r"\baim: ([\d,]{1,12}) tokens")
_COVERED = re.compile(r"^Reason: covers ([^;\n]*);", re.MULTILINE)


class Prompt(NamedTuple):
    """The blocks of a request."""

    task: str | None
    part: str | None
    parts_wanted: int
    """0 where the prompt leaves the number of parts open."""
    mails: tuple[Report, ...]
    """Reports and verdicts, in order; other kinds of mail hold no answer and are left out."""
    bids: tuple[str, ...]
    """Their texts, in the order shown."""
    aim_tokens: int | None
    """Length of reply that the budget note asks for."""
    shorten: tuple[str, int] | None
    """The text of the mail that is to be told shorter, and in how many tokens; None where nothing else than that is asked."""
    seen: tuple[Seen, ...]
    """What tools answered, in the order of the calls."""


def read_prompt(request: ChatRequest) -> Prompt:
    """Read the blocks of all user messages, and the `<tool>` blocks of tool messages; others are not looked at.

    A `<tool>` block in a user message is none: nobody but a tool says what a tool answered.
    """
    texts = [message.content for message in request.messages if message.role == "user"]
    single: dict[str, str] = {}
    mails: list[Report] = []
    text = ""
    bids: list[str] = []
    for found in read_blocks("\n\n".join(texts)):
        if found.tag == "mail":
            text = found.body
            if found.attributes.get("kind") in {"report", "verdict"}:
                mails.append(_mail(found))
        elif found.tag == "bid":
            bids.append(found.body)
        else:
            single.setdefault(found.tag, found.body)
    wanted = single.get("parts", "").strip()
    limit = single.get("summary", "")
    aim = _AIM.search(single["budget"]) if "budget" in single else None
    return Prompt(
        single.get("task"),
        single.get("part"),
        int(wanted) if wanted.isdecimal() and len(wanted) < 4 else 0,
        tuple(mails),
        tuple(bids),
        int(aim[1].replace(",", "")) if aim else None,
        (text, int(limit)) if limit.isdecimal() and len(limit) < 10 else None,
        # Before a tool has answered, a user has asked and the model has called.
        _seen(request) if len(request.messages) > 2 else (),
    )


def covers_note(covers: str) -> str:
    """Opening of a verdict's reason by which the next reader learns what it is about; verdicts have no such field."""
    return f"covers {covers};"


def _seen(request: ChatRequest) -> tuple[Seen, ...]:
    told = [message.content for message in request.messages if message.role == "tool"]
    blocks = read_blocks("\n\n".join(told)) if told else ()
    return tuple(Seen(found.attributes.get("name", ""), found.body) for found in blocks if found.tag == "tool")


def _mail(found: Block) -> Report:
    sender = found.attributes.get("from", "")
    if found.attributes["kind"] == "report":
        answer, _, work = found.body.removeprefix("Answer: ").partition("\nWork: ")
        return Report(answer, work, found.attributes.get("covers", ""), sender)
    answer, _, rest = found.body.removeprefix("Answer: ").partition("\nDecision: ")
    covered = _COVERED.search(rest)
    return Report(answer, rest, covered[1] if covered else "", sender)
