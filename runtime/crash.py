"""Owns the places where a test may kill this process from inside, and does nothing anywhere else."""

import os
import signal
from itertools import count

from runtime.errors import ConfigError


def _parse(text: str) -> tuple[str, int]:
    name, colon, nth = text.partition(":")
    if colon and not (nth.isdecimal() and int(nth) > 0):
        raise ConfigError(f"OSTROM_CRASH={text!r} is not NAME or NAME:COUNT with a count from 1; unset it or mend it")
    return name, int(nth or 1)


_NAME, _NTH = _parse(os.environ.get("OSTROM_CRASH", ""))
_passes = count(1)


def crash_point(name: str) -> None:
    """Kill this process with SIGKILL if the environment asks for it here; otherwise cost one `if`.

    `OSTROM_CRASH=name` kills at the first passing of that point, `OSTROM_CRASH=name:3` at the third. The variable is
    read once, at import, so a test sets it for a process of its own.

    A kill from outside seldom hits the few microseconds that matter, and a patched-in exception runs the `finally`
    blocks which a real crash skips. So the points stand in the product itself, as BUGGIFY does in FoundationDB, and what
    is tested is what ships.
    """
    if _NAME and name == _NAME and next(_passes) == _NTH:
        os.kill(os.getpid(), signal.SIGKILL)
