"""What goes over the connection itself: headers, reuse, endings, refusals without end, and the route that counts tokens."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from runtime.errors import BadModelReply, ModelRateLimited, ModelRefused, ModelUnavailable
from runtime.models import openai as client_module
from runtime.models.base import ChatMessage, ChatReply, ChatRequest
from runtime.models.endpoints.announced import Announced
from runtime.models.openai import OpenAIModel
from runtime.models.spec import ModelSpec
from runtime.usage import Usage

pytestmark = pytest.mark.anyio

ASK = ChatRequest((ChatMessage("user", "How many? " * 20),), max_tokens=100)
USAGE = {"prompt_tokens": 60, "completion_tokens": 1, "total_tokens": 61}
WHOLE = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}], "usage": USAGE}
PIECES = {"choices": [{"index": 0, "delta": {"content": "yes"}, "finish_reason": "stop"}], "usage": USAGE}
EVENTS = b"data: " + json.dumps(PIECES).encode() + b"\n\n"
DONE = b"data: [DONE]\n\n"
YES = ChatReply("yes", Usage(60, 1))
BYTES = 200 + 16 + 256


def answer(document: object = WHOLE, status: int = 200, kind: str = "application/json", **headers: str) -> bytes:
    """A whole HTTP answer; the connection may be used again."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(*parts: bytes, end: bool = True) -> bytes:
    """An event stream in chunks; without an end it stays open."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + (b"0\r\n\r\n" if end else b"")


class Last(bytes):
    """What is sent before the connection is closed."""


@dataclass
class Asked:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: Any
    connection: int


@dataclass
class Endpoint:
    """A server below HTTP that answers with bytes and notes what it was asked."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    gone: anyio.Event = field(default_factory=anyio.Event)
    """Set when a client has left."""

    @property
    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]


@asynccontextmanager
async def serving(say: Callable[[Asked], bytes]) -> AsyncIterator[Endpoint]:
    """Answer each request with what `say` gives; nothing at all is a connection that is dropped."""
    found = Endpoint()

    async def talk(stream: SocketStream) -> None:
        found.connections += 1
        number, buffer = found.connections, b""
        async with stream:
            try:
                while True:
                    while b"\r\n\r\n" not in buffer:
                        buffer += await stream.receive()
                    head, _, buffer = buffer.partition(b"\r\n\r\n")
                    first, *lines = head.decode().split("\r\n")
                    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                    while len(buffer) < int(headers.get("content-length", 0)):
                        buffer += await stream.receive()
                    body, buffer = json.loads(buffer), b""
                    found.asked.append(Asked(first.split()[1], headers, body, number))
                    if not (raw := say(found.asked[-1])):
                        return
                    await stream.send(raw)
                    if isinstance(raw, Last):
                        return
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                found.gone.set()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, talk)
        found.url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        yield found
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def client(endpoint: Endpoint, **more: Any) -> AsyncIterator[OpenAIModel]:
    spec = ModelSpec(**({"endpoint": f"{endpoint.url}/v1", "model": "m", "key_env": "", "timeout_s": 20.0} | more))
    async with aclosing(OpenAIModel("m", spec)) as model:
        yield model


async def test_nothing_of_the_user_s_environment_is_told_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "sk-CANARY-0123456789")
    async with serving(lambda _: answer()) as endpoint, client(endpoint) as model:
        await model.complete(ASK)

    assert "CANARY" not in str(endpoint.asked)
    assert endpoint.asked[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("stream", "raw"),
    [
        (False, answer()),
        (True, chunked(EVENTS, DONE)),
        (True, chunked(EVENTS)),
        (True, chunked(EVENTS, DONE, b": bye\n\n")),
    ],
)
async def test_a_connection_is_used_again(stream: bool, raw: bytes) -> None:
    async with serving(lambda _: raw) as endpoint, client(endpoint, stream=stream) as model:
        replies = [await model.complete(ASK) for _ in range(3)]

    assert replies == [YES] * 3
    assert [asked.connection for asked in endpoint.asked] == [1, 1, 1]


@pytest.mark.parametrize("parts", [(EVENTS, DONE), (EVENTS,)])
async def test_a_stream_that_has_said_everything_is_not_waited_for(
    parts: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "TAIL_S", 0.05)
    async with serving(lambda _: chunked(*parts, end=False)) as endpoint, client(endpoint, stream=True) as model:
        with anyio.fail_after(10):
            reply = await model.complete(ASK)
            await endpoint.gone.wait()

    assert reply == YES


async def test_an_endpoint_that_does_not_know_streams_may_answer_whole() -> None:
    async with serving(lambda _: answer()) as endpoint, client(endpoint, stream=True) as model:
        assert await model.complete(ASK) == YES

    assert endpoint.asked[0].body["stream"] is True


