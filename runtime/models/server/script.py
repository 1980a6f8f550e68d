"""Owns how an answer goes over the wire: a status, headers and steps, among them pauses, silence and a dropped connection."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

import anyio
from starlette.types import Receive, Scope, Send

from runtime.errors import ConfigError
from runtime.models.server.replies import dump, error_document

TRANSPORT = "ostrom.transport"
"""Under this name the connection's transport stands in the state of a request; only our own listeners put it there."""
JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"


class End(Enum):
    """How an answer may stop without an end."""

    HANG = "hang"
    """Nothing more comes, and the connection stays open."""
    DROP = "drop"
    """The connection is closed."""


Step = bytes | float | End
"""Bytes to send, seconds to pause, or an end that is none. Headers go out with the first bytes."""


class Script:
    """An answer, step by step; an ASGI application that gives this one answer.

    Args:
        steps: a sequence is sent with its length, where it does not stop before its end; anything else in chunks.
        length: the Content-Length to announce, in bytes, where it is not the sum of the steps.
    """

    def __init__(
        self,
        status: int,
        steps: Iterable[Step],
        *,
        media: str = JSON,
        headers: Mapping[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        self.status = status
        self.steps = steps
        self.headers = {"content-type": media} | dict(headers or {})
        self.plain = isinstance(steps, Sequence) and all(isinstance(step, bytes) for step in steps)
        if length is None and self.plain and media != EVENTS:
            length = sum(len(step) for step in steps if isinstance(step, bytes))
        if length is not None:
            self.headers["content-length"] = str(length)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Give the answer; leave as soon as the client has left where it would take time."""
        if self.plain:
            await self._play(scope, send)
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_when_gone, receive, tasks.cancel_scope.cancel)
            await self._play(scope, send)
            tasks.cancel_scope.cancel()

    async def _play(self, scope: Scope, send: Send) -> None:
        started, held = False, b""
        for step in self.steps:
            if isinstance(step, bytes):
                if not started:
                    started = True
                    await self._start(send)
                else:
                    await send({"type": "http.response.body", "body": held, "more_body": True})
                # One step is kept back, so that the last one and the end of the answer leave together: whoever has read
                # the last byte finds all books closed and places free.
                held = step
                continue
            if started and held:
                await send({"type": "http.response.body", "body": held, "more_body": True})
                held = b""
            if isinstance(step, End):
                await _stop(step, scope)
            else:
                await anyio.sleep(step)
        if not started:
            await self._start(send)
        await send({"type": "http.response.body", "body": held, "more_body": False})

    async def _start(self, send: Send) -> None:
        headers = [(name.encode(), value.encode("latin-1")) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})


def document(status: int, body: object, headers: Mapping[str, str] | None = None) -> Script:
    """An answer that is one JSON document."""
    return Script(status, (dump(body),), headers=headers)


def refusal(
    status: int,
    text: str,
    *,
    kind: str = "",
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Script:
    """An answer that is an error in OpenAI's shape."""
    return document(status, error_document(status, text, kind, param, code), headers)


async def _when_gone(receive: Callable[[], Awaitable[Any]], then: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    then()


async def _stop(end: End, scope: Scope) -> None:
    """Hang until the client leaves; for a drop, make it leave."""
    if end is End.DROP:
        transport = scope.get("state", {}).get(TRANSPORT)
        if transport is None:
            raise ConfigError(
                "a connection can be dropped by `serve` and HostileEndpoint only, not under another server"
            )
        transport.close()
    await anyio.sleep_forever()
