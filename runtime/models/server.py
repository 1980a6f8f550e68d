"""Owns the server that puts any ChatModel behind the chat-completions interface, as `ostrom serve` does.

It knows nothing about tasks: all an answer depends on stands in the prompt and the seed, so the answers are the same as in
process. It keeps its own count of what it was asked and what it billed; tests hold a client's books against that count.
No clock is read and no id is drawn: equal servers asked the same give the same bytes.
"""

import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runtime.errors import (
    BadModelReply,
    ConfigError,
    ModelError,
    ModelRateLimited,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
)
from runtime.models.base import ChatModel, ChatReply, prompt_tokens
from runtime.models.server_requests import ChatBody
from runtime.usage import Usage

BODY_LIMIT_BYTES = 8 * 1024 * 1024
"""A larger request is refused while it is still being read."""

_STATUS = {ModelRateLimited: 429, ModelTimeout: 504, ModelUnavailable: 503, BadModelReply: 422}


@dataclass
class Account:
    """What one model was asked and has billed since the server started."""

    requests: int = 0
    """Valid requests for it, whatever became of them."""
    answered: int = 0
    refused: int = 0
    """Refused by the model before any work, hence not billed."""
    failed: int = 0
    """Ended by another error."""
    unmetered: int = 0
    """Answered without a usage, hence missing in the token counts."""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0

    def bill(self, usage: Usage | None) -> None:
        """Count an answer."""
        self.answered += 1
        if usage is None:
            self.unmetered += 1
        else:
            self.input_tokens += usage.input_tokens
            self.output_tokens += usage.output_tokens
            self.cached_tokens += usage.cached_tokens


class _Refusal(Exception):
    """A request answered with an error in OpenAI's shape before any model saw it."""

    def __init__(self, status: int, text: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(status, text, param, code)
        self.status, self.text, self.param, self.code = status, text, param, code


class _Service:
    """The routes over one set of models, and their books."""

    def __init__(self, models: Mapping[str, ChatModel]) -> None:
        self.models = dict(models)
        self.accounts = {name: Account() for name in self.models}
        self.rejected = 0
        """Requests that reached no model."""
        self.served = 0

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions"""
        try:
            body = await _read_body(request)
            model = self._find(body.model)
            chat = body.chat_request(_room(model, body))
        except _Refusal as refusal:
            self.rejected += 1
            return _error(refusal.status, refusal.text, refusal.param, refusal.code)
        account = self.accounts[body.model]
        account.requests += 1
        try:
            reply = await model.complete(chat)
        except ModelRefused as error:
            account.refused += 1
            return _error(error.status, error.text, None, None)
        except ModelError as error:
            account.failed += 1
            return _failed(error)
        account.bill(reply.usage)
        self.served += 1
        return JSONResponse(_completion(body.model, reply, self.served))

    async def list_models(self, request: Request) -> Response:
        """GET /v1/models"""
        return JSONResponse({"object": "list", "data": [_card(name, model) for name, model in self.models.items()]})

    async def ledger(self, request: Request) -> Response:
        """GET /ostrom/ledger"""
        accounts = {name: asdict(account) for name, account in self.accounts.items()}
        return JSONResponse({"models": accounts, "rejected": self.rejected})

    async def health(self, request: Request) -> Response:
        """GET /health"""
        return JSONResponse({"status": "ok"})

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Close, at the end, what the models themselves hold open: an endpoint may be served on."""
        yield
        for model in self.models.values():
            close = getattr(model, "aclose", None)
            if close is not None:
                await close()

    def _find(self, name: str) -> ChatModel:
        if name not in self.models:
            known = ", ".join(self.models)
            raise _Refusal(404, f"no model {name!r} here; there are {known}", "model", "model_not_found")
        return self.models[name]


def create_app(models: Mapping[str, ChatModel]) -> Starlette:
    """Build the application: the interface of OpenAI for these models, and `/ostrom/ledger`, this server's own count.

    Args:
        models: by the name a client asks for.

    Raises:
        ConfigError: no models.
    """
    if not models:
        raise ConfigError("there is no model to serve")
    service = _Service(models)
    routes = [
        Route("/v1/chat/completions", service.chat, methods=["POST"]),
        Route("/v1/models", service.list_models),
        Route("/ostrom/ledger", service.ledger),
        Route("/health", service.health),
    ]
    return Starlette(routes=routes, lifespan=service.lifespan, exception_handlers={HTTPException: _http_error})


def serve(
    models: Mapping[str, ChatModel],
    host: str = "127.0.0.1",
    port: int = 8000,
    listening: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until interrupted. There are no keys: whoever reaches the port may ask, so the default is this machine only.

    Args:
        port: 0 takes a free one.
        listening: told the base URL as soon as connections are accepted.

    Raises:
        ConfigError: no models, or the address cannot be listened on.
    """
    import uvicorn

    app = create_app(models)
    if not 0 <= port <= 65_535:
        raise ConfigError(f"cannot listen on {host} port {port}: ports are 0 to 65535")
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host} port {port}: {error}") from None
    with listener:
        shown = f"[{host}]" if ":" in host else host
        listening(f"http://{shown}:{listener.getsockname()[1]}/v1")
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


async def _read_body(request: Request) -> ChatBody:
    # A web page may send other content types to this machine without asking; with this one its browser asks first.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _Refusal(415, "the content type must be application/json")
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > BODY_LIMIT_BYTES:
            raise _Refusal(413, f"the request is larger than {BODY_LIMIT_BYTES:,} bytes")
    try:
        return ChatBody.model_validate_json(bytes(raw))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or None
        said = first["msg"].removeprefix("Value error, ")
        raise _Refusal(400, f"{where}: {said}" if where else said, where) from None


def _room(model: ChatModel, body: ChatBody) -> int:
    """The limit on the reply: the smaller one the request names, or what the window leaves."""
    if body.limit is not None:
        return body.limit
    room = model.window_tokens - prompt_tokens(body.chat_request(0))
    if room < 1:
        text = f"the prompt leaves no room for a reply in a window of {model.window_tokens} tokens"
        raise _Refusal(400, text, "messages", "context_length_exceeded")
    return room


def _completion(name: str, reply: ChatReply, number: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.tool_calls:
        message["content"] = reply.text or None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in reply.tool_calls
        ]
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 0,
        "model": name,
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish, "logprobs": None}],
        "usage": None if reply.usage is None else _usage(reply.usage),
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _card(name: str, model: ChatModel) -> dict[str, Any]:
    more = {
        "window_tokens": model.window_tokens,
        "price": None if model.price is None else asdict(model.price),
        "virtual": model.virtual,
        "shrinkable": model.shrinkable,
    }
    return {"id": name, "object": "model", "created": 0, "owned_by": "ostrom", "ostrom": more}


def _failed(error: ModelError) -> Response:
    wait = error.retry_after_s if isinstance(error, ModelRateLimited) else None
    answer = _error(_STATUS.get(type(error), 500), str(error), None, None)
    if wait is not None:
        answer.headers["retry-after"] = f"{wait:g}"
    return answer


def _error(status: int, text: str, param: str | None, code: str | None) -> Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": text, "type": kind, "param": param, "code": code}}, status)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, f"{request.method} {request.url.path}: {error.detail}", None, None)
