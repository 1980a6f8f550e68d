"""Owns the roles: which typed reply each one gives, and the words it is told.

The words live in `prompts/<role>.md`. A role nobody knows here gives a Report and is told the executor's words, unless its
Agent brings a prompt of its own.
"""

from functools import cache
from importlib.resources import files

_REPLY = {
    "planner": "plan",
    "hub": "plan",
    "executor": "report",
    "peer": "report",
    "verifier": "verdict",
    "bidder": "bid",
    "judge": "vote",
}


def reply_of(role: str) -> str:
    """Name of the typed reply a role gives (a key of `runtime.messages.KINDS`)."""
    return _REPLY.get(role, "report")


def words_for(role: str) -> str:
    """The built-in prompt of a role."""
    return _words(role if role in _REPLY else "executor")


def summary_words() -> str:
    """What a model is told that is to shorten a mail. It is no role: whoever reads the mail does it."""
    return _words("summary")


@cache
def _words(name: str) -> str:
    return (files("runtime.agents") / "prompts" / f"{name}.md").read_text(encoding="utf-8").strip()
