"""Owns what fault modes refuse, what they really generate, and what usage they report for it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from runtime.models.base import ChatReply, ChatRequest, FinishReason, ToolCall, estimate_tokens, prompt_tokens
from runtime.models.server.replies import Document
from runtime.models.server.requests import ChatBody
from runtime.models.server.script import Script, refusal
from runtime.usage import Usage

TOKEN = " the"
"""One token by the rule all models here count by: four bytes."""
MOST_REPEATED = 4_096


@dataclass(frozen=True, slots=True)
class Ask:
    """All that a fault mode knows about the request it answers."""

    argument: str
    chat: ChatRequest
    body: ChatBody
    turn: int
    """How many requests for the same name came before."""
    host: str
    """Where the client believes to be."""
    say: Callable[[ChatRequest], str]

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream."""
        return bool(self.body.stream)

    def count(self, default: int = 0) -> int:
        """The argument as a whole number."""
        return int(self.argument) if self.argument else default


Refuse = Callable[[Ask], Script | None]
Said = Callable[[Ask], ChatReply]
Report = Callable[[Document, Ask], object]
"""From the true usage to the one reported; None reports null."""


# ---- refused


def status(code: int, text: str, kind: str = "", error_code: str | None = None, **headers: str) -> Refuse:
    """An error status. In the values of the headers, `{}` is the argument; names are written with underscores."""

    def refuse(ask: Ask) -> Script:
        told = {name.replace("_", "-"): value.replace("{}", ask.argument) for name, value in headers.items()}
        return refusal(code, text, kind=kind, code=error_code, headers=told)

    return refuse


def retry_at_date(ask: Ask) -> Script:
    """A 429 that names an hour instead of a number of seconds."""
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=float(ask.argument)), usegmt=True)
    return refusal(429, "come later", kind="requests", code="rate_limit_exceeded", headers={"retry-after": until})


def first_times(ask: Ask) -> Script | None:
    """A 503 as often as the argument says."""
    return refusal(503, f"not yet: {ask.turn + 1} of {ask.count()}") if ask.turn < ask.count() else None


def redirect(ask: Ask) -> Script:
    """A 307 to another host: the argument, or the trap of this server under the other name of this machine."""
    name, colon, port = ask.host.rpartition(":")
    other = "127.0.0.1" if name == "localhost" else "localhost"
    place = f"{ask.argument}/v1/chat/completions" if ask.argument else f"{other}{colon}{port}/ostrom/trap"
    return Script(307, (b"",), headers={"location": f"http://{place}"})


# ---- said: what is really generated, and hence billed


def cut(ask: Ask, text: str, limit: int | None, calls: tuple[ToolCall, ...] = ()) -> ChatReply:
    """A reply cut at a limit in tokens, with its true usage."""
    written = estimate_tokens(text) + sum(estimate_tokens(call.arguments) for call in calls)
    finish: FinishReason = "tool_calls" if calls else "stop"
    if limit is not None and written > limit:
        text, calls, finish, written = text.encode()[: 4 * limit].decode(errors="ignore"), (), "length", limit
    return ChatReply(text, Usage(prompt_tokens(ask.chat), written), finish, calls)


def natural(ask: Ask) -> ChatReply:
    """The reply of an endpoint without a fault."""
    return cut(ask, ask.say(ask.chat), ask.chat.max_tokens)


def saying(text: str) -> Said:
    """A reply with this text."""
    return lambda ask: cut(ask, text, ask.chat.max_tokens)


def words(ask: Ask) -> ChatReply:
    """As many words of one token each as the argument says, within the limit."""
    return cut(ask, TOKEN * ask.count(), ask.chat.max_tokens)


def one_token_repeated(ask: Ask) -> ChatReply:
    """The same token up to the limit."""
    n = min(ask.chat.max_tokens, MOST_REPEATED)
    return ChatReply(TOKEN * n, Usage(prompt_tokens(ask.chat), n), "length")


def beyond_the_limit(ask: Ask) -> ChatReply:
    """As many tokens as the argument says, twice the limit without one, whatever the limit is."""
    return cut(ask, TOKEN * ask.count(2 * min(ask.chat.max_tokens, MOST_REPEATED)), None)


def under(field: str) -> Said:
    """A long reply that heeds this one of the two fields for a limit."""
    return lambda ask: cut(ask, TOKEN * ask.count(), getattr(ask.body, field))


def hidden_prompt(ask: Ask) -> ChatReply:
    """A prompt into which the endpoint has put more than the client sent."""
    reply = natural(ask)
    prompt = prompt_tokens(ask.chat) + ask.count()
    return ChatReply(reply.text, Usage(prompt, reply.usage.output_tokens if reply.usage else 0), reply.finish)


def only_thought(ask: Ask) -> ChatReply:
    """All of the limit spent on thinking, and nothing said."""
    n = min(ask.chat.max_tokens, MOST_REPEATED)
    return ChatReply("", Usage(prompt_tokens(ask.chat), n, reasoning_tokens=n), "length")


def calling(arguments: str, name: str = "") -> Said:
    """A call of a tool: the first one offered, where no name is given."""

    def said(ask: Ask) -> ChatReply:
        offered = ask.chat.tools[0].name if ask.chat.tools else "search"
        return cut(ask, "", ask.chat.max_tokens, (ToolCall("call_1", name or offered, arguments),))

    return said


# ---- reported: a usage that is not the true one


def reporting(**figures: object) -> Report:
    """The true usage with other figures; None takes one away."""
    return lambda usage, ask: {k: v for k, v in (usage | figures).items() if v is not None}


def no_figures(usage: Document, ask: Ask) -> None:
    """A usage that is null."""


def claiming(n_tokens: int | None) -> Report:
    """Another count of reply tokens, with a total to match; None takes the argument, or twice the limit without one."""

    def report(usage: Document, ask: Ask) -> Document:
        n = ask.count(2 * ask.chat.max_tokens) if n_tokens is None else n_tokens
        return usage | {"completion_tokens": n, "total_tokens": usage["prompt_tokens"] + n}

    return report


def off_by_one(usage: Document, ask: Ask) -> Document:
    """A total that is not the sum."""
    return usage | {"total_tokens": usage["total_tokens"] + 1}


def cached_beyond(usage: Document, ask: Ask) -> Document:
    """More cached tokens than the prompt has."""
    return usage | {"prompt_tokens_details": {"cached_tokens": usage["prompt_tokens"] + 1}}
