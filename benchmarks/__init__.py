"""The experiment: what was run, what came out, what it means; and the command line."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.experiment import Experiment as Experiment
    from benchmarks.experiment import setting as setting

_LAZY = {"Experiment": "benchmarks.experiment", "setting": "benchmarks.experiment"}
__all__ = sorted(_LAZY)


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
