"""Owns ModelSpec: what there is to know about a model behind an endpoint, checked, and without its key."""

import os
import re
from collections.abc import Callable
from decimal import Decimal
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from runtime.errors import ConfigError
from runtime.usage import Price, pico_usd

_VARIABLE = re.compile(r"^[A-Z_][A-Z0-9_]{0,63}$")

Usd = float | str | Decimal | None


class ModelSpec(BaseModel):
    """A model behind an endpoint that speaks the chat-completions interface.

    Raises:
        ConfigError: a field that is missing, unknown or out of range; the text names it and never shows its value,
            which might be a key in the wrong place.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    endpoint: str
    """Base URL, up to and without `/chat/completions`: `http://127.0.0.1:8000/v1`."""
    model: str = Field(min_length=1)
    """What the endpoint calls the model."""
    key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable with the key; "" for an endpoint that wants none."""
    input_usd: Usd = None
    """Dollars per million prompt tokens. Neither this nor output_usd given: the catalogue looks both up."""
    output_usd: Usd = None
    """Dollars per million generated tokens."""
    cached_usd: Usd = None
    """Dollars per million prompt tokens read from the endpoint's cache; None: like other prompt tokens."""
    window_tokens: int | None = Field(default=None, ge=1)
    """Prompt and reply together; None: looked up by the catalogue, and 8,192 where that fails."""
    timeout_s: float = Field(default=120.0, gt=0, allow_inf_nan=False)
    """Total deadline of one call, from its first byte out to the last byte in."""
    max_parallel: int = Field(default=64, ge=1)
    """Calls in flight at once, from one process."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The field in which this endpoint obeys the limit on generated tokens."""
    send_schema: bool = True
    """Whether the shape of a typed reply is sent as response_format; False for endpoints that fail on it."""
    # Not strict: TOML has lists and no tuples.
    fixed_usage: Annotated[tuple[int, int], Field(strict=False)] | None = None
    """Input and output tokens of every call, where the endpoint answers from a script (`ostrom serve --scripted`). The
    bound is then exact and the reply cannot be shrunk. None for every endpoint with a language model behind it."""
    tokenizer: Literal["bytes4"] | None = None
    """How the endpoint counts a prompt, where that is known. "bytes4": by `runtime.models.base.prompt_tokens`, as
    `ostrom serve` does for its simulated models; the bound on a prompt is then exact. None: bounded by bytes."""

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        url = urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname or url.port == 0 or set(value) & set(" \t\r\n"):
            raise ValueError("give a base URL such as http://127.0.0.1:8000/v1")
        if url.username is not None or url.password is not None or url.query or url.fragment:
            raise ValueError("a base URL has no user, password, query or fragment; keys go by key_env")
        if _link_local(url.hostname):
            raise ValueError("link-local addresses are refused: cloud machines keep their credentials there")
        return value.rstrip("/")

    @field_validator("key_env")
    @classmethod
    def _check_key_env(cls, value: str) -> str:
        # Capitals only: a key pasted here by mistake is refused at once instead of being printed later as a name.
        if value and not _VARIABLE.match(value):
            raise ValueError("give the NAME of an environment variable, in capitals; the key itself stays in it")
        return value

    @field_validator("input_usd", "output_usd", "cached_usd")
    @classmethod
    def _check_usd(cls, value: Usd) -> Usd:
        if value is not None:
            try:
                pico_usd(value)
            except ConfigError:
                raise ValueError("must be an amount of dollars, 0 or more") from None
        return value

    @model_validator(mode="after")
    def _check_prices(self) -> Self:
        if (self.input_usd is None) != (self.output_usd is None) or (self.cached_usd and self.input_usd is None):
            raise ValueError("input_usd and output_usd go together, and cached_usd only with them")
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
        return Price.per_million(self.input_usd, self.output_usd, self.cached_usd)

    def missing_key(self) -> str | None:
        """The variable that should hold the key and is not set in this process; None when nothing is missing."""
        return self.key_env if self.key_env and not os.environ.get(self.key_env) else None


def _complaint(cls: type[BaseModel], item: Any) -> str:
    where = ".".join(map(str, item["loc"])) or "fields"
    if item["type"] == "extra_forbidden":
        return f"{where}: no such field; there are {', '.join(cls.model_fields)}"
    return f"{where}: {re.sub('^Value error, ', '', item['msg'])}"


def _link_local(host: str) -> bool:
    try:
        return ip_address(host).is_link_local
    except ValueError:  # a name, not a number
        return False
