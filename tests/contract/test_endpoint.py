"""One contract for a model in process and behind an endpoint; and what a client survives when the endpoint is not ours."""

import asyncio
import json
import os
import pickle
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import anyio
import openai
import pytest
import uvicorn
from anyio.abc import SocketAttribute, SocketStream
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from benchmarks.tasks import companies
from runtime.agents.blocks import block
from runtime.backoff import backoff_s
from runtime.bank.service import Bank
from runtime.budget import Budget
from runtime.driver import Runtime
from runtime.errors import (
    BadModelReply,
    ConfigError,
    ModelError,
    ModelRateLimited,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
)
from runtime.messages import Report
from runtime.models.base import ChatMessage, ChatModel, ChatReply, ChatRequest, ToolCall, ToolSpec, prompt_tokens
from runtime.models.catalog import Catalog, ModelSpec
from runtime.models.endpoints.visit import Ended
from runtime.models.governor import Governor
from runtime.models.openai import OpenAIModel
from runtime.models.probe import PROBE, obeys
from runtime.models.scripted import ScriptedModel
from runtime.models.server import BODY_LIMIT_BYTES, create_app, serve
from runtime.models.spec import LimitField
from runtime.needs import chat_need
from runtime.task import Task
from runtime.usage import Usage
from topologies import Single

pytestmark = pytest.mark.anyio

CANARY = "sk-CANARY-0123456789"
SEARCH = ToolSpec("search", "Find companies.", {"type": "object", "properties": {"q": {"type": "string"}}})
ASK = ChatRequest((ChatMessage("user", "How many?"),), max_tokens=100)
SIM_ASK = ChatRequest(
    (ChatMessage("system", "Work."), ChatMessage("user", block("task", companies.generate(1)[0].prompt))),
    max_tokens=40,
    seed=2**63 - 1,
    reply="report",
)


@contextmanager
def running(app: Starlette) -> Iterator[str]:
    """Serve on a free port in a thread. The socket listens before the thread starts, so nobody has to wait for it."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
        assert not thread.is_alive()


# ---- our own server


class Crowded:
    """A model that notes how many calls it has at once. The first ones wait until `size` are there."""

    name, virtual, shrinkable, window_tokens = "crowded", False, True, 1_000
    price = None

    def __init__(self, size: int) -> None:
        self.now = self.peak = 0
        self._size = size
        self._full = anyio.Event()

    def bound(self, request: ChatRequest) -> Usage:
        return Usage(0, 0)

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.now += 1
        self.peak = max(self.peak, self.now)
        if self.now == self._size:
            self._full.set()
        await self._full.wait()
        await anyio.sleep(0.02)  # for one call too many to be seen
        self.now -= 1
        return ChatReply("ok", None)


class Failing(Crowded):
    """A model that fails as its prompt says."""

    errors: ClassVar[dict[str, ModelError]] = {
        "limited": ModelRateLimited("x", 7.5),
        "slow": ModelTimeout("x", 1.0),
        "away": ModelUnavailable("x", "nobody there"),
        "garbage": BadModelReply("x", "no JSON"),
    }

    async def complete(self, request: ChatRequest) -> ChatReply:
        raise self.errors[request.messages[0].content]


def served_models() -> dict[str, ChatModel]:
    return {
        "echo": ScriptedModel(repr, input_tokens=11, output_tokens=7, window_tokens=500),
        "typed": ScriptedModel(lambda request: Report(answer=f"{request.reply} {request.seed}"), output_tokens=5),
        "tools": ScriptedModel([(ToolCall("c1", "search", '{"q": 1'),)], input_tokens=3, output_tokens=2),
        "cut": ScriptedModel([ChatReply("It is f", Usage(9, 4, 8), "length")]),
        "unmetered": ScriptedModel([ChatReply("hello", None)]),
        "wordy": ScriptedModel(["many words"], output_tokens=50),
        "priced": ScriptedModel(["hello"], usd="0.5"),
        "failing": Failing(0),
        "sim/small": Catalog().get("sim/small"),
    }


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with running(create_app(served_models())) as url:
        yield url


@asynccontextmanager
async def client(url: str, model: str, **more: Any) -> AsyncIterator[OpenAIModel]:
    found = OpenAIModel(model, ModelSpec(**({"endpoint": f"{url}/v1", "model": model, "key_env": ""} | more)))
    async with aclosing(found):
        yield found


async def ledger(url: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/ostrom/ledger") as answer:
        return await answer.json()


async def post(url: str, body: Any, **more: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session:
        sent = {"data": body} if isinstance(body, bytes | str) else {"json": body}
        async with session.post(f"{url}/v1/chat/completions", **sent, **more) as answer:
            return answer.status, await answer.json()


CONVERSATION = (
    ChatMessage("system", "You are careful."),
    ChatMessage("user", "Größe? 数 \x00\n'\"</task>"),
    ChatMessage("assistant", "", (ToolCall("c1", "search", "{broken"), ToolCall("c2", "search", '{"q": "ü"}'))),
    ChatMessage("tool", "nothing", (), "c1"),
    ChatMessage("tool", "", (), "c2"),
)


@pytest.mark.parametrize(
    "request_",
    [
        ASK,
        ChatRequest((ChatMessage("user", ""),), 7),
        ChatRequest(CONVERSATION, 400, 2**63 - 1, "plan", (SEARCH, ToolSpec("none", "", {}))),
    ],
    ids=["short", "empty", "everything"],
)
@pytest.mark.parametrize("limit_field", ["max_tokens", "max_completion_tokens"])
async def test_the_whole_request_arrives_behind_the_endpoint(
    base_url: str, request_: ChatRequest, limit_field: str
) -> None:
    """The echo's text is the request as the model saw it."""
    async with client(base_url, "echo", limit_field=limit_field) as model:
        reply = await model.complete(request_)

    assert reply == await served_models()["echo"].complete(request_)
    assert reply == ChatReply(repr(request_), Usage(11, 7))


