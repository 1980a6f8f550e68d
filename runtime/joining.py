"""Owns the start of a Ray cluster on this machine, and the way into one that runs already.

`ray.init()` without an address joins whatever cluster runs on the machine, so an address is always given. A cluster of our
own listens on loopback only, with a token, in a folder of its own that only this user can read.
"""

import os
import socket
import subprocess
import sys
from contextlib import ExitStack, closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio

from runtime.errors import ConfigError
from runtime.ids import PACKAGES
from runtime.scratch import Scratch

_KNOCK_S = 10.0
_ANSWER_S = 30.0
_ASK = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"


async def disconnect(folder: Scratch | None) -> None:
    """Leave; a local cluster ends, and its folder goes."""
    import ray

    await anyio.to_thread.run_sync(ray.shutdown)
    if folder is not None:
        folder.close()


def connect(address: str, n_hosts: int | None) -> Scratch | None:
    """Start or join; blocks for seconds. Returns the folder of a local cluster.

    Raises:
        ConfigError: Ray is in use in this process already, or there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == "local":
        _keep_to_loopback()
    import ray

    if ray.is_initialized():
        raise ConfigError(
            "Ray is already started in this process; leave that to Runtime(...), or call ray.shutdown() first"
        )
    settings: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
    if address == "local":
        # Ray opens its folder to everybody, so it gets one inside ours.
        with ExitStack() as undo:
            folder = undo.enter_context(closing(Scratch()))
            ray.init(address="local", _temp_dir=str(folder.path / "ray"), num_cpus=n_hosts, **settings)
            undo.pop_all()
        return folder
    if address == "cluster":
        address = os.environ.get("RAY_ADDRESS", "")
        if not address:
            raise ConfigError(
                'Runtime("cluster") joins the cluster of the Ray job it runs in, and this process is in none (RAY_ADDRESS is '
                'not set); take Runtime("local"), or give the head\'s address such as Runtime("head:6379")'
            )
    _check_reachable(address)
    paths = [str(Path(spec.origin).parent) for name in PACKAGES if (spec := find_spec(name)) and spec.origin]
    try:
        ray.init(address=address, runtime_env={"py_modules": paths}, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(
            f"cannot join a Ray cluster at {address!r}: {error}; a cluster that asks for a token, as Ray starts them where it "
            "finds one, needs RAY_AUTH_MODE=token here, too"
        ) from None
    return None


def _keep_to_loopback() -> None:
    """Put every port of a single-machine cluster on 127.0.0.1, behind a token; Ray does the first only on Windows and macOS."""
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if "ray" not in sys.modules:
        # Where it was imported before, it asks for a token all the same, and says so.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray._private import ray_constants

    if os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0":
        ray_constants.ENABLE_RAY_CLUSTER = False  # what it reads from there as it is imported


def _check_reachable(address: str) -> None:
    """Knock once: where nobody listens, or something that is no head, Ray tries for many minutes before it says so."""
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdecimal()):
        raise ConfigError(f'{address!r} is no address of a Ray head; write it as host:port, such as "head:6379"')
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot join a Ray cluster at {address!r}: {error}") from None
    try:
        # In a process of its own, because nothing else can be given up. What is wrong but for silence, Ray itself tells.
        subprocess.run([sys.executable, "-P", "-c", _ASK, address], capture_output=True, timeout=_ANSWER_S, check=False)
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"something listens at {address!r}, but it does not answer as a Ray head; its port is 6379 unless somebody "
            "chose another"
        ) from None
