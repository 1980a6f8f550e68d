"""`ostrom serve` as a client of OpenAI's interface finds it: plain and streamed answers, counts, models, refusals, limits."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import aiohttp
import anyio
import openai
import pytest

from benchmarks.tasks import companies
from runtime.agents.blocks import block
from runtime.messages import Report
from runtime.models.base import ChatMessage, ChatReply, ChatRequest, TokenLogprob, ToolCall, prompt_tokens
from runtime.models.catalog import Catalog
from runtime.models.recorded import RecordedAnswer, RecordedModel
from runtime.models.scripted import ScriptedModel
from runtime.testing import HostileEndpoint, Limits
from runtime.usage import Price, Usage

pytestmark = pytest.mark.anyio

TASK = companies.generate(1)[0].prompt
TEXT = "Größe: 数 and a text that takes more than one piece."
CALLS = (ToolCall("c1", "search", '{"q": "a query of some length"}'), ToolCall("c2", "none", "{}"))
LIKELY = (TokenLogprob("Yes", -0.1, (("Yes", -0.1), ("No", -2.5))), TokenLogprob("!", -0.5, (("!", -0.5),)))
MODELS: dict[str, Any] = {
    "text": ScriptedModel([TEXT], input_tokens=11, output_tokens=7),
    "counted": ScriptedModel([ChatReply("hello", Usage(90, 20, 64, reasoning_tokens=12))]),
    "unmetered": ScriptedModel([ChatReply("hello", None)]),
    "tools": ScriptedModel([CALLS], input_tokens=3, output_tokens=2),
    "both": ScriptedModel([ChatReply("I look it up.", Usage(1, 2), "tool_calls", CALLS[:1])]),
    "typed": ScriptedModel(lambda request: Report(answer=f"{request.reply} {request.seed}"), output_tokens=5),
    "empty": ScriptedModel([""]),
    "cut": ScriptedModel([ChatReply("It is f", Usage(9, 4), "length")]),
    "likely": ScriptedModel(lambda asked: ChatReply("Yes!", Usage(1, 2), logprobs=LIKELY if asked.logprobs else None)),
    "wordy": ScriptedModel(["words"], output_tokens=50, window_tokens=500),
    "sim/small": Catalog().get("sim/small"),
    "recorded": RecordedModel("recorded", {"Why?": RecordedAnswer("Because.", "42", Usage(5, 3))}, price=Price()),
}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[HostileEndpoint]:
    with HostileEndpoint(MODELS) as found:
        yield found


async def call(endpoint: HostileEndpoint, path: str, body: Any = None, **more: Any) -> tuple[int, Any, Any]:
    url = endpoint.base_url.removesuffix("/v1") + path
    async with aiohttp.ClientSession() as session:
        sent = {"data": body} if isinstance(body, bytes | str) else {"json": body}
        asking = session.get(url) if body is None else session.post(url, **sent, **more)
        async with asking as answer:
            raw = await answer.read()
            return (
                answer.status,
                (json.loads(raw) if answer.content_type == "application/json" else raw),
                answer.headers,
            )


async def post(endpoint: HostileEndpoint, model: str, **more: Any) -> tuple[int, Any, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "How many?"}]} | more
    return await call(endpoint, "/v1/chat/completions", body)


async def stream(endpoint: HostileEndpoint, model: str, **more: Any) -> list[Any]:
    status, raw, headers = await post(endpoint, model, stream=True, **more)
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    *events, end = raw.decode().removesuffix("\n\n").split("\n\n")
    assert end == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


# ---- answers


async def test_a_plain_answer_has_the_shape_of_openais(endpoint: HostileEndpoint) -> None:
    status, body, headers = await post(endpoint, "counted")

    assert (status, headers["content-type"], body.pop("id")[:9]) == (200, "application/json", "chatcmpl-")
    assert "date" in headers
    message = {"role": "assistant", "content": "hello", "refusal": None}
    assert body == {
        "object": "chat.completion",
        "created": 0,
        "model": "counted",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 90,
            "completion_tokens": 20,
            "total_tokens": 110,
            "prompt_tokens_details": {"cached_tokens": 64},
            "completion_tokens_details": {"reasoning_tokens": 12},
        },
    }


async def test_a_stream_has_role_pieces_finish_and_usage(endpoint: HostileEndpoint) -> None:
    chunks = await stream(endpoint, "text", stream_options={"include_usage": True})

    *said, last, counted = chunks
    assert said[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["delta"]["content"] for chunk in said[1:]] == [
        TEXT[:16],
        TEXT[16:32],
        TEXT[32:48],
        TEXT[48:],
    ]
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
    assert (counted["choices"], counted["usage"]["total_tokens"]) == ([], 18)
    assert all(chunk["usage"] is None for chunk in [*said, last])
    assert {(chunk["object"], chunk["model"]) for chunk in chunks} == {("chat.completion.chunk", "text")}
    assert len({chunk["id"] for chunk in chunks}) == 1


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": False}}, {"stream_options": None}])
async def test_a_stream_tells_no_usage_unless_asked(endpoint: HostileEndpoint, options: dict[str, Any]) -> None:
    chunks = await stream(endpoint, "text", **options)

    assert all(chunk["choices"] and "usage" not in chunk for chunk in chunks)


async def test_a_stream_without_a_known_usage_has_no_chunk_for_it(endpoint: HostileEndpoint) -> None:
    chunks = await stream(endpoint, "unmetered", stream_options={"include_usage": True})

    assert all(chunk["choices"] and chunk["usage"] is None for chunk in chunks)


async def test_calls_of_tools_are_streamed_in_pieces(endpoint: HostileEndpoint) -> None:
    chunks = await stream(endpoint, "tools")

    first, *deltas, last = [chunk["choices"][0] for chunk in chunks]
    assert first["delta"] == {"role": "assistant", "content": None}
    calls = [delta["delta"]["tool_calls"][0] for delta in deltas]
    opening = {"id": "c1", "type": "function", "index": 0, "function": {"name": "search", "arguments": ""}}
    assert calls[0] == opening
    assert calls[1:3] == [
        {"index": 0, "function": {"arguments": '{"q": "a query o'}},
        {"index": 0, "function": {"arguments": 'f some length"}'}},
    ]
    assert [call["index"] for call in calls] == [0, 0, 0, 1, 1]
    assert last["finish_reason"] == "tool_calls"


async def test_text_may_come_beside_a_call(endpoint: HostileEndpoint) -> None:
    _, body, _ = await post(endpoint, "both")
    chunks = await stream(endpoint, "both")

    assert body["choices"][0]["message"]["content"] == "I look it up."
    assert len(body["choices"][0]["message"]["tool_calls"]) == 1
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "I look it up."


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ("text", {}),
        ("tools", {}),
        ("both", {}),
        ("empty", {}),
        ("cut", {}),
        ("counted", {}),
        (
            "typed",
            {"response_format": {"type": "json_schema", "json_schema": {"name": "report", "schema": {}}}, "seed": 7},
        ),
        ("sim/small", {"messages": [{"role": "user", "content": block("task", TASK)}], "max_tokens": 40, "seed": 3}),
        ("recorded", {"messages": [{"role": "user", "content": block("task", "Why?")}], "max_tokens": 40}),
        ("fault/ok", {"logprobs": True, "top_logprobs": 2}),
    ],
)
async def test_the_sdk_reads_the_same_from_a_stream_as_from_a_plain_answer(
    endpoint: HostileEndpoint, model: str, asked: dict[str, Any]
) -> None:
    body: Any = {"model": model, "messages": [{"role": "user", "content": "How many?"}]} | asked
    async with openai.AsyncOpenAI(api_key="none", base_url=endpoint.base_url, max_retries=0) as sdk:
        plain = await sdk.chat.completions.create(**body)
        events = await sdk.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in events]

    message, choices = plain.choices[0].message, [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == (message.content or "")
    calls: dict[int, list[str]] = {}
    for call_ in (call_ for choice in choices for call_ in choice.delta.tool_calls or ()):
        row = calls.setdefault(call_.index, [call_.id or "", call_.function.name or "", ""])
        row[2] += call_.function.arguments or ""
    assert list(calls.values()) == [[c.id, c.function.name, c.function.arguments] for c in message.tool_calls or ()]
    assert choices[-1].finish_reason == plain.choices[0].finish_reason
    assert chunks[-1].usage == plain.usage
    likely = [token for choice in choices for token in (choice.logprobs.content if choice.logprobs else None) or ()]
    told = plain.choices[0].logprobs
    assert likely == ((told.content if told else None) or [])


async def test_a_simulated_model_answers_over_a_stream_as_in_process(endpoint: HostileEndpoint) -> None:
    asked = ChatRequest((ChatMessage("user", block("task", TASK)),), 40, 3, "report")
    shape = {"type": "json_schema", "json_schema": {"name": "report", "schema": {}}}
    messages = [{"role": "user", "content": block("task", TASK)}]
    chunks = await stream(
        endpoint, "sim/small", messages=messages, seed=3, max_completion_tokens=40, response_format=shape,
        stream_options={"include_usage": True},
    )  # fmt: skip

    here = await MODELS["sim/small"].complete(asked)
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1]) == here.text
    assert chunks[-1]["usage"]["completion_tokens"] == here.usage.output_tokens


async def test_tools_are_hidden_from_a_model_that_must_not_call_any(endpoint: HostileEndpoint) -> None:
    seen: list[ChatRequest] = []
    models = {"m": ScriptedModel(lambda request: seen.append(request) or "no")}  # type: ignore[func-returns-value]
    tool = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}
    async with HostileEndpoint(models) as own:
        for choice in ("auto", "none"):
            await post(own, "m", tools=[tool], tool_choice=choice)

    assert [len(request.tools) for request in seen] == [1, 0]


# ---- probabilities


async def test_logprobs_are_the_models_own(endpoint: HostileEndpoint) -> None:
    _, body, _ = await post(endpoint, "likely", logprobs=True, top_logprobs=2)
    chunks = await stream(endpoint, "likely", logprobs=True, top_logprobs=2)

    yes = {"token": "Yes", "logprob": -0.1, "bytes": [89, 101, 115]}
    no = {"token": "No", "logprob": -2.5, "bytes": [78, 111]}
    mark = {"token": "!", "logprob": -0.5, "bytes": [33]}
    tokens = [yes | {"top_logprobs": [yes, no]}, mark | {"top_logprobs": [mark]}]
    assert body["choices"][0]["logprobs"] == {"content": tokens, "refusal": None}
    assert [(c["choices"][0]["delta"].get("content"), c["choices"][0]["logprobs"]) for c in chunks[1:-1]] == [
        ("Yes", {"content": tokens[:1], "refusal": None}),
        ("!", {"content": tokens[1:], "refusal": None}),
    ]
    assert (await post(endpoint, "likely"))[1]["choices"][0]["logprobs"] is None


async def test_no_logprobs_are_made_up_for_a_model_that_has_none(endpoint: HostileEndpoint) -> None:
    _, body, _ = await post(endpoint, "text", logprobs=True, top_logprobs=5)

    assert body["choices"][0]["logprobs"] is None


async def test_fault_modes_make_logprobs_up_and_always_the_same(endpoint: HostileEndpoint) -> None:
    first, again, other = [
        (await post(endpoint, "fault/ok", logprobs=True, top_logprobs=3, seed=seed))[1]["choices"][0]
        for seed in (1, 1, 2)
    ]

    tokens = first["logprobs"]["content"]
    assert first == again != other
    assert "".join(token["token"] for token in tokens) == first["message"]["content"]
    for token in tokens:
        tops = [top["logprob"] for top in token["top_logprobs"]]
        assert (len(tops), tops) == (3, sorted(tops, reverse=True))
        assert tops[0] == token["logprob"] <= 0


# ---- models and counting


async def test_models_are_listed_and_shown_one_by_one(endpoint: HostileEndpoint) -> None:
    _, listed, _ = await call(endpoint, "/v1/models")
    async with openai.AsyncOpenAI(api_key="none", base_url=endpoint.base_url, max_retries=0) as sdk:
        small = await sdk.models.retrieve("sim/small")
        fault = await sdk.models.retrieve("fault/flaky:3")
        with pytest.raises(openai.NotFoundError, match="no model 'nobody' here"):
            await sdk.models.retrieve("nobody")

    assert [card["id"] for card in listed["data"]] == list(MODELS)
    assert small.model_dump(exclude_unset=True) == next(card for card in listed["data"] if card["id"] == "sim/small")
    assert (fault.id, fault.model_dump()["ostrom"]["row"]) == ("fault/flaky:3", "E2")


async def test_all_fault_modes_are_listed_on_their_own(endpoint: HostileEndpoint) -> None:
    status, modes, _ = await call(endpoint, "/ostrom/faults")

    assert (status, modes["stall"]["row"], modes["flaky"]["default"]) == (200, "E4", "2")


@pytest.mark.parametrize("model", ["sim/small", "fault/ok", "text"])
async def test_a_prompt_is_counted_as_it_will_be_billed(endpoint: HostileEndpoint, model: str) -> None:
    tool = {
        "type": "function",
        "function": {"name": "search", "description": "Find.", "parameters": {"type": "object"}},
    }
    body = {"messages": [{"role": "user", "content": block("task", TASK)}], "tools": [tool]}
    _, counted, _ = await call(endpoint, "/tokenize", {"model": model, "add_generation_prompt": True} | body)
    _, answered, _ = await post(endpoint, model, **body, max_tokens=50)

    assert counted["count"] == answered["usage"]["prompt_tokens"]
    assert counted["max_model_len"] == {"sim/small": 32_768}.get(model, 1_000_000)


async def test_a_text_is_counted_alone(endpoint: HostileEndpoint) -> None:
    assert (await call(endpoint, "/tokenize", {"model": "sim/small", "prompt": "12345"}))[1]["count"] == 2


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"model": "sim/small"}, 400, "give either messages or prompt"),
        ({"model": "sim/small", "prompt": "x", "messages": [{"role": "user", "content": ""}]}, 400, "give either"),
        ({"model": "nobody", "prompt": "x"}, 404, "no model 'nobody'"),
        ({"prompt": "x"}, 400, "model: "),
        ("{", 400, "Invalid JSON"),
    ],
)
async def test_what_cannot_be_counted_is_refused(endpoint: HostileEndpoint, body: Any, status: int, said: str) -> None:
    code, answer, _ = await call(endpoint, "/tokenize", body, headers={"content-type": "application/json"})

    assert (code, answer["error"]["type"]) == (status, "invalid_request_error")
    assert said in answer["error"]["message"]


# ---- bad requests

HELLO: dict[str, Any] = {"model": "text", "messages": [{"role": "user", "content": "hello"}]}
CALL = {"id": "c", "function": {"name": "f", "arguments": ""}}
TOOL_ANSWER = {"role": "tool", "content": "3", "tool_call_id": "c9"}


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("change", "status", "param", "said"),
    [
        ({"stream": "yes"}, 400, "stream", "boolean"),
        ({"stream_options": {"include_usage": "yes"}, "stream": True}, 400, "stream_options.include_usage", "boolean"),
        ({"stream_options": {}, "stream": False}, 400, None, "stream_options is allowed with stream=true only"),
        ({"top_logprobs": 3}, 400, None, "top_logprobs is allowed with logprobs=true only"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", "less than or equal to 20"),
        ({"logprobs": 2}, 400, "logprobs", "boolean"),
        ({"messages": []}, 400, "messages", "at least 1"),
        ({"messages": "hello"}, 400, "messages", "array"),
        ({"messages": [{"role": "robot", "content": ""}]}, 400, "messages.0.role", "'system'"),
        ({"messages": [{"role": "user"}]}, 400, "messages.0", "has content"),
        ({"messages": [{"role": "tool", "content": "3"}]}, 400, "messages.0", "tool_call_id"),
        ({"messages": [TOOL_ANSWER]}, 400, None, "no message before it asked for the call 'c9'"),
        ({"messages": [{"role": "user", "tool_calls": [CALL]}]}, 400, "messages.0", "role assistant"),
        ({"response_format": {"type": "json_schema"}}, 400, "response_format", "json_schema is missing"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, 400, "tools.0.function.name", "at least 1"),
        ({"tools": [{"type": "code", "function": {"name": "f"}}]}, 400, "tools.0.type", "'function'"),
        ({"tool_choice": "required"}, 400, "tool_choice", "'auto' or 'none'"),
        ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
        ({"max_completion_tokens": 1.5}, 400, "max_completion_tokens", "integer"),
        ({"n": 2}, 400, None, "n must be 1"),
        ({"seed": "7"}, 400, "seed", "integer"),
        ({"model": 7}, 400, "model", "string"),
        ({"model": "nobody"}, 404, "model", "no model 'nobody' here"),
        ({"model": "wordy", "messages": [{"role": "user", "content": "x" * 4_000}]}, 400, "messages", "window of 500"),
        ({"unheard_of": 1}, 400, "unheard_of", "not permitted"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)  # fmt: skip
async def test_a_bad_request_is_refused_in_openais_shape(
    endpoint: HostileEndpoint, streams: bool, change: Any, status: int, param: str | None, said: str
) -> None:
    before, billed = endpoint.rejected, endpoint.total()
    code, body, _ = await call(endpoint, "/v1/chat/completions", HELLO | {"stream": streams} | change)

    assert (code, set(body), body["error"]["type"], body["error"]["param"]) == (
        status, {"error"}, "invalid_request_error", param
    )  # fmt: skip
    assert said in body["error"]["message"]
    assert (endpoint.rejected, endpoint.total()) == (before + 1, billed)


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
async def test_what_the_model_refuses_is_a_status_and_never_half_a_stream(
    endpoint: HostileEndpoint, streams: bool
) -> None:
    status, body, _ = await post(endpoint, "wordy", max_tokens=49, stream=streams)

    assert (status, body["error"]["message"]) == (400, "max_tokens 49 is below the scripted 50")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/models", 405),
        ("GET", "/v1/completions", 404),
        ("DELETE", "/v1/chat/completions", 405),
        ("PUT", "/", 404),
    ],
)
async def test_what_there_is_not_is_told_in_json(
    endpoint: HostileEndpoint, method: str, path: str, status: int
) -> None:
    url = endpoint.base_url.removesuffix("/v1") + path
    async with aiohttp.ClientSession() as session, session.request(method, url) as answer:
        assert answer.status == status
        assert (await answer.json())["error"]["message"].startswith(f"{method} {path}: ")


@pytest.mark.parametrize(
    "sent", [b"hello\r\n\r\n", b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", b"\x16\x03\x01\r\n\r\n"]
)
async def test_what_is_no_http_is_answered_in_json_too(endpoint: HostileEndpoint, sent: bytes) -> None:
    host, _, port = endpoint.base_url.removeprefix("http://").removesuffix("/v1").partition(":")
    async with await anyio.connect_tcp(host, int(port)) as connection:
        await connection.send(sent)
        heard = b"".join([part async for part in connection])

    assert heard.startswith(b"HTTP/1.1 400")
    assert json.loads(heard.split(b"\r\n\r\n", 1)[1])["error"]["message"] == "Invalid HTTP request received."


async def test_a_bug_in_a_model_is_a_500_in_json() -> None:
    def broken(request: ChatRequest) -> str:
        raise ZeroDivisionError

    async with HostileEndpoint({"broken": ScriptedModel(broken)}, limits=Limits(max_parallel=1)) as own:
        answers = [await post(own, "broken") for _ in range(3)]
        in_flight = own.in_flight

    assert {(status, body["error"]["message"]) for status, body, _ in answers} == {
        (500, "the model failed: ZeroDivisionError")
    }
    assert in_flight == 0


# ---- limits, with fifty clients at once


async def fifty(endpoint: HostileEndpoint, model: str, **more: Any) -> list[tuple[int, Any, Any]]:
    answers: list[tuple[int, Any, Any]] = []

    async def one() -> None:
        answers.append(await post(endpoint, model, **more))

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(one)
    return answers


def denied(answers: list[tuple[int, Any, Any]]) -> list[tuple[Any, Any]]:
    return [(body["error"], headers) for status, body, headers in answers if status == 429]


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
async def test_requests_a_minute_are_counted_exactly(streams: bool) -> None:
    async with HostileEndpoint(MODELS, limits=Limits(requests_per_minute=20)) as own:
        answers = await fifty(own, "text", stream=streams)
        account = own.account("text")

    refused = denied(answers)
    assert (len(answers) - len(refused), len(refused)) == (20, 30)
    for error, headers in refused:
        assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
        assert 50 <= int(headers["retry-after"]) <= 60
        assert 50_000 <= int(headers["retry-after-ms"]) <= 60_000
        assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("20", "0")
    assert (account.requests, account.answered, account.refused, account.limited) == (50, 20, 30, 30)
    assert account.tokens == 20 * 18


async def test_tokens_a_minute_are_counted_exactly() -> None:
    """Each request announces 5 for its prompt and 20 for its reply, and is billed 19: the 16th finds 285 taken of 310."""
    async with HostileEndpoint(limits=Limits(tokens_per_minute=310)) as own:
        answers = await fifty(own, "fault/ok", max_tokens=20, messages=[{"role": "user", "content": "hi"}])
        account = own.account("fault/ok")

    refused = denied(answers)
    assert {(error["type"], error["code"]) for error, _ in refused} == {("tokens", "rate_limit_exceeded")}
    assert all(int(headers["x-ratelimit-remaining-tokens"]) == 6 for _, headers in refused)
    assert (len(refused), account.answered, account.limited) == (34, 16, 34)
    assert account.tokens == 16 * 19


async def test_tokens_count_while_nobody_knows_yet_how_many_they_are() -> None:
    """A model that takes its time: 11 for the prompt and 20 that may come, for each of those under way."""
    models = {"slow": ScriptedModel(["late"], input_tokens=11, output_tokens=7, latency_s=3600.0)}
    async with HostileEndpoint(models, limits=Limits(tokens_per_minute=310)) as own, anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(partial(post, own, "slow", max_tokens=20))
        with anyio.fail_after(10):
            while own.account("slow").requests < 50:  # noqa: ASYNC110 - it changes in another thread
                await anyio.sleep(0.001)
        assert (own.in_flight, own.account("slow").limited) == (10, 40)
        tasks.cancel_scope.cancel()


async def test_the_headers_count_down() -> None:
    async with HostileEndpoint(MODELS, limits=Limits(requests_per_minute=9, tokens_per_minute=1_000)) as own:
        headers = [(await post(own, "text", stream=streams))[2] for streams in (False, True, False)]

    assert [h["x-ratelimit-remaining-requests"] for h in headers] == ["8", "7", "6"]
    assert [h["x-ratelimit-remaining-tokens"] for h in headers] == ["982", "964", "946"]
    assert all(h["x-ratelimit-reset-tokens"].endswith("ms") for h in headers)


async def test_a_request_that_can_never_fit_is_not_told_to_come_again() -> None:
    async with HostileEndpoint(MODELS, limits=Limits(tokens_per_minute=310)) as own:
        status, body, headers = await post(own, "text", max_tokens=300)

    assert (status, body["error"]["type"], headers.get("retry-after")) == (429, "tokens", None)
    assert body["error"]["message"].endswith("limit 310 tokens a minute, used 0, requested 311")


async def test_no_more_than_the_places_are_taken_at_once() -> None:
    async with HostileEndpoint(limits=Limits(max_parallel=5)) as own, anyio.create_task_group() as tasks:
        refused: list[Any] = []

        async def one() -> None:
            status, body, headers = await post(own, "fault/hang")
            refused.append((status, body["error"]["code"], headers["retry-after"], headers["retry-after-ms"]))

        for _ in range(50):
            tasks.start_soon(one)
        with anyio.fail_after(10):
            while len(refused) < 45 or own.account("fault/hang").requests < 50:  # noqa: ASYNC110 - another thread's
                await anyio.sleep(0.001)
        assert own.in_flight == 5
        tasks.cancel_scope.cancel()

    assert refused == [(429, "rate_limit_exceeded", "1", "100")] * 45
    assert own.in_flight == 0


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
async def test_a_place_is_free_as_soon_as_the_answer_is_read(streams: bool) -> None:
    """The SDK reads a stream to its [DONE] and asks again on the same connection."""
    body: Any = {"model": "text", "messages": [{"role": "user", "content": "hi"}]}
    async with (
        HostileEndpoint(MODELS, limits=Limits(max_parallel=1)) as own,
        openai.AsyncOpenAI(api_key="none", base_url=own.base_url, max_retries=0) as sdk,
    ):
        for _ in range(20):
            answer: Any = await sdk.chat.completions.create(**body, stream=streams)
            if streams:
                assert [chunk async for chunk in answer]

    assert own.account("text").answered == 20


async def test_who_comes_again_when_told_is_let_through() -> None:
    async with HostileEndpoint(MODELS, limits=Limits(requests_per_minute=1, window_s=0.1)) as own:
        first = await post(own, "text")
        second = await post(own, "text")
        await anyio.sleep(int(second[2]["retry-after-ms"]) / 1000)  # what is tested: that this is enough
        third = await post(own, "text")

    assert [first[0], second[0], third[0]] == [200, 429, 200]


async def test_hidden_limits_show_only_when_they_are_passed() -> None:
    async with HostileEndpoint(MODELS, limits=Limits(requests_per_minute=1, announced=False)) as own:
        answers = [await post(own, "text") for _ in range(2)]

    assert not any(name.lower().startswith("x-ratelimit") for _, _, headers in answers for name in headers)
    assert "retry-after" in answers[1][2]


async def test_refused_requests_do_not_count_and_bad_ones_neither() -> None:
    async with HostileEndpoint(MODELS, limits=Limits(requests_per_minute=2)) as own:
        codes = [(await post(own, "text", n=2))[0] for _ in range(5)]
        codes += [(await post(own, "text"))[0] for _ in range(3)]

    assert codes == [400] * 5 + [200, 200, 429]


def test_the_rule_for_tokens_is_the_one_of_all_models_here() -> None:
    assert prompt_tokens(ChatRequest((ChatMessage("user", "hi"),), 1)) == 5
