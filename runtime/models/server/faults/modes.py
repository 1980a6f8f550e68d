"""Owns the table of fault modes: the name behind `fault/`, the row of the fault model it belongs to, and what it does.

The rows are those an endpoint can be blamed for: E1 429, E2 5xx, E3 connection lost, E4 time, E5 no chat completion,
E6 broken streams, E7 no usage, E8 impossible usage, E9 more than was allowed, E10 less than the truth, E11 too large,
E12 redirects, E13 unusable content, E14 the wrong model. A mode of row "-" is no fault.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from runtime.models.server.faults.replies import (
    Refuse,
    Report,
    Said,
    beyond_the_limit,
    cached_beyond,
    calling,
    claiming,
    first_times,
    hidden_prompt,
    natural,
    no_figures,
    off_by_one,
    one_token_repeated,
    only_thought,
    redirect,
    reporting,
    retry_at_date,
    saying,
    status,
    under,
    words,
)
from runtime.models.server.faults.wire import (
    Edit,
    Send,
    body_of,
    choices_with,
    each,
    error_event,
    error_inside,
    first,
    first_piece_only,
    half_then,
    late,
    many_calls,
    many_choices,
    messages_with,
    not_a_number,
    odd_but_right,
    padded,
    page,
    refused_in_words,
    signs_of_life,
    usage_everywhere,
    usage_on_last_choice,
    with_pauses,
    without,
    without_done,
)
from runtime.models.server.script import End

COUNT = r"[1-9]\d{0,6}"
SECONDS = r"\d{1,5}(\.\d{1,3})?"
PLACE = r"[\w.-]{1,80}:\d{1,5}"
LINE = r"[\x21-\x7e]{1,80}"


@dataclass(frozen=True, slots=True)
class Mode:
    """One way of an endpoint to go wrong, for plain answers and for streams."""

    row: str
    what: str
    takes: str = ""
    """Pattern of the argument behind a colon; empty where there is none."""
    default: str = ""
    """The argument where none is given."""
    refuse: Refuse | None = None
    """Answers in place of all that follows, where it gives something."""
    billed: bool = True
    """Whether an answer of `refuse` is billed; all other answers are."""
    said: Said = natural
    usage: Report | None = None
    docs: Edit | None = None
    send: Send | None = None
    media: str | None = None


def _429(
    what: str, takes: str = "", default: str = "", *, kind: str = "requests", code: str | None = None, **h: str
) -> Mode:
    refuse = status(429, "come later", kind, code or "rate_limit_exceeded", **h)
    return Mode("E1", f"429 {what}", takes, default, refuse=refuse, billed=False)


def _5xx(code: int, row: str = "E2") -> Mode:
    return Mode(row, f"status {code}", refuse=status(code, "try again"), billed=False)


def _4xx(code: int, what: str, error_code: str) -> Mode:
    return Mode("E14", f"{code} {what}", refuse=status(code, what, "", error_code), billed=False)


MODES: Mapping[str, Mode] = MappingProxyType(
    {
        "ok": Mode("-", "answers as it should; gives made-up logprobs where asked for them, as all modes do"),
        "slow": Mode("-", "answers as it should after so many seconds", SECONDS, "1", send=late),
        "tool-call": Mode("-", "calls the first tool offered, without arguments", said=calling("{}")),
        "long": Mode("-", "so many words of one token each, within the limit", COUNT, "200", said=words),
        "429": _429("with this Retry-After", LINE, "1", retry_after="{}"),
        "429-long": _429("with a Retry-After of a day", retry_after="86400"),
        "429-garbage": _429("with a Retry-After nobody can read", retry_after="soon"),
        "429-negative": _429("with a negative Retry-After", retry_after="-5"),
        "429-date": Mode("E1", "429 with a date", SECONDS, "30", refuse=retry_at_date, billed=False),
        "429-ms": _429("with retry-after-ms only", COUNT, "1500", retry_after_ms="{}"),
        "429-bare": _429("without a Retry-After"),
        "429-quota": _429("no credit left", kind="insufficient_quota", code="insufficient_quota"),
        "500": _5xx(500),
        "502": _5xx(502),
        "503": _5xx(503),
        "504": _5xx(504),
        "529": _5xx(529),
        "500-billed": Mode("E2", "status 500 after the work, which is billed", refuse=status(500, "lost at the end")),
        "flaky": Mode("E2", "503 for so many requests, then answers", COUNT, "2", refuse=first_times, billed=False),
        "drop": Mode("E3", "connection closed after the request was read", send=first(End.DROP)),
        "drop-body": Mode("E3", "connection closed in the middle of the body", send=half_then(End.DROP)),
        "hang": Mode("E4", "never answers", send=first(End.HANG)),
        "stall": Mode("E4", "half of the body, then nothing for ever", send=half_then(End.HANG)),
        "slow-body": Mode("E4", "byte after byte, this many seconds apart", SECONDS, "0.05", send=with_pauses(1)),
        "slow-stream": Mode(
            "E4",
            "event after event, or tenths of a body, this many seconds apart",
            SECONDS,
            "0.5",
            send=with_pauses(None),
        ),
        "signs-of-life": Mode(
            "E4", "blanks or comments for ever, this many seconds apart", SECONDS, "0.05", send=signs_of_life
        ),
        "garbage": Mode("E5", "a body, or an event, that is no JSON", send=body_of(b'{"choices": [}')),
        "html": Mode("E5", "a page with status 200", send=page(b"<html>It works!</html>"), media="text/html"),
        "empty-body": Mode("E5", "status 200 and nothing", send=page(b"")),
        "empty-object": Mode("E5", "{}, or an event of it", send=body_of(b"{}")),
        "null": Mode("E5", "null, or an event of it", send=body_of(b"null")),
        "deep": Mode("E5", "100,000 opening brackets", send=body_of(b"[" * 100_000)),
        "bad-utf8": Mode("E5", "bytes that are no UTF-8", send=body_of(b'{"choices": "\xff"}')),
        "null-choices": Mode("E5", "choices is null, in every chunk of a stream", docs=each(choices=None)),
        "empty-choices": Mode("E5", "choices is [], in every chunk of a stream", docs=each(choices=[])),
        "no-choices": Mode("E5", "choices is missing", docs=without("choices")),
        "wrong-types": Mode("E5", "content is a number", docs=messages_with(content=5)),
        "text-plain": Mode("E5", "a right answer as text/plain: harmless", media="text/plain"),
        "truncated": Mode(
            "E6",
            "no finish_reason; a stream ends after its first piece",
            docs=choices_with(finish_reason=None),
            send=first_piece_only,
        ),
        "half-line": Mode("E6", "a body or a stream that ends in the middle of a line", send=half_then(None)),
        "garbage-event": Mode("E6", "an event that is no JSON", send=body_of(b"%PDF-1.7")),
        "error-inside": Mode(
            "E6", "an error with status 200, in a stream after its first piece", docs=error_inside, send=without_done
        ),
        "error-event": Mode("E6", "an event of the kind `error` in a stream", send=error_event),
        "no-done": Mode("E6", "a stream without [DONE]: harmless", send=without_done),
        "odd-events": Mode("E6", "CRLF, comments, ids, torn at any byte: harmless", send=odd_but_right),
        "usage-missing": Mode("E7", "no usage", docs=without("usage")),
        "usage-null": Mode("E7", "usage is null", usage=no_figures),
        "usage-partial": Mode("E7", "prompt_tokens only", usage=reporting(completion_tokens=None, total_tokens=None)),
        "usage-last-choice": Mode("E7", "on the last chunk that has choices: harmless", docs=usage_on_last_choice),
        "usage-everywhere": Mode("E7", "a growing usage on every chunk: harmless", docs=usage_everywhere),
        "usage-negative": Mode("E8", "completion_tokens is -5", usage=reporting(completion_tokens=-5)),
        "usage-float": Mode("E8", "completion_tokens is 1.5", usage=reporting(completion_tokens=1.5)),
        "usage-string": Mode("E8", 'completion_tokens is "3"', usage=reporting(completion_tokens="3")),
        "usage-bool": Mode("E8", "completion_tokens is true", usage=reporting(completion_tokens=True)),
        "usage-huge": Mode("E8", "completion_tokens is 10^12", usage=reporting(completion_tokens=10**12)),
        "usage-sum": Mode("E8", "total_tokens is one more than the sum", usage=off_by_one),
        "usage-nan": Mode("E8", "completion_tokens is NaN, which is no JSON", send=not_a_number),
        "usage-list": Mode("E8", "usage is a list", usage=lambda usage, ask: [usage]),
        "usage-cached": Mode("E8", "more cached tokens than prompt tokens", usage=cached_beyond),
        "overshoot": Mode(
            "E9",
            "writes so many tokens (twice the limit) whatever the limit is, and bills them",
            COUNT,
            said=beyond_the_limit,
        ),
        "inflated": Mode("E9", "says so many tokens (twice the limit), writes few", COUNT, usage=claiming(None)),
        "hidden-prompt": Mode(
            "E9", "adds so many tokens to the prompt, and bills them", COUNT, "1000", said=hidden_prompt
        ),
        "ignores-max-tokens": Mode(
            "E9",
            "writes so many tokens, heeds max_completion_tokens only",
            COUNT,
            "200",
            said=under("max_completion_tokens"),
        ),
        "ignores-max-completion-tokens": Mode(
            "E9", "writes so many tokens, heeds max_tokens only", COUNT, "200", said=under("max_tokens")
        ),
        "underreport": Mode("E10", "writes so many words, says 1 token", COUNT, "2000", said=words, usage=claiming(1)),
        "usage-zero": Mode("E10", "says 0 tokens", usage=claiming(0)),
        "big-body": Mode("E11", "so many MiB in a field nobody asked for", r"\d{1,3}", "50", send=padded),
        "many-choices": Mode("E11", "the same choice so many times", COUNT, "100000", docs=many_choices),
        "many-tool-calls": Mode("E11", "the same call so many times", COUNT, "10000", docs=many_calls),
        "redirect": Mode(
            "E12", "307 to HOST:PORT, or to /ostrom/trap here, which counts", PLACE, refuse=redirect, billed=False
        ),
        "empty": Mode("E13", "no content", said=saying("")),
        "null-content": Mode("E13", "content is null", said=saying(""), docs=messages_with(content=None)),
        "only-thought": Mode("E13", "all of the limit spent on thinking, no content", said=only_thought),
        "repeat": Mode("E13", "one token repeated up to the limit", said=one_token_repeated),
        "bad-tool-json": Mode("E13", "a call whose arguments are no JSON", said=calling('{"a": 1')),
        "unknown-tool": Mode("E13", "a call of a tool nobody offered", said=calling("{}", "no_such_tool")),
        "wrong-shape": Mode("E13", "JSON of another shape than any typed reply", said=saying('{"unexpected": [1]}')),
        "refusal": Mode("E13", "a refusal in place of content", docs=refused_in_words),
        "content-filter": Mode(
            "E13", "finish_reason content_filter", docs=choices_with(finish_reason="content_filter")
        ),
        "unknown-finish": Mode("E13", "a finish_reason nobody knows", docs=choices_with(finish_reason="tired")),
        "unknown-model": _4xx(404, "no such model", "model_not_found"),
        "401": _4xx(401, "incorrect API key provided", "invalid_api_key"),
        "wrong-model": Mode("E14", "the answer names another model", docs=each(model="gpt-2")),
    }
)
