"""Replies that come as a stream: the same however the bytes are split, whole or not at all, and cut where they do not end."""

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import BadModelReply, ModelError, ModelUnavailable
from runtime.models.base import ChatMessage, ChatReply, ChatRequest, TokenLogprob, ToolCall
from runtime.models.events import EventLines
from runtime.models.replies import Expected, expected
from runtime.models.spec import ModelSpec
from runtime.models.stream import StreamedReply
from runtime.usage import Usage

SPEC = ModelSpec(endpoint="http://127.0.0.1:9/v1", model="m", key_env="", stream=True)
BOUND = 700
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
DONE = b"data: [DONE]\n\n"


def asked(max_tokens: int = 100, **more: Any) -> Expected:
    return expected("m", SPEC, ChatRequest((ChatMessage("user", "How many?"),), max_tokens, **more), BOUND)


def event(document: object) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


def piece(finish: str | None = None, usage: object = None, **delta: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "usage": usage})


def told(usage: object = USAGE) -> bytes:
    return event({"choices": [], "usage": usage})


def called(index: int | None, id: str | None, name: str | None, arguments: str | None) -> dict[str, Any]:
    call = {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {key: value for key, value in call.items() if value is not None}


def read(*parts: bytes, held: Expected | None = None) -> ChatReply:
    reply = StreamedReply(held or asked())
    for part in parts:
        reply.feed(part)
    return reply.result()


YES = (piece(role="assistant", content=""), piece(content="y"), piece(content="es"))
GOOD = ChatReply("yes", Usage(5, 2))


@pytest.mark.parametrize(
    "parts",
    [
        (*YES, piece("stop"), told(), DONE),
        (*YES, piece("stop"), told()),
        (*YES, piece("stop", USAGE), DONE),
        (*YES, piece("stop", USAGE)),
        (*YES[:2], piece("stop", USAGE, content="es"), DONE),
        (*YES, told(), piece("stop"), DONE),
        (*YES, piece("stop"), told(), b"data: [DONE]"),
        (*YES, piece("stop"), told().rstrip()),
        (*YES, piece("stop"), told(), b"data: [DO"),
        (*YES, piece("stop"), told(), b"da"),
        (*YES, piece("stop"), told(), DONE, b"\x00 whatever comes now"),
        (*YES, piece("stop"), piece("stop", USAGE), DONE),
        (b"\xef\xbb\xbf", *YES, piece("stop"), told(), DONE),
        (b": ping\n\n", *YES, b"event: x\nid: 3\nretry: 5\n", piece("stop"), told(), b":\n", DONE),
        (event({"choices": [], "prompt_filter_results": []}), *YES, piece("stop"), told(), DONE),
        (b"".join((*YES, piece("stop"), told(), DONE)).replace(b"\n", b"\r\n"),),
        (b"".join((*YES, piece("stop"), told(), DONE)).replace(b"data: ", b"data:"),),
        (*(piece(content=c, usage=USAGE | {"completion_tokens": 1, "total_tokens": 6}) for c in "yes"), piece("stop"),
         told(), DONE),
        (*YES, event({"choices": [{"delta": None, "finish_reason": "stop"}]}), told(), DONE),
        (piece(content=[{"type": "thinking", "thinking": []}]), piece(content=[{"type": "text", "text": "yes"}]),
         piece("stop"), told(), DONE),
        (piece(refusal="yes"), piece("stop"), told(), DONE),
        (piece("", content="y"), piece("", content="es"), piece("stop"), told(), DONE),
    ],
)  # fmt: skip
def test_what_differs_and_is_harmless_is_read(parts: tuple[bytes, ...]) -> None:
    assert read(*parts) == GOOD


@pytest.mark.parametrize(
    ("parts", "error", "said"),
    [
        ((), ModelUnavailable, "without a finish_reason"),
        ((DONE,), ModelUnavailable, "without a finish_reason"),
        (YES, ModelUnavailable, "without a finish_reason"),
        ((*YES, DONE), ModelUnavailable, "without a finish_reason"),
        ((*YES, b"dat"), ModelUnavailable, "without a finish_reason"),
        ((*YES, told()), ModelUnavailable, "without a finish_reason"),
        ((*YES, piece("stop")), ModelUnavailable, "before its usage came"),
        ((piece(content="yes", usage=USAGE), piece("stop")), ModelUnavailable, "before its usage came"),
        ((*YES, piece("stop"), told()[:20]), ModelUnavailable, "before its usage came"),
        ((*YES, piece("stop", USAGE)[:-20]), ModelUnavailable, "without a finish_reason"),
        ((*YES, piece("stop"), DONE), BadModelReply, "say stream = false"),
        ((*YES, piece("stop"), told(None), DONE), BadModelReply, "say stream = false"),
        ((*YES, piece("content_filter"), told(), DONE), BadModelReply, "ended by content_filter"),
        ((*YES, piece("tool_calls"), told(), DONE), BadModelReply, "no call came with it"),
        ((*YES, piece("stop"), piece(content="!"), told(), DONE), BadModelReply, "goes on after its end"),
        ((b"<html>It works!</html>",), BadModelReply, "no line of an event stream: '<html>"),
        ((b"<html>\n",), BadModelReply, "no line of an event stream"),
        ((b'{"choices": []}\n',), BadModelReply, "no line of an event stream"),
        ((b"data: {\n\n",), BadModelReply, "no chunk of a chat completion: the body: Invalid JSON"),
        ((b"data: \xff\n\n",), BadModelReply, "no chunk of a chat completion"),
        ((b"data: " + b"[" * 100_000 + b"\n\n",), BadModelReply, "Invalid JSON: recursion limit"),
        ((event({}),), BadModelReply, "neither choices nor usage"),
        ((event(None),), BadModelReply, "no chunk of a chat completion: the body"),
        ((event({"choices": [{"delta": {}}] * 2}),), BadModelReply, "choices: "),
        ((event({"choices": [{"index": 1, "delta": {}}]}),), BadModelReply, "more than one choice"),
        ((piece(content=5),), BadModelReply, "choices.0.delta.content: "),
        ((event({"error": {"message": "no engine", "code": 502}}),), ModelUnavailable, "no engine"),
        ((event({"error": "no engine"}),), ModelUnavailable, "no engine"),
        ((*YES, b"event: error\n", event({"error": {"message": "oops"}})), ModelUnavailable, "oops"),
        ((*YES, event({"error": {"message": "oops"}}).rstrip()), ModelUnavailable, "oops"),
        ((event({"error": {"message": "too long", "code": 400}}),), BadModelReply, "400: too long"),
        ((event({"object": "error", "message": "too long", "code": 400}),), BadModelReply, "400: too long"),
        ((event({"error": {"message": "slow down", "code": 429}}),), ModelUnavailable, "slow down"),
    ],
)
def test_what_is_no_whole_reply_is_none(parts: tuple[bytes, ...], error: type[ModelError], said: str) -> None:
    with pytest.raises(error) as caught:
        read(*parts)

    assert said in str(caught.value)
    assert (type(caught.value), caught.value.billed) == (error, True)


def test_a_reply_that_cannot_be_used_still_says_what_it_consumed() -> None:
    with pytest.raises(BadModelReply) as caught:
        read(*YES, piece("content_filter"), told(), DONE)

    assert caught.value.usage == Usage(5, 2)


def test_a_usage_nobody_can_believe_is_unknown_and_the_reply_stays() -> None:
    assert read(*YES, piece("stop"), told(USAGE | {"completion_tokens": -5}), DONE) == ChatReply("yes", None)


# ---- tool calls


@pytest.mark.parametrize(
    "deltas",
    [
        [called(0, "a", "find", ""), called(0, None, None, '{"q"'), called(0, None, None, ": 1}"), called(1, "b", "add", "{}")],
        [called(0, "a", "find", '{"q": 1}'), called(0, "b", "add", "{}")],
        [called(None, "a", "find", '{"q": 1}'), called(None, "b", "add", "{}")],
        [called(None, "a", "find", '{"q"'), called(None, None, None, ": 1}"), called(None, "b", "add", "{}")],
        [called(0, "a", "find", '{"q"'), called(0, "a", "find", ": 1}"), called(1, "b", "add", "{}")],
    ],
    ids=["OpenAI", "all at 0", "no index", "no index, in pieces", "id and name in each piece"],
)  # fmt: skip
def test_the_pieces_of_tool_calls_find_together(deltas: list[dict[str, Any]]) -> None:
    reply = read(*(piece(tool_calls=[delta]) for delta in deltas), piece("tool_calls"), told(), DONE)

    assert reply == ChatReply(
        "", Usage(5, 2), "tool_calls", (ToolCall("a", "find", '{"q": 1}'), ToolCall("b", "add", "{}"))
    )


def test_calls_side_by_side_and_without_ids_are_kept_apart() -> None:
    both = [called(0, None, "find", "{"), called(1, None, "add", "[")]
    more = [called(1, None, None, "]"), called(0, None, None, "}")]

    reply = read(piece(tool_calls=both), piece(tool_calls=more), piece("stop"), told(), DONE)

    assert reply.tool_calls == (ToolCall("call_0", "find", "{}"), ToolCall("call_1", "add", "[]"))
    assert reply.finish == "tool_calls"


def test_too_many_calls_and_too_long_arguments_are_refused() -> None:
    with pytest.raises(BadModelReply, match="more than 128 tool calls"):
        read(*(piece(tool_calls=[called(i, "", "find", None)]) for i in range(129)), held=asked(100_000))
    long = piece(tool_calls=[called(0, None, None, "x" * 60_000)])
    with pytest.raises(BadModelReply, match="more than 262,144 characters"):
        read(piece(tool_calls=[called(0, "a", "find", "")]), *[long] * 5, held=asked(100_000))


# ---- logprobs


def test_logprobs_are_collected_where_they_were_asked_for_and_can_be_read() -> None:
    def spoken(token: str, logprob: object) -> bytes:
        probable = {
            "content": [
                {"token": token, "logprob": logprob, "bytes": None, "top_logprobs": [{"token": "n", "logprob": -3}]}
            ]
        }
        return event({"choices": [{"index": 0, "delta": {"content": token}, "logprobs": probable}]})

    rest = (piece("stop"), told(), DONE)
    found = read(spoken("y", -0.5), spoken("es", -1), *rest, held=asked(logprobs=1))

    assert found.text == "yes"
    assert found.logprobs == (TokenLogprob("y", -0.5, (("n", -3.0),)), TokenLogprob("es", -1.0, (("n", -3.0),)))
    assert read(spoken("y", -0.5), spoken("es", -1), *rest) == GOOD
    assert read(spoken("y", "high"), spoken("es", -1), *rest, held=asked(logprobs=1)) == GOOD
    assert read(*YES, *rest, held=asked(logprobs=1)) == GOOD


# ---- what does not end


def endless(*parts: bytes, held: Expected) -> BadModelReply:
    reply = StreamedReply(held)
    for part in parts:
        try:
            reply.feed(part)
        except BadModelReply as error:
            return error
    raise AssertionError("it was not cut off")


@pytest.mark.parametrize(
    ("part", "tokens", "said"),
    [
        (piece(content="x" * 100), 165, "2,700 characters and no end"),
        (piece(reasoning_content="x" * 100), 165, "2,700 characters and no end"),
        (piece(tool_calls=[called(0, "a", "f", "x" * 100)]), 165, "2,700 characters and no end"),
        (piece(content="x"), 116, "465 pieces and no end"),
        (piece(usage=USAGE | {"completion_tokens": 165, "total_tokens": 170}, content="x"), 165, "165 tokens and no end"),
    ],
)  # fmt: skip
def test_a_reply_that_passes_its_limit_is_cut_off_and_booked(part: bytes, tokens: int, said: str) -> None:
    error = endless(*[part] * 1_000, held=asked(100))

    assert error.reason == f"cut off: {said}, 100 {'' if 'tokens and' in said else 'tokens '}allowed"
    usage = error.usage
    assert usage is not None
    assert usage == Usage(BOUND, usage[1])
    assert 100 < usage[1] <= tokens + 4


@pytest.mark.parametrize("noise", [b": ping\n\n", piece(), event({"choices": []}), b"\n" * 10])
def test_a_stream_that_says_nothing_for_ever_is_cut_off_at_the_hold(noise: bytes) -> None:
    error = endless(*[noise * 1_000] * 1_000, held=asked(100))

    assert "cut off: longer than 1,458,176 bytes" in error.reason
    assert error.usage is None


def test_a_line_without_an_end_is_cut_off_in_time() -> None:
    assert "longer than" in endless(*[b"data: " + b"x" * 999] * 10_000, held=asked(100)).reason


@pytest.mark.parametrize("text", ["x" * 800, "字" * 300, "-" * 1_600, "x"])
def test_a_reply_of_the_full_length_is_not_cut_off(text: str) -> None:
    """Letter by letter, as some gateways send: four to a token."""
    pieces = (piece(content=letter) for letter in text[:400])
    usage = {"prompt_tokens": 5, "completion_tokens": 100}

    assert read(*pieces, piece("length"), told(usage), DONE, held=asked(100)).text == text[:400]
    assert read(piece(content=text), piece("length"), told(usage), DONE, held=asked(100)).text == text


def test_an_endpoint_with_a_script_may_say_more_than_it_bills() -> None:
    spec = SPEC.model_copy(update={"fixed_usage": (5, 2)})
    held = expected("m", spec, ChatRequest((ChatMessage("user", "x" * 9_999),), 2), BOUND)

    assert read(piece(content="x" * 50_000), piece("stop"), told(), DONE, held=held).usage == Usage(5, 2)


# ---- however the bytes are split

texts = st.text(st.characters(codec="utf-8"), max_size=30)
names = st.sampled_from(["find", "add"])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """A stream that may be whole, with all that is harmless in between."""
    parts: list[bytes] = [piece(content=text) for text in draw(st.lists(texts, max_size=5))]
    calls = draw(st.lists(st.tuples(names, texts), max_size=3))
    parts += [piece(tool_calls=[called(i, f"c{i}", name, text)]) for i, (name, text) in enumerate(calls)]
    parts.append(piece(draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter", None]))))
    parts.append(told(draw(st.sampled_from([USAGE, {"prompt_tokens": 1}, None]))))
    parts += draw(st.sampled_from([[], [DONE], [DONE[:7]]]))
    noise = st.sampled_from([b"", b": ping\n\n", b"event: x\n", b"\n\n", b"id\n"])
    raw = b"".join(draw(noise) + part for part in parts)
    return raw.replace(b"\n", b"\r\n") if draw(st.booleans()) else raw


def outcome(parts: Iterator[bytes]) -> object:
    try:
        return read(*parts)
    except ModelError as error:
        return type(error), error.args


def split(raw: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = sorted({min(cut, len(raw)) for cut in cuts} | {0, len(raw)})
    return (raw[start:end] for start, end in pairwise(places))


@given(streams(), st.lists(st.integers(0, 2_000), max_size=40))
def test_a_reply_is_the_same_however_its_bytes_are_split(raw: bytes, cuts: list[int]) -> None:
    whole = outcome(iter([raw]))

    assert outcome(split(raw, cuts)) == whole
    assert outcome(raw[i : i + 1] for i in range(len(raw))) == whole


@given(streams(), st.integers(0, 2_000))
def test_half_a_stream_is_never_more_than_the_whole(raw: bytes, cut: int) -> None:
    """Cut anywhere it is the same reply, because only what is not needed was missing, or an error that is billed."""
    half = outcome(iter([raw[:cut]]))

    if isinstance(half, ChatReply):
        assert half == outcome(iter([raw]))


@given(st.lists(st.binary(max_size=50) | st.sampled_from([b"data: ", b"\n", b"\r\n", b'{"choices": []}', DONE, *YES])))
def test_any_bytes_at_all_end_in_a_reply_or_one_of_our_errors(parts: list[bytes]) -> None:
    outcome(iter(parts))


def test_events_are_cut_by_the_rules_of_event_streams() -> None:
    lines = EventLines()

    found = [
        event
        for part in (b"da", b"ta: a\nda", b"ta:b\r", b"\n\r\n:c\n\ndata\n\n", b"data: d")
        for event in lines.feed(part)
    ]

    assert (found, lines.close(), lines.close()) == ([b"a\nb", b""], b"d", None)
