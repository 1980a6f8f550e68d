"""Owns the actors of a Ray cluster: hosts, bank, and every remote await.

What is known about Ray 2.60 and decided here. A call is "maybe executed", never "exactly once"; so effects carry keys and
what is re-sent is harmless. A call is 1 ms of CPU, so runs travel in batches. `await ref` that is cancelled leaves the work
running, so it is cancelled by hand. Ray errors end here and become ours.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import count as count_from
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import anyio

from runtime.bank.client import BankClient, Parts, Verdicts
from runtime.bank.service import Bank
from runtime.errors import ConfigError, HostLost, InternalError, OrchestrationError
from runtime.host import Host
from runtime.joining import connect, disconnect
from runtime.models.catalog import Catalog
from runtime.models.endpoints.sharing import Share, Told
from runtime.models.governor import Hub
from runtime.spread import Equipment, Peers, told

_BANK = "ostrom-bank"
_HUB = "ostrom-endpoints"
"""Names of the actors for the bank and for the endpoints; they are private to the driver's own Ray namespace."""
_NO_MODULE = re.compile(r"ModuleNotFoundError.*?No module named '([^']+)'")


class Peer(NamedTuple):
    """A host, as another one reaches it."""

    actor: Any
    name: str

    @property
    def id(self) -> str:
        """Of the actor."""
        return str(self.actor._actor_id.hex())

    async def __call__(self, method: str, *args: object) -> Any:
        """Call a method of the host."""
        work = getattr(self.actor, method)
        if method == "in_virtual_time":
            # Nobody is billed for it, so where Ray starts the host again it may simply ask again.
            work = work.options(max_task_retries=-1)
        return await call(work.remote(*args), self.name)


class Cluster:
    """A Ray cluster, its hosts and its bank. Made by `Cluster.start`.

    Args:
        make_host: makes a host actor, with these options of Ray's beside its own.
        n_hosts: how many of them.
        bank: the actor that holds the store, on the driver's node.
        hub: the actor that divides endpoints among the hosts; None where there are no endpoints.
    """

    def __init__(self, make_host: Callable[..., Any], n_hosts: int, bank: Any, hub: Any = None) -> None:
        self._make_host = make_host
        self._hosts = [make_host() for _ in range(n_hosts)]
        self._bank = bank
        self._hub = hub  # an actor lives as long as somebody holds on to it
        self._stack = AsyncExitStack()
        self._equipped: dict[Equipment, Peer] = {}
        self.client = BankClient(self._write)
        self.spread = False
        """Whether hosts work for each other's seats: then each run brings its home the way to all of them."""

    @classmethod
    async def start(
        cls, address: str, n_hosts: int | None, catalog: Catalog, out: Path | None, modules: Sequence[ModuleType]
    ) -> "Cluster":
        """Start a local cluster ("local"), join one by address, or, in a Ray job, the one it runs in ("cluster").

        Raises:
            ConfigError: Ray is in use in this process already, or there is no such cluster.
            StoreError: the bank cannot open the store.
        """
        # Ray wants the main thread for its signal handlers, so this blocks the loop, for seconds, once.
        folder = connect(address, n_hosts)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(disconnect, folder)
            cluster = await cls._equip(n_hosts, catalog, out, modules)
            cluster._stack = undo.pop_all()
        return cluster

    @classmethod
    async def _equip(
        cls, n_hosts: int | None, catalog: Catalog, out: Path | None, modules: Sequence[ModuleType]
    ) -> "Cluster":
        import ray
        from ray import cloudpickle
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        for module in modules:
            cloudpickle.register_pickle_by_value(module)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # A synchronous actor runs one method at a time, as the store behind it asks.
        folder = None if out is None else Path(await anyio.Path(out).resolve())
        # One in memory would come back with nothing granted and nothing spent, so it does not come back.
        lives = 0 if folder is None else -1
        make_bank: Any = ray.remote(num_cpus=0, max_restarts=lives, max_task_retries=lives)(Bank)
        bank = make_bank.options(scheduling_strategy=here, name=_BANK).remote(folder)
        count = n_hosts or max(1, int(ray.cluster_resources().get("CPU", 1)))
        # Ray would restart a host only with arguments that still lie in the object store; we make a new one ourselves.
        make: Any = ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)(Host)
        if catalog.has_endpoints:
            # What it knows is learned again in a minute, so it comes back with nothing.
            make_hub: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(Hub)
            hub = make_hub.options(scheduling_strategy=here, name=_HUB).remote()
        else:
            hub = None
        names = count_from(0)

        def make_host(**options: Any) -> Any:
            return make.options(**options).remote(catalog, _write_to_bank, f"host-{next(names)}", _ask_hub)

        return cls(make_host, count, bank, hub)

    @property
    def n_hosts(self) -> int:
        """Number of hosts."""
        return len(self._hosts)

    async def on_host(self, i: int, method: str, *args: object) -> Any:
        """Call a method of host i.

        Raises:
            HostLost: the host died on the way. Another one stands in its place, and virtual runs may simply be sent again.
        """
        host, name = self._hosts[i], f"host {i}"
        if (self.spread or self._equipped) and method in ("run_virtual", "run_live"):
            hosts = self._hosts if self.spread else []
            peers = Peers(i, [Peer(other, f"host {j}") for j, other in enumerate(hosts)], self._equipped)
            args = (*args, peers)
        try:
            return await call(getattr(host, method).remote(*args), name)
        except HostLost as lost:
            # What a host that lives says it lost itself, such as the bank, is no reason to kill it. Several calls may be on
            # their way to one that is lost; the first to notice replaces it.
            if lost.host == name and self._hosts[i] is host:
                import ray

                # "Lost" may mean out of reach for now; one that lives on would pay for its runs a second time.
                ray.kill(host)
                self._hosts[i] = self._make_host()
            raise

    def provide(self, equipment: Collection[Equipment]) -> None:
        """See to a host for each of these.

        Raises:
            ConfigError: no node of the cluster has what one of them needs.
        """
        new = sorted(wanted for wanted in equipment if wanted not in self._equipped)
        for wanted in new:
            _check_there_is(wanted)
        for wanted in new:
            # Its arguments lie here, and as long as we live Ray can start it again.
            actor = self._make_host(**_options(wanted), max_restarts=-1)
            self._equipped[wanted] = Peer(actor, f"the host with {told(wanted)}")

    async def on_bank(self, method: str, *args: object) -> Any:
        """Call a method of the bank."""
        return await call(getattr(self._bank, method).remote(*args), "the bank")

    async def stop(self) -> None:
        """Close the store and leave the cluster; a local one ends with it."""
        # Also where the runtime is left by a deadline or a failing sibling: Ray must not stay behind.
        with anyio.CancelScope(shield=True):
            await call(self._bank.close.remote(), "the bank", quiet=True)
            await self._stack.aclose()

    async def _write(self, parts: Parts) -> Verdicts:
        verdicts: Verdicts = await call(self._bank.write.remote(parts), "the bank")
        return verdicts


