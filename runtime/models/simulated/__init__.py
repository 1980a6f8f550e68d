"""Simulated models: noisy solvers of the task families, with calibrated errors, effort, judgement and latency.

`port` says what a family brings, `noise` holds the formulas, `prompt` reads the request, `turn` plays the roles, and
`model` is the ChatModel with the two that stand in the catalogue.
"""

from runtime.models.simulated.model import SimulatedModel as SimulatedModel
from runtime.models.simulated.model import large as large
from runtime.models.simulated.model import small as small
from runtime.models.simulated.noise import Noise as Noise
from runtime.models.simulated.port import Move as Move
from runtime.models.simulated.port import Solver as Solver

__all__ = ["Move", "Noise", "SimulatedModel", "Solver", "large", "small"]
