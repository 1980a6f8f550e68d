"""Owns the models that answer from records: RecordedModel, which finds by the text of the task what a real system once said,
and ReplayedModel, which stands for a model of a run that is replayed.

Where the records come from is left to whoever reads a transcript. What is recorded cannot change: asking again gives the same
answer, a prompt in other words gives the same answer, and nothing can be planned, judged or done in part.
"""

from collections.abc import Mapping
from dataclasses import astuple
from functools import cached_property
from hashlib import blake2b
from typing import NamedTuple

from runtime.agents.blocks import block, read_blocks
from runtime.errors import BadModelReply, ConfigError, ModelRefused
from runtime.ids import address
from runtime.messages import Report, reply_json
from runtime.models.asked import asked_of, digest_of
from runtime.models.base import ChatReply, ChatRequest
from runtime.trampoline import nap_s
from runtime.usage import Price, Usage


class RecordedAnswer(NamedTuple):
    """What a system said about one task."""

    text: str
    """All that it wrote."""
    answer: str
    """The final answer in it, as whoever read the transcript took it out; empty where there is none."""
    usage: Usage
    """What the call is charged."""


class RecordedModel:
    """Replays one answer for each task, at its declared usage and price.

    A task is looked up by the text in the prompt's `<task>` block, word for word. A report is the recorded answer with the
    whole text as its work; free text is the text itself.

    The records travel as they are: 660 answers of 300 characters make 0.25 MB when pickled. Of the tasks, only digests are
    kept.

    Args:
        name: the catalogue name.
        records: the text of each task, and what was answered.
        price: of the declared usage; None when unknown.

    Raises:
        ConfigError: no records.
    """

    virtual = True
    shrinkable = False
    naps = True

    def __init__(
        self,
        name: str,
        records: Mapping[str, RecordedAnswer],
        *,
        price: Price | None,
        window_tokens: int = 1_000_000,
    ) -> None:
        if not records:
            raise ConfigError(f"{name}: a recorded model needs at least one recorded answer")
        self.name = name
        self.price = price
        self.window_tokens = window_tokens
        # What comes back out of a block differs from what went in where the text has a closing tag.
        self._answers = {_key(read_blocks(block("task", task))[0].body): found for task, found in records.items()}

    @cached_property
    def settings(self) -> str:
        """Content address of all it can answer, usage and price included: equal models replay equal runs."""
        rows = sorted([key.hex(), text, answer, list(usage)] for key, (text, answer, usage) in self._answers.items())
        price = None if self.price is None else astuple(self.price)
        return address([self.name, price, rows])

    def bound(self, request: ChatRequest) -> Usage:
        """Exactly the recorded usage; nothing for a request that `complete` cannot answer."""
        found = self._find(request)
        return Usage(0, 0) if isinstance(found, str) else found.usage

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Give the recorded answer.

        Raises:
            BadModelReply: there is no answer for this task, or the request is for something else than an answer.
            ModelRefused: max_tokens is below the recorded output (status 400).
        """
        found = self._find(request)
        if isinstance(found, str):
            raise BadModelReply(self.name, found)
        if request.max_tokens < found.usage.output_tokens:
            raise ModelRefused(
                self.name, 400, f"max_tokens {request.max_tokens} is below the recorded {found.usage.output_tokens}"
            )
        # A replay takes no time, but a call is where others get their turn and a cancelled run stops.
        await nap_s(0.0)
        text = reply_json(Report(found.answer, found.text)) if request.reply else found.text
        return ChatReply(text, found.usage)

    def _find(self, request: ChatRequest) -> RecordedAnswer | str:
        """The recorded answer, or why there is none."""
        if request.reply not in ("", "report"):
            return f"asked for a {request.reply}, but a recorded system has answers only: it cannot plan, judge or bid"
        said = "\n".join(message.content for message in request.messages if message.role == "user")
        blocks = read_blocks(said)
        if any(found.tag == "summary" for found in blocks):
            return "asked to shorten a mail, but a recorded system has answers only"
        if any(found.tag == "part" for found in blocks):
            return "asked for a part of the task, but a recorded system answered the whole of it"
        task = next((found.body for found in blocks if found.tag == "task"), None)
        if task is None:
            return "the prompt has no <task> block to look up"
        known = self._answers.get(_key(task))
        if known is not None:
            return known
        words = " ".join(task[:200].split())[:60]
        return f"no recorded answer for the task {words!r}; there are {len(self._answers):,}, found word for word"


class ReplayedModel:
    """A model of a recorded run: its price, its window, and how much each recorded request held. The run itself plays the
    replies (`runtime.replay`), because what was asked, and in which order, is known there.

    Args:
        bounds: by the digest of a request, what it held.
    """

    virtual = True
    naps = True

    def __init__(
        self, name: str, price: Price | None, window_tokens: int, shrinkable: bool, bounds: Mapping[str, Usage]
    ) -> None:
        self.name = name
        self.price = price
        self.window_tokens = window_tokens
        self.shrinkable = shrinkable
        self._bounds = bounds

    def bound(self, request: ChatRequest) -> Usage:
        """What the request held when it was recorded; nothing for one that was not."""
        known = self._bounds.get(digest_of(asked_of(request)), Usage(0, 0))
        return Usage(known.input_tokens, request.max_tokens if self.shrinkable else known.output_tokens)

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Refuse: a replay does not come here.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{self.name}: a replayed model answers inside its run only, by Runtime(replay=...)")


def _key(task: str) -> bytes:
    return blake2b(task.encode(), digest_size=16).digest()
