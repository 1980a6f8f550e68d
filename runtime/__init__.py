"""The face of the runtime: the names a user imports, loaded on first use, so that a small script starts at once."""

from typing import TYPE_CHECKING

from runtime.lazy import lazy

if TYPE_CHECKING:
    from runtime.agents.agent import Agent as Agent
    from runtime.agents.tools import Tool as Tool
    from runtime.budget import Budget as Budget
    from runtime.driver import Runtime as Runtime
    from runtime.messages import Bundle as Bundle
    from runtime.messages import Failure as Failure
    from runtime.messages import Part as Part
    from runtime.messages import Plan as Plan
    from runtime.messages import Refusal as Refusal
    from runtime.messages import Report as Report
    from runtime.messages import Verdict as Verdict
    from runtime.messages import bundle as bundle
    from runtime.models.catalog import ModelSpec as ModelSpec
    from runtime.preflight import RunSpec as RunSpec
    from runtime.protocols import Answer as Answer
    from runtime.recording import Recording as Recording
    from runtime.result import RunResult as RunResult
    from runtime.task import Task as Task

_LAZY = {
    "Agent": "runtime.agents.agent",
    "Answer": "runtime.protocols",
    "Budget": "runtime.budget",
    "Bundle": "runtime.messages",
    "Failure": "runtime.messages",
    "ModelSpec": "runtime.models.catalog",
    "Part": "runtime.messages",
    "Plan": "runtime.messages",
    "Recording": "runtime.recording",
    "Refusal": "runtime.messages",
    "Report": "runtime.messages",
    "RunResult": "runtime.result",
    "RunSpec": "runtime.preflight",
    "Runtime": "runtime.driver",
    "Task": "runtime.task",
    "Tool": "runtime.agents.tools",
    "Verdict": "runtime.messages",
    "bundle": "runtime.messages",
}
__all__ = sorted(_LAZY)
__getattr__ = lazy(globals(), _LAZY)
