# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Stochastic bandits with optimistic indices, in plain floats: a handful of arms, called per frame.

Rewards may have any range; ``scale`` is its width, which every confidence radius is measured in.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

from sparse_split_ros.policy.plan import PolicyError
from sparse_split_ros.policy.state import MOST

_NORMAL = NormalDist()


class Bandit(ABC):
    """Plays every arm once, then the arm of the highest index; ties go to the lower number.

    ``scale`` is the width of the rewards' range. ``update`` takes a ``weight`` for observations
    that stand for less than a play, such as estimated side information.
    """

    def __init__(self, arms: int, *, scale: float = 1.0) -> None:
        if arms < 1:
            raise PolicyError(f'a bandit of {arms} arms, expected at least 1')
        if not (math.isfinite(scale) and scale > 0):
            raise PolicyError(f'scale {scale} of the rewards, expected a positive width')
        self.arms = arms
        self.scale = scale
        self.counts = [0.0] * arms
        self._sums = [0.0] * arms
        self._squares = [0.0] * arms

    def choose(self, allowed: Sequence[int] | None = None) -> int:
        """The arm to play next, of all or of those ``allowed``."""
        candidates = range(self.arms) if allowed is None else allowed
        counts = self.counts
        for arm in candidates:
            if counts[arm] <= 1e-9:
                return arm
        log_t = math.log(max(math.e, sum(counts)))
        best, best_index = -1, -math.inf
        for arm in candidates:
            index = self.index(arm, log_t)
            if index > best_index:
                best, best_index = arm, index
        if best < 0:
            raise PolicyError('no arm is allowed')
        return best

    def update(self, arm: int, reward: float, weight: float = 1.0) -> None:
        """An arm gave this reward. Raises PolicyError when the reward is not finite."""
        if not math.isfinite(reward):
            raise PolicyError(f'reward {reward} of arm {arm}, expected a finite number')
        self.counts[arm] += weight
        self._sums[arm] += weight * reward
        self._squares[arm] += weight * reward * reward

    @abstractmethod
    def index(self, arm: int, log_t: float) -> float:
        """The optimistic value of a played arm; ``log_t`` is the log of the number of plays."""

    def mean(self, arm: int) -> float:
        """The arm's mean reward, NaN before its first."""
        count = self.counts[arm]
        return self._sums[arm] / count if count > 1e-9 else math.nan

    def best(self) -> int:
        """The arm of the best mean so far, 0 before any play."""
        means = [self.mean(arm) for arm in range(self.arms)]
        return max(
            range(self.arms), key=lambda arm: -math.inf if math.isnan(means[arm]) else means[arm]
        )

    def _variance(self, arm: int) -> float:
        count = self.counts[arm]
        mean = self._sums[arm] / count
        return max(0.0, self._squares[arm] / count - mean * mean)

    def state(self) -> dict[str, Any]:
        """What was learned, for JSON; a copy."""
        return {
            'counts': self.counts[:],
            'sums': self._sums[:],
            'squares': self._squares[:],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over :meth:`state`. Raises PolicyError when it is not of as many arms."""
        columns = [[float(value) for value in state[key]] for key in ('counts', 'sums', 'squares')]
        if any(len(column) != self.arms for column in columns):
            raise PolicyError(f'state of {len(columns[0])} arms for a bandit of {self.arms}')
        # NaN fails the comparison.
        if not all(abs(value) <= MOST for column in columns for value in column):
            raise PolicyError('the state of a bandit holds numbers that no rewards add up to')
        # What leaves a window may leave a rounding error.
        if min(columns[0]) < -1e-6:
            raise PolicyError('the state of a bandit holds arms played less than never')
        self.counts, self._sums, self._squares = columns


class UCB1(Bandit):
    """mean + β·scale·sqrt(ln t / n): Auer et al., Machine Learning 47, 2002, have β = sqrt(2)."""

    def __init__(self, arms: int, *, scale: float = 1.0, beta: float = 1.0) -> None:
        super().__init__(arms, scale=scale)
        self.beta = beta

    def index(self, arm: int, log_t: float) -> float:
        """Hoeffding's radius."""
        count = self.counts[arm]
        return self._sums[arm] / count + self.beta * self.scale * math.sqrt(log_t / count)


class UCBV(Bandit):
    """Empirical Bernstein: Audibert, Munos and Szepesvári, TCS 410, 2009, with c·ζ as ``zeta``."""

    def __init__(self, arms: int, *, scale: float = 1.0, zeta: float = 1.2) -> None:
        super().__init__(arms, scale=scale)
        self.zeta = zeta

    def index(self, arm: int, log_t: float) -> float:
        """Mean + sqrt(2·V·ζ·ln t / n) + 3·scale·ζ·ln t / n."""
        count, exploration = self.counts[arm], self.zeta * log_t
        return (
            self._sums[arm] / count
            + math.sqrt(2 * self._variance(arm) * exploration / count)
            + 3 * self.scale * exploration / count
        )


class UCBTuned(Bandit):
    """UCB1 with a bound on the variance in place of 1/4 (Auer et al. 2002, section 4)."""

    def index(self, arm: int, log_t: float) -> float:
        """Mean + scale·sqrt(ln t / n · min(1/4, V + sqrt(2·ln t / n)))."""
        count = self.counts[arm]
        variance = self._variance(arm) / self.scale**2 + math.sqrt(2 * log_t / count)
        return self._sums[arm] / count + self.scale * math.sqrt(log_t / count * min(0.25, variance))


class BayesUCB(Bandit):
    """The 1 − 1/t quantile of the posterior mean (Kaufmann, Cappé and Garivier, AISTATS 2012).

    Gaussian rewards of unknown mean and variance: the posterior is a Student t. A weak prior of
    ``prior`` observations of variance (scale/4)² keeps the first few plays from looking certain.
    """

    def __init__(self, arms: int, *, scale: float = 1.0, prior: float = 2.0) -> None:
        super().__init__(arms, scale=scale)
        self.prior = prior

    def index(self, arm: int, log_t: float) -> float:
        """The quantile, from the normal one by two terms of its expansion in 1/ν."""
        count = self.counts[arm]
        freedom = count + self.prior
        spread = (count * self._variance(arm) + self.prior * (self.scale / 4) ** 2) / freedom
        z = _NORMAL.inv_cdf(1 - math.exp(-min(log_t, 30.0)))
        # Abramowitz and Stegun 26.7.5.
        t = z + (z**3 + z) / (4 * freedom)
        t += (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        return self._sums[arm] / count + t * math.sqrt(spread / count)


class DiscountedUCB(UCB1):
    """D-UCB (Garivier and Moulines, ALT 2011): every play fades all the past by ``discount``.

    The index is UCB1's, of plays and rewards that are faded.
    """

    def __init__(
        self, arms: int, *, scale: float = 1.0, discount: float = 0.998, beta: float = 0.5
    ) -> None:
        super().__init__(arms, scale=scale, beta=beta)
        if not 0 < discount < 1:
            raise PolicyError(f'discount {discount}, expected between 0 and 1')
        self.discount = discount

    def update(self, arm: int, reward: float, weight: float = 1.0) -> None:
        """Fade, then add."""
        if not math.isfinite(reward):
            raise PolicyError(f'reward {reward} of arm {arm}, expected a finite number')
        fade = self.discount**weight
        for column in (self.counts, self._sums, self._squares):
            for other in range(self.arms):
                column[other] *= fade
        super().update(arm, reward, weight)


class SlidingWindowUCB(UCB1):
    """SW-UCB (Garivier and Moulines 2011): UCB1 of the last ``window`` observations alone."""

    def __init__(
        self, arms: int, *, scale: float = 1.0, window: int = 1000, beta: float = 0.5
    ) -> None:
        super().__init__(arms, scale=scale, beta=beta)
        if window < arms:
            raise PolicyError(f'window {window} for {arms} arms, expected at least one each')
        self.window = window
        self._past: deque[tuple[int, float, float]] = deque()

    def update(self, arm: int, reward: float, weight: float = 1.0) -> None:
        """Add the newest, take the oldest away."""
        super().update(arm, reward, weight)
        self._past.append((arm, reward, weight))
        if len(self._past) > self.window:
            old, value, mass = self._past.popleft()
            super().update(old, value, -mass)

    def state(self) -> dict[str, Any]:
        """With the window, or nothing could leave it."""
        return {**super().state(), 'past': list(self._past)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over :meth:`state`, all or nothing."""
        past = [(int(arm), float(r), float(w)) for arm, r, w in state['past']]
        sound = all(0 <= arm < self.arms and abs(r) <= MOST and 0 < w <= MOST for arm, r, w in past)
        if not sound or len(past) > self.window:
            raise PolicyError('the state of a bandit holds an impossible window')
        super().restore(state)
        # Counts and sums are the window's, or what leaves it would take away what never came.
        for column in (self.counts, self._sums, self._squares):
            column[:] = [0.0] * self.arms
        self._past.clear()
        for arm, reward, weight in past:
            self.update(arm, reward, weight)


INDICES: dict[str, Callable[..., Bandit]] = {
    'ucb1': UCB1,
    'ucb-v': UCBV,
    'ucb-tuned': UCBTuned,
    'bayes-ucb': BayesUCB,
    'discounted-ucb': DiscountedUCB,
    'sliding-window-ucb': SlidingWindowUCB,
}


def make_bandit(index: str, arms: int, **settings: Any) -> Bandit:
    """The bandit called ``index``; raises PolicyError for an unknown name."""
    if index not in INDICES:
        raise PolicyError(f'unknown index {index!r}, choose one of {", ".join(INDICES)}')
    return INDICES[index](arms, **settings)
