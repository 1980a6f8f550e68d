"""Every fault mode, plain and as a stream, heard by a client that knows HTTP and nothing more; and what each one bills."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import anyio
import h11
import pytest
from anyio.abc import SocketStream

from runtime.testing import MODES, Account, HostileEndpoint

pytestmark = pytest.mark.anyio

TEXT = "The answer – after some thought, as always – is 42."
PROMPT_TOKENS, TEXT_TOKENS, LIMIT = 5, 14, 100
SILENCE_S = 0.03
"""How long nothing has to come for silence, where silence is what should come."""
PATIENCE_S = 20.0

Document = dict[str, Any]


@dataclass
class Heard:
    """What came over the wire, chunks put together."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    end: str = ""
    """`whole`, `dropped` (closed before the end) or `silent`."""
    first_parts: list[bytes] = field(default_factory=list)


async def hear(host: str, port: int, body: Document, enough: int | None, silent: int | None) -> Heard:
    """Ask once on a connection of its own.

    Args:
        enough: leave after so many parts of the body.
        silent: take silence after so many parts of the body for the end.
    """
    raw, heard = json.dumps(body).encode(), Heard()
    client = h11.Connection(h11.CLIENT)
    headers = [("host", f"{host}:{port}"), ("content-type", "application/json"), ("content-length", str(len(raw)))]
    ask = client.send(h11.Request(method="POST", target="/v1/chat/completions", headers=headers)) or b""
    ask += (client.send(h11.Data(data=raw)) or b"") + (client.send(h11.EndOfMessage()) or b"")
    async with await anyio.connect_tcp(host, port) as stream:
        await stream.send(ask)
        parts: list[bytes] = []
        heard.end = await listen(client, stream, heard, parts, enough, silent)
        heard.body, heard.first_parts = b"".join(parts), parts[:enough]
    return heard


async def listen(
    client: h11.Connection,
    stream: SocketStream,
    heard: Heard,
    parts: list[bytes],
    enough: int | None,
    silent: int | None,
) -> str:
    while enough is None or len(parts) < enough:
        try:
            event = client.next_event()
        except h11.RemoteProtocolError:
            return "dropped"
        if isinstance(event, h11.Response):
            heard.status = event.status_code
            heard.headers = {name.decode(): value.decode() for name, value in event.headers}
        elif isinstance(event, h11.Data):
            parts.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            return "whole"
        elif isinstance(event, h11.ConnectionClosed):
            return "dropped"
        else:
            try:
                with anyio.fail_after(SILENCE_S if silent is not None and len(parts) >= silent else PATIENCE_S):
                    client.receive_data(await stream.receive())
            except TimeoutError:
                return "silent"
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                client.receive_data(b"")
    return "left"


def events(body: bytes) -> list[str]:
    """The data of a stream's events, by the standard."""
    found = []
    for block in body.decode().replace("\r\n", "\n").split("\n\n"):
        lines = [line.removeprefix("data:").removeprefix(" ") for line in block.split("\n") if line[:5] == "data:"]
        found += ["\n".join(lines)] if lines else []
    return found


class Told(NamedTuple):
    """What an answer says, a stream's chunks put together."""

    text: str | None = TEXT
    calls: tuple[tuple[str, str], ...] = ()
    finish: str | None = "stop"
    usage: Any = None
    done: bool = True
    refusal: str | None = None
    model: str = ""


def usage(output: int = TEXT_TOKENS, prompt: int = PROMPT_TOKENS, thought: int = 0, **more: Any) -> Document:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": thought},
    } | more


