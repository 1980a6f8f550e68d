"""Owns Fixed: the router that always gives the work to the same model; the baseline of every router."""

from dataclasses import dataclass

from runtime.protocols import Award, Caller, Work


@dataclass(frozen=True)
class Fixed:
    """Always the same model. What a plain model name means, as a router."""

    model: str

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model

    @property
    def models(self) -> tuple[str, ...]:
        """The one model."""
        return (self.model,)

    async def route(self, work: Work, caller: Caller) -> Award:
        """Award without any call."""
        return Award(self.model)
