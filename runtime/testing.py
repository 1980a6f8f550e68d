"""Owns what users need to test their own clients and teams: an endpoint that goes wrong on purpose and keeps an honest bill."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Self

import anyio
from anyio.from_thread import start_blocking_portal
from anyio.to_thread import run_sync

from runtime.errors import ConfigError
from runtime.models.base import ChatModel, ChatRequest
from runtime.models.server.accounts import Account
from runtime.models.server.app import Service
from runtime.models.server.faults import MODES, sayer
from runtime.models.server.limits import Limits
from runtime.models.server.listening import base_url, listen, served

__all__ = ["MODES", "Account", "HostileEndpoint", "Limits"]


class HostileEndpoint:
    """An endpoint on a free port of this machine, with a model `fault/<mode>` for each way to go wrong, and exact books.

    It is the server of `ostrom serve`; `MODES` lists the modes, among them `fault/ok`, which answers as it should, and
    `fault/flaky:3`, which does so from the fourth request on. It lives in a thread with an asyncio loop of its own, hence works
    in tests on asyncio or trio, and in plain ones with `with`; a test that blocks its own loop does not stop it. The end of
    the block cuts all connections, those of answers that never end included, and takes milliseconds. The books can be read
    afterwards, too.

    ```python
    async def test_my_client_gives_up_on_a_stalled_stream():
        async with HostileEndpoint() as endpoint:
            with pytest.raises(TimeoutError):
                await ask(endpoint.base_url, model="fault/stall", stream=True, timeout_s=0.2)
        assert endpoint.account("fault/stall").requests == 1  # no retry
        assert endpoint.account("fault/stall").tokens > 0  # and paid for
    ```

    Args:
        models: further models by the name a client asks for; they run in the endpoint's thread.
        answer: what is in the replies of fault modes that say something sensible: typed ones where they were asked for.
        say: gives the text of those replies from the request instead.
        limits: rate limits over all models together; None for none.
        max_connections: more at once are answered 503, and stand in no account.

    Raises:
        ConfigError: max_connections is below 1.
    """

    def __init__(
        self,
        models: Mapping[str, ChatModel] | None = None,
        *,
        answer: str = "42",
        say: Callable[[ChatRequest], str] | None = None,
        limits: Limits | None = None,
        max_connections: int = 1_000,
    ) -> None:
        if max_connections < 1:
            raise ConfigError(f"max_connections={max_connections}: give 1 or more")
        self._service = Service(models or {}, limits=limits, say=say or sayer(answer))
        # One more than uvicorn's limit says are let in before the connection that is asking is counted.
        self._most = max_connections + 1
        self._stack = ExitStack()
        self._base_url = ""

    @property
    def base_url(self) -> str:
        """What a client is told as its base URL, `/v1` included.

        Raises:
            ConfigError: the block has not begun.
        """
        if not self._base_url:
            raise ConfigError("a HostileEndpoint has an address inside of `async with` or `with` only")
        return self._base_url

    @property
    def rejected(self) -> int:
        """Requests for a completion that were refused for what stood in them; they are in no account."""
        return self._service.books.rejected

    @property
    def trapped(self) -> int:
        """How many requests followed a redirect."""
        return self._service.books.trapped

    @property
    def in_flight(self) -> int:
        """Requests for a completion that are being answered now."""
        return self._service.chat.gate.in_flight

    def account(self, model: str) -> Account:
        """What a model was asked and has billed, in tokens; a copy. The argument is part of the name of a fault mode."""
        return self._service.books.copy(model)

    def total(self) -> Account:
        """The sum over all models, in tokens."""
        return self._service.books.total()

    def __enter__(self) -> Self:
        if self._base_url:
            raise ConfigError("a HostileEndpoint is opened once; make a new one")
        with ExitStack() as stack:
            listener = stack.enter_context(listen("127.0.0.1", 0))
            self._base_url = base_url(listener)
            portal = stack.enter_context(start_blocking_portal("asyncio"))
            serving = served(self._service, listener, max_connections=self._most)
            stack.enter_context(portal.wrap_async_context_manager(serving))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    async def __aenter__(self) -> Self:
        return await run_sync(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await run_sync(partial(self.__exit__, kind, error, trace))
