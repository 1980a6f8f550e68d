"""Owns what a topology's outcome comes to as text, for the checker and for whoever asked."""

from runtime.boundary import encodable
from runtime.messages import Plan, Report, Verdict
from runtime.protocols import Answer, Outcome


def text_of(outcome: Outcome) -> str | None:
    """The answer in words; None where there is none."""
    text = outcome
    if isinstance(outcome, Answer):
        text = outcome.text
    elif isinstance(outcome, (Report, Verdict)):
        text = outcome.answer
    elif isinstance(outcome, Plan):
        text = "\n".join(part.text for part in outcome.parts)
    return encodable(text) if isinstance(text, str) else None
