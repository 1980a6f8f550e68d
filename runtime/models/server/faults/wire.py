"""Owns how fault modes change an answer on its way out: the documents in it, and the bytes sent."""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat

from runtime.models.server.faults.replies import Ask, claiming
from runtime.models.server.replies import DONE, Document, error_document, frame
from runtime.models.server.script import End, Step

MIB = 2**20

Edit = Callable[[list[Document], Ask], list[Document]]
"""Of the one document of a plain answer, or of the chunks of a stream."""
Send = Callable[[list[bytes], Ask], Iterable[Step]]
"""Of the one body of a plain answer, or of the events of a stream with [DONE] as the last."""


# ---- edited: documents of another shape


def each(**fields: object) -> Edit:
    """Other values of these fields in every document that has them."""
    return lambda docs, ask: [doc | {k: v for k, v in fields.items() if k in doc} for doc in docs]


def without(field: str) -> Edit:
    """No such field in any document; a chunk that is there for its usage alone goes with it."""
    return lambda docs, ask: [
        {k: v for k, v in doc.items() if k != field}
        for doc in docs
        if not (ask.streams and field == "usage" and not doc["choices"])
    ]


def choices_with(**fields: object) -> Edit:
    """Other values of these fields in every choice that has one that is not null."""

    def changed(choice: Document) -> Document:
        return choice | {k: v for k, v in fields.items() if choice.get(k) is not None}

    return lambda docs, ask: [doc | {"choices": [changed(choice) for choice in doc["choices"]]} for doc in docs]


def messages_with(**fields: object) -> Edit:
    """Other values of these fields in the message of a plain answer, or in the second chunk of a stream."""

    def edit(docs: list[Document], ask: Ask) -> list[Document]:
        key = "delta" if ask.streams else "message"
        choice = docs[place := min(1, len(docs) - 1)]["choices"][0]
        return [*docs[:place], docs[place] | {"choices": [choice | {key: choice[key] | fields}]}, *docs[place + 1 :]]

    return edit


def many_choices(docs: list[Document], ask: Ask) -> list[Document]:
    """The same choice as often as the argument says, in the first document."""
    choice = docs[0]["choices"][0]
    return [docs[0] | {"choices": [choice | {"index": i} for i in range(ask.count())]}, *docs[1:]]


def many_calls(docs: list[Document], ask: Ask) -> list[Document]:
    """The same call of a tool as often as the argument says."""
    calls = [
        {"index": i, "id": f"call_{i}", "type": "function", "function": {"name": "search", "arguments": "{}"}}
        for i in range(ask.count())
    ]
    return messages_with(tool_calls=calls)(choices_with(finish_reason="tool_calls")(docs, ask), ask)


def refused_in_words(docs: list[Document], ask: Ask) -> list[Document]:
    """No content, and the text in the field for refusals."""
    if not ask.streams:
        return messages_with(content=None, refusal=docs[0]["choices"][0]["message"]["content"])(docs, ask)
    return [
        doc | {"choices": [c | {"delta": _renamed(c["delta"], "content", "refusal")} for c in doc["choices"]]}
        for doc in docs
    ]


def usage_on_last_choice(docs: list[Document], ask: Ask) -> list[Document]:
    """In a stream the usage on the chunk that says why it ended, none in a chunk of its own."""
    if not (ask.streams and ask.body.include_usage):
        return docs
    *others, last, usage = docs
    return [*others, last | {"usage": usage["usage"]}]


def usage_everywhere(docs: list[Document], ask: Ask) -> list[Document]:
    """In a stream a usage on every chunk that grows to the true one."""
    if not (ask.streams and ask.body.include_usage):
        return docs
    true = docs[-1]["usage"]
    grown = [min(i, true["completion_tokens"]) for i in range(len(docs) - 1)]
    return [doc | {"usage": claiming(n)(true, ask)} for doc, n in zip(docs, grown, strict=False)] + docs[-1:]


