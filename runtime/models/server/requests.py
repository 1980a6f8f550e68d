"""Owns the requests that the server takes: what clients write, checked, and its reading as a ChatRequest.

What would change an answer and is not done here is refused rather than ignored. Settings of sampling are accepted and
have no effect: the models behind the server draw from the seed alone. A request for logprobs goes to the model like the rest;
where it gives none, as all simulated and recorded ones, the answer says null.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import ClientDisconnect, Request

from runtime.messages import KINDS
from runtime.models.base import ChatMessage, ChatRequest, ToolCall, ToolSpec

BODY_LIMIT_BYTES = 8 * 1024 * 1024
"""A larger request is refused while it is still being read."""

WITHOUT_EFFECT = frozenset(
    {
        "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty",
        "reasoning_effort", "verbosity", "user", "safety_identifier", "metadata", "store", "service_tier",
        "prompt_cache_key", "parallel_tool_calls",
    }
)  # fmt: skip
"""Fields of a request that are read over."""

_Limit = Annotated[int, Field(ge=1)] | None
_Body = TypeVar("_Body", bound=BaseModel)


class RequestRefused(Exception):
    """A request answered with a status of 400 to 499 before any model saw it."""

    def __init__(self, status: int, text: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(status, text, param, code)
        self.status, self.text, self.param, self.code = status, text, param, code


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

    @model_validator(mode="after")
    def _check(self) -> "_Message":
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a message of role tool names its call in tool_call_id")
        if self.content is None and not self.tool_calls:
            raise ValueError("a message has content, or is of role assistant and has tool_calls")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only a message of role assistant has tool_calls")
        return self

    def chat_message(self) -> ChatMessage:
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())
        calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in self.tool_calls or ())
        role = "system" if self.role == "developer" else self.role
        return ChatMessage(role, content, calls, self.tool_call_id or "")


class _Function(_Strict):
    name: Annotated[str, Field(min_length=1)]
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

    @model_validator(mode="after")
    def _check(self) -> "_Format":
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("json_schema is missing: its name and its schema")
        return self


class _StreamOptions(_Strict):
    include_usage: bool = False


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
    tool_choice: Literal["auto", "none"] | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stop: None = None

    @model_validator(mode="before")
    @classmethod
    def _read_over(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {field: value for field, value in data.items() if field not in WITHOUT_EFFECT}

    @model_validator(mode="after")
    def _check(self) -> "ChatBody":
        if self.n not in (None, 1):
            raise ValueError("n must be 1: ask once for each answer, with a seed of its own")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is allowed with stream=true only")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is allowed with logprobs=true only")
        known: set[str] = set()
        for message in self.messages:
            known.update(call.id for call in message.tool_calls or ())
            if message.role == "tool" and message.tool_call_id not in known:
                raise ValueError(
                    f"no message before it asked for the call {message.tool_call_id!r} that a tool answers"
                )
        return self

    @property
    def limit(self) -> int | None:
        """The smaller of the two limits on the reply, in tokens; None when neither is given."""
        given = [limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None]
        return min(given, default=None)

    @property
    def include_usage(self) -> bool:
        """Whether a stream is to end with a chunk that holds the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def chat_request(self, max_tokens: int) -> ChatRequest:
        """Read the body as the request a model gets in process."""
        shape = self.response_format.json_schema if self.response_format else None
        tools = None if self.tool_choice == "none" else self.tools
        return ChatRequest(
            tuple(message.chat_message() for message in self.messages),
            max_tokens,
            self.seed or 0,
            shape.name if shape and shape.name in KINDS else "",
            _tool_specs(tools),
            max(1, self.top_logprobs or 0) if self.logprobs else 0,
        )


class TokenizeBody(_Strict):
    """The body of POST /tokenize, as vLLM has it: a conversation or a text. Other fields are read over."""

    model: str
    messages: list[_Message] | None = Field(default=None, min_length=1, max_length=10_000)
    prompt: str | None = None
    tools: list[_Tool] | None = None

    @model_validator(mode="after")
    def _check(self) -> "TokenizeBody":
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("give either messages or prompt")
        return self

    def chat_request(self) -> ChatRequest:
        """The conversation as a model would get it, with room for one token."""
        messages = tuple(message.chat_message() for message in self.messages or ())
        return ChatRequest(messages, 1, tools=_tool_specs(self.tools))


async def read_body(request: Request, form: type[_Body]) -> _Body:
    """Read and check the body of a request.

    Raises:
        RequestRefused: another content type than JSON (415), too large (413), no JSON or another shape (400), or the client
            left before all of it was here (499, which nobody gets to see).
    """
    # A web page may send other content types to this machine without asking; with this one its browser asks first.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestRefused(415, "the content type must be application/json")
    raw = bytearray()
    try:
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > BODY_LIMIT_BYTES:
                raise RequestRefused(413, f"the request is larger than {BODY_LIMIT_BYTES:,} bytes")
    except ClientDisconnect:
        raise RequestRefused(499, "the client left") from None
    try:
        return form.model_validate_json(bytes(raw))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or None
        said = first["msg"].removeprefix("Value error, ")
        raise RequestRefused(400, f"{where}: {said}" if where else said, where) from None


def _tool_specs(tools: list[_Tool] | None) -> tuple[ToolSpec, ...]:
    return tuple(ToolSpec(t.function.name, t.function.description, t.function.parameters) for t in tools or ())
