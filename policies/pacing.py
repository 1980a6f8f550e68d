"""Owns how a budget becomes effort: what one answer may think and write."""

from dataclasses import dataclass

from runtime.protocols import PacingView


@dataclass(frozen=True)
class EvenPacing:
    """Each ask gets an even share of the budget, and thinks and writes as much as its share can pay for.

    effort = min over limited dimensions of (share - spent by routing - prompt) / price of an output token, clipped to
    [least_tokens, most_tokens]. A larger budget thus becomes more thinking per answer, not only later truncation. It looks
    only at the seat's own figures, so it never depends on the timing of others.
    """

    most_tokens: int = 4096
    """Effort above this is not asked for, however large the budget."""
    least_tokens: int = 64
    """Asked for even where the share would pay for less; admission decides."""

    def effort(self, view: PacingView) -> int:
        """Tokens that one answer may think and write."""
        efforts = [self.most_tokens, view.window_tokens - view.input_tokens]
        if view.share_tokens is not None:
            efforts.append(view.share_tokens - view.spent_tokens - view.input_tokens)
        if view.share_pico is not None and view.output_pico:
            left = view.share_pico - view.spent_pico - view.input_tokens * view.input_pico
            efforts.append(left // view.output_pico)
        return max(self.least_tokens, min(efforts))


@dataclass(frozen=True)
class FixedPacing:
    """Every ask gets the same effort, whatever the budget: a larger budget then buys more answers, not longer ones."""

    tokens: int

    def effort(self, view: PacingView) -> int:
        """Tokens that one answer may think and write."""
        return min(self.tokens, max(1, view.window_tokens - view.input_tokens))
