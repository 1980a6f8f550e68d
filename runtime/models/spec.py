"""Owns ModelSpec: what there is to know about a model behind an endpoint, checked, and without its key."""

import os
import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from runtime.errors import ConfigError
from runtime.models.origins import counts_thoughts_in_total_only, forbidden, is_openai
from runtime.usage import Price, Tier, TieredPrice, pico_per_token, pico_usd

_VARIABLE = re.compile(r"^[A-Z_][A-Z0-9_]{0,63}$")

Usd = float | str | Decimal | None
LimitField = Literal["max_tokens", "max_completion_tokens"]


class _Rates(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    @field_validator("input_usd", "output_usd", "cached_usd", "cache_write_usd", check_fields=False)
    @classmethod
    def _check_usd(cls, value: Usd) -> Usd:
        if value is not None:
            try:
                pico_usd(value)
            except ConfigError:
                raise ValueError("must be an amount of dollars, 0 or more") from None
        return value


class PriceTier(_Rates):
    """What all tokens of a call cost whose prompt is longer than others, in dollars per million."""

    above_tokens: int = Field(ge=1)
    """The tier holds for prompts of more tokens than this."""
    input_usd: float | str | Decimal
    output_usd: float | str | Decimal
    cached_usd: Usd = None
    cache_write_usd: Usd = None


class ModelSpec(_Rates):
    """A model behind an endpoint that speaks the chat-completions interface.

    Raises:
        ConfigError: a field that is missing, unknown or out of range; the text names it and never shows its value,
            which might be a key in the wrong place.
    """

    endpoint: str
    """Base URL, up to and without `/chat/completions`: `http://127.0.0.1:8000/v1`."""
    model: str = Field(min_length=1)
    """What the endpoint calls the model."""
    key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable with the key; "" for an endpoint that wants none. It may be left out for OpenAI's
    own endpoint only, so that no key goes to somebody it was not made for."""
    input_usd: Usd = None
    """Dollars per million prompt tokens. Neither this nor output_usd given: the catalogue looks both up."""
    output_usd: Usd = None
    """Dollars per million generated tokens."""
    cached_usd: Usd = None
    """Dollars per million prompt tokens read from the endpoint's cache; None: like other prompt tokens."""
    cache_write_usd: Usd = None
    """Dollars per million prompt tokens written into the endpoint's cache; None: like other prompt tokens."""
    # Not strict, here and below: TOML has lists and no tuples.
    tiers: Annotated[tuple[PriceTier, ...], Field(strict=False)] = ()
    """Other prices for long prompts, by rising length."""
    priced_on: Annotated[date, Field(strict=False)] | None = None
    """The day on which these prices were read off; goes with them into the record of a run."""
    window_tokens: int | None = Field(default=None, ge=1)
    """Prompt and reply together; None: looked up by the catalogue, and 8,192 where that fails."""
    timeout_s: float = Field(default=120.0, gt=0, allow_inf_nan=False)
    """Total deadline of one call, from its first byte out to the last byte in."""
    max_parallel: int = Field(default=64, ge=1)
    """Calls in flight at once, from all hosts together. Fewer where the endpoint turns out to take fewer."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Calls started in any minute, from all hosts together; None: found out where there is such a limit."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Tokens of prompts and replies in any minute. A call counts with its upper bound until it is answered."""
    limit_field: Literal["", "max_tokens", "max_completion_tokens", "window"] = ""
    """The field in which this endpoint obeys the limit on generated tokens; a stated one is believed without a probe.
    "window": it obeys neither, and each call holds the whole declared window. "": to be found out (`runtime.models.probe`)."""
    stream: bool = False
    """Whether replies are asked for piece by piece. They are used whole, so that a stream has one advantage: an endpoint
    that runs on past the limit is cut off. Against it: some endpoints tell no usage in streams or drop them silently,
    while all we know tell it in a plain reply; hence the default."""
    stream_usage: bool = True
    """Whether a stream is asked for its usage by `stream_options`; False for endpoints that refuse the field."""
    send_schema: bool = True
    """Whether the shape of a typed reply is sent as response_format; False for endpoints that fail on it."""
    seed_bits: int = Field(default=63, ge=0, le=63)
    """How many bits of a seed the endpoint takes, from the lowest; 0 where it refuses the field."""
    fixed_usage: Annotated[tuple[int, int], Field(strict=False)] | None = None
    """Input and output tokens of every call, where the endpoint answers from a script (`ostrom serve --scripted`). The
    bound is then exact and the reply cannot be shrunk. None for every endpoint with a language model behind it."""
    tokenizer: str = ""
    """How a prompt is bounded. "": by its bytes, which holds for every model. "endpoint": by the endpoint's own
    `/tokenize` route (vLLM, llama.cpp). A path to a `tokenizer.json`: by the package `tokenizers`, on every machine that
    runs agents. "bytes4": by `runtime.models.base.prompt_tokens`, exact for what `ostrom serve` simulates."""

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        url = urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname or url.port == 0 or set(value) & set(" \t\r\n"):
            raise ValueError("give a base URL such as http://127.0.0.1:8000/v1")
        if url.username is not None or url.password is not None or url.query or url.fragment:
            raise ValueError("a base URL has no user, password, query or fragment; keys go by key_env")
        if (why := forbidden(url.hostname)) is not None:
            raise ValueError(why)
        return value.rstrip("/")

    @field_validator("key_env")
    @classmethod
    def _check_key_env(cls, value: str) -> str:
        # Capitals only: a key pasted here by mistake is refused at once instead of being printed later as a name.
        if value and not _VARIABLE.match(value):
            raise ValueError("give the NAME of an environment variable, in capitals; the key itself stays in it")
        return value

    @field_validator("tokenizer")
    @classmethod
    def _check_tokenizer(cls, value: str) -> str:
        if value not in ("", "bytes4", "endpoint") and not value.endswith(".json"):
            raise ValueError('give "", "endpoint", "bytes4" or the path of a tokenizer.json')
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if "key_env" not in self.model_fields_set and not is_openai(self.endpoint):
            raise ValueError(
                "key_env: this endpoint is not OpenAI's, so say whose key it gets: the NAME of the environment variable"
                ' that holds it, or key_env = "" if it wants none'
            )
        more = self.cached_usd is not None or self.cache_write_usd is not None or self.tiers
        if (self.input_usd is None) != (self.output_usd is None) or (more and self.input_usd is None):
            raise ValueError(
                "input_usd and output_usd go together, and cached_usd, cache_write_usd, tiers only with them"
            )
        if any(low.above_tokens >= high.above_tokens for low, high in pairwise(self.tiers)):
            raise ValueError("tiers: above_tokens must rise from tier to tier")
        if self.limit_field == "window" and self.window_tokens is None:
            raise ValueError('limit_field = "window" holds the whole window for each call, so declare window_tokens')
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _one_error(cls, data: Any, handler: Callable[[Any], Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            text = "; ".join(_complaint(cls, item) for item in error.errors(include_url=False, include_input=False))
        raise ConfigError(f"ModelSpec: {text}")

    @property
    def price(self) -> Price | None:
        """The declared price; None when no price is declared."""
        if self.input_usd is None or self.output_usd is None:
            return None
        if self.cache_write_usd is None and not self.tiers:
            return Price.per_million(self.input_usd, self.output_usd, self.cached_usd)
        base = _tier(0, self.input_usd, self.output_usd, self)
        return TieredPrice.of([base, *(_tier(t.above_tokens, t.input_usd, t.output_usd, t) for t in self.tiers)])

    @property
    def sent_limit(self) -> LimitField | None:
        """The field in which the limit on generated tokens is sent; None where none is obeyed."""
        if self.limit_field == "window":
            return None
        # OpenAI's newer models refuse max_tokens, and its older ones take both.
        return self.limit_field or ("max_completion_tokens" if is_openai(self.endpoint) else "max_tokens")

    @property
    def unproved(self) -> bool:
        """Whether nobody knows yet if the endpoint obeys the limit that is sent."""
        known = self.limit_field or self.fixed_usage is not None or self.tokenizer == "bytes4"
        return not (known or is_openai(self.endpoint))

    @property
    def thoughts_in_total_only(self) -> bool:
        """Whether the usage it tells may count thoughts in `total_tokens` alone."""
        return counts_thoughts_in_total_only(self.endpoint, self.model)

    def missing_key(self) -> str | None:
        """The variable that should hold the key and is not set in this process; None when nothing is missing."""
        return self.key_env if self.key_env and not os.environ.get(self.key_env) else None


def _tier(
    above_tokens: int,
    input_usd: float | str | Decimal,
    output_usd: float | str | Decimal,
    rates: "ModelSpec | PriceTier",
) -> Tier:
    more = [None if usd is None else pico_per_token(usd) for usd in (rates.cached_usd, rates.cache_write_usd)]
    return Tier(above_tokens, pico_per_token(input_usd), pico_per_token(output_usd), *more)


def _complaint(cls: type[BaseModel], item: Any) -> str:
    where = ".".join(map(str, item["loc"]))
    if item["type"] == "extra_forbidden":
        kind = PriceTier if item["loc"][0] == "tiers" and len(item["loc"]) > 1 else cls
        return f"{where}: no such field; there are {', '.join(kind.model_fields)}"
    said = re.sub("^Value error, ", "", item["msg"])
    return f"{where}: {said}" if where else said
