"""Owns the question which limit an endpoint obeys: asked once, as attempts that are reserved and paid like any other.

A hold is worth as much as the limit behind it. Endpoints differ in the field they read it from, and some read none; those
cannot be used under a hard cap unless what they may consume is declared.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol, get_args

import anyio

from runtime.errors import BadModelReply, ConfigError, ModelError, ModelRefused
from runtime.models.base import ChatMessage, ChatModel, ChatReply, ChatRequest
from runtime.models.spec import LimitField, ModelSpec
from runtime.usage import Price, Usage

PROBE_TOKENS = 16
"""The limit that a probe sets."""
HELD_TOKENS = 1_024
"""What it holds, because an endpoint that ignores the limit writes on: the numbers asked for are fewer tokens than this."""
PROBE = ChatRequest(
    (ChatMessage("user", "Count from 1 to 100 in words, separated by commas. Give nothing but the words."),),
    PROBE_TOKENS,
)
"""What is asked: any model that can write fills the limit with it."""
_REFUSES_FIELD = (400, 422)
_USED_UP = "could not finish the message"


class Unproved(ChatModel, Protocol):
    """A model of which it may not be known yet which limit its endpoint obeys."""

    spec: ModelSpec
    proving: anyio.Lock
    """Held while somebody finds out."""

    @property
    def unproved(self) -> bool:
        """Whether it is still to be found out."""
        ...

    def probe(self, field: LimitField) -> "Probe":
        """The model with the limit in this field."""
        ...

    def learn(self, field: LimitField) -> None:
        """Use this field from now on."""
        ...

    async def complete_as(self, spec: ModelSpec, request: ChatRequest) -> ChatReply:
        """Answer as `complete` does, with this spec instead of its own."""
        ...


class Probe:
    """A model for one call: the endpoint of another model, with the limit in one field."""

    virtual = False
    shrinkable = False

    def __init__(self, model: "Unproved", field: LimitField) -> None:
        self.name = model.name
        self.field = field
        self.price: Price | None = model.price
        self.window_tokens = model.window_tokens
        self.spec = model.spec
        """Whose endpoint it asks, for the governor."""
        self._model = model

    def bound(self, request: ChatRequest) -> Usage:
        """The prompt's own bound, and far more than the limit, since nobody knows yet whether it is obeyed."""
        return Usage(self._model.bound(request).input_tokens, min(HELD_TOKENS, self.window_tokens))

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Ask, with the limit of a probe whatever the request says. Raises what `OpenAIModel.complete` raises."""
        # Not as a stream: it would be cut off where it passes the limit, and that is what is to be seen.
        spec = self._model.spec.model_copy(update={"limit_field": self.field, "stream": False})
        return await self._model.complete_as(spec, PROBE)


def obeys(outcome: ChatReply | ModelError) -> bool:
    """Whether the limit of a probe was obeyed: the reply was cut at it and did not pass it."""
    if isinstance(outcome, ModelError):
        # Nothing but thoughts fitted into the limit, which OpenAI calls an error.
        return isinstance(outcome, BadModelReply) and _USED_UP in outcome.reason.lower()
    return outcome.finish == "length" and (outcome.usage is None or outcome.usage.output_tokens <= PROBE_TOKENS)


async def prove(model: "Unproved", send: Callable[[ChatModel, ChatRequest], Awaitable[ChatReply]]) -> None:
    """Find out which limit the endpoint obeys, and have the model use it. Does nothing where that is known.

    Args:
        send: makes one ordinary attempt: it reserves, calls and settles.

    Raises:
        ConfigError: it obeys none; the text names the cures.
        BudgetExceeded: an attempt does not fit.
        ModelError: the endpoint could not be asked.
    """
    async with model.proving:
        if not model.unproved:
            return
        refusals: list[ModelRefused] = []
        for field in get_args(LimitField):
            try:
                outcome: ChatReply | ModelError = await send(model.probe(field), PROBE)
            except ModelRefused as error:
                if error.status not in _REFUSES_FIELD:
                    raise
                refusals.append(error)
                continue
            except BadModelReply as error:
                if not obeys(error):
                    raise
                outcome = error
            if obeys(outcome):
                model.learn(field)
                return
    if len(refusals) == len(get_args(LimitField)):
        for field, refusal in zip(get_args(LimitField), refusals, strict=True):
            if field in refusal.text:
                # It read the limit and would not go below what it has to say: refusing keeps the limit, too.
                model.learn(field)
                return
        raise refusals[0]  # it is not the field
    raise ConfigError(
        f"model {model.name!r}: its endpoint obeys neither max_tokens nor max_completion_tokens, so no cap can be kept."
        " Declare what a call consumes in ostrom.toml: fixed_usage = [input, output] where the answers come from a script, or"
        ' window_tokens with limit_field = "window", which holds the whole window for each call; or name limit_field, if it'
        " obeys one after all"
    )
