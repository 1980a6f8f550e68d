"""Owns how long a call that failed waits before its next try."""

from runtime.errors import ModelError
from runtime.ids import draw
from runtime.models.endpoints.endpoint import RETRY_AFTER_MOST_S

BACKOFF_S = 0.5
BACKOFF_MOST_S = 30.0


def backoff_s(error: ModelError, turn: int, seed: int) -> float:
    """How long to wait before the next try: what the endpoint asked for, otherwise exponential with full jitter.

    Source: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """
    if error.retry_after_s is not None:
        return min(RETRY_AFTER_MOST_S, max(0.0, error.retry_after_s))
    return draw(seed, "backoff", turn) * min(BACKOFF_MOST_S, BACKOFF_S * 2.0**turn)
