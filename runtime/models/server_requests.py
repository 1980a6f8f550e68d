"""Owns the requests that the server takes: chat completions as clients write them, and their reading as a ChatRequest.

What would change an answer and is not done here is refused rather than ignored. Settings of sampling are accepted and
have no effect: the models behind the server draw from the seed alone.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from runtime.messages import KINDS
from runtime.models.base import ChatMessage, ChatRequest, ToolCall, ToolSpec

WITHOUT_EFFECT = frozenset(
    {
        "temperature", "top_p", "presence_penalty", "frequency_penalty", "reasoning_effort", "verbosity",
        "user", "safety_identifier", "metadata", "store", "service_tier", "prompt_cache_key",
        "parallel_tool_calls", "stream_options",
    }
)  # fmt: skip
"""Fields of a request that are read over."""

_Limit = Annotated[int, Field(ge=1)] | None


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, hide_input_in_errors=True)


class _TextPart(_Strict):
    type: Literal["text"]
    text: str


class _CalledFunction(_Strict):
    name: str
    arguments: str


class _Call(_Strict):
    id: str
    type: Literal["function"] = "function"
    function: _CalledFunction


class _Message(_Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_TextPart] | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None

    def chat_message(self) -> ChatMessage:
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())
        calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in self.tool_calls or ())
        role = "system" if self.role == "developer" else self.role
        return ChatMessage(role, content, calls, self.tool_call_id or "")


class _Function(_Strict):
    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)


class _Tool(_Strict):
    type: Literal["function"]
    function: _Function


class _Shape(_Strict):
    name: str


class _Format(_Strict):
    type: Literal["text", "json_schema"]
    json_schema: _Shape | None = None


class ChatBody(_Strict):
    """The body of POST /v1/chat/completions."""

    model_config = ConfigDict(extra="forbid")

    model: str
    messages: list[_Message] = Field(min_length=1, max_length=10_000)
    max_tokens: _Limit = None
    max_completion_tokens: _Limit = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    response_format: _Format | None = None
    tools: list[_Tool] | None = None
    tool_choice: Literal["auto"] | None = None
    n: int | None = None
    stream: bool | None = None
    logprobs: Literal[False] | None = None
    stop: None = None

    @model_validator(mode="before")
    @classmethod
    def _read_over(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {field: value for field, value in data.items() if field not in WITHOUT_EFFECT}

    @model_validator(mode="after")
    def _check(self) -> "ChatBody":
        if self.stream:
            raise ValueError("stream=true is not offered here; ask without it")
        if self.n not in (None, 1):
            raise ValueError("n must be 1: ask once for each answer, with a seed of its own")
        return self

    @property
    def limit(self) -> int | None:
        """The smaller of the two limits on the reply; None when neither is given."""
        given = [limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None]
        return min(given, default=None)

    def chat_request(self, max_tokens: int) -> ChatRequest:
        """Read the body as the request a model gets in process."""
        shape = self.response_format.json_schema if self.response_format else None
        return ChatRequest(
            tuple(message.chat_message() for message in self.messages),
            max_tokens,
            self.seed or 0,
            shape.name if shape and shape.name in KINDS else "",
            tuple(ToolSpec(t.function.name, t.function.description, t.function.parameters) for t in self.tools or ()),
        )
