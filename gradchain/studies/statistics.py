"""Means over seeds, and paired differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from gradchain.studies.extras import needs


class Estimate(NamedTuple):
    """A mean with its standard error; nan where there are too few finite values."""

    mean: float
    error: float


class Interval(NamedTuple):
    """A mean difference with the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard error of the finite values."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return Estimate(finite[0] if finite else math.nan, math.nan)
    return Estimate(statistics.fmean(finite), statistics.stdev(finite) / math.sqrt(len(finite)))


def paired_difference(values: Sequence[float], baseline: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of values - baseline over the pairs in which both are finite, with Student's confidence interval."""
    pairs = [v - b for v, b in zip(values, baseline, strict=True) if math.isfinite(v) and math.isfinite(b)]
    mean, error = estimate(pairs)
    if len(pairs) < 2:
        return Interval(mean, math.nan, math.nan)
    half = float(needs("scipy.stats").t.ppf((1 + confidence) / 2, len(pairs) - 1)) * error
    return Interval(mean, mean - half, mean + half)
