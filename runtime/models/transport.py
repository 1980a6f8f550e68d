"""Owns what HTTP itself can bring beside a reply: bad statuses, connections that break, and a small question on the side."""

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import aiohttp
import anyio
import httpx2

BROKEN = (httpx2.HTTPError, aiohttp.ClientError)
"""What the transport raises once a request is out; some of it as the library below raised it."""
CONNECT_S = 3.0
"""How long is waited for a first connection; one that takes longer is left to the calls."""
_REFUSAL_BYTES = 65_536
_ANSWER_BYTES = 16 * 2**20


class Answered(Exception):
    """The endpoint answered with a bad status. Never leaves the client."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(status, headers, body)
        self.status, self.headers, self.body = status, headers, body


class NoRoute(Exception):
    """The endpoint has no such route. Never leaves the client."""


async def stop_bad_status(response: httpx2.Response) -> None:
    """Take a bad status before the SDK does, which would read its body to the end however long that is.

    Raises:
        Answered: the status is not one of success.
    """
    if response.is_success:
        return
    body = bytearray()
    try:
        async with aclosing(response.aiter_bytes()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) >= _REFUSAL_BYTES:
                    break
    except BROKEN:
        pass  # the status says enough
    raise Answered(response.status_code, dict(response.headers), bytes(body[:_REFUSAL_BYTES]))


async def ask(http: httpx2.AsyncClient, url: str, key: str, body: dict[str, Any]) -> bytes | None:
    """Post to a route beside the interface; None where no whole answer came.

    Raises:
        NoRoute: there is none.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    raw = bytearray()
    try:
        async with (
            http.stream("POST", url, json=body, headers=headers) as answer,
            aclosing(answer.aiter_bytes()) as chunks,
        ):
            async for chunk in chunks:
                raw += chunk
                if len(raw) > _ANSWER_BYTES:
                    return None
    except Answered as answered:
        missing = answered.status in (404, 405, 501)
    except BROKEN:
        return None
    else:
        return bytes(raw)
    if missing:
        raise NoRoute
    return None


async def no_way_to(http: httpx2.AsyncClient, url: str) -> str:
    """Why no connection to an address comes about: refused, no such host, no trust; "" where one does, or nobody can tell soon.

    Through the client that makes the calls, so that proxies and certificates are the same; without the key.
    """
    try:
        with anyio.move_on_after(CONNECT_S):
            async with http.stream("HEAD", url):
                pass
    except Answered:
        pass
    except BROKEN as error:
        if never_connected(error):
            root = root_of(error)
            return f"{type(root).__name__}: {root}"
    return ""


def never_connected(error: BaseException | None) -> bool:
    """Whether the transport failed to connect at all: refused, no such host, no trust in its certificate."""
    while error is not None:
        if isinstance(error, (aiohttp.ClientConnectorError, ConnectionRefusedError)):
            return True
        error = error.__cause__
    return False


def root_of(error: BaseException) -> BaseException:
    """The first cause of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
