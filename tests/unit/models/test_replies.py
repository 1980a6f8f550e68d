"""Replies that come whole, and errors in their place: what can be used, and what was consumed where nothing can."""

import json
import pickle
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import (
    BadModelReply,
    ModelError,
    ModelRateLimited,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
)
from runtime.models.base import ChatMessage, ChatReply, ChatRequest, TokenLogprob, ToolCall
from runtime.models.failures import failure, redacted
from runtime.models.replies import PlainReply, expected
from runtime.models.spec import ModelSpec
from runtime.usage import Usage

SPEC = ModelSpec(endpoint="http://127.0.0.1:9/v1", model="m", key_env="")
USAGE = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
TRUE = Usage(5, 1)
PARTS = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
    {"type": "text", "text": "y"},
    {"type": "text", "text": "es"},
]
"""How Mistral's thinking models write a text."""


def read(document: object, spec: ModelSpec = SPEC, max_tokens: int = 100, **more: Any) -> ChatReply:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    reply = PlainReply(expected("m", spec, ChatRequest((ChatMessage("user", "How many?"),), max_tokens, **more), 0))
    for start in range(0, len(raw), 65_536):
        assert not reply.complete
        reply.feed(raw[start : start + 65_536])
    return reply.result()


def body(finish: str | None = "stop", usage: object = USAGE, **message: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "yes"} | message
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}


def call(arguments: str = "{}", **more: Any) -> dict[str, Any]:
    return {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}} | more


@pytest.mark.parametrize(
    ("document", "reply"),
    [
        (body(), ChatReply("yes", TRUE)),
        (body(usage=None), ChatReply("yes", None)),
        (body(content=None, refusal="no"), ChatReply("no", TRUE)),
        (body("tool_calls", tool_calls=[call()]), ChatReply("yes", TRUE, "tool_calls", (ToolCall("a", "f", "{}"),))),
        (
            body(content=None, tool_calls=[call(id=None), call(id="")]),
            ChatReply("", TRUE, "tool_calls", (ToolCall("call_0", "f", "{}"), ToolCall("call_1", "f", "{}"))),
        ),
        (body("length", tool_calls=[call("{")]), ChatReply("yes", TRUE, "length", (ToolCall("a", "f", "{"),))),
        (body(reasoning_content="hm"), ChatReply("yes", TRUE)),
        (body(reasoning={"any": "thing"}), ChatReply("yes", TRUE)),
        (body() | {"error": None}, ChatReply("yes", TRUE)),
        (body(content=PARTS), ChatReply("yes", TRUE)),
        (body(content=[]), ChatReply("", TRUE)),
    ],
)
def test_what_differs_and_is_harmless_is_read(document: Any, reply: ChatReply) -> None:
    assert read(document) == reply


