"""Owns what an endpoint's error answers mean: a status, or an error object where a reply was due, as one of our errors.

The question behind each is whether work may have been done. A 4xx says no, except where it admits that something was
generated; a 5xx, or an error after a good status, leaves it open, and then the call is charged.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from runtime.errors import (
    BadModelReply,
    ModelError,
    ModelRateLimited,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
)
from runtime.models.metering import read_usage
from runtime.models.wire import clean, retry_after_s

_AFTER_WORK = frozenset({"json_validate_failed", "tool_use_failed", "output_parse_failed"})
"""Codes with which Groq refuses what its model has already written."""
_RAW_LIMIT = 10_000
"""Longer than what is shown in the end: a key must not be cut in two before it is found."""
_CUT_WORK = "could not finish the message"
"""How OpenAI begins to say that the limit was used up by thoughts alone."""


class _Said(NamedTuple):
    text: str
    code: str
    usage: object
    after_work: bool


def failure(model: str, status: int, headers: Mapping[str, str], body: bytes, timeout_s: float) -> ModelError:
    """What an answer with a bad status means. Its text may still hold the key: see `redacted`."""
    said = _read(body)
    text = tidy(said.text) or f"Error code: {status}"
    if status == 408:
        return ModelTimeout(model, timeout_s, retry_after_s(headers))
    # An account without credit is told 429 as well, and no patience cures that.
    if status == 429 and said.code != "insufficient_quota":
        return ModelRateLimited(model, retry_after_s(headers))
    if status >= 500:
        return ModelUnavailable(model, f"{status}: {text}", retry_after_s(headers))
    if status < 400:
        return ModelRefused(model, status, "a redirect, and redirects are not followed")
    usage = read_usage(said.usage)
    if said.after_work or (usage is not None and usage.tokens > 0):
        return BadModelReply(model, f"refused with {status} after work: {text}", usage)
    return ModelRefused(model, status, text)


def error_in_reply(model: str, error: object) -> ModelError:
    """What an error object means that came where a reply was due, after a status that said all is well."""
    said = _of(error)
    text = tidy(said.text) or "an error without a text"
    if said.code.isdecimal() and 400 <= int(said.code) < 500 and said.code not in ("408", "429"):
        return BadModelReply(model, f"an error instead of a reply: {said.code}: {text}")
    return ModelUnavailable(model, f"an error instead of a reply: {text}")


def redacted(error: ModelError, secret: str) -> ModelError:
    """The same error with texts that are short and without the key; the name of the model stays as it is."""
    model, *rest = error.args
    return type(error)(model, *(clean(part, secret) if isinstance(part, str) else part for part in rest))


def tidy(text: str) -> str:
    """Foreign text on its way into an error."""
    return clean(text, limit=_RAW_LIMIT)


def _read(body: bytes) -> _Said:
    try:
        document = orjson.loads(body)
    except ValueError:
        return _Said(body.decode(errors="replace"), "", None, False)
    if isinstance(document, list) and document:
        document = document[0]  # Gemini puts its errors into a list
    if not isinstance(document, dict):
        return _Said("" if document is None else str(document), "", None, False)
    said = _of(document.get("error") or document)
    return said._replace(usage=document.get("usage"))


def _of(error: Any) -> _Said:
    """Read OpenAI's error object; others' plain text, or `detail` or `message` at the top."""
    if not isinstance(error, dict):
        return _Said(str(error or ""), "", None, False)
    text = error.get("message") or error.get("detail") or ""
    code = next((str(error[name]) for name in ("code", "status", "type") if error.get(name) not in (None, "")), "")
    if error.get("type") == "insufficient_quota":
        code = "insufficient_quota"
    after = code in _AFTER_WORK or "failed_generation" in error or _CUT_WORK in str(text).lower()
    return _Said(str(text), code, None, after)
