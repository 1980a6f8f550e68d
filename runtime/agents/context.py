"""Owns what stands in a prompt: the role's words, then task, part, mail and the rest in blocks of their own."""

from collections.abc import Sequence
from typing import NamedTuple

from runtime.agents.blocks import block, clip, mail_block, mail_text, part_block
from runtime.agents.roles import summary_words
from runtime.messages import Bid, Bundle, Delivered, Message, Part
from runtime.models.base import ChatMessage
from runtime.protocols import OUTSIDE
from runtime.task import Task

STRATEGY_TOKENS = 256
"""Length of the plan that a router hands to its winner, so that a prompt's length is bounded."""


class Content(NamedTuple):
    """A message taken apart."""

    task: Task
    part: Part | None
    parts_wanted: int
    mails: tuple[Delivered, ...]

    @property
    def senders(self) -> tuple[str, ...]:
        """Who it comes from, in order; the task counts only where nobody else wrote."""
        wrote = tuple(mail.sender or OUTSIDE for mail in self.mails)
        if self.part is not None and self.part.sender:
            wrote = (self.part.sender, *wrote)
        return wrote or (OUTSIDE,)


def content_of(message: Message, task: Task) -> Content:
    """Take a message apart; a Task in it replaces the run's own."""
    if isinstance(message, Task):
        return Content(message, None, 0, ())
    if isinstance(message, Bundle):
        return Content(task, message.part, message.parts_wanted, message.mails)
    if isinstance(message, Part):
        return Content(task, message, 0, ())
    return Content(task, None, 0, (message,))


def summary_prompt(task: Task, mail: Delivered, tokens: int) -> tuple[ChatMessage, ...]:
    """The conversation in which a model is asked to tell a mail in so many tokens."""
    whole = mail_block(mail, len(mail_text(mail).encode()))  # a token is a byte at least
    blocks = [block("task", task.prompt), block("summary", str(tokens)), whole]
    return (ChatMessage("system", summary_words()), ChatMessage("user", "\n".join(blocks)))


def prompt(
    words: str,
    content: Content,
    *,
    message_tokens: int,
    strategy: Sequence[str] = (),
    bids: Sequence[Bid] = (),
) -> tuple[ChatMessage, ...]:
    """The conversation an agent begins with."""
    blocks = [block("task", content.task.prompt)]
    if content.part is not None:
        blocks.append(part_block(content.part, message_tokens))
    if content.parts_wanted:
        blocks.append(block("parts", str(content.parts_wanted)))
    blocks.extend(mail_block(mail, message_tokens) for mail in content.mails)
    blocks.extend(block("bid", "\n".join(bid.steps), number=str(i)) for i, bid in enumerate(bids, 1))
    if strategy:
        blocks.append(block("strategy", clip("\n".join(strategy), STRATEGY_TOKENS)))
    return (ChatMessage("system", words), ChatMessage("user", "\n".join(blocks)))
