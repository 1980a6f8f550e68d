"""The experiment: what was run, what came out, what it means; and the command line."""

from typing import TYPE_CHECKING

from runtime.lazy import lazy

if TYPE_CHECKING:
    from benchmarks.experiment import Experiment as Experiment
    from benchmarks.experiment import setting as setting

_LAZY = {"Experiment": "benchmarks.experiment", "setting": "benchmarks.experiment"}
__all__ = sorted(_LAZY)
__getattr__ = lazy(globals(), _LAZY)
