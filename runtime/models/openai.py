"""Owns the way to endpoints that speak the chat-completions interface; the only module that knows the openai SDK.

One call of `complete` is one request on the wire: the SDK's own retries are off, redirects are not followed, and one
deadline covers everything from the first byte out to the last byte in. Whatever goes wrong leaves as one of our errors.
What comes in is read strictly here and not by the SDK, which hands on an HTML page as a string and a usage of -5 as it is.
"""

import asyncio
import json
import os
from typing import NamedTuple

import aiohttp
import anyio
import openai

from runtime.errors import (
    BadModelReply,
    ConfigError,
    ModelError,
    ModelRateLimited,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
    ModelUnreachable,
)
from runtime.models.base import ChatMessage, ChatReply, ChatRequest, prompt_tokens
from runtime.models.spec import ModelSpec
from runtime.models.wire import clean, read_reply, request_body, request_shapes, retry_after_s
from runtime.usage import Usage

UNKNOWN_WINDOW_TOKENS = 8_192
"""The window of a model nobody knows one for: small enough for most, so that mail is clipped rather than refused."""
MESSAGE_TOKENS = 16
"""What a chat template puts around one message, at most."""
TEMPLATE_TOKENS = 256
"""What a chat template, or the endpoint's own system text, adds once, at most."""


class _Line(NamedTuple):
    """What one event loop holds open to the endpoint."""

    client: openai.AsyncOpenAI
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
        self.max_parallel = spec.max_parallel
        self.settings = [spec.model, spec.fixed_usage]
        """What decides its replies beside the price, for content addresses; the endpoint itself may move."""
        self.shrinkable = spec.fixed_usage is None
        self.window_tokens = spec.window_tokens or UNKNOWN_WINDOW_TOKENS
        self._lines: dict[asyncio.AbstractEventLoop, _Line] = {}

    def __reduce__(self) -> tuple[type["OpenAIModel"], tuple[str, ModelSpec]]:
        return type(self), (self.name, self.spec)

    def __repr__(self) -> str:
        return f"OpenAIModel({self.name!r}, {self.spec.model!r} at {self.spec.endpoint})"

    def bound(self, request: ChatRequest) -> Usage:
        """Bound a request without the endpoint's tokenizer: by the UTF-8 bytes of all that is put into the prompt.

        The tokens of a byte-level BPE vocabulary are runs of at least one byte, so a text never has more tokens than bytes.
        Templates add to that: up to 16 tokens around a message and 256 once. The shape of a typed reply and the tools'
        parameters count as indented JSON, because some templates print them so. English runs at four to five bytes a
        token: the bound is about that much too high. With `tokenizer="bytes4"` or `fixed_usage` in the spec it is exact.
        """
        if self.spec.fixed_usage is not None:
            return Usage(*self.spec.fixed_usage)
        if self.spec.tokenizer == "bytes4":
            return Usage(prompt_tokens(request), request.max_tokens)
        size = sum(map(_message_bytes, request.messages)) + MESSAGE_TOKENS * len(request.messages) + TEMPLATE_TOKENS
        shapes = request_shapes(request, self.spec).values()
        return Usage(size + sum(len(json.dumps(shape, indent=4)) for shape in shapes), request.max_tokens)

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Send the request once and read the reply.

        Raises:
            ModelRefused: a 4xx status; the request was not worked on.
            ModelRateLimited: status 429.
            ModelTimeout: the deadline passed, or status 408.
            ModelUnavailable: no connection, a connection that broke, or a 5xx status.
            BadModelReply: an answer that is no chat completion, or is incomplete.
            ConfigError: the key is missing, or this is not an asyncio event loop.
        """
        raw = await self._exchange(self._line(), request)
        # Raised here and not where it was caught: the SDK's error holds the request with the key in its headers, and as
        # `__context__` it would travel along with ours.
        if isinstance(raw, ModelError):
            raise raw
        return read_reply(self.name, raw)

    async def aclose(self) -> None:
        """Close the connections of the running event loop. Harmless when there are none; a later call opens new ones."""
        # Asked only where something was opened, so that a catalogue can be closed under trio too.
        line = self._lines.pop(asyncio.get_running_loop(), None) if self._lines else None
        if line is not None:
            await line.client.close()

    async def _exchange(self, line: _Line, request: ChatRequest) -> bytes | ModelError:
        try:
            with anyio.fail_after(self.spec.timeout_s):
                answer = await line.client.chat.completions.with_raw_response.create(**request_body(request, self.spec))
            body: bytes = answer.content
            return body
        except TimeoutError:
            return ModelTimeout(self.name, self.spec.timeout_s)
        except openai.APIError as error:
            return failure_of(error, self.name, self.spec.timeout_s, line.key)
        except aiohttp.ClientError as error:
            # What is not even HTTP comes past the SDK as the transport raised it.
            return ModelUnavailable(self.name, clean(f"{type(error).__name__}: {error}", line.key))

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
        client = openai.AsyncOpenAI(
            api_key=key or "none",  # the SDK insists on some key; endpoints that want none ignore it
            base_url=self.spec.endpoint,
            max_retries=0,
            timeout=None,  # the one deadline is ours; a limit for each read lets a slow trickle of bytes go on for ever
            http_client=openai.DefaultAioHttpClient(follow_redirects=False, timeout=None),
        )
        return _Line(client, key)


def failure_of(error: openai.APIError, model: str, timeout_s: float, secret: str) -> ModelError:
    """Turn any error of the SDK into ours, without the key or anything that looks like one in its text."""
    if isinstance(error, openai.APIConnectionError):
        root = _root(error)
        # The aiohttp transport calls a refused or broken connection a ConnectTimeout; the root tells them apart.
        if isinstance(error, openai.APITimeoutError) and (root is error or isinstance(root, TimeoutError)):
            return ModelTimeout(model, timeout_s)
        kind = ModelUnreachable if _never_connected(error) else ModelUnavailable
        return kind(model, clean(f"{type(root).__name__}: {root}", secret))
    if not isinstance(error, openai.APIStatusError):
        return BadModelReply(model, clean(error.message, secret))
    status, text = error.status_code, clean(_said(error), secret)
    if status < 400:
        text = "a redirect, and redirects are not followed"
    if status == 408:
        return ModelTimeout(model, timeout_s)
    # An account without credit is told 429 as well, and no patience cures that.
    if status == 429 and error.code != "insufficient_quota":
        return ModelRateLimited(model, retry_after_s(error.response.headers))
    if status >= 500:
        return ModelUnavailable(model, f"{status}: {text}")
    return ModelRefused(model, status, text)


def _message_bytes(message: ChatMessage) -> int:
    texts = [message.content, message.tool_call_id, *(part for call in message.tool_calls for part in call)]
    return sum(len(text.encode()) for text in texts)


def _never_connected(error: BaseException | None) -> bool:
    """Whether the transport failed to connect at all: refused, no such host, no trust in its certificate."""
    while error is not None:
        if isinstance(error, (aiohttp.ClientConnectorError, ConnectionRefusedError)):
            return True
        error = error.__cause__
    return False


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _said(error: openai.APIStatusError) -> str:
    """What the endpoint itself said: OpenAI's `message`, others' `detail`, else the SDK's words or the page."""
    if isinstance(error.body, dict):
        return str(error.body.get("message") or error.body.get("detail") or error.message)
    return str(error.body or error.message)
