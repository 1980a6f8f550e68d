"""Owns how the application listens: until interrupted, or beside other work until its context is left."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

import anyio
import h11
import uvicorn
from anyio.lowlevel import checkpoint
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from runtime.errors import ConfigError
from runtime.models.base import ChatModel
from runtime.models.server.app import Service
from runtime.models.server.faults import sayer
from runtime.models.server.limits import Limits
from runtime.models.server.replies import dump, error_document
from runtime.models.server.script import JSON, TRANSPORT

STOP_S = 1
"""How long answers under way may take once the server is to end; silent ones would never."""


class Connection(H11Protocol):
    """A connection whose requests can close it, and that answers in JSON even what is no HTTP."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Hand the transport on to the requests to come."""
        super().connection_made(transport)
        # asyncio leaves Nagle's algorithm on for listeners that were opened without a protocol number, as
        # `socket.create_server` does: head and body of an answer would then be 40 ms apart.
        connected: socket.socket = transport.get_extra_info("socket")
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.app_state = {**self.app_state, TRANSPORT: transport}

    def data_received(self, data: bytes) -> None:
        """Date the answers to come: uvicorn does so from its main loop, which not all of our servers run."""
        self.server_state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be read as a request."""
        body = dump(error_document(400, msg))
        headers = [("content-type", JSON), ("content-length", str(len(body))), ("connection", "close")]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class _Server(uvicorn.Server):
    """Ends in time, however many answers never do."""

    def __init__(self, service: Service) -> None:
        super().__init__(_config(service, log_level="warning"))
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers under way come to their end, for a while."""
        asyncio.get_running_loop().call_later(STOP_S, _cut, self._service, self.server_state)
        await super().shutdown(sockets)


def serve(
    models: Mapping[str, ChatModel],
    host: str = "127.0.0.1",
    port: int = 8000,
    listening: Callable[[str], None] = lambda address: None,
    *,
    limits: Limits | None = None,
    faults: bool = False,
) -> None:
    """Serve until interrupted. There are no keys: whoever reaches the port may ask, so the default is this machine only.

    Args:
        port: 0 takes a free one.
        listening: told the base URL as soon as connections are accepted.
        limits: what is let through, all models together; None lets everything through.
        faults: whether there are models `fault/<mode>`, too, which go wrong on purpose.

    Raises:
        ConfigError: no models, or the address cannot be listened on.
    """
    service = Service(models, limits=limits, say=sayer("42") if faults else None)
    with listen(host, port) as listener:
        listening(base_url(listener))
        _Server(service).run(sockets=[listener])


@asynccontextmanager
async def served(service: Service, listener: socket.socket, *, max_connections: int) -> AsyncIterator[None]:
    """Serve on this event loop, which is one of asyncio. What is open at the end is cut.

    Args:
        max_connections: more at once are answered 503.
    """
    # Without a log_config: a library leaves the logging of the program it is used in alone.
    config = _config(service, limit_concurrency=max_connections, log_config=None)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    async with service.lifespan():
        server = await loop.create_server(
            lambda: Connection(config, state, {}, loop), sock=listener, backlog=config.backlog
        )
        try:
            yield
        finally:
            server.close()
            _cut(service, state)
            with anyio.move_on_after(STOP_S, shield=True):
                while state.tasks or state.connections:
                    await checkpoint()


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Raises:
        ConfigError: no such port, or the address cannot be listened on.
    """
    if not 0 <= port <= 65_535:
        raise ConfigError(f"cannot listen on {host} port {port}: ports are 0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host} port {port}: {error}") from None


def base_url(listener: socket.socket) -> str:
    """What a client of OpenAI's interface is told as its base URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


def _config(service: Service, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        service.app(),
        http=Connection,
        ws="none",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=STOP_S + 1,
        **more,
    )


def _cut(service: Service, state: ServerState) -> None:
    # First the connections: an answer that ends without its end is an error to uvicorn, unless nobody is there to get it.
    for connection in list(state.connections):
        connection.transport.abort()
    service.chat.stop()