def _check_there_is(wanted: Equipment) -> None:
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(has.get(name, 0) >= amount for name, amount in wanted) for has in nodes):
        known = sorted({name for has in nodes for name in has if not name.startswith(("node:", "object_store"))})
        raise ConfigError(
            f"a seat asks for a host with {told(wanted)}, and no node of the cluster has that; its nodes have "
            f"{', '.join(known)}"
        )


def _options(wanted: Equipment) -> dict[str, Any]:
    """Equipment as options of an actor."""
    own = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    options: dict[str, Any] = {own[name]: amount for name, amount in wanted if name in own}
    return options | {"resources": {name: amount for name, amount in wanted if name not in own}}


async def _write_to_bank(parts: Parts) -> Verdicts:
    """Deliver parts to the bank's actor from a host.

    By name: a handle among a host's constructor arguments would keep them in the object store, and a host whose arguments
    are lost there cannot be restarted.
    """
    verdicts: Verdicts = await call(_actor(_BANK, "the bank").write.remote(parts), "the bank")
    return verdicts


async def _ask_hub(host: str, tells: Mapping[str, Told]) -> dict[str, Share]:
    """Tell the actor for the endpoints what a host does there, and get its shares."""
    shares: dict[str, Share] = await call(_actor(_HUB, "the hub").exchange.remote(host, tells), "the hub")
    return shares


def _actor(name: str, what: str) -> Any:
    import ray

    try:
        return ray.get_actor(name)
    except ValueError:
        raise HostLost(what, "it is not there any more") from None


async def call(ref: Any, what: str, *, quiet: bool = False) -> Any:
    """Await a remote call: cancels the work when the waiter is cancelled, and turns Ray's errors into ours.

    Args:
        quiet: errors are swallowed; for farewells.

    Raises:
        HostLost: the actor died or cannot be reached.
        OrchestrationError: what the remote code raised, if it was one of ours; otherwise InternalError with its text.
    """
    import ray
    from ray import exceptions

    try:
        return await ref
    except anyio.get_cancelled_exc_class():
        # Not what that work has begun elsewhere: it is cancelled by hand over there, in its order, and what a cancelled run still
        # has to tell the bank arrives. Cancelled by Ray, a call to a host that lives would look like one that was lost.
        ray.cancel(ref, recursive=False)
        raise
    except exceptions.RayTaskError as error:
        if quiet:
            return None
        cause = error.cause
        if isinstance(cause, OrchestrationError):
            raise cause from None
        raise _told(what, str(cause)) or InternalError(f"{what}: {cause!r}") from error
    except exceptions.RayActorError as error:
        if quiet:
            return None
        text = str(error)
        if error.actor_init_failed:
            # It never began to live, and one put in its place would not either.
            raise _told(what, text) or InternalError(f"{what} cannot be started: {text}") from error
        raise HostLost(what, text.splitlines()[0]) from error
    except exceptions.RayError as error:
        if quiet:
            return None
        raise HostLost(what, f"{type(error).__name__}: {str(error).splitlines()[0]}") from error


def _told(what: str, text: str) -> ConfigError | None:
    """The cure, where Ray's text says that a module of the user is missing over there."""
    missing = _NO_MODULE.search(text)
    if missing is None:
        return None
    return ConfigError(
        f"{what} cannot import {missing[1]!r}, which something in the run or its models is defined in; "
        f"pass the module as Runtime(..., modules=[{missing[1]}]), or install it on every node"
    )
