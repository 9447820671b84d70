"""Shares of counted things, and how sure they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

CONFIDENCE: Final = 0.95


@dataclass(frozen=True)
class Proportion:
    """A share with its Wilson interval.

    Attributes:
        value: The estimate, 0 to 1.
        low: Lower end of the interval.
        high: Upper end.
        trials: How many the interval is computed of: what was counted, or the effective number of a weighted or
            clustered sample.
    """

    value: float
    low: float
    high: float
    trials: float


def wilson_interval(successes: float, trials: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The Wilson score interval of a binomial share, without continuity correction.

    It stays within 0 and 1 and is no point at 0 or all successes. Trials need not be whole, as effective numbers of
    weighted samples are not.

    Raises:
        ValueError: No trials, successes beyond them, or a confidence not between 0 and 1.
    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    if not trials > 0 or not 0 <= successes <= trials or not 0 < confidence < 1:
        raise ValueError(
            f"{successes} of {trials} at confidence {confidence}; expected 0 <= successes <= trials, trials > 0"
        )
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    center = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * float(np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)))
    low = 0.0 if successes == 0 else max(0.0, center - half)
    high = 1.0 if successes == trials else min(1.0, center + half)
    return low, high


def proportion(successes: float, trials: float, confidence: float = CONFIDENCE) -> Proportion:
    """A counted share with its interval; raises as `wilson_interval`."""
    low, high = wilson_interval(successes, trials, confidence)
    return Proportion(successes / trials, low, high, trials)


def stratified_proportion(
    successes: Sequence[float], trials: Sequence[float], sizes: Sequence[float], confidence: float = CONFIDENCE
) -> Proportion:
    """The share in a whole of strata that were sampled unequally, each weighted by its size.

    The interval is Wilson's with Kish's effective number of trials, 1 / sum(w**2 / n) for weights w that sum to 1.

    Args:
        successes: Per stratum; strata without trials are left out of whole and weights.
        trials: Per stratum.
        sizes: Objects in each stratum.
        confidence: Of the interval.

    Raises:
        ValueError: No stratum has both trials and a size.
    Source: Kish 1965, Survey Sampling, section 11.7.
    """
    hits, number, size = (np.asarray(each, dtype=np.float64) for each in (successes, trials, sizes))
    used = (number > 0) & (size > 0)
    if not used.any():
        raise ValueError("no stratum has trials and a size; expected at least one that was sampled")
    weight = size[used] / size[used].sum()
    value = float((weight * hits[used] / number[used]).sum())
    effective = float(1 / (weight**2 / number[used]).sum())
    low, high = wilson_interval(min(value, 1.0) * effective, effective, confidence)
    return Proportion(value, low, high, effective)


def clustered_proportion(
    hits: NDArray[np.float64], totals: NDArray[np.float64], confidence: float = CONFIDENCE
) -> Proportion:
    """A share of pixels that come in objects, which are hit or missed together.

    The variance is that of a ratio of sums over objects; the interval is Wilson's with the number of independent trials
    that would have that variance, at least one and at most the number of pixels. With one object, or none partly or
    differently hit, the number of objects is taken.

    Args:
        hits: Pixels of each object that were found.
        totals: Pixels of each object.
        confidence: Of the interval.

    Raises:
        ValueError: No object has pixels, or more were hit than there are.
    Source: Cochran 1977, Sampling Techniques, section 6.3 (variance of a ratio estimate).
    """
    pixels, found, number = float(totals.sum()), float(hits.sum()), len(totals)
    if pixels <= 0 or (hits > totals).any():
        raise ValueError(f"{found} of {pixels} pixels; expected some, and no more hits than pixels of an object")
    share = found / pixels
    variance = 0.0 if number < 2 else number / (number - 1) * float(((hits - share * totals) ** 2).sum()) / pixels**2
    effective = min(max(share * (1 - share) / variance, 1.0), pixels) if variance > 0 else float(number)
    low, high = wilson_interval(share * effective, effective, confidence)
    return Proportion(share, low, high, effective)
