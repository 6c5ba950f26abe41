"""The reported scores, computed by scikit-learn from stored predictions, with intervals."""

from collections.abc import Sequence

import numpy as np
from scipy import special, stats
from sklearn import metrics as sk

from jaxrnn.config import ERROR_RATES, Task

CONFIDENCE = 0.95
RESAMPLES = 1000
BOOTSTRAP_VALUES = 10_000_000  # held at once, of 8 bytes
SMALLEST_PROBABILITY = 1e-7  # the resolution of float32 probabilities
CALIBRATION_BINS = 15
WRONG_COUNTS = 3  # times in the figure of merit, as SPCC had it
PLAIN = Task()
# Below so many objects intervals are not told: benchmarks/coverage.py measures what they cover.
FEWEST_OBJECTS = 10
ROUNDING = 1e-12  # scores that differ by less are the same, summed in another order
INTERVALS = (
    "95 %; accuracy and recall by Wilson's score, areas under ROC curves by DeLong's variance within classes on the "
    "logit scale, the others by bootstrap over objects within classes (percentiles, 1,000 resamples)"
)
CLASS_SCORES = ("f1", "precision", "recall", "auc", "average_precision")
# Beside those of `overall`, of no one class; recall weighted by a class's objects is the accuracy.
AVERAGES = ("macro_precision", "macro_recall", "macro_average_precision", "weighted_precision", "weighted_f1",
            "weighted_auc")  # fmt: skip
INTERVALS_BY_STEP = "95 %; by bootstrap over sequences, whose steps depend on each other (percentiles, 1,000 resamples)"


def scores(
    probabilities: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], task: Task = PLAIN
) -> dict[str, float]:
    """Returns log loss, accuracy, macro F1, macro AUC (one against the rest), PLAsTiCC's log loss, the figure of merit
    where the task has a target, each class's F1, precision, recall, area under its ROC curve and average precision,
    and the averages of these over classes, plain (macro) and by their objects (weighted).

    probabilities: [object, class]; labels: [object] class indices. All NaN where a probability is NaN (a trial that
    diverged at once).
    """
    names = score_names(classes, task)
    if not np.isfinite(probabilities).all():
        return dict.fromkeys(names, float("nan"))
    index = np.arange(len(classes))
    predicted = probabilities.argmax(axis=1)
    by_class = sk.precision_recall_fscore_support(labels, predicted, labels=index, zero_division=0.0)  # pyright: ignore
    precision, recall, f1 = (np.asarray(values, dtype=float) for values in by_class[:3])
    target = task.target_index(classes)
    areas = np.array([_areas(probabilities[:, place], labels == place) for place in index])
    roc, average_precision = areas.T
    shares = np.bincount(labels, minlength=len(classes)) / len(labels)
    values = [
        log_loss(probabilities, labels),
        float(np.mean(predicted == labels)),
        float(np.mean(f1)),
        float(np.mean(roc)),
        plasticc_log_loss(probabilities, labels, task.importance(classes)),
        *([] if target is None else [figure_of_merit(predicted == target, labels == target)]),
        *f1.tolist(),
        *precision.tolist(),
        *recall.tolist(),
        *roc.tolist(),
        *average_precision.tolist(),
        *(float(np.mean(values)) for values in (precision, recall, average_precision)),
        *(float(shares @ values) for values in (precision, f1, roc)),
    ]
    return dict(zip(names, values, strict=True))


def score_names(classes: tuple[str, ...], task: Task = PLAIN) -> list[str]:
    return [*overall(task), *(f"{kind}_{name}" for kind in CLASS_SCORES for name in classes), *AVERAGES]


def overall(task: Task) -> list[str]:
    """Returns the names of the scores that are of no one class, as far as the task defines them."""
    if task.kind == "label_sequence":
        return ["log_loss", *ERROR_RATES]
    names = ["log_loss", "accuracy", "macro_f1", "macro_auc", "plasticc_log_loss"]
    return names if task.target is None else [*names, "figure_of_merit"]


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean of -log p of each object's own class; p at least `SMALLEST_PROBABILITY`."""
    return float(_surprise(probabilities, labels).mean())


