"""Owns the application: all routes of the server over one set of models, fault modes and rate limits.

It knows nothing about tasks: all an answer depends on stands in the prompt and the seed, so the answers are the same as in
process. It keeps its own count of what it was asked and billed; tests hold a client's books against that count. No id is
drawn, and no clock read but for rate limits and dates in headers: equal servers asked the same give the same bodies.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runtime.errors import ConfigError
from runtime.models.base import ChatModel, ChatReply, ChatRequest, estimate_tokens, prompt_tokens
from runtime.models.server.accounts import Books
from runtime.models.server.chat import Chat, Offer
from runtime.models.server.faults import MODES, WINDOW_TOKENS, Fault, sayer
from runtime.models.server.limits import Gate, Limits
from runtime.models.server.replies import card, completion, error_document
from runtime.models.server.requests import RequestRefused, TokenizeBody, read_body
from runtime.usage import Usage


class Service:
    """A set of models, fault modes beside them where wanted, and their books.

    Args:
        models: by the name a client asks for; one that is named like a fault mode stands in its place.
        limits: what is let through of the requests for completions, all models together; None lets everything through.
        say: what fault modes say where they say something sensible, from the request; None for no fault modes.
        clock: gives seconds and never runs backwards; the rate limits read it.

    Raises:
        ConfigError: neither models nor fault modes.
    """

    def __init__(
        self,
        models: Mapping[str, ChatModel],
        *,
        limits: Limits | None = None,
        say: Callable[[ChatRequest], str] | None = None,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        if not models and say is None:
            raise ConfigError("there is no model to serve")
        self.offer = Offer(dict(models), say)
        self.books = Books()
        for name in models:
            self.books.of(name)
        self.chat = Chat(self.offer, Gate(limits or Limits()), self.books, clock)

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/models", self._list_models),
            Route("/v1/models/{name:path}", self._show_model),
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/ostrom/ledger", self._ledger),
            Route("/ostrom/faults", self._faults),
            Route("/ostrom/trap", self._trap, methods=["GET", "POST"]),
            Route("/health", self._health),
        ]
        failures = {HTTPException: _http_error, Exception: _broken}
        return Starlette(routes=routes, lifespan=self.lifespan, exception_handlers=failures)

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Close, at the end, what the models themselves hold open: an endpoint may be served on."""
        yield
        for model in self.offer.models.values():
            close = getattr(model, "aclose", None)
            if close is not None:
                await close()

    async def _list_models(self, request: Request) -> Response:
        data = [card(name, model) for name, model in self.offer.models.items()]
        return JSONResponse({"object": "list", "data": data})

    async def _show_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        try:
            model = self.offer.find(name)
        except RequestRefused as error:
            return _error(error)
        return JSONResponse(model.card() if isinstance(model, Fault) else card(name, model))

    async def _tokenize(self, request: Request) -> Response:
        """Count a prompt as it will be billed, in the form of vLLM; there are no ids, because no tokenizer cuts the text."""
        try:
            body = await read_body(request, TokenizeBody)
            model = self.offer.find(body.model)
            if not (isinstance(model, Fault) or model.virtual):
                raise RequestRefused(
                    400, f"{body.model} is served on from elsewhere, and only there it is counted", "model"
                )
        except RequestRefused as error:
            return _error(error)
        if body.prompt is not None:
            count = estimate_tokens(body.prompt)
        elif isinstance(model, Fault):
            count = prompt_tokens(body.chat_request())
        else:
            count = model.bound(body.chat_request()).input_tokens
        window_tokens = WINDOW_TOKENS if isinstance(model, Fault) else model.window_tokens
        return JSONResponse({"count": count, "max_model_len": window_tokens})

    async def _ledger(self, request: Request) -> Response:
        return JSONResponse(self.books.document())

    async def _faults(self, request: Request) -> Response:
        rows = {name: {"row": mode.row, "what": mode.what, "default": mode.default} for name, mode in MODES.items()}
        return JSONResponse(rows if self.offer.say is not None else {})

    async def _trap(self, request: Request) -> Response:
        self.books.trapped += 1
        # A good answer, so that following a redirect shows as what it is and not as another error.
        return JSONResponse(completion(0, "trap", ChatReply("trapped", Usage(0, 2))))

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})


def create_app(
    models: Mapping[str, ChatModel],
    *,
    limits: Limits | None = None,
    faults: bool = False,
    clock: Callable[[], float] = anyio.current_time,
) -> Starlette:
    """Build the application: the interface of OpenAI for these models, and `/ostrom/ledger`, this server's own count.

    Args:
        models: by the name a client asks for.
        limits: what is let through of the requests for completions, all models together; None lets everything through.
        faults: whether there are models `fault/<mode>`, too, which go wrong on purpose.
        clock: gives seconds and never runs backwards; only the rate limits read it.

    Raises:
        ConfigError: no models.
    """
    return Service(models, limits=limits, say=sayer("42") if faults else None, clock=clock).app()


def _error(error: RequestRefused) -> Response:
    return JSONResponse(error_document(error.status, error.text, "", error.param, error.code), error.status)


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    text = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(error_document(error.status_code, text), error.status_code, error.headers)


async def _broken(request: Request, error: Exception) -> Response:
    return JSONResponse(error_document(500, f"the model failed: {type(error).__name__}"), 500)
