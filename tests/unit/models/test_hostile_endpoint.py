"""HostileEndpoint as users' tests use it: its life, its books, and what it survives."""

import json
import socket
import statistics
import struct
import threading
import urllib.error
import urllib.request
from typing import Any

import aiohttp
import anyio
import pytest
from anyio.to_thread import run_sync

from runtime.errors import ConfigError
from runtime.messages import KINDS, parse_reply
from runtime.models.base import ChatRequest
from runtime.models.scripted import ScriptedModel
from runtime.testing import Account, HostileEndpoint

pytestmark = pytest.mark.anyio


def body_for(model: str, **more: Any) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]} | more).encode()


def ask(endpoint: HostileEndpoint, model: str, **more: Any) -> Any:
    """Ask without any event loop."""
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(
        f"{endpoint.base_url}/chat/completions", body_for(model, **more), headers, method="POST"
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def connect(endpoint: HostileEndpoint, model: str, **more: Any) -> socket.socket:
    """Send a request and leave the answer to be read, or not."""
    host, _, port = endpoint.base_url.removeprefix("http://").removesuffix("/v1").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    body = body_for(model, **more)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    connection.sendall(head.encode() + b"\r\n\r\n" + body)
    return connection


async def in_flight(endpoint: HostileEndpoint, n: int) -> None:
    """Wait until so many answers are under way."""
    with anyio.fail_after(10):
        while endpoint.in_flight != n:  # noqa: ASYNC110 - it changes in another thread
            await anyio.sleep(0.001)


def test_it_serves_a_plain_test_too() -> None:
    with HostileEndpoint(answer="7") as endpoint:
        said = ask(endpoint, "fault/ok")["choices"][0]["message"]["content"]

    assert said == "The answer – after some thought, as always – is 7."
    assert endpoint.account("fault/ok") == Account(requests=1, answered=1, input_tokens=5, output_tokens=14)


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_it_serves_tests_on_either_backend(anyio_backend: str) -> None:
    async with HostileEndpoint() as endpoint:
        answer = await run_sync(ask, endpoint, "fault/ok")

    assert answer["usage"]["total_tokens"] == 19


async def test_it_works_while_the_tests_own_loop_is_blocked() -> None:
    async with HostileEndpoint() as endpoint:
        assert ask(endpoint, "fault/ok")["choices"]


async def test_answers_on_a_kept_connection_do_not_wait_for_acknowledgements() -> None:
    """Nagle's algorithm and delayed acknowledgements would put 40 ms between the head and the body of each."""
    body, headers, times_s = body_for("fault/ok"), {"content-type": "application/json"}, list[float]()
    async with HostileEndpoint() as endpoint, aiohttp.ClientSession() as session:
        for _ in range(60):
            began_s = anyio.current_time()
            async with session.post(f"{endpoint.base_url}/chat/completions", data=body, headers=headers) as answer:
                await answer.read()
            times_s.append(anyio.current_time() - began_s)

    assert statistics.median(times_s) < 0.03


def test_several_live_side_by_side_and_leave_no_thread() -> None:
    before = set(threading.enumerate())
    with HostileEndpoint() as one, HostileEndpoint() as other:
        ask(one, "fault/ok")

        assert one.base_url != other.base_url
        assert (one.total().requests, other.total().requests) == (1, 0)
    assert not set(threading.enumerate()) - before


@pytest.mark.parametrize(
    "mode", ["hang", "stall", "slow-body", "slow-stream", "signs-of-life", "slow:3600", "big-body"]
)
@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
async def test_it_stops_at_once_with_connections_open(mode: str, streams: bool) -> None:
    async with HostileEndpoint() as endpoint:
        connections = [connect(endpoint, f"fault/{mode}", stream=streams) for _ in range(3)]
        await in_flight(endpoint, 3)
        with anyio.fail_after(1):
            await endpoint.__aexit__(None, None, None)

    assert endpoint.in_flight == 0
    for connection in connections:
        connection.close()


async def test_it_stops_while_a_model_works(caplog: pytest.LogCaptureFixture) -> None:
    slow = ScriptedModel(["late"], latency_s=3600.0)
    with anyio.fail_after(5):
        async with HostileEndpoint({"slow": slow}) as endpoint:
            connection = connect(endpoint, "slow")
            await in_flight(endpoint, 1)

    connection.close()
    assert endpoint.account("slow") == Account(requests=1)
    assert not caplog.records, "the model was cut short, and that is no error"


@pytest.mark.parametrize("mode", ["ok", "hang", "stall", "slow-body", "slow-stream", "signs-of-life", "big-body"])
@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("rudely", [False, True], ids=["closed", "reset"])
async def test_it_survives_clients_that_leave(mode: str, streams: bool, rudely: bool) -> None:
    """Twenty of them; those that were accepted are billed all the same."""
    async with HostileEndpoint() as endpoint:
        for _ in range(20):
            connection = connect(endpoint, f"fault/{mode}", stream=streams)
            if rudely:
                connection.recv(1) if mode in ("stall", "signs-of-life") else None
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        await in_flight(endpoint, 0)
        answer = await run_sync(ask, endpoint, "fault/ok")

    account = endpoint.account(f"fault/{mode}")
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert account.output_tokens == 14 * account.requests
    assert (account.answered, account.failed) == (account.requests, 0)


async def test_it_survives_a_client_that_leaves_in_the_middle_of_its_request() -> None:
    async with HostileEndpoint() as endpoint:
        host, _, port = endpoint.base_url.removeprefix("http://").removesuffix("/v1").partition(":")
        async with await anyio.connect_tcp(host, int(port)) as connection:
            await connection.send(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b'content-length: 1000\r\n\r\n{"model": '
            )
        with anyio.fail_after(5):
            while endpoint.rejected == 0:  # noqa: ASYNC110 - it changes in another thread
                await anyio.sleep(0.001)
        await run_sync(ask, endpoint, "fault/ok")

    assert (endpoint.rejected, endpoint.total().requests) == (1, 1)


async def test_a_client_that_follows_a_redirect_falls_into_the_trap() -> None:
    async with HostileEndpoint() as endpoint, aiohttp.ClientSession() as session:
        url, body = f"{endpoint.base_url}/chat/completions", body_for("fault/redirect")
        headers = {"content-type": "application/json"}
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
            assert (answer.status, endpoint.trapped) == (307, 0)
        async with session.post(url, data=body, headers=headers) as answer:
            assert (answer.status, answer.url.host, answer.url.path) == (200, "localhost", "/ostrom/trap")

    assert endpoint.trapped == 1
    assert endpoint.account("fault/redirect") == Account(requests=2, refused=2)


@pytest.mark.parametrize("kind", KINDS)
async def test_typed_replies_are_what_was_asked_for(kind: str) -> None:
    async with HostileEndpoint(answer="7") as endpoint:
        shape = {"type": "json_schema", "json_schema": {"name": kind, "schema": {}}}
        text = ask(endpoint, "fault/ok", response_format=shape)["choices"][0]["message"]["content"]

    reply = parse_reply(kind, text, "somebody")
    assert getattr(reply, "answer", "7") == "7"


async def test_what_is_said_can_be_anything() -> None:
    def say(request: ChatRequest) -> str:
        return request.messages[-1].content.upper()

    async with HostileEndpoint(say=say) as endpoint:
        answer = ask(endpoint, "fault/ok")

    assert answer["choices"][0]["message"]["content"] == "HI"


async def test_more_connections_than_allowed_are_turned_away() -> None:
    async with HostileEndpoint(max_connections=3) as endpoint:
        held = [connect(endpoint, "fault/hang") for _ in range(3)]
        await in_flight(endpoint, 3)
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(endpoint, "fault/ok")
        refused.value.close()
        for connection in held:
            connection.close()
        await in_flight(endpoint, 0)
        ask(endpoint, "fault/ok")

    assert refused.value.code == 503
    assert endpoint.account("fault/ok").requests == 1


async def test_the_ledger_over_http_is_the_one_in_process() -> None:
    async with HostileEndpoint({"m": ScriptedModel(["hello"], input_tokens=3, output_tokens=2)}) as endpoint:
        for model in ("m", "fault/ok", "fault/500", "fault/ok"):
            connection = connect(endpoint, model)
            connection.recv(10)
            connection.close()
        url = endpoint.base_url.removesuffix("/v1") + "/ostrom/ledger"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            books = await answer.json()

    assert books["rejected"] == books["trapped"] == 0
    assert {name: Account(**row) for name, row in books["models"].items()} == {
        name: endpoint.account(name) for name in ("m", "fault/ok", "fault/500")
    }
    assert endpoint.total() == Account(4, 3, 1, 0, 0, 0, 3 + 2 * 5, 2 + 2 * 14)


def test_misuse_is_named() -> None:
    endpoint = HostileEndpoint()
    with pytest.raises(ConfigError, match="has an address inside of"):
        endpoint.base_url
    with endpoint, pytest.raises(ConfigError, match="opened once"):
        endpoint.__enter__()
    with pytest.raises(ConfigError, match="max_connections=0"):
        HostileEndpoint(max_connections=0)


def test_an_error_inside_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError), HostileEndpoint():
        raise ZeroDivisionError


async def test_a_cancelled_test_still_stops_it() -> None:
    with anyio.CancelScope() as scope:
        async with HostileEndpoint() as endpoint:
            connection = connect(endpoint, "fault/hang")
            scope.cancel()
            await anyio.sleep_forever()

    connection.close()
    host, _, port = endpoint.base_url.removeprefix("http://").removesuffix("/v1").partition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)
