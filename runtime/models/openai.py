"""Owns the way to endpoints that speak the chat-completions interface; the only module that knows the openai SDK.

One call of `complete` is one request on the wire: the SDK's own retries are off, redirects are not followed, and one
deadline covers everything from the first byte out to the last byte in. Whatever goes wrong leaves as one of our errors.
What comes in is read as raw bytes, limited and strict, by `replies` and `stream` and not by the SDK, which hands on an HTML
page as a string, a usage of -5 as it is, and half a stream as a whole one.
"""

import asyncio
import os
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

import anyio
import httpx2
import openai
import orjson

from runtime.errors import BadModelReply, ConfigError, ModelError, ModelTimeout, ModelUnavailable, ModelUnreachable
from runtime.models.base import ChatReply, ChatRequest
from runtime.models.counting import PromptBounds, Shape, count_in, tokenize_body, tokenize_url
from runtime.models.endpoints.announced import Announced, announced_in
from runtime.models.failures import failure, redacted
from runtime.models.origins import is_openai
from runtime.models.probe import Probe
from runtime.models.replies import Expected, PlainReply, expected
from runtime.models.spec import LimitField, ModelSpec
from runtime.models.stream import StreamedReply
from runtime.models.transport import (
    BROKEN,
    Answered,
    NoRoute,
    ask,
    never_connected,
    no_way_to,
    root_of,
    stop_bad_status,
)
from runtime.models.wire import clean, request_body
from runtime.usage import Usage

UNKNOWN_WINDOW_TOKENS = 8_192
"""The window of a model nobody knows one for: small enough for most, so that mail is clipped rather than refused."""
TAIL_S = 1.0
"""How long a stream may take to end after it has said everything: waiting keeps the connection for the next call."""
COUNT_S = 5.0
"""How long a `/tokenize` route may take; bytes bound as well, if less tightly."""


class _Line(NamedTuple):
    """What one event loop holds open to the endpoint."""

    client: openai.AsyncOpenAI
    http: httpx2.AsyncClient
    key: str