async def test_the_limits_that_answers_announce_are_heard_with_replies_and_with_refusals() -> None:
    limits = ["100", "90", "0"]
    statuses = [200, 429, 500]

    def say(asked: Asked) -> bytes:
        return answer(
            status=statuses[len(endpoint.asked) - 1], x_ratelimit_limit_requests=limits[len(endpoint.asked) - 1]
        )

    heard = []
    async with serving(say) as endpoint, client(endpoint) as model:
        assert model.announced is None
        await model.complete(ASK)
        heard.append(model.announced)
        for error in (ModelRateLimited, ModelUnavailable):
            with pytest.raises(error):
                await model.complete(ASK)
            heard.append(model.announced)

    assert heard == [Announced(100), Announced(90), Announced(90)]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_is_not_read_to_its_end(stream: bool) -> None:
    """It says that it is a gigabyte long, and never ends."""
    raw = answer({"error": {"message": "too long"}}, 400)
    head, _, body = raw.partition(b"\r\n\r\n")
    longer = head.replace(b"content-length: %d" % len(body), b"content-length: 1000000000")
    endless = longer + b"\r\n\r\n" + body + b" " * 70_000
    async with serving(lambda _: endless) as endpoint, client(endpoint, stream=stream) as model:
        with anyio.fail_after(10), pytest.raises(ModelRefused, match="refused with 400: too long"):
            await model.complete(ASK)


async def test_a_refusal_that_breaks_off_is_a_refusal() -> None:
    broken = Last(b"HTTP/1.1 400 X\r\ncontent-length: 50\r\n\r\ntoo lo")
    async with serving(lambda _: broken) as endpoint, client(endpoint) as model:
        with pytest.raises(ModelRefused, match="refused with 400: too lo"):
            await model.complete(ASK)


async def test_a_packed_answer_is_unpacked_within_the_limit() -> None:
    """Nobody asked for it; 10 KB unpack to 10 MB."""
    import gzip

    bomb = gzip.compress(b" " * 10_000_000)
    async with serving(lambda _: answer(bomb, content_encoding="gzip")) as endpoint, client(endpoint) as model:
        with pytest.raises(BadModelReply, match="longer than 1,074,176 bytes"):
            await model.complete(ASK)


async def test_a_key_that_comes_back_in_a_broken_answer_is_cleaned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSTROM_TEST_KEY", "Own.Key+0123456789")
    said = WHOLE | {"choices": [{"message": {"content": ""}, "finish_reason": "Own.Key+0123456789"}]}
    async with serving(lambda _: answer(said)) as endpoint, client(endpoint, key_env="OSTROM_TEST_KEY") as model:
        with pytest.raises(BadModelReply) as caught:
            await model.complete(ASK)

    assert caught.value.args == ("m", "ended by [key]", Usage(60, 1))
    assert endpoint.asked[0].headers["authorization"] == "Bearer Own.Key+0123456789"


async def test_a_dropped_connection_is_asked_once() -> None:
    async with serving(lambda _: b"") as endpoint, client(endpoint) as model:
        with pytest.raises(ModelUnavailable):
            await model.complete(ASK)

    assert len(endpoint.asked) == 1


# ---- counted by the endpoint


def vllm(asked: Asked) -> bytes:
    if asked.path == "/tokenize":
        return answer({"count": 60, "max_model_len": 4_096, "tokens": [1] * 60})
    return answer()


def llama_cpp(asked: Asked) -> bytes:
    return answer({"tokens": [1] * 60 if "content" in asked.body else []})


@pytest.mark.parametrize(("say", "asked"), [(vllm, 1), (llama_cpp, 2)])
async def test_the_endpoint_s_own_count_makes_the_bound_tight(say: Any, asked: int) -> None:
    async with serving(say) as endpoint, client(endpoint, tokenizer="endpoint") as model:
        assert model.bound(ASK) == Usage(BYTES, 100)
        await model.measure(ASK)
        assert model.bound(ASK) == Usage(63 + 16 + 256, 100)
        await model.measure(ASK)
        assert endpoint.paths == ["/tokenize"] * asked
        await model.measure(ChatRequest((ChatMessage("user", "Another one?"),), 5))

    assert endpoint.paths == ["/tokenize"] * (asked + 1), "the shape it understands is remembered"


@pytest.mark.parametrize(
    ("raw", "asked"),
    [
        (answer({}, 404), 1),
        (answer({}, 405), 1),
        (answer({"detail": "no such role"}, 400), 4),
        (answer({}, 500), 4),
        (answer({"count": "60"}), 4),
        (answer({"count": 10**9}), 2),
        (answer(b"<html>"), 4),
        (answer({}, 307, location="/v1/tokenize"), 4),
        (b"", 4),
        (b"nonsense\r\n\r\n", 4),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_where_the_count_fails_bytes_stand_and_a_missing_route_is_not_asked_again(raw: bytes, asked: int) -> None:
    async with serving(lambda _: raw) as endpoint, client(endpoint, tokenizer="endpoint") as model:
        for _ in range(2):
            await model.measure(ASK)

        assert model.bound(ASK) == Usage(BYTES, 100)
        assert endpoint.paths == ["/tokenize"] * asked


async def test_a_count_that_takes_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "COUNT_S", 0.05)
    head = b"HTTP/1.1 200 X\r\ncontent-length: 50\r\n\r\n"
    async with serving(lambda _: head) as endpoint, client(endpoint, tokenizer="endpoint") as model:
        with anyio.fail_after(10):
            await model.measure(ASK)

        assert model.bound(ASK) == Usage(BYTES, 100)


@pytest.mark.parametrize("tokenizer", ["", "bytes4"])
async def test_nothing_is_asked_where_nobody_wants_a_count(tokenizer: str) -> None:
    async with serving(lambda _: answer()) as endpoint, client(endpoint, tokenizer=tokenizer) as model:
        await model.measure(ASK)

    assert endpoint.asked == []
