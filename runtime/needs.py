"""Owns what a model call needs of a budget at most: its bound, as a line in the reply limit."""

from typing import cast, get_args

from runtime.bank.book import Need
from runtime.bank.vector import Vector, pack
from runtime.models.base import ChatModel, ChatRequest
from runtime.models.probe import PROBE, Unproved
from runtime.models.spec import LimitField
from runtime.usage import Price, Usage


def chat_need(model: ChatModel, request: ChatRequest, least: int) -> Need:
    """The upper bound of a model call, as a line in its reply limit."""
    bound = model.bound(request)
    price = (model.price or Price()).at(bound.input_tokens)
    fixed = pack((bound.input_tokens, price.ceiling(Usage(bound.input_tokens, 0)), 1, 0))
    most = bound.output_tokens
    return Need(fixed, pack((1, price.output_pico)), most, min(most, least) if model.shrinkable else most)


def asking_need(model: ChatModel) -> Vector:
    """What is held at least while an endpoint is asked which limit it obeys; nothing where that is known."""
    if not getattr(model, "unproved", False):
        return 0
    need = chat_need(cast("Unproved", model).probe(get_args(LimitField)[0]), PROBE, 0)
    return need.at(need.most)


async def measure(model: ChatModel, request: ChatRequest) -> None:
    """Let an endpoint that can count the prompt do so, at no cost, so that the bound on it is tight from now on."""
    count = getattr(model, "measure", None)
    if count is not None:
        await count(request)
