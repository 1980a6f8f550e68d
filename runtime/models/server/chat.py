"""Owns POST /v1/chat/completions: from the request over the rate limits to a model or a fault mode, the bill and the answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import anyio
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from runtime.errors import (
    BadModelReply,
    ModelError,
    ModelRateLimited,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
)
from runtime.models.base import ChatModel, ChatRequest, prompt_tokens
from runtime.models.probe import PROBE
from runtime.models.server.accounts import Account, Books
from runtime.models.server.faults import PREFIX, WINDOW_TOKENS, Fault, Played, find
from runtime.models.server.limits import Denied, Gate
from runtime.models.server.replies import DONE, chunks, completion, counted, frame
from runtime.models.server.requests import ChatBody, RequestRefused, read_body
from runtime.models.server.script import EVENTS, Script, document, refusal

MOST_NAMES = 10_000
"""So many names of fault modes with their arguments have accounts; there are endless ones."""

_STATUS = {ModelRateLimited: 429, ModelTimeout: 504, ModelUnavailable: 503, BadModelReply: 422}


@dataclass(frozen=True, slots=True)
class Offer:
    """What is served: models by name, and what fault modes say; None where there are no fault modes."""

    models: Mapping[str, ChatModel]
    say: Callable[[ChatRequest], str] | None = None

    def find(self, name: str) -> ChatModel | Fault:
        """Find a model or a fault mode.

        Raises:
            RequestRefused: there is none (404), or its argument is wrong (400).
        """
        if name in self.models:
            return self.models[name]
        if self.say is not None and name.startswith(PREFIX):
            return find(name)
        known = [*self.models, *([f"{PREFIX}..."] if self.say is not None else [])]
        raise RequestRefused(404, f"no model {name!r} here; there are {', '.join(known)}", "model", "model_not_found")


@dataclass
class Chat:
    """The route, an ASGI application. What was billed stands in the books before the first byte of the answer leaves."""

    offer: Offer
    gate: Gate
    books: Books
    clock: Callable[[], float]
    served: int = 0
    _scopes: set[anyio.CancelScope] = field(default_factory=set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        with anyio.CancelScope() as cancel:
            self._scopes.add(cancel)
            try:
                await self._answer(scope, receive, send)
            finally:
                self._scopes.discard(cancel)

    def stop(self) -> None:
        """End all answers under way, silent and slow ones too."""
        for scope in list(self._scopes):
            scope.cancel()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            body = await read_body(request, ChatBody)
            model = self._model(body)
            chat = body.chat_request(_room(model, body))
        except RequestRefused as error:
            self.books.rejected += 1
            await refused(error)(scope, receive, send)
            return
        account = self.books.of(body.model)
        account.requests += 1
        turn = account.requests - account.limited - 1
        entered = self.gate.enter(self.clock(), self._announced_tokens(model, chat, body))
        if isinstance(entered, Denied):
            account.refused += 1
            account.limited += 1
            await self._denied(body.model, entered)(scope, receive, send)
            return
        try:
            if isinstance(model, Fault):
                played = self._fault(model, body, chat, turn, request, account)
            else:
                played = await self._model_answer(model, body, chat, account)
            self.gate.settle(entered, played.usage.tokens if played.usage else 0)
            played.script.headers.update(self.gate.headers(self.clock()))
            await played.script(scope, receive, send)
        finally:
            self.gate.leave()

    def _model(self, body: ChatBody) -> ChatModel | Fault:
        model = self.offer.find(body.model)
        if body.model not in self.books.accounts and len(self.books.accounts) >= MOST_NAMES:
            raise RequestRefused(400, f"{MOST_NAMES:,} models were asked for; one more needs a new server", "model")
        return model

    def _announced_tokens(self, model: ChatModel | Fault, chat: ChatRequest, body: ChatBody) -> int:
        if self.gate.limits.tokens_per_minute is None:
            return 0
        read = prompt_tokens(chat) if isinstance(model, Fault) else model.bound(chat).input_tokens
        return read + (body.limit or 0)

    def _denied(self, name: str, denied: Denied) -> Script:
        kind = "tokens" if denied.kind == "tokens" else "requests"
        headers = denied.headers | self.gate.headers(self.clock())
        text = f"rate limit reached for {name}: {denied.text}"
        return refusal(429, text, kind=kind, code="rate_limit_exceeded", headers=headers)

    def _fault(
        self, fault: Fault, body: ChatBody, chat: ChatRequest, turn: int, request: Request, account: Account
    ) -> Played:
        assert self.offer.say is not None, "no fault is found without it"
        self.served += 1
        host = request.headers.get("host", "")
        played = fault.answer(body, chat, turn=turn, number=self.served, host=host, say=self.offer.say)
        if played.usage is None:
            account.refused += 1
        else:
            account.bill(played.usage)
        return played

    async def _model_answer(self, model: ChatModel, body: ChatBody, chat: ChatRequest, account: Account) -> Played:
        try:
            # What it plays may be a solver or a script; a client may ask all the same whether the limit is obeyed.
            reply = counted(chat) if chat.messages == PROBE.messages else await model.complete(chat)
        except ModelRefused as error:
            account.refused += 1
            return Played(refusal(error.status, error.text), None)
        except ModelError as error:
            account.failed += 1
            return Played(_failed(error), None)
        account.bill(reply.usage)
        self.served += 1
        if not body.stream:
            return Played(document(200, completion(self.served, body.model, reply)), reply.usage)
        # All of it is there at once, so it leaves at once; what comes slowly is the fault mode `slow-stream`.
        events = [*map(frame, chunks(self.served, body.model, reply, body.include_usage)), DONE]
        return Played(Script(200, (b"".join(events),), media=EVENTS), reply.usage)


def refused(error: RequestRefused) -> Script:
    """The answer to a request that reaches no model."""
    return refusal(error.status, error.text, param=error.param, code=error.code)


def _room(model: ChatModel | Fault, body: ChatBody) -> int:
    """The limit on the reply: the smaller one the request names, or what the window leaves."""
    if body.limit is not None:
        return body.limit
    window_tokens = WINDOW_TOKENS if isinstance(model, Fault) else model.window_tokens
    room = window_tokens - prompt_tokens(body.chat_request(0))
    if room < 1:
        text = f"the prompt leaves no room for a reply in a window of {window_tokens} tokens"
        raise RequestRefused(400, text, "messages", "context_length_exceeded")
    return room


def _failed(error: ModelError) -> Script:
    headers = {} if error.retry_after_s is None else {"retry-after": f"{error.retry_after_s:g}"}
    return refusal(_STATUS.get(type(error), 500), str(error), headers=headers)
