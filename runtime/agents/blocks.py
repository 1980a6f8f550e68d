"""Owns the delimited blocks of a prompt: how content is put into them, and how it is read out again.

Content is data. It stands between tags and apart from the role's words, so wording may change without a reader of the
blocks noticing, and text that came from a model or a tool cannot close its own block: `</` inside content becomes `< /`.
The simulated models read prompts only through `read_blocks`.
"""

import re
from typing import NamedTuple

from runtime.messages import Delivered, Part, Plan, Report, Shortened, Verdict

# The body is a line, and then all up to a line that is the closing tag, its last line break included. Only `<` is looked at,
# and nothing is tried twice: ten times as fast as a lazy `.*?` on a prompt of 2 KB.
_BLOCK = re.compile(
    r"^<(task|part|parts|mail|tool|bid|budget|summary)((?: [a-z]+=\"[^\"]*\")*)>\n"
    r"([^\n]*+\n(?:[^<]++|(?<!\n)<|<(?!/\1>$))*+)</\1>$",
    re.MULTILINE,
)
COVERS_TOKENS = 32
"""Length of a mail's note on what it covers, so that a prompt's length is bounded by its mails."""
_ATTRIBUTE = re.compile(r' ([a-z]+)="([^"]*)"')
_PLAIN = str.maketrans('"<>\n', "'() ")


class Block(NamedTuple):
    """One block of a prompt."""

    tag: str
    attributes: dict[str, str]
    body: str


def block(tag: str, body: str, **attributes: str) -> str:
    """Wrap content; quotes in attributes become apostrophes, and content cannot close the block."""
    named = "".join(f' {name}="{_plain(value)}"' for name, value in attributes.items())
    return f"<{tag}{named}>\n{_harmless(body)}\n</{tag}>"


def read_blocks(text: str) -> list[Block]:
    """All blocks of a prompt, in order. Nested blocks do not exist: an inner tag is content."""
    return [
        Block(tag, dict(_ATTRIBUTE.findall(named)) if named else {}, body[:-1])
        for tag, named, body in _BLOCK.findall(text)
    ]


def without(text: str, tag: str) -> str:
    """The text without its blocks of one tag, and without the line break that set each apart."""
    kept, end = "", 0
    for found in _BLOCK.finditer(text) if f"<{tag}" in text else ():
        if found[1] == tag:
            kept += text[end : found.start()].removesuffix("\n")
            end = found.end()
    rest = text[end:]
    return kept + rest if kept or not end else rest.removeprefix("\n")


def mail_block(mail: Delivered, tokens: int) -> str:
    """The block in which one mail appears in its receiver's prompt, its text clipped to `tokens` (four bytes each)."""
    said = mail.mail if isinstance(mail, Shortened) else mail
    named = {"from": mail.sender or "task", "kind": type(said).__name__.lower()}
    if isinstance(said, Report) and said.covers:
        named["covers"] = clip(said.covers, COVERS_TOKENS)
    return block("mail", clip(mail_text(mail), tokens), **named)


def mail_text(mail: Delivered) -> str:
    """What a mail says, as it stands in its block."""
    if isinstance(mail, Report):
        return f"Answer: {mail.answer}" + (f"\nWork: {mail.work}" if mail.work else "")
    if isinstance(mail, Verdict):
        return f"Answer: {mail.answer}\nDecision: {mail.decision}\nReason: {mail.reason}"
    if isinstance(mail, Plan):
        return "\n".join(f"{i}. {part.text}" for i, part in enumerate(mail.parts, 1))
    return mail.text


def too_long(mail: Delivered, tokens: int) -> bool:
    """Whether a mail is clipped where it may have so many tokens."""
    text = mail_text(mail)
    # A closing tag inside is one byte longer in its block.
    return len(text) > tokens and len(_harmless(text).encode()) > 4 * tokens


def shortened(mail: Delivered, text: str) -> Shortened:
    """The mail with another text in the place of its own."""
    return Shortened(mail.mail if isinstance(mail, Shortened) else mail, text)


def clip(text: str, tokens: int) -> str:
    """The first `tokens` tokens of a text as it stands in a block, four bytes a token; a clipped text ends in …"""
    text = _harmless(text)
    if len(text) <= tokens:
        return text
    raw = text.encode()
    return text if len(raw) <= 4 * tokens else raw[: 4 * tokens - 4].decode(errors="ignore") + "…"


def part_block(part: Part, tokens: int | None = None) -> str:
    """The block that names the part an agent is to work on, clipped to `tokens` where given."""
    return block("part", part.text if tokens is None else clip(part.text, tokens))


def _harmless(body: str) -> str:
    return body.replace("</", "< /")


def _plain(value: str) -> str:
    return value.translate(_PLAIN)