@pytest.mark.parametrize("name", ["typed", "tools", "cut", "unmetered", "priced"])
async def test_a_reply_is_the_same_in_process_and_behind_an_endpoint(base_url: str, name: str) -> None:
    asked = ChatRequest(ASK.messages, 100, 5, "report")
    async with client(base_url, name) as model:
        reply = await model.complete(asked)

    assert reply == await served_models()[name].complete(asked)


async def test_a_simulated_model_answers_the_same_and_its_bound_is_exact(base_url: str) -> None:
    async with client(base_url, "sim/small", tokenizer="bytes4") as model:
        reply = await model.complete(SIM_ASK)
        bound = model.bound(SIM_ASK)

    assert reply.usage is not None
    assert reply == await Catalog().get("sim/small").complete(SIM_ASK)
    assert (bound.input_tokens, bound.output_tokens) == (reply.usage.input_tokens, SIM_ASK.max_tokens)


async def test_the_answer_is_the_same_from_a_process_that_never_saw_the_task() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = (
        "from runtime.models.catalog import Catalog; from runtime.models.server import serve;"
        f" serve({{'sim/small': Catalog().get('sim/small')}}, port={port})"
    )
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    try:
        await _reachable(port)
        async with client(f"http://127.0.0.1:{port}", "sim/small") as model:
            reply = await model.complete(SIM_ASK)
    finally:
        server.terminate()
        await server.wait()

    assert reply == await Catalog().get("sim/small").complete(SIM_ASK)


async def _reachable(port: int) -> None:
    with anyio.fail_after(30):
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except ConnectionRefusedError:
                await anyio.sleep(0.02)
            else:
                return


async def test_a_shape_that_is_not_sent_does_not_arrive(base_url: str) -> None:
    async with client(base_url, "typed", send_schema=False) as model:
        reply = await model.complete(ChatRequest(ASK.messages, 100, 5, "report"))

    assert json.loads(reply.text)["answer"] == " 5"


async def test_a_limit_below_a_scripted_output_is_refused_and_not_billed() -> None:
    with running(create_app(served_models())) as url:
        async with client(url, "wordy") as model:
            with pytest.raises(ModelRefused) as caught:
                await model.complete(ChatRequest(ASK.messages, 49))
            await model.complete(ChatRequest(ASK.messages, 50))
        async with client(url, "cut") as model:
            await model.complete(ASK)
        async with client(url, "unmetered") as model:
            await model.complete(ASK)
        books = await ledger(url)

    assert caught.value.args == ("wordy", 400, "max_tokens 49 is below the scripted 50")
    nothing = dict.fromkeys(books["models"]["echo"], 0)
    assert books["models"]["wordy"] == nothing | {"requests": 2, "answered": 1, "refused": 1, "output_tokens": 50}
    assert books["models"]["cut"] == nothing | {
        "requests": 1, "answered": 1, "input_tokens": 9, "output_tokens": 4, "cached_tokens": 8
    }  # fmt: skip
    assert books["models"]["unmetered"] == nothing | {"requests": 1, "answered": 1, "unmetered": 1}
    assert (books["models"]["echo"], books["rejected"]) == (nothing, 0)


