"""Owns Agent: what a user says about one member of a team."""

from dataclasses import dataclass, replace

from runtime.agents.tools import Tool
from runtime.errors import ConfigError
from runtime.protocols import Router


@dataclass(frozen=True)
class Agent:
    """A member of a team: its role, who thinks for it, and what it may use.

    Raises:
        ConfigError: an empty role, or effort_tokens below 16.
    """

    role: str
    """planner or hub (gives a Plan), executor or peer (a Report), verifier (a Verdict); each brings its own words. Any other
    name is an executor by another name: it gives a Report and is told the executor's words, unless it has a prompt."""
    model: str | Router | None = None
    """A name of the catalogue or a router. None: the experiment, or the topology's `model=`, fills it in."""
    effort_tokens: int | None = None
    """What one answer may think and write. None: the topology's pacing decides from the budget."""
    tools: tuple[Tool, ...] = ()
    """What it may call."""
    prompt: str | None = None
    """Words of your own instead of the role's."""

    def __post_init__(self) -> None:
        if not self.role.strip():
            raise ConfigError("an Agent needs a role")
        if self.effort_tokens is not None and self.effort_tokens < 16:
            raise ConfigError(f"Agent({self.role!r}): effort_tokens={self.effort_tokens} must be 16 or more")

    def filled(self, model: str | Router | None) -> "Agent":
        """This agent with `model` where it has none of its own."""
        return self if self.model is not None or model is None else replace(self, model=model)

    def model_names(self) -> tuple[str, ...]:
        """Every model that may answer for it; empty while none is given."""
        if self.model is None:
            return ()
        return (self.model,) if isinstance(self.model, str) else self.model.models
