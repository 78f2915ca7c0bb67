"""How far a mean over a few seeds, measured on so many images, can be trusted: 95 % intervals."""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev, variance

LEVEL = 0.95
Interval = tuple[float, float]  # its ends


def seeds_error(values: Sequence[float]) -> float:
    """Half of the interval for the mean over all seeds, from the values of n of them, n > 1.

    Student's t: t(0.975; n - 1) · s / √n. With three seeds that is 2.5 standard deviations s.
    """
    return _t_error(stdev(values), len(values))


def difference_error(groups: Sequence[Sequence[float]]) -> float:
    """Half of the interval for the difference of two groups' means over all seeds.

    Each of the m groups has values of n seeds, n > 1, and all share one spread s, that within them:
    t(0.975; m (n - 1)) · s · √(2/n). It is Fisher's least significant difference.
    """
    seeds = len(groups[0])
    spread = math.sqrt(fmean(variance(values) for values in groups))
    return _student(len(groups) * (seeds - 1)) * spread * math.sqrt(2 / seeds)


def seeds_interval(mean: float, std: float, seeds: int) -> Interval:
    """Where the mean share of all seeds lies, from that of some and their standard deviation.

    It holds for the images that the share was measured on: `seeds_error`, cut at 0 and 1.
    """
    error = _t_error(std, seeds)
    return max(0.0, mean - error), min(1.0, mean + error)


def images_interval(share: float, images: int) -> Interval:
    """Where a share of all images of a kind lies, from that of N of them, for these very networks.

    Wilson 1927: (p + z²/2N ± z √(p (1 - p)/N + z²/4N²)) / (1 + z²/N) with z = 1.96.
    """
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle = share + z**2 / (2 * images)
    error = z * math.sqrt(share * (1 - share) / images + (z / (2 * images)) ** 2)
    whole = 1 + z**2 / images
    return max(0.0, (middle - error) / whole), min(1.0, (middle + error) / whole)


def _t_error(std: float, seeds: int) -> float:
    return _student(seeds - 1) * std / math.sqrt(seeds)


def _student(freedom: int) -> float:
    from scipy.special import stdtrit  # late: tables of one seed do without

    return float(stdtrit(freedom, (1 + LEVEL) / 2))
