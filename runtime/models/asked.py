"""Owns what a recording keeps of a request or a tool call: its canonical form, its digest, and where two of them first differ.

The seed and the reply limit are left out, because they are decided anew, and so is the budget note, which tells how much is
left at that moment: two runs that ask for the same work ask the same.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from runtime.agents.blocks import without
from runtime.ids import address
from runtime.models.base import ChatMessage, ChatRequest

Asked = dict[str, Any]
"""A request or a tool call as plain JSON."""

_AROUND = 40
"""Characters shown on either side of the first difference."""


def asked_of(request: ChatRequest) -> Asked:
    """The canonical form of a request."""
    asked: Asked = {"messages": [said for m in request.messages if (said := _message(m)) is not None]}
    if request.reply:
        asked["reply"] = request.reply
    if request.tools:
        asked["tools"] = [tool._asdict() for tool in request.tools]
    if request.logprobs:
        asked["logprobs"] = request.logprobs
    return asked


def asked_of_tool(name: str, arguments: Mapping[str, Any]) -> Asked:
    """The canonical form of a tool call."""
    return {"tool": name, "arguments": dict(arguments)}


def digest_of(asked: Asked) -> str:
    """What tells one canonical form from another, 32 hex digits."""
    return address(asked)[:32]


def first_difference(recorded: Asked, now: Asked) -> str:
    """Where two canonical forms first differ, with both texts around the place; of two equal ones, that they are equal."""
    if "messages" not in recorded or "messages" not in now:
        return _as_a_whole(recorded, now)
    before, after = recorded["messages"], now["messages"]
    for i, (old, new) in enumerate(zip(before, after, strict=False), 1):
        where = f"message {i} of {len(after)} ({new['role']})"
        if old["role"] != new["role"]:
            return f"{where} was recorded as {old['role']}"
        if old["content"] != new["content"]:
            return f"{where} differs {first_text_difference(old['content'], new['content'])}"
        if old != new:
            return f"the tool calls of {where} differ {first_text_difference(_json(old), _json(new))}"
    if len(before) != len(after):
        message = max(before, after, key=len)[min(len(before), len(after))]
        return (
            f"recorded were {len(before)} messages, now there are {len(after)}; the first that only one of them has is of "
            f"the role {message['role']}: {_quoted(message['content'], 0)}"
        )
    for name, what in (("reply", "typed reply"), ("tools", "list of tools"), ("logprobs", "number of logprobs")):
        if recorded.get(name) != now.get(name):
            return f"the {what} differs {first_text_difference(_json(recorded.get(name)), _json(now.get(name)))}"
    return "there is no difference"


def _message(message: ChatMessage) -> Asked | None:
    """None for a message that is nothing but a budget note."""
    content = without(message.content, "budget")
    if message.content and not content and not message.tool_calls:
        return None
    said: Asked = {"role": message.role, "content": content}
    if message.tool_calls:
        said["tool_calls"] = [call._asdict() for call in message.tool_calls]
    if message.tool_call_id:
        said["tool_call_id"] = message.tool_call_id
    return said


def _as_a_whole(recorded: Asked, now: Asked) -> str:
    def named(asked: Asked) -> str:
        return f"a call of the tool {asked['tool']}" if "tool" in asked else "a request to a model"

    if recorded.get("tool") != now.get("tool"):
        return f"recorded was {named(recorded)}, and now it is {named(now)}"
    return f"the arguments of {now['tool']} differ {first_text_difference(_json(recorded['arguments']), _json(now['arguments']))}"


def first_text_difference(old: str, new: str) -> str:
    """The place where two texts first differ, with both around it."""
    at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    return f"at character {at + 1}: recorded {_quoted(old, at)}, now {_quoted(new, at)}"


def _quoted(text: str, at: int) -> str:
    """The text around a place, on one line and in quotes."""
    first, last = max(0, at - _AROUND), at + _AROUND
    before, after = "…" if first else "", "…" if last < len(text) else ""
    return f'"{before}{_json(text[first:last])[1:-1]}{after}"'


def _json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