class OpenAIModel:
    """A model behind an endpoint.

    Only the name and the spec travel when it is pickled. Connections are opened at the first call, once per event loop,
    with the key that the variable named in the spec holds in that process; `aclose` closes them. How many calls may be in
    flight is kept by `runtime.models.governor`, because a call that waits for budget must give its place back.
    """

    virtual = False

    def __init__(self, name: str, spec: ModelSpec) -> None:
        self.name = name
        self.spec = spec
        self.price = spec.price
        self.settings = [spec.model, spec.fixed_usage]
        """What decides its replies beside the price, for content addresses; the endpoint itself may move."""
        self.shrinkable = spec.fixed_usage is None and spec.limit_field != "window"
        self.window_tokens = spec.window_tokens or UNKNOWN_WINDOW_TOKENS
        self.proving = anyio.Lock()
        """Held by whoever finds out which limit the endpoint obeys."""
        self.announced: Announced | None = None
        """What the endpoint's answers last said of its limits on haste, for the governor."""
        self._bounds = PromptBounds(name, spec)
        self._shapes: tuple[Shape, ...] = ("messages", "content") if spec.tokenizer == "endpoint" else ()
        self._lines: dict[asyncio.AbstractEventLoop, _Line] = {}

    def __reduce__(self) -> tuple[type["OpenAIModel"], tuple[str, ModelSpec]]:
        return type(self), (self.name, self.spec)

    def __repr__(self) -> str:
        return f"OpenAIModel({self.name!r}, {self.spec.model!r} at {self.spec.endpoint})"

    def bound(self, request: ChatRequest) -> Usage:
        """Bound a request; how tightly the prompt, says the spec's `tokenizer`.

        By default it is bounded by the UTF-8 bytes of all that is put into it: the tokens of a byte-level vocabulary are
        runs of at least one byte. Templates add up to 16 tokens around a message or a call, 256 once and 256 for tools.
        English runs at four to five bytes a token, and the bound is about that much too high. Where the endpoint obeys no
        limit on the reply, the reply is bounded by the window.
        """
        if self.spec.fixed_usage is not None:
            return Usage(*self.spec.fixed_usage)
        output = self.window_tokens if self.spec.limit_field == "window" else request.max_tokens
        return Usage(self._bounds.of(request), output)

    async def measure(self, request: ChatRequest) -> None:
        """Let the endpoint count the prompt, so that `bound` is tight from now on; at no cost, and only where the spec says
        so. Where it fails, the bound by bytes stands.

        Raises:
            ConfigError: the key is missing, or this is not an asyncio event loop.
        """
        if not self._shapes or self._bounds.knows(request):
            return
        line = self._line()
        url = tokenize_url(self.spec.endpoint)
        with anyio.move_on_after(COUNT_S):
            for shape in self._shapes:
                try:
                    raw = await ask(line.http, url, line.key, tokenize_body(shape, request, self.spec))
                except NoRoute:
                    self._shapes = ()  # not asked again
                    return
                counted = None if raw is None else count_in(shape, raw)
                if counted is not None:
                    self._shapes = (shape,)
                    self._bounds.learn(request, counted)
                    return

    async def reach(self) -> None:
        """Connect once without asking for anything, so that an address nobody answers at is told before a run begins.

        Raises:
            ConfigError: no connection comes about; also a missing key, or this is not an asyncio event loop.
        """
        line = self._line()
        why = await no_way_to(line.http, self.spec.endpoint)
        if why:
            raise ConfigError(
                f"model {self.name!r}: no connection to {self.spec.endpoint} ({clean(why, line.key)}); start the server, or"
                " correct scheme, host and port of its endpoint in ostrom.toml, its ModelSpec or OPENAI_BASE_URL"
            )

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Send the request once and read the reply.

        Raises:
            ModelRefused: a 4xx status; the request was not worked on.
            ModelRateLimited: status 429.
            ModelTimeout: the deadline passed, or status 408.
            ModelUnavailable: no connection, a connection or a stream that broke, or a 5xx status.
            BadModelReply: an answer that is no chat completion, or is incomplete, or was cut off because it did not end.
            ConfigError: the key is missing, or this is not an asyncio event loop.
        """
        return await self.complete_as(self.spec, request)

    async def complete_as(self, spec: ModelSpec, request: ChatRequest) -> ChatReply:
        """`complete` under another spec for the same endpoint, as a probe needs it."""
        line = self._line()
        held = expected(self.name, spec, request, self.bound(request).input_tokens if spec.stream else 0)
        reply = await self._exchange(line, spec, request, held)
        # Raised here and not where it was caught: the SDK's error holds the request with the key in its headers, and as
        # `__context__` it would travel along with ours.
        if isinstance(reply, ModelError):
            raise redacted(reply, line.key)
        return reply

    @property
    def unproved(self) -> bool:
        """Whether nobody knows yet if the endpoint obeys the limit it is sent; `runtime.models.probe.prove` finds out."""
        return self.spec.unproved

    def probe(self, field: LimitField) -> Probe:
        """A model that asks this endpoint once whether it obeys a limit in this field."""
        return Probe(self, field)

    def learn(self, field: LimitField) -> None:
        """Send the limit in this field from now on; a copy that is shipped does so too."""
        self.spec = self.spec.model_copy(update={"limit_field": field})

    async def aclose(self) -> None:
        """Close the connections of the running event loop. Harmless when there are none; a later call opens new ones."""
        # Asked only where something was opened, so that a catalogue can be closed under trio too.
        line = self._lines.pop(asyncio.get_running_loop(), None) if self._lines else None
        if line is not None:
            await line.client.close()

    async def _exchange(
        self, line: _Line, spec: ModelSpec, request: ChatRequest, held: Expected
    ) -> ChatReply | ModelError:
        reply: PlainReply | StreamedReply = StreamedReply(held) if spec.stream else PlainReply(held)
        try:
            with anyio.move_on_after(spec.timeout_s) as deadline:
                async with aclosing(await _post(line.client, request_body(request, spec))) as answer:
                    self._hear(answer.headers)
                    # Some endpoints do not know streams and answer whole.
                    if spec.stream and answer.headers.get("content-type", "").startswith("application/json"):
                        reply = PlainReply(held)
                    async with aclosing(answer.aiter_bytes()) as chunks:
                        async for chunk in chunks:
                            reply.feed(chunk)
                            if reply.complete:
                                deadline.deadline = min(deadline.deadline, anyio.current_time() + TAIL_S)
            if deadline.cancelled_caught and not reply.complete:
                return ModelTimeout(self.name, spec.timeout_s)
            return reply.result()
        except ModelError as error:
            return error
        except Answered as answered:
            self._hear(answered.headers)
            return failure(self.name, answered.status, answered.headers, answered.body, spec.timeout_s)
        except openai.APIError as error:
            return failure_of(error, self.name, spec.timeout_s, line.key)
        except BROKEN as error:
            # What breaks in the middle of an answer, or is not even HTTP, comes past the SDK as the transport raised it.
            return ModelUnavailable(self.name, clean(f"{type(error).__name__}: {error}", line.key))

    def _hear(self, headers: Mapping[str, str]) -> None:
        self.announced = announced_in(headers) or self.announced

    def _line(self) -> _Line:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ConfigError(
                f"model {self.name!r} is an endpoint and needs asyncio; this event loop is another"
            ) from None
        line = self._lines.get(loop)
        if line is None:
            self._lines = {other: kept for other, kept in self._lines.items() if not other.is_closed()}
            line = self._lines[loop] = self._open()
        return line

    def _open(self) -> _Line:
        missing = self.spec.missing_key()
        if missing is not None:
            raise ConfigError(
                f'model {self.name!r}: the environment variable {missing} holds no key here; set it, or say key_env = ""'
                " if the endpoint wants none"
            )
        key = os.environ[self.spec.key_env].strip() if self.spec.key_env else ""
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(f"model {self.name!r}: {self.spec.key_env} holds characters that no key has")
        http = openai.DefaultAioHttpClient(
            follow_redirects=False, timeout=None, event_hooks={"response": [stop_bad_status]}
        )
        client = openai.AsyncOpenAI(
            api_key=key or "none",  # the SDK insists on some key; endpoints that want none ignore it
            base_url=self.spec.endpoint,
            max_retries=0,
            timeout=None,  # the one deadline is ours; a limit for each read lets a slow trickle of bytes go on for ever
            # Packed answers could unpack to any size.
            default_headers={"Accept-Encoding": "identity"},
            http_client=http,
        )
        if not is_openai(self.spec.endpoint):
            # Read from the environment by the SDK; nobody else's business.
            client.organization = client.project = None
        return _Line(client, http, key)


async def _post(client: openai.AsyncOpenAI, body: dict[str, Any]) -> httpx2.Response:
    """Send a request, and hand back the answer as soon as its head is there, with the body still to be read.

    By the client's plain `post`: `chat.completions.create` checks our fields against its types, which takes as much CPU as
    all the rest of a call.
    """
    answer: Any = await client.post(
        "/chat/completions", cast_to=httpx2.Response, body=body, stream=True, stream_cls=openai.AsyncStream[Any]
    )
    assert isinstance(answer, httpx2.Response)
    return answer


def failure_of(error: openai.APIError, model: str, timeout_s: float, secret: str) -> ModelError:
    """Turn any error of the SDK into ours, without the key or anything that looks like one in its text."""
    if isinstance(error, openai.APIConnectionError):
        root = root_of(error)
        # The aiohttp transport calls a refused or broken connection a ConnectTimeout; the root tells them apart.
        if isinstance(error, openai.APITimeoutError) and (root is error or isinstance(root, TimeoutError)):
            return ModelTimeout(model, timeout_s)
        kind = ModelUnreachable if never_connected(error) else ModelUnavailable
        return kind(model, clean(f"{type(root).__name__}: {root}", secret))
    if not isinstance(error, openai.APIStatusError):
        return BadModelReply(model, clean(error.message, secret))
    body = orjson.dumps(error.body if isinstance(error.body, dict) else {"message": str(error.body or error.message)})
    return redacted(failure(model, error.status_code, error.response.headers, body, timeout_s), secret)
