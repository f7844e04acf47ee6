# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Confidence that means what it says: one temperature per exit, and how far off the rest is."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]

_GOLDEN = (math.sqrt(5) - 1) / 2
_DRAWS = 1000


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    """Row-wise log softmax of logits (N, K), float64."""
    z = logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(axis=1, keepdims=True)))


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """The T in [0.05, 20] that minimises the negative log-likelihood of softmax(logits / T).

    `logits` (N, K), `labels` (N,). Guo et al., "On calibration of modern neural networks", ICML
    2017. The likelihood is unimodal in log T, so a golden-section search to one part in a thousand
    will do.
    """
    rows = np.arange(len(labels))

    def loss(log_t: float) -> float:
        return -float(log_softmax(logits / np.float32(math.exp(log_t)))[rows, labels].mean())

    low, high = math.log(0.05), math.log(20.0)
    while high - low > 1e-3:
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def expected_calibration_error(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = 15
) -> float:
    """Mean gap between confidence (N,) and accuracy over bins that hold equally many samples."""
    points = reliability(confidence, correct, bins)
    return sum(count * abs(mean - right) for mean, right, count in points) / len(confidence)


def reliability(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = 15
) -> list[tuple[float, float, int]]:
    """Mean confidence, accuracy and size of bins that hold equally many of the samples (N,)."""
    order = np.argsort(confidence, kind='stable')
    return [
        (float(confidence[chunk].mean()), float(correct[chunk].mean()), len(chunk))
        for chunk in np.array_split(order, bins)
        if len(chunk)
    ]


def risk_coverage(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_]
) -> tuple[float, float]:
    """Area under the risk-coverage curve, and how much of it a perfect order would not have.

    The risk at a coverage is the share of errors among the samples that are at least as sure as a
    threshold; the area is its mean over the threshold being each sample's confidence (N,). A
    perfect order has every error behind every right answer. Geifman, Uziel and El-Yaniv,
    "Bias-reduced uncertainty estimation for deep neural classifiers", ICLR 2019.
    """
    order = np.argsort(-confidence, kind='stable')
    wrong = np.cumsum(~correct[order])
    # Samples of one confidence stand or fall together.
    covered = np.searchsorted(-confidence[order], -confidence[order], side='right')
    area = float(np.mean(wrong[covered - 1] / covered))
    count, errors = len(confidence), int(wrong[-1])
    late = np.arange(1, errors + 1)
    best = float(np.sum(late / (count - errors + late)) / count)
    return area, area - best


def interval(
    values: NDArray[np.bool_] | NDArray[np.float64],
    groups: NDArray[np.int64],
) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of values (N,), resampling groups (N,) as wholes.

    Values are whether answers are right, or differences. Groups are tracks: frames of one sign are
    right or wrong together, and resampling frames would claim too narrow an interval.
    """
    _, member = np.unique(groups, return_inverse=True)
    total = np.bincount(member, weights=values)
    size = np.bincount(member)
    rng, means = np.random.default_rng(0), []
    for _ in range(_DRAWS):
        drawn = rng.integers(len(size), size=len(size))
        means.append(total[drawn].sum() / size[drawn].sum())
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
