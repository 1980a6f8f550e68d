"""Owns figures with intervals made of sums: shares, and what has no closed form, such as ratios, by leaving out clusters."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from benchmarks.statistics import interval

Floats = NDArray[np.float64]
Figure = Callable[[Floats], Floats]


class Estimate(NamedTuple):
    """A figure with its interval; the bounds are None where there is too little to tell."""

    value: float
    low: float | None
    high: float | None
    clusters: int


def jackknife(sums: ArrayLike, figure: Figure, *, level: float = 0.95, bend: bool = False) -> Estimate | None:
    """Estimate a figure of total sums, with an interval from leaving out each cluster in turn.

    The interval is value ± t · s.e. with clusters − 1 degrees of freedom, s.e.² = (C−1)/C · Σ(θ₍₋c₎ − mean)².

    Args:
        sums: one row of sums per cluster; the total is their column sum.
        figure: makes the figure of sums, over the last axis of an array; NaN or infinite where it is not defined.
        bend: for correlations: work on Fisher's z = artanh(figure), so that the interval stays inside (−1, 1).

    Returns:
        None where the figure is not defined on the total.

    Source: R. G. Miller, "The Jackknife: A Review", Biometrika 61, 1974. Leaving out whole clusters and t: A. C. Cameron,
        D. L. Miller, "A Practitioner's Guide to Cluster-Robust Inference", Journal of Human Resources 50, 2015. Fisher's z:
        R. A. Fisher, "On the Probable Error of a Coefficient of Correlation", Metron 1, 1921.
    """
    rows = np.asarray(sums, dtype=np.float64)
    if rows.ndim != 2 or not len(rows):
        return None
    total, n = rows.sum(axis=0), len(rows)
    with np.errstate(all="ignore"):
        value, others = float(figure(total)), np.asarray(figure(total - rows))
        if not np.isfinite(value):
            return None
        middle, around = (np.arctanh(value), np.arctanh(others)) if bend else (np.float64(value), others)
    if n < 2 or not np.isfinite(around).all() or not np.isfinite(middle):
        return Estimate(value, None, None, n)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * float(np.sqrt((n - 1) / n * ((around - around.mean()) ** 2).sum()))
    low, high = float(middle) - half, float(middle) + half
    return Estimate(value, float(np.tanh(low)), float(np.tanh(high)), n) if bend else Estimate(value, low, high, n)


def share(hits: ArrayLike, of: ArrayLike, clusters: Sequence[object], level: float = 0.95) -> Estimate | None:
    """Share of hits, with the interval of `statistics.interval`.

    Args:
        hits: how many there are in each row.
        of: how many there could be in it.
        clusters: the cluster of each row, usually its task.

    Returns:
        None where there could be none.
    """
    yes, n = np.asarray(hits, dtype=np.int64), np.asarray(of, dtype=np.int64)
    if not n.sum():
        return None
    values = np.repeat(np.tile([1.0, 0.0], len(n)), np.stack([yes, n - yes], axis=1).ravel())
    seen = interval(values, np.repeat(np.asarray(clusters, dtype=object), n).tolist(), level)
    return Estimate(seen.mean, seen.low, seen.high, seen.clusters)


def ratio(sums: Floats) -> Floats:
    """First sum over second."""
    return np.asarray(sums[..., 0] / sums[..., 1])
