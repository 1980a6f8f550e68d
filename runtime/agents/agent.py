"""Owns Agent: what a user says about one member of a team."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from runtime.agents.tools import Tool
from runtime.errors import ConfigError
from runtime.protocols import Router


@dataclass(frozen=True)
class Agent:
    """A member of a team: its role, who thinks for it, and what it may use.

    Raises:
        ConfigError: an empty role, effort_tokens below 16, or resources without a name or an amount.
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
    resources: Mapping[str, float] | None = None
    """What the host must have that completes its requests and uses its tools, by Ray's names, such as `{"GPU": 1}`; for a model
    or a tool that lives on such a machine. None: any host will do. Only a cluster has hosts that are told apart."""

    def __post_init__(self) -> None:
        if not self.role.strip():
            raise ConfigError("an Agent needs a role")
        if self.effort_tokens is not None and self.effort_tokens < 16:
            raise ConfigError(f"Agent({self.role!r}): effort_tokens={self.effort_tokens} must be 16 or more")
        if any(not name or amount <= 0 for name, amount in (self.resources or {}).items()):
            raise ConfigError(f"Agent({self.role!r}): resources={self.resources!r} must be names with amounts above 0")

    def filled(self, model: str | Router | None) -> "Agent":
        """This agent with `model` where it has none of its own."""
        return self if self.model is not None or model is None else replace(self, model=model)

    def model_names(self) -> tuple[str, ...]:
        """Every model that may answer for it; empty while none is given."""
        if self.model is None:
            return ()
        return (self.model,) if isinstance(self.model, str) else self.model.models