@pytest.mark.parametrize(
    ("document", "said", "usage"),
    [
        (b"", "Invalid JSON", None),
        (b'{"choices": [', "Invalid JSON", None),
        ({"usage": USAGE}, "choices: Field required", TRUE),
        ({"usage": USAGE, "choices": []}, "choices: ", TRUE),
        ({"usage": USAGE, "choices": body()["choices"] * 2}, "choices: List should have at most 1 item", TRUE),
        (body(content=5), "choices.0.message.content: ", TRUE),
        (body(content=["yes"]), "choices.0.message.content: ", TRUE),
        (body(content=[{"type": "text", "text": 5}]), "choices.0.message.content: ", TRUE),
        (body(content=5, usage=None), "choices.0.message.content: ", None),
        (body(content=5, usage={"prompt_tokens": -1}), "choices.0.message.content: ", None),
        (body(None), "no finish_reason", TRUE),
        (body(""), "no finish_reason", TRUE),
        (body("content_filter"), "ended by content_filter", TRUE),
        (body("sk-0123456789 \x1b[31m"), "ended by [key] [31m", TRUE),
        (body("tool_calls"), "no call came with it", TRUE),
        (body(tool_calls=[call()] * 129), "tool_calls: List should have at most 128 items", TRUE),
        (body(tool_calls=[call("x" * 262_145)]), "arguments: String should have at most 262144 characters", TRUE),
        ({"error": {"code": 400, "message": "too long"}}, "instead of a reply: 400: too long", None),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_reply_that_cannot_be_used_says_why_and_what_it_consumed(document: Any, said: str, usage: Usage) -> None:
    with pytest.raises(BadModelReply) as caught:
        read(document)

    assert said in caught.value.reason
    assert (caught.value.usage, caught.value.billed, caught.value.__context__) == (usage, True, None)


def test_an_error_with_a_good_status_may_be_tried_again() -> None:
    with pytest.raises(ModelUnavailable, match="the engine died"):
        read({"error": {"message": "the engine died"}})
    with pytest.raises(ModelUnavailable, match="the engine died"):
        read(body() | {"error": {"message": "the engine died", "code": 502}})


@pytest.mark.parametrize(("max_tokens", "logprobs", "most"), [(100, 0, 2**20 + 25_600), (100, 4, 2**20 + 128_000)])
def test_an_answer_longer_than_it_can_be_is_not_read_to_its_end(max_tokens: int, logprobs: int, most: int) -> None:
    text = json.dumps(body(content=""))
    fits = text.replace('"content": ""', f'"content": "{"x" * (most - len(text))}"')

    assert read(fits.encode(), max_tokens=max_tokens, logprobs=logprobs).text == "x" * (most - len(text))
    with pytest.raises(BadModelReply, match=f"longer than {most:,} bytes"):
        read(fits.encode() + b" ", max_tokens=max_tokens, logprobs=logprobs)


def test_no_limit_on_the_reply_lets_an_answer_grow_without_end() -> None:
    assert expected("m", SPEC, ChatRequest((), 10**9), 0).most_bytes == 2**26


def test_a_usage_below_the_text_that_came_is_raised_and_reported() -> None:
    reply = read(body(content="字" * 1_000))
    thought = read(body(reasoning_content="x" * 1_280))
    called = read(body(tool_calls=[call("x" * 1_279)]))

    assert (reply.usage, reply.floored) == (Usage(5, 23), True)
    assert (thought.usage, thought.floored) == (Usage(5, 10), True)
    assert (called.usage, called.floored) == (Usage(5, 10), True)
    assert (read(body()).usage, read(body()).floored) == (TRUE, False)


def test_a_usage_that_is_declared_is_not_raised() -> None:
    reply = read(body(content="x" * 10_000), SPEC.model_copy(update={"fixed_usage": (5, 1)}))

    assert (reply.usage, reply.floored) == (TRUE, False)


def test_an_overstated_usage_is_the_truth() -> None:
    assert read(body(usage={"prompt_tokens": 10**6, "completion_tokens": 10**7})).usage == Usage(10**6, 10**7)


def test_logprobs_are_read_where_they_were_asked_for() -> None:
    token = {
        "token": "yes",
        "logprob": -0.1,
        "bytes": [1],
        "top_logprobs": [{"token": "no", "logprob": -2, "bytes": None}],
    }

    def spoken(logprobs: object) -> dict[str, Any]:
        document = body()
        document["choices"][0]["logprobs"] = logprobs
        return document

    assert read(spoken({"content": [token]}), logprobs=1).logprobs == (TokenLogprob("yes", -0.1, (("no", -2.0),)),)
    for none in (None, {}, {"content": None}, {"content": [5]}, {"content": [token | {"logprob": None}]}, "high"):
        assert read(spoken(none), logprobs=1) == ChatReply("yes", TRUE)
    assert read(spoken({"content": [token]})) == ChatReply("yes", TRUE)


FIELDS = st.sampled_from(["choices", "message", "content", "usage", "error", "finish_reason"])
documents = st.recursive(
    st.none() | st.integers() | st.text() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=3),
)


@given(st.binary() | documents)
def test_any_answer_at_all_is_a_reply_or_one_of_our_errors(document: Any) -> None:
    with suppress(BadModelReply, ModelUnavailable):
        assert isinstance(read(document), ChatReply)


# ---- errors


def failed(status: int, document: object, **headers: str) -> ModelError:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return failure("m", status, headers, raw, 2.0)


@pytest.mark.parametrize(
    ("status", "document", "args"),
    [
        (400, {"error": {"message": "too long"}}, (400, "too long")),
        (400, [{"error": {"message": "bad key", "code": 400, "status": "INVALID_ARGUMENT"}}], (400, "bad key")),
        (400, {"detail": "wrong model"}, (400, "wrong model")),
        (400, {"error": "plain"}, (400, "plain")),
        (422, {"detail": [{"loc": ["body"], "msg": "extra"}]}, (422, "[{'loc': ['body'], 'msg': 'extra'}]")),
        (404, b"<h1>Not here</h1>", (404, "<h1>Not here</h1>")),
        (403, {}, (403, "Error code: 403")),
        (403, b"", (403, "Error code: 403")),
        (403, b" \r\n", (403, "Error code: 403")),
        (403, b"null", (403, "Error code: 403")),
        (403, b"[]", (403, "[]")),
        (307, b"", (307, "a redirect, and redirects are not followed")),
        (429, {"error": {"message": "pay", "code": "insufficient_quota"}}, (429, "pay")),
        (429, {"error": {"message": "pay", "type": "insufficient_quota", "code": 7}}, (429, "pay")),
        (400, {"error": {"message": "no"}, "usage": {"prompt_tokens": 0, "completion_tokens": 0}}, (400, "no")),
    ],
)  # fmt: skip
def test_a_refusal_before_any_work_is_not_billed(status: int, document: object, args: tuple[object, ...]) -> None:
    error = failed(status, document)

    assert (type(error), error.args, error.billed) == (ModelRefused, ("m", *args), False)


@pytest.mark.parametrize(
    ("document", "usage"),
    [
        ({"error": {"message": "no JSON", "code": "json_validate_failed", "failed_generation": "{"}}, None),
        ({"error": {"message": "no call", "code": "tool_use_failed"}}, None),
        ({"error": {"message": "oh", "failed_generation": "{"}}, None),
        ({"error": {"message": "Could not finish the message because max_tokens or model output limit was reached."}}, None),
        ({"error": {"message": "filtered"}, "usage": USAGE}, TRUE),
    ],
)  # fmt: skip
def test_a_refusal_that_admits_to_work_is_billed(document: object, usage: Usage | None) -> None:
    error = failed(400, document)

    assert isinstance(error, BadModelReply)
    assert (error.usage, error.billed) == (usage, True)
    assert error.reason.startswith("refused with 400 after work: ")


@pytest.mark.parametrize(
    ("status", "document", "error"),
    [
        (408, {}, ModelTimeout("m", 2.0, 7.0)),
        (429, {}, ModelRateLimited("m", 7.0)),
        (500, {"error": {"message": "oops"}}, ModelUnavailable("m", "500: oops", 7.0)),
        (529, b"\xff\xfe", ModelUnavailable("m", "529: \ufffd\ufffd", 7.0)),
    ],
)
def test_the_other_statuses_have_errors_of_their_own(status: int, document: object, error: ModelError) -> None:
    found = failed(status, document, **{"retry-after": "7"})

    assert (type(found), found.args) == (type(error), error.args)


@pytest.mark.parametrize("place", [0, 270, 285, 290, 298, 9_000, 9_990])
def test_a_key_is_found_wherever_a_text_is_cut(place: int) -> None:
    key = "Own/Key+0123456789"
    error = redacted(failed(400, {"error": {"message": "x" * place + " " + key + " " + "y" * 20_000}}), key)

    assert isinstance(error, ModelRefused)
    assert error.model == "m"
    assert len(error.text) <= 304
    assert not any(key[:n] in str(error) for n in range(6, len(key) + 1))


def test_the_usage_of_an_error_survives_redaction_and_pickle() -> None:
    error = redacted(BadModelReply("m", "ended by SECRETKEY", TRUE), "SECRETKEY")

    assert pickle.loads(pickle.dumps(error)).args == ("m", "ended by [key]", TRUE)
