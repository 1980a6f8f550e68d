"""Owns how a package's face loads its names: each on first use, so that importing one name does not import them all."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(face: dict[str, Any], homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a face.

    Args:
        face: the `globals()` of the package; what was loaded is kept there.
        homes: public name to the module it lives in.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {face['__name__']!r} has no attribute {name!r}")
        face[name] = getattr(import_module(homes[name]), name)
        return face[name]

    return load
