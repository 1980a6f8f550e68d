"""Owns the formulas by which simulated models err: item difficulty, skill, effort, and how they were fitted.

**One operation.** A move is made of elementary operations (a line read, a stage worked out, a sum of two reports). One
operation comes out right with

    p_op = Φ((a + β·ln(x / x_ref) − √ρ·D) / √(1 − ρ))

where a is the model's skill, x its thinking tokens per operation, x_ref = 32, and D ~ N(0, 1) the difficulty of the
item. D is derived from the text of the `<task>` block and the model's lineage alone, so that every seat, every sample and
every model of one lineage meets the same D: items that are hard for one are hard for all of them. This is the normal ogive of
test theory with one common factor; ρ is the correlation of two latent attempts, √(ρ·ρ') between models that differ in it.
Models of different lineages draw D apart, and err independently of each other. Given the item, operations are independent,
and a move of n operations is right with p_opⁿ. The models of the catalogue are of one lineage, as those of the fit were.
Source: F. M. Lord and M. R. Novick, Statistical Theories of Mental Test Scores, Addison-Wesley, 1968, chapter 16.

**Effort.** β·ln x makes success rise with the logarithm of the thinking tokens, with diminishing return, and thinking stops
at `most_tokens` per operation. The log-linear shape: N. Muennighoff et al., "s1: Simple test-time scaling", 2025. β itself
is chosen, not fitted.

**Fit of ρ.** Four recorded systems on GSM8K (K. Cobbe et al., "Training Verifiers to Solve Math Word Problems", 2021: 6B
and 175B, each plain and with a verifier) fail together with pairwise φ = .29 to .47, mean .38 over 660 problems; pairs of
different size have mean .37, pairs of equal size .39. For 20 operations and success rates of .33 and .62 the model above
gives, by integration over D, at ρ = .30: small with large .37, small with itself .43, large with itself .41 (at ρ = .20:
.29, .33, .31; at .40: .43, .51, .49). So ρ = .30 for both models. Skills are set so that one call of 800 tokens on 20
operations has those success rates.

**Bids.** Each line of a bid is flawed with probability `flaw_ratio` · P(this model fails this piece of work at x_ref). So
the quality of a plan predicts success, within a model and between models, without deciding it: the share of good lines
tells right answers from wrong ones of the same model with an AUC of .76 to .80 (600 items of either family, 800 tokens).

**Machines.** Φ and ln come from the C library and may differ in the last bit between machines. Difficulty, p_op and p_opⁿ
are each rounded to 2⁻²⁰, so that such a bit turns no outcome unless a value lies within 10⁻⁹ of a rounding edge.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

from runtime.errors import ConfigError
from runtime.ids import draw, seed_of

REFERENCE_TOKENS = 32
"""x_ref: thinking tokens per operation at which a model works at its stated skill."""

_GRID = 2**20
_NORMAL = NormalDist()


def rounded(value: float) -> float:
    """The nearest multiple of 2^-20."""
    return round(value * _GRID) / _GRID


def normal(uniform: float) -> float:
    """Standard normal value of a number in [0, 1), rounded to 2^-20."""
    return rounded(_NORMAL.inv_cdf(max(uniform, 2.0**-53)))


class Item(NamedTuple):
    """What the text of a `<task>` block decides, for models of one lineage."""

    seed: int
    """Takes part in every draw, so that two items asked with one seed have luck of their own."""
    difficulty: float
    """D, a standard normal value."""


@lru_cache(maxsize=4096)
def item(task: str, lineage: str = "") -> Item:
    """The item of a task text, as hard as it is for models of a lineage."""
    seed = seed_of("item", task)
    return Item(seed, normal(draw(seed, "difficulty", lineage) if lineage else draw(seed, "difficulty")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """The parameters of one simulated model.

    Raises:
        ConfigError: a ratio outside 0..1, a correlation of 1, a negative number.
    """

    skill: float
    """a: 0 is one operation in two at x_ref on an item of middling difficulty."""
    effort_gain: float = 0.3
    """β, per unit of the natural logarithm of thinking tokens."""
    correlation_ratio: float = 0.3
    """ρ of the latent attempts on one item, within a lineage."""
    lineage: str = ""
    """Models of one lineage find the same items hard; models of different ones err independently."""
    most_tokens: int = 160
    """Thinking tokens per operation beyond which the model stops by itself."""
    compliance_ratio: float = 0.5
    """c: how far the model shortens its reply to the aim of a budget note: 0 ignores it, 1 meets it."""
    hit_ratio: float
    """True-positive rate of its judgement: right reports it takes for right."""
    catch_ratio: float
    """True-negative rate: wrong reports it takes for wrong, and gaps in coverage it notices."""
    flaw_ratio: float = 0.6
    """Flawed lines of a bid per unit of failure probability."""
    score_spread: float
    """Standard deviation of its scores as a judge of bids, in points of 0..5."""

    def __post_init__(self) -> None:
        for name in ("correlation_ratio", "compliance_ratio", "hit_ratio", "catch_ratio", "flaw_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"Noise: {name}={getattr(self, name)!r} must be in 0..1")
        if self.correlation_ratio == 1 or min(self.effort_gain, self.most_tokens, self.score_spread) < 0:
            raise ConfigError("Noise: correlation_ratio must be below 1, the gain, tokens and spread 0 or more")

    def thinking(self, room_tokens: int, visible_tokens: int, ops: int, aim_tokens: int | None) -> int:
        """Tokens the model thinks before it writes.

        Args:
            room_tokens: what the limit of the call leaves beside the visible reply; below 0 counts as 0.
            visible_tokens: length of the visible reply.
            ops: operations of the work.
            aim_tokens: length of the whole reply that a budget note asks for; None without one.
        """
        free = min(max(room_tokens, 0), self.most_tokens * ops)
        if aim_tokens is None:
            return free
        return free - round(self.compliance_ratio * max(0, free - max(0, aim_tokens - visible_tokens)))

    def chance(self, ops: int, tokens_per_op: float, hardness: float) -> float:
        """Probability that a move is right, given its item: p_op to the power `ops`, a multiple of 2^-20.

        Args:
            ops: operations of the move; without any it cannot fail.
            tokens_per_op: x; below one token it counts as one.
            hardness: D of the item.
        """
        if not ops:
            return 1.0
        ability = self.skill + self.effort_gain * math.log(max(tokens_per_op, 1.0) / REFERENCE_TOKENS)
        rho = self.correlation_ratio
        z = (ability - math.sqrt(rho) * hardness) / math.sqrt(1.0 - rho)
        return rounded(rounded(0.5 * math.erfc(-z / math.sqrt(2.0))) ** ops)