def error_inside(docs: list[Document], ask: Ask) -> list[Document]:
    """An error with status 200; in a stream after the first piece."""
    return [*docs[: 2 * ask.streams], error_document(500, "the engine died")]


# ---- sent: other bytes, pauses, and no end


def first(end: End) -> Send:
    """Nothing at all, then this."""
    return lambda bodies, ask: [end]


def half_then(end: End | None) -> Send:
    """Half of the body, or a stream up to the middle of a line, then this; None is a proper end of the answer."""

    def send(bodies: list[bytes], ask: Ask) -> list[Step]:
        whole = bodies[:2] if ask.streams else []
        torn = bodies[len(whole)]
        return [*whole, torn[: len(torn) // 2], *([] if end is None else [end])]

    return send


def first_piece_only(bodies: list[bytes], ask: Ask) -> list[bytes]:
    """In a stream what stands before the second piece, and a proper end of the answer."""
    return bodies[:2] if ask.streams else bodies


def with_pauses(size: int | None) -> Send:
    """Pieces of so many bytes with pauses between them; None takes whole events of a stream, tenths of a body."""

    def send(bodies: list[bytes], ask: Ask) -> list[Step]:
        pause_s, found = float(ask.argument), list[Step]()
        for body in bodies:
            step = size or (len(body) if ask.streams else -(-len(body) // 10))
            for i in range(0, len(body), step):
                found += [body[i : i + step], pause_s]
        return found[:-1]

    return send


def late(bodies: list[bytes], ask: Ask) -> list[Step]:
    """A pause before anything is sent."""
    return [float(ask.argument), *bodies]


def signs_of_life(bodies: list[bytes], ask: Ask) -> Iterator[Step]:
    """Blanks, in a stream comments, and never an answer."""
    for sign in repeat(b": waiting\n\n" if ask.streams else b" "):
        yield sign
        yield float(ask.argument)


def body_of(raw: bytes) -> Send:
    """Another body; in a stream another event in place of the first piece."""
    return lambda bodies, ask: [bodies[0], b"data: " + raw + b"\n\n", *bodies[2:]] if ask.streams else [raw]


def page(raw: bytes) -> Send:
    """Another body, whether a stream was asked for or not."""
    return lambda bodies, ask: [raw]


def padded(bodies: list[bytes], ask: Ask) -> list[bytes]:
    """So many MiB in a field that nobody asked for."""
    filling = [b'"padding":"', *([b"x" * MIB] * ask.count()), b'"']
    if ask.streams:
        return [bodies[0], b'data: {"choices":[],', *filling, b"}\n\n", *bodies[1:]]
    return [b"{", *filling, b"," + bodies[0][1:]]


def not_a_number(bodies: list[bytes], ask: Ask) -> list[bytes]:
    """NaN for the count of reply tokens, which is no JSON."""
    return [re.sub(rb'("completion_tokens":)\d+', rb"\1NaN", body) for body in bodies]


def without_done(bodies: list[bytes], ask: Ask) -> list[bytes]:
    """A stream that ends without saying so."""
    return [body for body in bodies if body != DONE]


def odd_but_right(bodies: list[bytes], ask: Ask) -> list[bytes]:
    """A stream as the standard allows it: CRLF, comments, ids, no blank after the colon, torn at any byte."""
    if not ask.streams:
        return bodies
    odd = b"".join(
        b": hm\r\nid:7\r\n" + b.replace(b"data: ", b"data:", 1).replace(b"\n\n", b"\r\n\r\n") for b in bodies
    )
    return [odd[i : i + 7] for i in range(0, len(odd), 7)]


def error_event(bodies: list[bytes], ask: Ask) -> list[bytes]:
    """In a stream an event of the kind `error` after the first piece."""
    error = error_document(500, "the engine died")
    return [*bodies[:2], b"event: error\n" + frame(error)] if ask.streams else bodies


def _renamed(document: Document, old: str, new: str) -> Document:
    return {new if key == old else key: value for key, value in document.items()}