@pytest.mark.parametrize("name", ["sim/small", "wordy", "cut", "unmetered"])
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_a_served_model_shows_which_limit_it_obeys_whatever_it_plays(
    base_url: str, name: str, field: LimitField
) -> None:
    """A solver reads tasks only, and a script says its words: neither could be asked to count."""
    async with client(base_url, name, window_tokens=8_000) as model:
        assert model.unproved
        reply = await model.probe(field).complete(PROBE)

    assert obeys(reply)
    assert reply.text == "one, two, three, four, five, six, seven, eight, nine, ten, eleve"
    assert reply.usage == Usage(prompt_tokens(PROBE), 16)


async def test_an_unknown_model_is_refused_and_the_known_ones_are_named(base_url: str) -> None:
    async with client(base_url, "nobody") as model:
        with pytest.raises(ModelRefused, match=r"refused with 404: no model 'nobody' here; there are echo, typed"):
            await model.complete(ASK)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("limited", ModelRateLimited),
        ("slow", ModelUnavailable),
        ("away", ModelUnavailable),
        ("garbage", ModelRefused),
    ],
)
async def test_an_error_of_the_model_behind_the_server_stays_an_error(
    base_url: str, fault: str, error: type[ModelError]
) -> None:
    async with client(base_url, "failing") as model:
        with pytest.raises(error) as caught:
            await model.complete(ChatRequest((ChatMessage("user", fault),), 10))

    assert getattr(caught.value, "retry_after_s", None) == (7.5 if fault == "limited" else None)


async def test_the_sdk_itself_reads_what_our_server_answers(base_url: str) -> None:
    async with openai.AsyncOpenAI(api_key="none", base_url=f"{base_url}/v1", max_retries=0) as sdk:
        parts: Any = [{"type": "text", "text": "How "}, {"type": "text", "text": "many?"}]
        answer = await sdk.chat.completions.create(
            model="echo", messages=[{"role": "developer", "content": parts}], temperature=0.7, seed=3
        )
        models = [model.id async for model in sdk.models.list()]

    seen = ChatRequest((ChatMessage("system", "How many?"),), 500 - 7, 3)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (repr(seen), "stop")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (11, 7, 18)
    assert models == list(served_models())


