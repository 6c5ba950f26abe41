"""The reported scores, computed by scikit-learn from stored predictions, with intervals."""

import numpy as np
from scipy import stats
from sklearn import metrics as sk

CONFIDENCE = 0.95
RESAMPLES = 400
INTERVALS = "95 %; accuracy and recall by Wilson's score, the others by bootstrap over objects within classes (percentiles, 400 resamples)"
OVERALL = ("log_loss", "accuracy", "macro_f1", "macro_auc")


def scores(probabilities: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> dict[str, float]:
    """Returns log loss, accuracy, macro F1, macro AUC (one against the rest) and each class's F1, precision, recall.

    probabilities: [object, class]; labels: [object] class indices. All NaN where a probability is NaN (a trial that diverged at once).
    """
    names = score_names(classes)
    if not np.isfinite(probabilities).all():
        return dict.fromkeys(names, float("nan"))
    index = np.arange(len(classes))
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(labels, predicted, labels=index, zero_division=0.0)  # pyright: ignore
    values = [
        log_loss(probabilities, labels),
        float(np.mean(predicted == labels)),
        float(np.mean(f1)),
        macro_auc(probabilities, labels),
        *map(float, f1),
        *map(float, precision),
        *map(float, recall),
    ]
    return dict(zip(names, values, strict=True))


def score_names(classes: tuple[str, ...]) -> list[str]:
    return [*OVERALL, *(f"{kind}_{name}" for kind in ("f1", "precision", "recall") for name in classes)]


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean of -log p of each object's own class; p at least 1e-7, the resolution of float32 probabilities."""
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(own, 1e-7)).mean())


def macro_auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean over classes of the area under the ROC curve, each class against the rest."""
    areas = [sk.roc_auc_score(labels == index, probabilities[:, index]) for index in range(probabilities.shape[1])]
    return float(np.mean(areas))


def confusion_matrix(probabilities: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """Returns counts [truth, predicted]."""
    return sk.confusion_matrix(labels, probabilities.argmax(axis=1), labels=np.arange(len(classes)))


def with_intervals(
    probabilities: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], seed: int
) -> dict[str, dict[str, float | None]]:
    """Returns each score's `value` with the `low` and `high` end of its interval (see `INTERVALS`).

    Where every resample gives the same score, as for one without a mistake, bootstrap knows no interval: both are None.
    """
    values = scores(probabilities, labels, classes)
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == index) for index in range(len(classes))]
    resampled = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([generator.choice(rows, len(rows)) for rows in members if len(rows)])
        resampled.append(list(scores(probabilities[rows], labels[rows], classes).values()))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(resampled, [tail, 100 - tail], axis=0)
    result: dict[str, dict[str, float | None]] = {}
    for index, (name, value) in enumerate(values.items()):
        spread = bool(low[index] < high[index])
        ends = (float(low[index]), float(high[index])) if spread else (None, None)
        result[name] = {"value": value, "low": ends[0], "high": ends[1]}
    hits = probabilities.argmax(axis=1) == labels
    proportions = {"accuracy": hits} | {f"recall_{name}": hits[members[i]] for i, name in enumerate(classes)}
    for name, outcomes in proportions.items():
        interval = stats.binomtest(int(outcomes.sum()), len(outcomes)).proportion_ci(CONFIDENCE, method="wilson")
        result[name] |= {"low": float(interval.low), "high": float(interval.high)}
    return result


def mean_with_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Returns mean, low and high of the t interval over seeds; low and high are NaN for a single value."""
    count = len(values)
    if count < 2 or not np.isfinite(values).all():
        return float(np.mean(values)) if count else float("nan"), float("nan"), float("nan")
    half = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count)
    return float(np.mean(values)), float(np.mean(values) - half), float(np.mean(values) + half)


def higher_is_better(metric: str) -> bool:
    return metric not in ("log_loss", "loss")

