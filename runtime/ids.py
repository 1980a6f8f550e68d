"""Owns names, content addresses and seeds: everything that identifies something without a clock or chance."""

import re
from hashlib import blake2b, sha256

import orjson

from runtime.errors import ConfigError

PACKAGES = ("runtime", "policies", "topologies", "benchmarks")
"""The packages of this distribution."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def check_name(name: str, what: str) -> str:
    """Return `name` if it may become a file or folder name.

    Raises:
        ConfigError: the name has capitals, slashes, leading dots or more than 64 characters.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise ConfigError(
            f"{what} {name!r} is not a usable name: take 1 to 64 of a-z 0-9 . _ - , beginning with a letter or digit"
        )
    return name


def seed_of(*parts: object) -> int:
    """Derive a seed in 0..2^63-1 from its parts, the same on every machine.

    Parts are joined by their `str` with a separator that no part may contain by accident, so ("a", "bc") and ("ab", "c")
    differ.
    """
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def draw(*parts: object) -> float:
    """Derive a number uniform in [0, 1) from its parts, in multiples of 2^-53."""
    return (seed_of(*parts) >> 10) * 2.0**-53


def address(value: object) -> str:
    """Content address: sha256 of the canonical JSON of `value`, 64 hex digits.

    Keys are sorted; tuples count as lists; a value that JSON cannot hold is a TypeError.
    """
    return sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()