async def test_the_list_of_models_tells_window_and_price(base_url: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{base_url}/v1/models") as answer:
        cards = {card["id"]: card["ostrom"] for card in (await answer.json())["data"]}

    assert cards["priced"] == {
        "window_tokens": 1_000_000,
        "price": {"input_pico": 0, "output_pico": 0, "call_pico": 5 * 10**11, "cached_pico": None},
        "virtual": True,
        "shrinkable": False,
    }
    assert cards["failing"]["price"] is None


@pytest.mark.parametrize(("path", "status"), [("/health", 200), ("/nowhere", 404), ("/v1/chat/completions", 405)])
async def test_every_answer_is_json(base_url: str, path: str, status: int) -> None:
    async with aiohttp.ClientSession() as session, session.get(base_url + path) as answer:
        body = await answer.json()

    assert (answer.status, body.get("status")) == (status, "ok" if status == 200 else None)
    assert status == 200 or body["error"]["type"] == "invalid_request_error"


HELLO = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize(
    ("limits", "reached"),
    [
        ({"max_tokens": 30, "max_completion_tokens": 20}, 20),
        ({"max_tokens": 20, "max_completion_tokens": 30}, 20),
        ({"max_completion_tokens": 30}, 30),
        ({"max_tokens": 10_000}, 10_000),
        ({"max_tokens": None}, 500 - prompt_tokens(ChatRequest((ChatMessage("user", "hello"),), 0))),
    ],
)
async def test_the_smaller_limit_counts_and_none_means_what_the_window_leaves(
    base_url: str, limits: dict[str, Any], reached: int
) -> None:
    status, body = await post(base_url, HELLO | limits)

    assert status == 200
    assert f"max_tokens={reached}," in body["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (HELLO | {"stream": 1}, 400, "stream: "),
        (HELLO | {"n": 2}, 400, "n must be 1"),
        (HELLO | {"max_tokens": 0}, 400, "max_tokens: "),
        (HELLO | {"max_tokens": "5"}, 400, "max_tokens: "),
        (HELLO | {"max_token": 5}, 400, "max_token: "),
        (HELLO | {"stop": ["\n"]}, 400, "stop: "),
        (HELLO | {"tool_choice": "required"}, 400, "tool_choice: "),
        (HELLO | {"seed": 2**63}, 400, "seed: "),
        (HELLO | {"messages": []}, 400, "messages: "),
        (HELLO | {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages.0.content"),
        (HELLO | {"messages": [{"role": "user", "content": "x" * 2_000}]}, 400, "window of 500 tokens"),
        (HELLO | {"response_format": {"type": "json_object"}}, 400, "response_format.type: "),
        (HELLO | {"model": "nobody"}, 404, "no model 'nobody'"),
        ([], 400, "should be an object"),
        ("{", 400, "Invalid JSON"),
        ("", 400, "Invalid JSON"),
        ("[" * 100_000, 400, "Invalid JSON"),
        (b"\xff", 400, "Invalid JSON"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_the_server_refuses_what_it_would_not_do(base_url: str, body: Any, status: int, said: str) -> None:
    before = await ledger(base_url)
    answered = await post(base_url, body, headers={"content-type": "application/json"})
    after = await ledger(base_url)

    assert (answered[0], answered[1]["error"]["type"]) == (status, "invalid_request_error")
    assert said in answered[1]["error"]["message"]
    assert after == before | {"rejected": before["rejected"] + 1}


async def test_a_body_is_not_read_beyond_its_limit() -> None:
    """Spoken to without a socket: a client that is still sending might not see the answer."""
    chunk, n_read, sent = b"x" * 2**20, 0, list[Any]()

    async def receive() -> dict[str, Any]:
        nonlocal n_read
        n_read += 1
        return {"type": "http.request", "body": chunk, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "headers": headers}
    await create_app(served_models())(scope, receive, send)

    assert (sent[0]["status"], n_read) == (413, BODY_LIMIT_BYTES // len(chunk) + 1)
    assert b"larger than 8,388,608 bytes" in sent[1]["body"]


async def test_a_web_page_cannot_ask_without_being_allowed(base_url: str) -> None:
    """A form or a plain fetch of any page may send text to this machine, but not this content type."""
    status, body = await post(base_url, json.dumps(HELLO), headers={"content-type": "text/plain"})

    assert (status, body["error"]["message"]) == (415, "the content type must be application/json")


async def test_an_endpoint_may_be_served_on(base_url: str) -> None:
    """A server of ours in front of another endpoint; it closes its connections when it ends."""
    behind = OpenAIModel("behind", ModelSpec(endpoint=f"{base_url}/v1", model="echo", key_env=""))
    with running(create_app({"front": behind})) as url:
        async with client(url, "front") as model:
            reply = await model.complete(ASK)

    assert reply == ChatReply(repr(ASK), Usage(11, 7))


async def test_a_closed_catalogue_opens_again(base_url: str) -> None:
    spec = ModelSpec(endpoint=f"{base_url}/v1", model="echo", key_env="")
    found = Catalog({"echo": spec, "fake": ScriptedModel(["hello"])})
    async with aclosing(found):
        await found.get("fake").complete(ASK)
        await found.get("echo").complete(ASK)
        await found.aclose()
        reply = await found.get("echo").complete(ASK)

    assert reply.text == repr(ASK)


def test_a_port_in_use_and_nothing_to_serve_are_misuse() -> None:
    busy = r"cannot listen on 127\.0\.0\.1 port \d+: .*in use"
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match=busy):
        serve(served_models(), port=taken.getsockname()[1])
    with pytest.raises(ConfigError, match="no model to serve"):
        create_app({})


async def test_no_more_calls_are_in_flight_than_the_spec_allows() -> None:
    crowded = Crowded(3)
    with running(create_app({"crowded": crowded})) as url:
        async with client(url, "crowded", max_parallel=3, timeout_s=10) as model, anyio.create_task_group() as tasks:
            governor = Governor()

            async def call() -> None:
                permit = governor.permit("run", model, chat_need(model, ASK, 0))
                assert permit is not None
                await permit.acquire()
                await model.complete(ASK)
                permit.release(Ended())

            tasks.start_soon(governor.serve)
            async with anyio.create_task_group() as callers:
                for _ in range(9):
                    callers.start_soon(call)
            tasks.cancel_scope.cancel()

    assert crowded.peak == 3


def test_a_model_survives_pickle_and_works_on_each_event_loop(base_url: str) -> None:
    async def call(model: OpenAIModel) -> ChatReply:
        async with aclosing(model):
            return await model.complete(ASK)

    async def call_twice(model: OpenAIModel) -> list[ChatReply]:
        return [await call(model), await call(model)]

    one = OpenAIModel("m", ModelSpec(endpoint=f"{base_url}/v1", model="echo", key_env=""))
    first = asyncio.run(call(one))
    two = pickle.loads(pickle.dumps(one))

    assert [first, first] == asyncio.run(call_twice(one)) == asyncio.run(call_twice(two))


def test_another_event_loop_than_asyncio_is_misuse() -> None:
    model = OpenAIModel("m", ModelSpec(endpoint="http://127.0.0.1:9/v1", model="m", key_env=""))

    with pytest.raises(ConfigError, match="needs asyncio"):
        anyio.run(model.complete, ASK, backend="trio")
    anyio.run(model.aclose, backend="trio")


# ---- the key


async def test_a_missing_key_is_named_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OSTROM_TEST_KEY", raising=False)
    async with client("http://127.0.0.1:9", "m", key_env="OSTROM_TEST_KEY") as model:
        with pytest.raises(ConfigError, match="the environment variable OSTROM_TEST_KEY holds no key here"):
            await model.complete(ASK)


async def test_a_key_that_can_be_none_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSTROM_TEST_KEY", f"{CANARY}\nX-Evil: ü")
    async with client("http://127.0.0.1:9", "m", key_env="OSTROM_TEST_KEY") as model:
        with pytest.raises(ConfigError, match="OSTROM_TEST_KEY holds characters that no key has") as caught:
            await model.complete(ASK)

    assert CANARY not in everything_in(caught.value)


async def test_the_key_goes_to_the_endpoint_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint repeats the key in its error, as some do."""
    seen = []

    async def refuse(request: Request) -> Response:
        seen.append(request.headers["authorization"])
        return JSONResponse({"error": {"message": f"Incorrect API key provided: {CANARY}"}}, 401)

    monkeypatch.setenv("OSTROM_TEST_KEY", f"{CANARY}\n")
    with running(Starlette(routes=[Route("/v1/chat/completions", refuse, methods=["POST"])])) as url:
        async with client(url, "m", key_env="OSTROM_TEST_KEY") as model:
            with pytest.raises(ModelRefused, match=r"refused with 401: Incorrect API key provided: \[key\]") as caught:
                await model.complete(ASK)
            assert CANARY.encode() not in pickle.dumps(model)

    assert seen == [f"Bearer {CANARY}"]
    assert CANARY not in everything_in(caught.value)
    assert caught.value.__context__ is None
    assert CANARY in os.environ["OSTROM_TEST_KEY"]


def everything_in(error: BaseException | None) -> str:
    """The error with all it drags along."""
    parts = []
    while error is not None:
        parts.append(f"{error!r} {error} {vars(error)}")
        error = error.__cause__ or error.__context__
    return "\n".join(parts)


# ---- servers that are not ours

GOOD = {
    "choices": [{"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
}


def choice(**more: Any) -> dict[str, Any]:
    return GOOD | {"choices": [{"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"} | more]}


def usage(**more: Any) -> dict[str, Any]:
    return GOOD | {"usage": {"prompt_tokens": 5, "completion_tokens": 1} | more}


class Hostile:
    """An endpoint that gives each request the answer it was told to give, and counts the requests."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answer: Response = PlainTextResponse("not set")
        self.requests = 0

    async def __call__(self, request: Request) -> Response:
        self.requests += 1
        return self.answer

    def model(self, **more: Any) -> Any:
        self.requests = 0
        return client(self.url, "m", **more)


@pytest.fixture(scope="module")
def shared_hostile() -> Iterator[Hostile]:
    found = Hostile("")

    async def answer(request: Request) -> Response:
        return await found(request)

    async def caught(request: Request) -> Response:
        found.requests += 1_000
        return JSONResponse(GOOD)

    routes = [Route("/v1/chat/completions", answer, methods=["POST"]), Route("/trap", caught, methods=["POST", "GET"])]
    with running(Starlette(routes=routes)) as url:
        found.url = url
        yield found


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (PlainTextResponse("<html>It works!</html>", media_type="text/html"), "Invalid JSON"),
        (PlainTextResponse('{"choices": [', media_type="application/json"), "Invalid JSON"),
        (PlainTextResponse("[" * 100_000, media_type="application/json"), "Invalid JSON"),
        (PlainTextResponse(b"", status_code=204), "Invalid JSON"),
        (JSONResponse({}), "choices: Field required"),
        (JSONResponse([]), "the body: "),
        (JSONResponse("yes"), "the body: "),
        (JSONResponse(GOOD | {"choices": None}), "choices: "),
        (JSONResponse(GOOD | {"choices": []}), "choices: "),
        (JSONResponse(GOOD | {"choices": [None]}), "choices.0: "),
        (JSONResponse(GOOD | {"choices": GOOD["choices"] * 17}), "choices: "),  # type: ignore[operator]
        (JSONResponse(choice(message=None)), "choices.0.message: "),
        (JSONResponse(choice(message={"content": 5})), "choices.0.message.content: "),
        (JSONResponse(choice(message={"tool_calls": [{"id": "a", "function": {"name": "f"}}]})), "arguments: "),
        (JSONResponse(choice(finish_reason=None)), "no finish_reason"),
        (JSONResponse(choice(finish_reason="content_filter")), "ended by content_filter"),
        (JSONResponse(choice(finish_reason="tool_calls")), "no call came with it"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_no_complete_reply_is_a_bad_reply(shared_hostile: Hostile, answer: Response, said: str) -> None:
    shared_hostile.answer = answer
    async with shared_hostile.model() as model:
        with pytest.raises(BadModelReply) as caught:
            await model.complete(ASK)

    assert said in caught.value.reason
    assert shared_hostile.requests == 1


@pytest.mark.parametrize(
    "body",
    [
        GOOD | {"usage": None},
        {"choices": GOOD["choices"]},
        GOOD | {"usage": {}},
        GOOD | {"usage": "3"},
        GOOD | {"usage": [5, 1]},
        usage(prompt_tokens=-5),
        usage(completion_tokens=-1),
        usage(prompt_tokens="5"),
        usage(prompt_tokens=5.0),
        usage(completion_tokens=1.5),
        usage(completion_tokens=True),
        usage(completion_tokens=None),
        usage(prompt_tokens=10**8 + 1),
        usage(prompt_tokens=10**30),
        usage(total_tokens=7),
        usage(total_tokens="6"),
        usage(prompt_tokens_details={"cached_tokens": 6}),
        usage(prompt_tokens_details={"cached_tokens": -1}),
    ],
    ids=lambda body: json.dumps(body.get("usage", "absent"))[:60],
)
async def test_a_usage_nobody_can_believe_is_unknown_and_the_reply_stays(
    shared_hostile: Hostile, body: dict[str, Any]
) -> None:
    shared_hostile.answer = JSONResponse(body)
    async with shared_hostile.model() as model:
        assert await model.complete(ASK) == ChatReply("yes", None)


@pytest.mark.parametrize(
    ("body", "reply"),
    [
        (usage(), ChatReply("yes", Usage(5, 1))),
        (usage(prompt_tokens=0, completion_tokens=0), ChatReply("yes", Usage(0, 0))),
        (usage(prompt_tokens_details=None, completion_tokens_details={"x": 1}), ChatReply("yes", Usage(5, 1))),
        (usage(prompt_tokens_details={"cached_tokens": None}), ChatReply("yes", Usage(5, 1))),
        (usage(prompt_tokens_details={"cached_tokens": 5}), ChatReply("yes", Usage(5, 1, 5))),
        (choice(message={"content": None}), ChatReply("", Usage(5, 1))),
        (choice(message={"content": None, "refusal": "I will not."}), ChatReply("I will not.", Usage(5, 1))),
        (choice(finish_reason="length"), ChatReply("yes", Usage(5, 1), "length")),
        (
            choice(message={"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{"}}]}),
            ChatReply("", Usage(5, 1), "tool_calls", (ToolCall("a", "f", "{"),)),
        ),
    ],
)
async def test_what_differs_and_is_harmless_is_read(
    shared_hostile: Hostile, body: dict[str, Any], reply: ChatReply
) -> None:
    shared_hostile.answer = JSONResponse(body)
    async with shared_hostile.model() as model:
        assert await model.complete(ASK) == reply


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (400, {"error": {"message": "too long", "code": "context_length_exceeded"}}, ModelRefused, "400: too long"),
        (400, {"detail": "wrong model"}, ModelRefused, "400: wrong model"),
        (401, {"error": {"message": "no"}}, ModelRefused, "401: no"),
        (403, {}, ModelRefused, "403: Error code: 403"),
        (404, "<h1>Not here</h1>", ModelRefused, "404: <h1>Not here</h1>"),
        (409, {}, ModelRefused, "409"),
        (413, {}, ModelRefused, "413"),
        (422, {}, ModelRefused, "422"),
        (418, "", ModelRefused, "418"),
        (408, {}, ModelTimeout, "no complete reply within"),
        (429, {"error": {"message": "slow down"}}, ModelRateLimited, "rate limited"),
        (429, {"error": {"message": "pay", "code": "insufficient_quota"}}, ModelRefused, "429: pay"),
        (500, {"error": {"message": "oops"}}, ModelUnavailable, "500: oops"),
        (502, "<html>bad gateway</html>", ModelUnavailable, "502: <html>bad gateway</html>"),
        (503, {"error": "busy"}, ModelUnavailable, "503: busy"),
        (529, {}, ModelUnavailable, "529"),
    ],
)
async def test_each_status_is_one_error_after_one_request(
    shared_hostile: Hostile, status: int, body: Any, error: type[ModelError], said: str
) -> None:
    """One, because a retry nobody reserved for would be spent behind the ledger's back."""
    shared_hostile.answer = PlainTextResponse(body, status) if isinstance(body, str) else JSONResponse(body, status)
    async with shared_hostile.model() as model:
        with pytest.raises(error) as caught:
            await model.complete(ASK)

    assert said in str(caught.value)
    assert (type(caught.value), shared_hostile.requests) == (error, 1)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_redirect_is_followed(shared_hostile: Hostile, status: int) -> None:
    shared_hostile.answer = RedirectResponse(f"{shared_hostile.url}/trap", status)
    async with shared_hostile.model() as model:
        with pytest.raises(ModelRefused, match=f"refused with {status}: a redirect"):
            await model.complete(ASK)

    assert shared_hostile.requests == 1


@pytest.mark.parametrize("headers", [{"Retry-After": "12"}, {"Retry-After": "9", "retry-after-ms": "12000"}])
@pytest.mark.parametrize("status", [408, 429, 500, 503, 529])
async def test_retry_after_arrives_with_every_error_that_is_tried_again(
    shared_hostile: Hostile, status: int, headers: dict[str, str]
) -> None:
    shared_hostile.answer = JSONResponse({}, status, headers)
    async with shared_hostile.model() as model:
        with pytest.raises(ModelError) as caught:
            await model.complete(ASK)

    assert (caught.value.retryable, caught.value.retry_after_s) == (True, 12.0)
    assert pickle.loads(pickle.dumps(caught.value)).retry_after_s == 12.0
    assert backoff_s(caught.value, 0, 0) == 12.0


async def test_an_outage_with_a_date_is_waited_for_until_then() -> None:
    dates = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:49:49 GMT"
    async with (
        raw_endpoint(f"HTTP/1.1 503 X\r\n{dates}\r\nContent-Length: 0\r\n\r\n".encode()) as url,
        client(url, "m") as model,
    ):
        with pytest.raises(ModelUnavailable) as caught:
            await model.complete(ASK)

    assert caught.value.retry_after_s == 12.0


@asynccontextmanager
async def raw_endpoint(answer: bytes, then: str = "close") -> AsyncIterator[str]:
    """An endpoint below HTTP: writes these bytes, and then closes, holds the line, or lets blanks trickle for ever."""

    async def talk(stream: SocketStream) -> None:
        async with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive()
            try:
                await stream.send(answer)
                if then == "hold":
                    await anyio.sleep_forever()
                while then == "trickle":
                    await stream.send(b" ")
                    await anyio.sleep(0.01)
            except anyio.BrokenResourceError:
                pass  # the client left

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, talk)
        yield f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        tasks.cancel_scope.cancel()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "then"),
    [(b"", "hold"), (b"HTTP/1.1 200 OK\r\n", "hold"), (HEAD + b"{", "hold"), (HEAD, "trickle")],
    ids=["silence", "half the head", "half the body", "a trickle"],
)
async def test_one_deadline_covers_the_whole_call(answer: bytes, then: str) -> None:
    async with raw_endpoint(answer, then) as url, client(url, "m", timeout_s=0.2) as model:
        with anyio.fail_after(5), pytest.raises(ModelTimeout) as caught:
            await model.complete(ASK)

    assert caught.value.args == ("m", 0.2, None)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        HEAD + b"{",
        b"GARBAGE\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
    ids=lambda answer: repr(answer)[:40],
)
async def test_a_connection_that_breaks_or_talks_nonsense_is_unavailable(answer: bytes) -> None:
    async with raw_endpoint(answer) as url, client(url, "m") as model:
        with anyio.fail_after(10), pytest.raises(ModelUnavailable):
            await model.complete(ASK)


