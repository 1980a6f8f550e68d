"""The face of the fault modes: models under the names `fault/<mode>` and `fault/<mode>:<argument>` that go wrong on purpose.

Whatever a mode does to the answer, its bill is that of an honest meter: what was refused costs nothing; everything else was
worked on to its end and costs its prompt and all that was generated, whether it arrived or not. Only modes of row E9 generate
more than they were allowed.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from typing import NamedTuple

from runtime.messages import Bid, Part, Plan, Reply, Report, Verdict, Vote, reply_json
from runtime.models.base import ChatRequest
from runtime.models.server.faults.modes import MODES, Mode
from runtime.models.server.faults.replies import Ask
from runtime.models.server.replies import DONE, Document, chunks, completion, dump, frame, made_up_logprobs
from runtime.models.server.requests import ChatBody, RequestRefused
from runtime.models.server.script import EVENTS, JSON, Script
from runtime.usage import Usage

__all__ = ["MODES", "PREFIX", "WINDOW_TOKENS", "Fault", "Mode", "Played", "find", "sayer"]

PREFIX = "fault/"
WINDOW_TOKENS = 1_000_000


class Played(NamedTuple):
    """What a fault mode answers to one request."""

    script: Script
    usage: Usage | None
    """What an honest meter bills; None where that is nothing."""


class Fault(NamedTuple):
    """A mode with its argument."""

    name: str
    mode: Mode
    argument: str

    def card(self) -> Document:
        """What the list of models says about it."""
        facts = {"window_tokens": WINDOW_TOKENS, "row": self.mode.row, "fault": self.mode.what}
        return {"id": self.name, "object": "model", "created": 0, "owned_by": "ostrom", "ostrom": facts}

    def answer(
        self, body: ChatBody, chat: ChatRequest, *, turn: int, number: int, host: str, say: Callable[[ChatRequest], str]
    ) -> Played:
        """Answer one request.

        Args:
            turn: how many requests for the same name came before.
            number: of the answer, for its id.
            host: the `Host` header, for redirects.
            say: what is said where the mode says something sensible.
        """
        mode, ask = self.mode, Ask(self.argument, chat, body, turn, host, say)
        refused = mode.refuse and mode.refuse(ask)
        reply = mode.said(ask)
        if refused:
            return Played(refused, reply.usage if mode.billed else None)
        if body.logprobs:
            reply = replace(reply, logprobs=made_up_logprobs(reply.text, chat.seed, body.top_logprobs or 0))
        said = (number, body.model, reply)
        docs = chunks(*said, body.include_usage) if ask.streams else [completion(*said)]
        if mode.usage is not None:
            docs = [doc | {"usage": mode.usage(doc["usage"], ask)} if doc.get("usage") else doc for doc in docs]
        docs = mode.docs(docs, ask) if mode.docs else docs
        bodies = [*map(frame, docs), DONE] if ask.streams else [dump(docs[0])]
        steps = mode.send(bodies, ask) if mode.send else bodies
        # Where a body stops before its end, or comes slowly, its whole length was announced.
        length = None if ask.streams or not isinstance(steps, list) else len(bodies[0])
        if length is not None and all(isinstance(step, bytes) for step in steps):
            length = None
        media = mode.media or (EVENTS if ask.streams else JSON)
        return Played(Script(200, steps, media=media, length=length), reply.usage)


def find(name: str) -> Fault:
    """Find the mode a name stands for.

    Args:
        name: with `fault/` in front.

    Raises:
        RequestRefused: no such mode (404), or an argument it cannot take (400).
    """
    mode_name, colon, argument = name.removeprefix(PREFIX).partition(":")
    mode = MODES.get(mode_name)
    if mode is None:
        near = get_close_matches(mode_name, MODES, 3) or list(MODES)
        raise RequestRefused(
            404, f"no fault mode {mode_name!r}; there are {', '.join(near)}", "model", "model_not_found"
        )
    if colon and not (mode.takes and re.fullmatch(mode.takes, argument)):
        wanted = f"wants an argument like {mode.default or 3}" if mode.takes else "takes no argument"
        raise RequestRefused(400, f"fault mode {mode_name!r} {wanted}, not {argument!r}", "model")
    return Fault(name, mode, argument or mode.default)


def sayer(answer: str) -> Callable[[ChatRequest], str]:
    """What fault modes say where they say something sensible: the reply that was asked for, with this answer in it."""
    typed: dict[str, Reply] = {
        "plan": Plan((Part("Work out the answer."),)),
        "report": Report(answer, "It was given."),
        "verdict": Verdict("accept", answer, "It was given."),
        "bid": Bid(("Work it out.", "Answer.")),
        "vote": Vote((3, 3)),
    }
    texts = {kind: reply_json(reply) for kind, reply in typed.items()}
    return lambda request: texts.get(request.reply, f"The answer – after some thought, as always – is {answer}.")