def told(heard: Heard, streams: bool) -> Told:
    """Read an answer that is one, as a client would."""
    if not streams:
        answer = json.loads(heard.body)
        (choice,) = answer["choices"]
        message = choice["message"]
        calls = tuple((c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls", ()))
        usages = answer.get("usage", "none")
        return Told(
            message["content"], calls, choice["finish_reason"], usages, True, message["refusal"], answer["model"]
        )
    *chunks, last = events(heard.body)
    done = last == "[DONE]"
    return told_chunks([json.loads(chunk) for chunk in (chunks if done else [*chunks, last])], done)


def told_chunks(chunks: list[Document], done: bool) -> Told:
    texts, refusals, finish, usages = list[Any](), list[str](), None, list[Any]()
    calls: dict[int, list[str]] = {}
    for chunk in chunks:
        usages += [chunk["usage"]] if chunk.get("usage") is not None or not chunk["choices"] else []
        for choice in chunk["choices"]:
            delta, finish = choice["delta"], choice["finish_reason"] or finish
            texts += [delta["content"]] if "content" in delta else []
            refusals += [delta["refusal"]] if "refusal" in delta else []
            for call in delta.get("tool_calls", ()):
                name, arguments = call["function"].get("name", ""), call["function"]["arguments"]
                old = calls.setdefault(call["index"], ["", ""])
                calls[call["index"]] = [old[0] + name, old[1] + arguments]
    text = None if None in texts or not texts else "".join(texts)
    every = tuple((name, arguments) for name, arguments in calls.values())
    refusal = "".join(refusals) if refusals else None
    return Told(text, every, finish, usages[-1] if usages else "none", done, refusal, chunks[0]["model"])


# ---- what is to come


Check = Callable[[Heard, bool], bool]


def good(**changes: Any) -> Check:
    """An answer like that of `fault/ok`, but for these."""

    def check(heard: Heard, streams: bool) -> bool:
        found = told(heard, streams)
        expected = Told(usage=usage(), model=found.model)._replace(**changes)
        assert found == expected
        kind = "text/event-stream; charset=utf-8" if streams else "application/json"
        assert (heard.status, heard.end, heard.headers["content-type"]) == (200, "whole", kind)
        return True

    return check


def status(code: int, **headers: str) -> Check:
    def check(heard: Heard, streams: bool) -> bool:
        error = json.loads(heard.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        found = {name: heard.headers.get(name) for name in ("retry-after", "retry-after-ms")}
        wanted = {"retry-after": None, "retry-after-ms": None} | {k.replace("_", "-"): v for k, v in headers.items()}
        assert (heard.status, heard.end, found) == (code, "whole", wanted)
        return True

    return check


def raw(plain: Callable[[Heard], bool], stream: Callable[[Heard], bool]) -> Check:
    return lambda heard, streams: stream(heard) if streams else plain(heard)


def body_is(text: bytes) -> Callable[[Heard], bool]:
    return lambda heard: (heard.status, heard.end, heard.body) == (200, "whole", text)


def second_event_is(text: bytes) -> Callable[[Heard], bool]:
    def check(heard: Heard) -> bool:
        found = heard.body.split(b"\n\n")
        return (heard.end, found[1], found[-2:]) == ("whole", b"data: " + text, [b"data: [DONE]", b""])

    return check


def instead(text: bytes) -> Check:
    return raw(body_is(text), second_event_is(text))


def whole_page(text: bytes, kind: str) -> Check:
    return lambda heard, streams: body_is(text)(heard) and heard.headers["content-type"] == kind


def half(end: str) -> Check:
    """Half of a body whose length was announced; a stream up to the middle of its third event."""

    def plain(heard: Heard) -> bool:
        announced = int(heard.headers["content-length"])
        assert heard.end == end
        assert len(heard.body) == (announced if end == "whole" else announced // 2)
        return heard.body.startswith(b'{"id":') and not heard.body.endswith(b"}")

    def stream(heard: Heard) -> bool:
        *whole, torn = heard.body.split(b"\n\n")
        assert heard.end == end
        return len(whole) == 2 and torn.startswith(b'data: {"id"') and not torn.endswith(b"}")

    return raw(plain, stream)


def nothing(end: str) -> Check:
    return lambda heard, streams: (heard.status, heard.body, heard.end) == (0, b"", end)


def choices_are(what: Any) -> Check:
    def check(heard: Heard, streams: bool) -> bool:
        docs = [json.loads(event) for event in events(heard.body)[:-1]] if streams else [json.loads(heard.body)]
        assert heard.end == "whole"
        return all(doc.get("choices", "none") == what for doc in docs)

    return check


def second_content(what: Any) -> Check:
    def check(heard: Heard, streams: bool) -> bool:
        if streams:
            return bool(json.loads(events(heard.body)[1])["choices"][0]["delta"]["content"] == what)
        return bool(json.loads(heard.body)["choices"][0]["message"]["content"] == what)

    return check


def error_inside(heard: Heard, streams: bool) -> bool:
    docs = [json.loads(event) for event in events(heard.body)] if streams else [json.loads(heard.body)]
    assert (heard.status, heard.end, len(docs)) == (200, "whole", 3 if streams else 1)
    return bool(docs[-1]["error"]["message"] == "the engine died") and b"[DONE]" not in heard.body


def error_event(heard: Heard) -> bool:
    return heard.body.split(b"\n\n")[2].startswith(b'event: error\ndata: {"error":') and b"[DONE]" not in heard.body


def truncated(heard: Heard) -> bool:
    docs = [json.loads(event) for event in events(heard.body)]
    assert (heard.end, len(docs)) == ("whole", 2)
    return all(choice["finish_reason"] is None for doc in docs for choice in doc["choices"])


def slow(size: int | None) -> Check:
    """So many bytes at a time; None for whole events, or tenths."""

    def check(heard: Heard, streams: bool) -> bool:
        if size is not None:
            return {len(part) for part in heard.first_parts} == {size}
        if streams:
            return all(part.startswith(b"data: ") and part.endswith(b"\n\n") for part in heard.first_parts)
        return {len(part) for part in heard.first_parts} == {-(-int(heard.headers["content-length"]) // 10)}

    return check


def odd(heard: Heard) -> bool:
    assert b"\r\n" in heard.body
    assert b"data: " not in heard.body
    return good()(heard, True)


def grows(heard: Heard) -> bool:
    figures = [json.loads(event)["usage"]["completion_tokens"] for event in events(heard.body)[:-1]]
    return figures == sorted(figures) and figures[-1] == TEXT_TOKENS and good()(heard, True)


def on_last_choice(heard: Heard) -> bool:
    *_, last = (json.loads(event) for event in events(heard.body)[:-1])
    return last["choices"][0]["finish_reason"] == "stop" and good()(heard, True)


def padded(heard: Heard, streams: bool) -> bool:
    assert 50 * 2**20 < len(heard.body) < 50 * 2**20 + 4_000
    return good()(heard, streams) if not streams else heard.body.endswith(b"data: [DONE]\n\n")


def many(where: str, n: int) -> Check:
    def check(heard: Heard, streams: bool) -> bool:
        docs = [json.loads(event) for event in events(heard.body)[:-1]] if streams else [json.loads(heard.body)]
        if where == "choices":
            return [choice["index"] for choice in docs[0]["choices"]] == list(range(n))
        said = docs[1]["choices"][0]["delta"] if streams else docs[0]["choices"][0]["message"]
        return len({call["id"] for call in said["tool_calls"]}) == n

    return check


def redirects(heard: Heard, streams: bool) -> bool:
    return heard.status == 307 and heard.headers["location"].startswith("http://localhost:")


def dated(heard: Heard, streams: bool) -> bool:
    return heard.status == 429 and heard.headers["retry-after"].endswith(" GMT")


def text_plain(heard: Heard, streams: bool) -> bool:
    kind = heard.headers.pop("content-type")
    heard.headers["content-type"] = "text/event-stream; charset=utf-8" if streams else "application/json"
    return kind == "text/plain" and good()(heard, streams)


def nan(heard: Heard, streams: bool) -> bool:
    return b'"completion_tokens":NaN,' in heard.body


class Case(NamedTuple):
    check: Check
    output: int | None = TEXT_TOKENS
    """Tokens that are billed for one request; None for nothing at all."""
    prompt: int = PROMPT_TOKENS
    argument: str = ""
    enough: int | None = None
    """After so many parts of the body the client has heard enough."""
    silent: tuple[int, int] | None = None
    """After so many parts of the body nothing more comes: of a plain answer, of a stream."""


def words(n: int) -> str:
    return " the" * n


CASES = {
    "ok": Case(good()),
    "slow": Case(good(), argument="0.01"),
    "tool-call": Case(good(text=None, calls=(("search", "{}"),), finish="tool_calls", usage=usage(1)), 1),
    "long": Case(good(text=words(60), usage=usage(60)), 60, argument="60"),
    "429": Case(status(429, retry_after="17"), None, argument="17"),
    "429-long": Case(status(429, retry_after="86400"), None),
    "429-garbage": Case(status(429, retry_after="soon"), None),
    "429-negative": Case(status(429, retry_after="-5"), None),
    "429-date": Case(dated, None),
    "429-ms": Case(status(429, retry_after_ms="1500"), None),
    "429-bare": Case(status(429), None),
    "429-quota": Case(status(429), None),
    **{str(code): Case(status(code), None) for code in (500, 502, 503, 504, 529, 401)},
    "500-billed": Case(status(500)),
    "flaky": Case(status(503), None),
    "drop": Case(nothing("dropped")),
    "drop-body": Case(half("dropped")),
    "hang": Case(nothing("silent"), silent=(0, 0)),
    "stall": Case(half("silent"), silent=(1, 3)),
    "slow-body": Case(slow(1), argument="0.001", enough=20),
    "slow-stream": Case(slow(None), argument="0.001", enough=3),
    "signs-of-life": Case(
        raw(lambda h: h.body == b" " * 5, lambda h: h.body == b": waiting\n\n" * 5), argument="0.001", enough=5
    ),
    "garbage": Case(instead(b'{"choices": [}')),
    "html": Case(whole_page(b"<html>It works!</html>", "text/html")),
    "empty-body": Case(raw(body_is(b""), body_is(b""))),
    "empty-object": Case(instead(b"{}")),
    "null": Case(instead(b"null")),
    "deep": Case(instead(b"[" * 100_000)),
    "bad-utf8": Case(instead(b'{"choices": "\xff"}')),
    "null-choices": Case(choices_are(None)),
    "empty-choices": Case(choices_are([])),
    "no-choices": Case(choices_are("none")),
    "wrong-types": Case(second_content(5)),
    "text-plain": Case(text_plain),
    "truncated": Case(raw(lambda h: good(finish=None)(h, False), truncated)),
    "half-line": Case(half("whole")),
    "garbage-event": Case(instead(b"%PDF-1.7")),
    "error-inside": Case(error_inside),
    "error-event": Case(raw(lambda h: good()(h, False), error_event)),
    "no-done": Case(raw(lambda h: good()(h, False), lambda h: good(done=False)(h, True))),
    "odd-events": Case(raw(lambda h: good()(h, False), odd)),
    "usage-missing": Case(good(usage="none")),
    "usage-null": Case(good(usage=None)),
    "usage-partial": Case(
        good(usage={k: v for k, v in usage().items() if k not in ("completion_tokens", "total_tokens")})
    ),
    "usage-last-choice": Case(raw(lambda h: good()(h, False), on_last_choice)),
    "usage-everywhere": Case(raw(lambda h: good()(h, False), grows)),
    "usage-negative": Case(good(usage=usage() | {"completion_tokens": -5})),
    "usage-float": Case(good(usage=usage() | {"completion_tokens": 1.5})),
    "usage-string": Case(good(usage=usage() | {"completion_tokens": "3"})),
    "usage-bool": Case(good(usage=usage() | {"completion_tokens": True})),
    "usage-huge": Case(good(usage=usage() | {"completion_tokens": 10**12})),
    "usage-sum": Case(good(usage=usage() | {"total_tokens": PROMPT_TOKENS + TEXT_TOKENS + 1})),
    "usage-nan": Case(nan),
    "usage-list": Case(good(usage=[usage()])),
    "usage-cached": Case(good(usage=usage(prompt_tokens_details={"cached_tokens": PROMPT_TOKENS + 1}))),
    "overshoot": Case(good(text=words(2 * LIMIT), usage=usage(2 * LIMIT)), 2 * LIMIT),
    "inflated": Case(good(usage=usage(2 * LIMIT))),
    "hidden-prompt": Case(good(usage=usage(prompt=1_005)), prompt=1_005),
    "ignores-max-tokens": Case(good(text=words(200), usage=usage(200)), 200),
    "ignores-max-completion-tokens": Case(
        good(text=words(LIMIT), finish="length", usage=usage(LIMIT)), LIMIT, argument="200"
    ),
    "underreport": Case(good(text=words(LIMIT), finish="length", usage=usage(1)), LIMIT),
    "usage-zero": Case(good(usage=usage(0))),
    "big-body": Case(padded),
    "many-choices": Case(many("choices", 100_000)),
    "many-tool-calls": Case(many("calls", 10_000)),
    "redirect": Case(redirects, None),
    "empty": Case(good(text="", usage=usage(0)), 0),
    "null-content": Case(good(text=None, usage=usage(0)), 0),
    "only-thought": Case(good(text="", finish="length", usage=usage(LIMIT, thought=LIMIT)), LIMIT),
    "repeat": Case(good(text=words(LIMIT), finish="length", usage=usage(LIMIT)), LIMIT),
    "bad-tool-json": Case(
        good(text=None, calls=(("search", '{"a": 1'),), finish="tool_calls", usage=usage(2)), 2
    ),
    "unknown-tool": Case(good(text=None, calls=(("no_such_tool", "{}"),), finish="tool_calls", usage=usage(1)), 1),
    "wrong-shape": Case(good(text='{"unexpected": [1]}', usage=usage(5)), 5),
    "refusal": Case(good(text=None, refusal=TEXT)),
    "content-filter": Case(good(finish="content_filter")),
    "unknown-finish": Case(good(finish="tired")),
    "unknown-model": Case(status(404), None),
    "wrong-model": Case(good(model="gpt-2")),
}  # fmt: skip


@pytest.fixture(scope="module")
def endpoint() -> Iterator[HostileEndpoint]:
    with HostileEndpoint() as found:
        yield found


async def ask(
    endpoint: HostileEndpoint,
    model: str,
    streams: bool,
    enough: int | None = None,
    silent: int | None = None,
    **more: Any,
) -> Heard:
    host, _, port = endpoint.base_url.removeprefix("http://").removesuffix("/v1").partition(":")
    body: Document = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": LIMIT} | more
    if streams:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return await hear(host, int(port), body, enough, silent)


async def settled(endpoint: HostileEndpoint) -> None:
    """Wait until the server has noticed that its clients have left."""
    with anyio.fail_after(10):
        while endpoint.in_flight:  # noqa: ASYNC110 - it changes in another thread
            await anyio.sleep(0.001)


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("mode", CASES)
async def test_a_mode_does_what_it_says_and_bills_the_truth(
    endpoint: HostileEndpoint, mode: str, streams: bool
) -> None:
    case = CASES[mode]
    name = f"fault/{mode}:{case.argument}" if case.argument else f"fault/{mode}"
    before = endpoint.account(name)

    heard = await ask(endpoint, name, streams, case.enough, case.silent[streams] if case.silent else None)
    await settled(endpoint)

    assert case.check(heard, streams)
    after = endpoint.account(name)
    billed = case.output is not None
    assert after == Account(
        requests=before.requests + 1,
        answered=before.answered + billed,
        refused=before.refused + (not billed),
        input_tokens=before.input_tokens + case.prompt * billed,
        output_tokens=before.output_tokens + (case.output or 0),
        reasoning_tokens=before.reasoning_tokens + (LIMIT if mode == "only-thought" else 0),
    )


def test_every_mode_is_tested_and_every_row_has_modes() -> None:
    assert set(CASES) == set(MODES)
    assert {mode.row for mode in MODES.values()} == {"-", *(f"E{i}" for i in range(1, 15))}


@pytest.mark.parametrize("mode", [name for name, mode in MODES.items() if mode.row != "E9"])
async def test_only_e9_generates_more_than_it_was_allowed(endpoint: HostileEndpoint, mode: str) -> None:
    """With a limit of one token; what hangs, or goes on for ever, is left at once."""
    name = f"fault/{mode}:{CASES[mode].argument}" if mode == "slow" else f"fault/{mode}"
    before = endpoint.account(name)

    await ask(endpoint, name, False, 1, 0 if mode == "hang" else None, max_tokens=1)
    await settled(endpoint)

    after = endpoint.account(name)
    assert after.output_tokens - before.output_tokens <= 1
    assert after.input_tokens - before.input_tokens in (0, PROMPT_TOKENS)


@pytest.mark.parametrize(
    ("mode", "honoured", "ignored"),
    [
        ("ignores-max-tokens", "max_completion_tokens", "max_tokens"),
        ("ignores-max-completion-tokens", "max_tokens", "max_completion_tokens"),
    ],
)
async def test_a_probe_finds_the_field_that_is_honoured(
    endpoint: HostileEndpoint, mode: str, honoured: str, ignored: str
) -> None:
    found = {}
    for limit_field in (honoured, ignored):
        limits: Document = {"max_tokens": None} | {limit_field: 16}
        heard = await ask(endpoint, f"fault/{mode}", False, **limits)
        found[limit_field] = told(heard, False).finish, told(heard, False).usage["completion_tokens"]

    assert found == {honoured: ("length", 16), ignored: ("stop", 200)}


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
async def test_flaky_fails_as_often_as_it_is_told_and_then_works(endpoint: HostileEndpoint, streams: bool) -> None:
    name = f"fault/flaky:{3 + streams}"

    statuses = [(await ask(endpoint, name, streams)).status for _ in range(6)]

    assert statuses == [503] * (3 + streams) + [200] * (3 - streams)
    account = endpoint.account(name)
    assert (account.requests, account.refused, account.answered) == (6, 3 + streams, 3 - streams)
    assert account.output_tokens == TEXT_TOKENS * (3 - streams)


async def test_overshoot_really_sends_as_many_as_it_is_told(endpoint: HostileEndpoint) -> None:
    heard = await ask(endpoint, "fault/overshoot:250000", True, max_tokens=10)

    assert len(told(heard, True).text or "") == 4 * 250_000
    assert endpoint.account("fault/overshoot:250000").output_tokens == 250_000


async def test_the_argument_of_a_redirect_is_where_it_points(endpoint: HostileEndpoint) -> None:
    heard = await ask(endpoint, "fault/redirect:example.org:81", False)

    assert heard.headers["location"] == "http://example.org:81/v1/chat/completions"


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("fault/slow-bodies", 404, "there are slow-body"),
        ("fault/", 404, "no fault mode ''; there are ok, slow"),
        ("fault/flaky:many", 400, "wants an argument like 2, not 'many'"),
        ("fault/flaky:0", 400, "wants an argument like 2"),
        ("fault/flaky:99999999", 400, "wants an argument like 2"),
        ("fault/flaky:", 400, "not ''"),
        ("fault/drop:1", 400, "takes no argument, not '1'"),
        ("fault/slow:-1", 400, "wants an argument like 1"),
        ("fault/slow:nan", 400, "wants an argument like 1"),
        ("fault/redirect:http://x", 400, "wants an argument"),
        ("fault/429:1\r\nx-evil: 1", 400, "wants an argument like 1"),
    ],
)
async def test_a_mode_or_an_argument_that_is_none_is_refused_with_what_there_is(
    endpoint: HostileEndpoint, name: str, status: int, said: str
) -> None:
    before = endpoint.rejected
    heard = await ask(endpoint, name, False)

    assert heard.status == status
    assert said in json.loads(heard.body)["error"]["message"]
    assert endpoint.rejected == before + 1
    assert endpoint.account(name) == Account()
