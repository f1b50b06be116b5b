"""How good predicted classes are: accuracy, accuracy within one class, area under the ROC curve.

`N` items, `C` classes. Source: v-iashin/Synchformer (utils/utils.py), whose denominators are N + 1e-7 where a
class more or less counts as right.
"""

import math
from collections.abc import Mapping

import numpy as np
from scipy.stats import norm, rankdata

TOLERANT_EPS = 1e-7


def accuracy(logits: np.ndarray, targets: np.ndarray, top: int = 1) -> float:
    """The share of items whose class is among the `top` most likely; logits (N, C), targets (N,)."""
    return float((_best(logits, top) == targets[:, None]).any(axis=1).mean())


def tolerant_accuracy(logits: np.ndarray, targets: np.ndarray, top: int = 1, tolerance: int = 1) -> float:
    """The same where a class at most `tolerance` away is right, too."""
    near = np.abs(_best(logits, top) - targets[:, None]) <= tolerance
    return float(near.any(axis=1).sum() / (len(targets) + TOLERANT_EPS))


def area_under_roc(scores: np.ndarray, is_true: np.ndarray) -> float:
    """The probability that a true item (N,) scores higher than a false one, ties counting half.

    NaN where only one kind is there.
    """
    is_true = np.asarray(is_true, dtype=bool)
    positives, negatives = int(is_true.sum()), int((~is_true).sum())
    if not positives or not negatives:
        return math.nan
    ranks = rankdata(scores)
    return float((ranks[is_true].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(scores: np.ndarray, is_true: np.ndarray) -> float:
    """Mean precision at each true item, going down the scores; NaN where there is none."""
    hits = np.asarray(is_true, dtype=bool)[np.argsort(-scores, kind="stable")]
    if not hits.any():
        return math.nan
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def offset_metrics(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """What upstream reports of an offset model: accuracy_1, accuracy_5 and both with a tolerance of one
    class, mean average precision, mean one-against-rest area under ROC, and d' of the latter.
    """
    found: dict[str, float] = {}
    for top in (1, min(5, logits.shape[1])):
        found[f"accuracy_{top}"] = accuracy(logits, targets, top)
        found[f"accuracy_{top}_tol1"] = tolerant_accuracy(logits, targets, top)
    columns = [(logits[:, c], targets == c) for c in range(logits.shape[1])]
    found["mean_average_precision"] = _mean(average_precision(*column) for column in columns)
    found["roc_auc"] = _mean(area_under_roc(*column) for column in columns)
    found["d_prime"] = math.sqrt(2) * float(norm.ppf(found["roc_auc"]))
    return found


def accuracy_by_class(logits: np.ndarray, targets: np.ndarray) -> dict[int, float]:
    """accuracy_1 of the items of each class that occurs."""
    return {int(c): accuracy(logits[targets == c], targets[targets == c]) for c in np.unique(targets)}


def synchronizability_metrics(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Accuracy and area under ROC of a two-class model; class 1 says that an offset can be told."""
    return {
        "accuracy_1": accuracy(logits, targets),
        "roc_auc": area_under_roc(logits[:, 1] - logits[:, 0], targets == 1),
    }


def metrics_above_thresholds(
    offset_logits: np.ndarray,
    offset_targets: np.ndarray,
    confidence: np.ndarray,
    can_be_told: np.ndarray,
    thresholds: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99),
) -> dict[float, Mapping[str, float]]:
    """Offset metrics of the items whose `confidence` (N,) that an offset can be told is above a threshold.

    Kept items whose offset cannot be told (`can_be_told` False) count as wrong, as in Fig. 4 of the paper.
    """
    table: dict[float, Mapping[str, float]] = {}
    size = offset_logits.shape[1]
    impossible = (offset_logits.argmax(axis=1) + 5) % size  # far outside the tolerance
    targets = np.where(can_be_told, offset_targets, impossible)
    for threshold in thresholds:
        kept = confidence > threshold
        numbers = {"kept_share": float(kept.mean())}
        if kept.any():
            numbers["accuracy_1"] = accuracy(offset_logits[kept], targets[kept])
            numbers["accuracy_1_tol1"] = tolerant_accuracy(offset_logits[kept], targets[kept])
        table[threshold] = numbers
    return table


def _best(logits: np.ndarray, top: int) -> np.ndarray:
    """The `top` most likely classes, (N, top), the likeliest first."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :top]


def _mean(values) -> float:
    """The mean of those that are numbers."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