async def test_nobody_listening_is_unavailable() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        async with client(f"http://127.0.0.1:{silent.getsockname()[1]}", "m") as model:
            with pytest.raises(ModelUnavailable, match="ConnectionRefusedError"):
                await model.complete(ASK)


@contextmanager
def nobody() -> Iterator[str]:
    """An address at which nobody listens."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


@pytest.mark.parametrize("address", ["closed", "plain"])
async def test_an_address_that_nobody_answers_at_is_told_before_a_run_with_model_address_and_cure(
    base_url: str, address: str
) -> None:
    with nobody() as closed:
        url = closed if address == "closed" else base_url.replace("http:", "https:")
        async with client(url, "m") as model:
            with pytest.raises(ConfigError) as caught:
                await model.reach()

    for said in ("'m'", f"{url}/v1", "ostrom.toml", {"closed": "ConnectionRefusedError", "plain": "SSL"}[address]):
        assert said in str(caught.value)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n", b"", b"what?\r\n\r\n"])
async def test_whoever_answers_anything_is_there(answer: bytes) -> None:
    """Whether it is of any use is found out by the calls."""
    async with raw_endpoint(answer) as url, client(url, "m") as model:
        await model.reach()


async def test_who_does_not_answer_soon_is_left_to_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.models.transport.CONNECT_S", 0.05)
    async with raw_endpoint(b"", "hold") as url, client(url, "m") as model:
        with anyio.fail_after(5):
            await model.reach()


async def test_a_run_at_an_address_that_nobody_answers_at_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with nobody() as url:
        spec = ModelSpec(endpoint=f"{url}/v1", model="m", key_env="")
        async with Runtime(models={"m": spec}, out=tmp_path, cap=Budget(tokens=9_000)) as runtime:
            for _ in range(2):  # what it would hold of the account came back
                with pytest.raises(ConfigError, match="no connection to"):
                    await runtime.run(Single(model="m"), Task("How many?"), budget=Budget(tokens=9_000))

    bank = Bank(tmp_path, read_only=True)
    assert (list(bank.finished()), list(bank.open_runs())) == ([], [])
    bank.close()


async def test_an_outage_after_the_first_answer_is_waited_for_as_ever(base_url: str) -> None:
    spec = ModelSpec(endpoint=f"{base_url}/v1", model="echo", key_env="", fixed_usage=(11, 7))
    async with Runtime(models={"m": spec}) as runtime:
        model = runtime.catalog.get("m")
        assert isinstance(model, OpenAIModel)
        run = partial(runtime.run, Single(model="m"), Task("How many?"), budget=Budget(calls=9))
        assert (await run()).status == "completed"
        await model.aclose()
        with nobody() as url:
            model.spec = spec.model_copy(update={"endpoint": f"{url}/v1"})
            result = await run()

    assert (result.status, {row.state for row in result.attempts}, len(result.attempts)) == ("failed", {"released"}, 4)
