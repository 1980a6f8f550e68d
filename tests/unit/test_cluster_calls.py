"""Calls to host actors that fail: who is replaced, and who lives on. No Ray runs here; its errors are made by hand."""

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from runtime.cluster import Cluster
from runtime.errors import HostLost


class Actor:
    """Stands for a handle: each call of its one method ends as it was told."""

    def __init__(self, error: Callable[[], Exception]) -> None:
        self._error = error
        self.work = self

    def remote(self) -> Any:
        async def fail() -> None:
            await anyio.lowlevel.checkpoint()
            raise self._error()

        return fail()


def bank_is_lost() -> Exception:
    """What a host answers that cannot reach the bank."""
    from ray.exceptions import RayTaskError

    return RayTaskError("work", "", HostLost("the bank", "no answer"))


def host_is_dead() -> Exception:
    from ray.exceptions import ActorDiedError

    return ActorDiedError(None)


@pytest.mark.parametrize(("error", "lost", "killed"), [(bank_is_lost, "the bank", 0), (host_is_dead, "host 0", 1)])
def test_only_a_host_that_is_lost_itself_is_replaced(
    error: Callable[[], Exception], lost: str, killed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    actors: list[Actor] = []
    ended: list[Actor] = []
    monkeypatch.setattr("ray.kill", ended.append)

    def make() -> Actor:
        actors.append(Actor(error))
        return actors[-1]

    async def call_twice_at_once() -> list[str]:
        cluster = Cluster(make, 1, bank=None)
        told: list[str] = []

        async def call() -> None:
            with pytest.raises(HostLost) as caught:
                await cluster.on_host(0, "work")
            told.append(caught.value.host)

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            group.start_soon(call)
        return told

    assert anyio.run(call_twice_at_once) == [lost, lost]
    assert ended == actors[:killed], "once, however many calls were on their way"
    assert len(actors) == 1 + killed