def plasticc_log_loss(probabilities: np.ndarray, labels: np.ndarray, importance: Sequence[float]) -> float:
    """Returns the weighted mean over classes of the mean of -log p of a class's objects, as PLAsTiCC was scored (Malz
    et al. 2019, arXiv 1809.11145); p at least `SMALLEST_PROBABILITY`.

    importance: [class], the weights.
    """
    surprise = _surprise(probabilities, labels)
    means = [surprise[labels == index].mean() for index in range(len(importance))]
    return float(np.average(means, weights=importance))


def _surprise(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return -np.log(np.maximum(own, SMALLEST_PROBABILITY))


def figure_of_merit(claimed: np.ndarray, truth: np.ndarray) -> float:
    """Returns efficiency times pseudo-purity of a class, TP / (TP + FN) x TP / (TP + 3 FP): SPCC's figure of merit
    (Kessler et al. 2010, arXiv 1008.1024).

    claimed, truth: [object], what is taken for the class and what is of it. 0 where nothing is taken for it.
    """
    hits, wrong = (claimed & truth).sum(), (claimed & ~truth).sum()
    return float(hits / truth.sum() * hits / max(hits + WRONG_COUNTS * wrong, 1))


def macro_auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean over classes of the area under the ROC curve, each class against the rest."""
    areas = [sk.roc_auc_score(labels == index, probabilities[:, index]) for index in range(probabilities.shape[1])]
    return float(np.mean(areas))


def _areas(score: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Returns the area under the ROC curve, and the average precision."""
    return float(sk.roc_auc_score(positive, score)), float(sk.average_precision_score(positive, score))


def calibration_bins(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Returns the number of the bin, of equal width, that each stated probability [object] lies in."""
    return np.minimum((confidence * bins).astype(np.int64), bins - 1)


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Returns the expected calibration error (Guo et al. 2017, arXiv 1706.04599, eq. 3): the mean over objects of
    |accuracy - confidence| of their bin, for bins of equal width of the probability of the predicted class."""
    return calibration_gap(probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == labels, bins)


def calibration_gap(confidence: np.ndarray, hits: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Returns the `calibration_error` of stated probabilities [object] float64 that are right where `hits` is true."""
    gaps = np.bincount(calibration_bins(confidence, bins), hits - confidence, bins)
    return float(np.abs(gaps).sum() / len(hits))


def confusion_matrix(probabilities: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """Returns counts [truth, predicted]."""
    return sk.confusion_matrix(labels, probabilities.argmax(axis=1), labels=np.arange(len(classes)))


def with_intervals(
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    seed: int,
    task: Task = PLAIN,
    owners: np.ndarray | None = None,
) -> dict[str, dict[str, float | None]]:
    """Returns each score's `value` with the `low` and `high` end of its interval (see `INTERVALS`).

    owners: [place] which sequence each place belongs to, where sequences have several: they are drawn whole.
    Where every resample gives the same score, as for one without a mistake, bootstrap knows no interval: both are None.
    All three are None where a probability is not finite. Every class must have an object. `objects`: how many the
    interval rests on; of a macro score those of the rarest class. Below `FEWEST_OBJECTS` it is not to be believed.
    """
    values = scores(probabilities, labels, classes, task)
    if not np.isfinite(probabilities).all():
        return {name: {"value": None, "low": None, "high": None} for name in values}
    members = [np.flatnonzero(labels == index) for index in range(len(classes))]
    if owners is None:
        owners, strata = np.arange(len(labels)), members
    else:
        owners = np.unique(owners, return_inverse=True)[1]
        strata = [np.arange(owners.max() + 1)]
    importance, target = task.importance(classes), task.target_index(classes)
    resampled = _resampled(probabilities, labels, owners, strata, importance, target, np.random.default_rng(seed))
    result = bootstrapped(values, resampled)
    if len(strata) > 1:
        for name, ends in _known_intervals(probabilities, labels, members, classes).items():
            result[name] |= dict(zip(("low", "high"), ends, strict=True))
    rests = _rests_on(probabilities, labels, owners, classes)
    return {name: entry | {"objects": rests.get(name, rests["macro"])} for name, entry in result.items()}


def _known_intervals(
    probabilities: np.ndarray, labels: np.ndarray, members: list[np.ndarray], classes: tuple[str, ...]
) -> dict[str, tuple[float | None, float | None]]:
    """Returns the ends of the intervals of scores for which there is better than bootstrap. members: the objects of
    each class."""
    hits = probabilities.argmax(axis=1) == labels
    proportions = {"accuracy": hits} | {f"recall_{name}": hits[members[i]] for i, name in enumerate(classes)}
    found: dict[str, tuple[float | None, float | None]] = {
        name: wilson(int(outcomes.sum()), len(outcomes)) for name, outcomes in proportions.items()
    }
    influence = auc_influence(probabilities, labels)
    shares = np.array([len(rows) for rows in members]) / len(labels)
    weights = {f"auc_{name}": own for name, own in zip(classes, np.eye(len(classes)), strict=True)}
    weights |= {"macro_auc": np.full(len(classes), 1 / len(classes)), "weighted_auc": shares}
    return found | {name: area_interval(influence, members, own) for name, own in weights.items()}


def _rests_on(
    probabilities: np.ndarray, labels: np.ndarray, owners: np.ndarray, classes: tuple[str, ...]
) -> dict[str, int]:
    """Returns how many objects each score rests on; `macro`: those of the rarest class."""
    predicted = probabilities.argmax(axis=1)
    every = len(np.unique(owners))
    found, rarest = {"accuracy": every, "log_loss": every}, every
    for index, name in enumerate(classes):
        true, others, said = (
            len(np.unique(owners[rows])) for rows in (labels == index, labels != index, predicted == index)
        )
        found |= {f"recall_{name}": true, f"precision_{name}": said}
        # what is wrongly taken for the class comes from the others
        found |= {f"{kind}_{name}": min(true, others) for kind in ("f1", "auc", "average_precision")}
        rarest = min(rarest, true)
    return found | {"macro": rarest}


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Returns the ends of Wilson's score interval (1927) of a share."""
    interval = stats.binomtest(hits, count).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def auc_influence(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns [object, class] how much each object adds to the area under each class's ROC curve: DeLong's structural
    components (DeLong et al. 1988, Biometrics 44, 837), by ranks (Sun & Xu 2014, IEEE SPL 21, 1389), over the number
    of objects that they are the mean of."""
    found = np.zeros(probabilities.shape)
    for index, score in enumerate(probabilities.T):
        positive = labels == index
        for own, others in ((positive, ~positive), (~positive, positive)):
            ranks = stats.rankdata(score)[own] - stats.rankdata(score[own])
            below = ranks / others.sum()  # the share of the others that have a lower score, ties counting half
            found[own, index] = (below if own is positive else 1 - below) / own.sum()
    return found


def area_interval(
    influence: np.ndarray, members: list[np.ndarray], weights: np.ndarray
) -> tuple[float | None, float | None]:
    """Returns the ends of the interval of a weighted mean of the classes' areas under their ROC curves: normal on the
    logit scale (Pepe 2003, "The Statistical Evaluation of Medical Tests", ch. 5), so that it knows where areas end;
    None where all objects say the same, and where a class that counts has one object, whose variance nobody knows.

    The variance is DeLong's within classes: the others of a class are drawn as many of each class as there are.
    influence: of `auc_influence`. members: the objects of each class.
    """
    counts = np.array([len(rows) for rows in members])
    if (weights[counts == 1] > 0).any():
        return None, None
    own = influence @ weights
    area = float(sum(influence[rows, index].sum() * weights[index] for index, rows in enumerate(members)))
    # an object that is alone in its class, one of the others, adds from 0 to `most`: its variance is at most this
    most = float((weights / (counts.sum() - counts)).sum())
    variance = sum(len(rows) * np.var(own[rows], ddof=1) if len(rows) > 1 else most**2 / 4 for rows in members)
    if not ROUNDING < area < 1 - ROUNDING or variance < ROUNDING**2:
        return None, None
    half = stats.norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(variance) / (area * (1 - area))
    return float(special.expit(special.logit(area) - half)), float(special.expit(special.logit(area) + half))


def bootstrapped(values: dict[str, float], resampled: np.ndarray) -> dict[str, dict[str, float | None]]:
    """Returns each score's `value` with the `low` and `high` percentile of its resamples [resample, score]; both are
    None where all are the same."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.nanpercentile(resampled, [tail, 100 - tail], axis=0)
    result: dict[str, dict[str, float | None]] = {}
    for index, (name, value) in enumerate(values.items()):
        apart = high[index] - low[index] > ROUNDING
        ends = (float(low[index]), float(high[index])) if apart else (None, None)
        result[name] = {"value": value, "low": ends[0], "high": ends[1]}
    return result


def _resampled(
    probabilities: np.ndarray,
    labels: np.ndarray,
    owners: np.ndarray,
    strata: list[np.ndarray],
    importance: Sequence[float],
    target: int | None,
    generator: np.random.Generator,
) -> np.ndarray:
    """Returns the scores [resample, score] of bootstrap samples, in the order of `score_names`; NaN where a sample has
    none of a class.

    A sample is how often each object was drawn, [place] of the owner of each place: all scores follow from these
    counts, without computing anything anew for each sample but sums. strata: the objects that are drawn together.
    """
    places, classes = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    surprise, own = _surprise(probabilities, labels), np.eye(classes)[labels]
    shares = np.array(importance) / np.sum(importance)
    samples = []
    for count in blocks(RESAMPLES, max(1, BOOTSTRAP_VALUES // places)):
        objects = np.zeros((count, owners.max() + 1))
        for rows in strata:
            objects[:, rows] = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=count)
        drawn = objects[:, owners]
        claimed = np.stack([drawn[:, predicted == index].sum(axis=1) for index in range(classes)], axis=1)
        hits = np.stack(
            [drawn[:, (predicted == index) & (labels == index)].sum(axis=1) for index in range(classes)], axis=1
        )
        truth = drawn @ own
        total = drawn.sum(axis=1)
        f1 = 2 * hits / np.maximum(truth + claimed, 1)
        areas = [_weighted_areas(probabilities[:, index], labels == index, drawn) for index in range(classes)]
        roc, average_precision = (np.stack(values, axis=1) for values in zip(*areas, strict=True))
        precision, recall = hits / np.maximum(claimed, 1), hits / np.maximum(truth, 1)
        found = [drawn @ surprise / total, hits.sum(axis=1) / total, f1.mean(axis=1), roc.mean(axis=1)]
        found.append((drawn @ (own * surprise[:, None]) / np.maximum(truth, 1)) @ shares)
        if target is not None:
            right, wrong = hits[:, target], claimed[:, target] - hits[:, target]
            merit = right / np.maximum(truth[:, target], 1) * right / np.maximum(right + WRONG_COUNTS * wrong, 1)
            found.append(merit)
        of_classes = [f1, precision, recall, roc, average_precision]
        plain = [values.mean(axis=1) for values in (precision, recall, average_precision)]
        weighted = [(truth * values).sum(axis=1) / total for values in (precision, f1, roc)]
        samples.append(np.column_stack([*found, *of_classes, *plain, *weighted]))
    return np.concatenate(samples)


def blocks(total: int, size: int) -> list[int]:
    """Returns numbers of at most `size`, which add up to `total`."""
    return [min(size, total - start) for start in range(0, total, size)]


def _weighted_areas(score: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the area under the ROC curve, ties counting half, and the average precision, for each row of weights
    [sample, object]; NaN where a row has none of either side."""
    order = np.argsort(score, kind="stable")
    _, starts = np.unique(score[order], return_index=True)
    won = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    lost = np.add.reduceat(weights[:, order] * ~positive[order], starts, axis=1)
    below = np.cumsum(lost, axis=1) - lost / 2
    positives = won.sum(axis=1)
    pairs = positives * lost.sum(axis=1)
    area = np.divide((won * below).sum(axis=1), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    right, all_above = (np.cumsum(values[:, ::-1], axis=1)[:, ::-1] for values in (won, won + lost))
    gained = (won * right / np.maximum(all_above, 1)).sum(axis=1)
    precision = np.divide(gained, positives, out=np.full(len(pairs), np.nan), where=positives > 0)
    return area, precision


def holm(p_values: np.ndarray) -> np.ndarray:
    """Returns p-values corrected for their number by Holm's step-down procedure (1979, Scand. J. Statist. 6, 65)."""
    order = np.argsort(p_values, kind="stable")
    raised = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    found = np.empty(len(p_values))
    found[order] = np.minimum(raised, 1.0)
    return found


def mean_with_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Returns mean, low and high of the t interval over seeds; low and high are NaN for one value, or equal ones."""
    count = len(values)
    if count < 2 or not np.isfinite(values).all() or np.ptp(values) == 0:
        return float(np.mean(values)) if count else float("nan"), float("nan"), float("nan")
    half = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count)
    return float(np.mean(values)), float(np.mean(values) - half), float(np.mean(values) + half)
