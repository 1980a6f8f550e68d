"""Simulated models: noisy solvers of the task families, with calibrated errors, effort, judgement and latency.

`port` says what a family brings, `noise` holds the formulas, `prompt` reads the request, `turn` plays the roles, and
`model` is the ChatModel with the two that stand in the catalogue.
"""

from runtime.models.simulated.model import SimulatedModel as SimulatedModel
from runtime.models.simulated.model import large as large
from runtime.models.simulated.model import small as small
from runtime.models.simulated.noise import Noise as Noise
from runtime.models.simulated.port import Call as Call
from runtime.models.simulated.port import Move as Move
from runtime.models.simulated.port import Seen as Seen
from runtime.models.simulated.port import Solver as Solver
from runtime.models.simulated.port import ToolSolver as ToolSolver

__all__ = ["Call", "Move", "Noise", "Seen", "SimulatedModel", "Solver", "ToolSolver", "large", "small"]
