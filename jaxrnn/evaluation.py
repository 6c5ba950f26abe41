"""What the chosen trial's predictions tell beyond scores: curves, calibration, slices, mistakes, and how others do.

All of it is for after the choice. Places are objects or, where every step has a label, steps: those of one object
depend on each other, and are drawn together (`owners`). What is said of a place is a class, or of label sequences all
labels of an object.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from sklearn import metrics as sk

from jaxrnn import calibration, metrics, shards, splits, transcripts
from jaxrnn.config import Task
from jaxrnn.metrics import BOOTSTRAP_VALUES, CALIBRATION_BINS, CONFIDENCE, RESAMPLES, blocks
from jaxrnn.predictions import SCORED_SPLITS, Predictions
from jaxrnn.transcripts import Transcripts

MOST_POINTS = 300  # of a curve
SLICES = 4  # of a property, with as many objects each
MOST_VALUES = 3  # columns of values whose largest one is a property
MISTAKES = 20
CADENCES = 24  # bins of their distribution
FLIPS = 4999  # of signs, by which trials are compared where steps have labels
AS_PREDICTED, SCALED = "as predicted", "temperature scaled"
CHOSEN = "chosen trial"
MEASURED = ("value", "low", "high", "objects")  # of a score, as `metrics.with_intervals` has them


class Judged(ABC):
    """What one trial says of each place, whether it is right, and how sure it was. owners: the object [place]."""

    owners: np.ndarray
    by_step: bool

    @property
    @abstractmethod
    def hits(self) -> np.ndarray:
        """Whether what is said of each place is right."""

    @property
    @abstractmethod
    def confidence(self) -> np.ndarray:
        """The probability [place] float64 of what is said."""

    @property
    @abstractmethod
    def surprise(self) -> np.ndarray:
        """-log p [place] of the truth, in nats."""

    @property
    @abstractmethod
    def squares(self) -> np.ndarray:
        """The sum [place] over all that could be said of (p - truth)^2."""

    @property
    @abstractmethod
    def kinds(self) -> np.ndarray:
        """A number [place] that places with the same truth share."""

    @property
    @abstractmethod
    def strata(self) -> list[np.ndarray] | None:
        """The objects of each class, within which bootstrap draws; None where they are of no one class."""

    @abstractmethod
    def named(self, classes: Sequence[str], separator: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the truth and what is said [place], in words."""

    @abstractmethod
    def scaled(self, temperature: float) -> "Judged":
        """Returns the same by probabilities that are scaled by a temperature; what is said stays."""

    def summed(self, values: np.ndarray) -> np.ndarray:
        """Returns the sums [object] of values [place]; of objects that have no place, 0."""
        return np.bincount(self.owners, values, self.owners.max() + 1)


@dataclass(frozen=True)
class Classified(Judged):
    """Classes: probabilities [place, class], of which the largest is what is said, and labels [place]."""

    probabilities: np.ndarray
    labels: np.ndarray
    owners: np.ndarray
    by_step: bool

    @classmethod
    def of(cls, entry: Predictions, trial: str) -> "Classified":
        return cls(entry.scored(trial), entry.scored_labels, entry.owners, entry.kind == "step")

    @property
    def hits(self) -> np.ndarray:
        return self.said == self.labels

    @property
    def said(self) -> np.ndarray:
        """Returns the class [place]."""
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        return self.probabilities.max(axis=1).astype(np.float64)

    @property
    def surprise(self) -> np.ndarray:
        own = self.probabilities[np.arange(len(self.labels)), self.labels].astype(np.float64)
        return -np.log(np.maximum(own, metrics.SMALLEST_PROBABILITY))

    @property
    def squares(self) -> np.ndarray:
        probabilities = self.probabilities.astype(np.float64)
        return ((probabilities - np.eye(probabilities.shape[1])[self.labels]) ** 2).sum(axis=1)

    @property
    def kinds(self) -> np.ndarray:
        return self.labels

    @property
    def strata(self) -> list[np.ndarray] | None:
        if self.by_step:
            return None
        return [np.flatnonzero(self.labels == index) for index in range(self.probabilities.shape[1])]

    def named(self, classes: Sequence[str], separator: str) -> tuple[np.ndarray, np.ndarray]:
        names = np.array(classes, dtype=object)
        return names[self.labels], names[self.said]

    def scaled(self, temperature: float) -> "Classified":
        return replace(self, probabilities=calibration.scaled(self.probabilities, temperature))


@dataclass(frozen=True)
class Spelled(Judged):
    """Label sequences: what is decoded of an object, which is right where no label is missing, wrong or too much.
    Probabilities are those of exactly these labels; `squares` are over them and all else."""

    transcripts: Transcripts
    owners: np.ndarray
    temperature: float = 1.0
    by_step: bool = False

    @classmethod
    def of(cls, entry: Predictions, trial: str, task: Task) -> "Spelled":
        return cls.found(Transcripts.of(entry, trial, task.beam_width))

    @classmethod
    def found(cls, transcripts: Transcripts) -> "Spelled":
        return cls(transcripts, np.arange(len(transcripts.truth)))

    @property
    def hits(self) -> np.ndarray:
        return self.transcripts.edits == 0

    @cached_property
    def confidence(self) -> np.ndarray:
        return np.exp(-self.transcripts.surprises(self.transcripts.decoded, self.temperature))

    @cached_property
    def surprise(self) -> np.ndarray:
        return self.transcripts.surprises(self.transcripts.truth, self.temperature)

    @property
    def squares(self) -> np.ndarray:
        return 2 * (self.confidence - self.hits) ** 2

    @property
    def kinds(self) -> np.ndarray:
        numbers: dict[tuple[int, ...], int] = {}
        return np.array([numbers.setdefault(labels, len(numbers)) for labels in self.transcripts.truth])

    @property
    def strata(self) -> None:
        return None

    def named(self, classes: Sequence[str], separator: str) -> tuple[np.ndarray, np.ndarray]:
        own = self.transcripts
        return transcripts.texts(own.truth, classes, separator), transcripts.texts(own.decoded, classes, separator)

    def scaled(self, temperature: float) -> "Spelled":
        return replace(self, temperature=temperature)


def judged(entry: Predictions, trial: str, task: Task) -> Judged:
    """Returns what a trial says of a split."""
    return Spelled.of(entry, trial, task) if task.kind == "label_sequence" else Classified.of(entry, trial)


def curves(judged: Classified, classes: tuple[str, ...]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns the ROC and the precision-recall curve of each class against the rest, as scikit-learn has them, of at
    most `MOST_POINTS` points each; a threshold is the least probability that counts as the class."""
    roc, precision_recall = [], []
    for index, name in enumerate(classes):
        positive, score = judged.labels == index, judged.probabilities[:, index]
        wrong, right, threshold = sk.roc_curve(positive, score)
        kept = _thinned(wrong, right)
        columns = {"false_positive_rate": wrong, "true_positive_rate": right, "threshold": threshold}
        roc.append(pd.DataFrame({"class": name} | {column: values[kept] for column, values in columns.items()}))
        precision, recall, threshold = sk.precision_recall_curve(positive, score, drop_intermediate=True)
        kept = _thinned(recall, precision)
        # behind the highest threshold nothing is called the class any more
        columns = {"recall": recall, "precision": precision, "threshold": np.append(threshold, np.inf)}
        found = {column: values[kept] for column, values in columns.items()}
        precision_recall.append(pd.DataFrame({"class": name} | found))
    return pd.concat(roc, ignore_index=True), pd.concat(precision_recall, ignore_index=True)


def _thinned(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns which points of a curve are kept: its ends, and others as far from each other along it."""
    way = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    if len(way) <= MOST_POINTS:
        return np.arange(len(way))
    return np.unique([0, len(way) - 1, *np.searchsorted(way, np.linspace(0, way[-1], MOST_POINTS - 2))])


def calibrated(test: Judged, temperature: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns the bins of the reliability diagram on test, and scores of calibration: before and after the scaling by
    a temperature, which validation gave.

    Of the calibration error, which is above 0 by chance too, `by_chance` is its mean and `p_value` how often it is as
    large, where labels are drawn from the very probabilities. Of steps, all three are of one step a sequence, for the
    others depend on it. `objects`: how many the scores rest on.
    """
    bins, scores = [], []
    for name, judged, own in ((AS_PREDICTED, test, 1.0), (SCALED, test.scaled(temperature), temperature)):
        rows = [each._asdict() for each in calibration.reliability(judged.confidence, judged.hits)]
        if judged.by_step:
            rows = [row | _by_sequence(judged, row, seed) for row in rows]
        bins += [{"probabilities": name} | row for row in rows]
        places = judged.summed(np.ones(len(judged.owners)))
        entry = {"probabilities": name, "temperature": own, "objects": len(np.unique(judged.owners))}
        for score, values in (("log_loss", judged.surprise), ("brier", judged.squares)):
            low, high = _ends(_resampled_means(judged.summed(values)[:, None], places, seed, judged.strata))[:, 0]
            scores.append(entry | {"score": score, "value": float(values.mean()), "low": low, "high": high})
        scores.append(entry | {"score": "calibration_error"} | _chance(judged, seed)._asdict())
    return pd.DataFrame(bins), pd.DataFrame(scores)


def _by_sequence(judged: Judged, row: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Returns how many sequences have steps in a bin, and the interval of its accuracy by bootstrap over them, for
    steps of one depend on each other."""
    place = metrics.calibration_bins(judged.confidence, CALIBRATION_BINS)
    here = place == round(row["left"] * CALIBRATION_BINS)
    hits, places = judged.summed(judged.hits & here), judged.summed(here)
    seen = places > 0
    low, high = _ends(_resampled_means(hits[seen, None], places[seen], seed))
    return {"objects": int(seen.sum()), "low": float(low[0]), "high": float(high[0])}


class Chance(NamedTuple):
    """A calibration error, its mean where labels are drawn from the probabilities, and how often it is then at least as
    large as the one found."""

    value: float
    by_chance: float
    p_value: float


def _chance(judged: Judged, seed: int) -> Chance:
    """Returns the calibration error beside that of chance; of steps, of one a sequence."""
    generator = np.random.default_rng(seed)
    rows = np.arange(len(judged.owners))
    if judged.by_step:
        mixed = generator.permutation(rows)
        rows = mixed[np.unique(judged.owners[mixed], return_index=True)[1]]
    confidence, hits = judged.confidence[rows], judged.hits[rows]
    count, member = len(rows), np.eye(CALIBRATION_BINS)[metrics.calibration_bins(confidence, CALIBRATION_BINS)]
    errors = []
    for size in blocks(RESAMPLES, max(1, BOOTSTRAP_VALUES // count)):
        gaps = ((generator.random((size, count)) < confidence) - confidence) @ member
        errors.append(np.abs(gaps).sum(axis=1) / count)
    drawn = np.concatenate(errors)
    found = metrics.calibration_gap(confidence, hits)
    return Chance(found, float(drawn.mean()), float((1 + (drawn >= found - 1e-12).sum()) / (1 + len(drawn))))


class Property(NamedTuple):
    """Something that objects differ in: values [object], NaN where it is unknown."""

    name: str
    unit: str
    values: np.ndarray


def properties(dataset: Path, ids: np.ndarray, lengths: np.ndarray) -> tuple[list[Property], pd.DataFrame]:
    """Returns what objects with these ids and lengths differ in: length, median gap between steps, metadata, what only
    an evaluation may know, and the largest of each column of values, as features have it, where there are few; and the
    distribution of the median gap of all sequences of the dataset."""
    place = {name: index for index, name in enumerate(ids.tolist())}
    found: dict[tuple[str, str], np.ndarray] = {}
    gaps: list[np.ndarray] = []
    for path in splits.shard_paths(dataset):
        shard = shards.read(path, check=False)
        own = [row for row, name in enumerate(shard.ids.tolist()) if name in place]
        at = [place[name] for name in shard.ids[own].tolist()]
        gaps.append(_median_gaps(shard))
        columns = {("median gap", shard.time_unit): gaps[-1]}
        for named, table in ((shard.metadata_columns, shard.metadata), (shard.evaluation_columns, shard.evaluation)):
            columns |= {(column.name, column.unit): table[:, number] for number, column in enumerate(named)}
        for name, unit, numbers in _value_columns(shard):
            steps = np.where(np.isfinite(shard.features[:, numbers]), shard.features[:, numbers], -np.inf).max(axis=1)
            columns[f"largest {name}", unit] = np.maximum.reduceat(steps, shard.offsets[:-1])
        for key, values in columns.items():
            found.setdefault(key, np.full(len(ids), np.nan))[at] = values[own]
    known = [Property(name, unit, values) for (name, unit), values in found.items()]
    return [Property("length", "steps", lengths.astype(np.float64)), *known], _histogram(np.concatenate(gaps))


def _median_gaps(shard: shards.Shard) -> np.ndarray:
    """Returns the median time [sequence] between two steps; NaN of a single step."""
    ends = zip(shard.offsets[:-1].tolist(), shard.offsets[1:].tolist(), strict=True)
    return np.array([np.median(np.diff(shard.time[a:b])) if b - a > 1 else np.nan for a, b in ends])


def _histogram(values: np.ndarray) -> pd.DataFrame:
    """Returns how many values lie in bins of equal width, or of equal ratio where they spread over decades."""
    values = values[np.isfinite(values)]
    if not len(values):
        return pd.DataFrame({"from": [0.0], "to": [1.0], "sequences": [0]})
    low, high = float(values.min()), float(values.max())
    low, high = (low, high) if low < high else (low - 0.5, high + 0.5)
    edges = np.geomspace(low, high, CADENCES + 1) if 0 < 20 * low < high else np.linspace(low, high, CADENCES + 1)
    edges[[0, -1]] = low, high  # not as rounding has them
    counts, _ = np.histogram(values, edges)
    return pd.DataFrame({"from": edges[:-1], "to": edges[1:], "sequences": counts})


def _value_columns(shard: shards.Shard) -> list[tuple[str, str, list[int]]]:
    """Returns name, unit and features of each column of values, none where they are many."""
    found: dict[tuple[str, str], list[int]] = {}
    for number, column in enumerate(shard.feature_columns):
        if column.kind == "value" and not column.indicator:
            found.setdefault((column.column, column.unit), []).append(number)
    return [(name, unit, numbers) for (name, unit), numbers in found.items()] if len(found) <= MOST_VALUES else []


def slices(judged: Judged, known: Sequence[Property], seed: int) -> pd.DataFrame:
    """Returns the accuracy of the objects in each slice of each property: quarters of them, or one value each where
    there are no more; the last one has those whose value is unknown. Ends are the least and largest value in it."""
    hits, places = judged.summed(judged.hits), judged.summed(np.ones(len(judged.owners)))
    rows = []
    for name, unit, values in known:
        for low, high, members in _sliced(np.where(places > 0, values[: len(places)], np.nan), places > 0):
            objects = int(members.sum())
            accuracy = hits[members].sum() / places[members].sum()
            if judged.by_step:
                ends = [float(end[0]) for end in _ends(_resampled_means(hits[members, None], places[members], seed))]
            else:
                ends = list(metrics.wilson(int(hits[members].sum()), objects))
            row = {"property": name, "unit": unit, "from": low, "to": high, "objects": objects, "accuracy": accuracy}
            rows.append(row | {"low": ends[0], "high": ends[1]})
    return pd.DataFrame(rows)


def _sliced(values: np.ndarray, counted: np.ndarray) -> list[tuple[float, float, np.ndarray]]:
    finite = np.isfinite(values)
    found = []
    different = np.unique(values[finite])
    edges = different if len(different) <= SLICES else np.quantile(values[finite], np.linspace(0, 1, SLICES + 1)[:-1])
    number = np.searchsorted(np.unique(edges), values, side="right")
    for own in np.unique(number[finite]):
        members = finite & (number == own)
        found.append((float(values[members].min()), float(values[members].max()), members))
    unknown = counted & ~finite
    return [*found, (np.nan, np.nan, unknown)] if unknown.any() else found


def mistakes(judged: Judged, entry: Predictions, classes: Sequence[str], separator: str = " ") -> pd.DataFrame:
    """Returns the places that the trial was surest of and wrong in, at most `MISTAKES`; of steps with their number in
    the sequence, from 1. separator: what stands between the labels of a sequence."""
    wrong = np.flatnonzero(~judged.hits)
    worst = wrong[np.argsort(-judged.confidence[wrong], kind="stable")][:MISTAKES]
    owners = judged.owners[worst]
    table = {"id": entry.ids[owners], "steps": entry.lengths[owners]}
    if judged.by_step:
        table["step"] = entry.scored_steps[worst]
    truth, said = judged.named(classes, separator)
    table |= {"truth": truth[worst], "predicted": said[worst], "probability": judged.confidence[worst]}
    return pd.DataFrame(table | {"probability_of_truth": np.exp(-judged.surprise[worst])})


def ensemble(
    chosen: dict[str, dict[str, float | None]],
    together: dict[str, dict[str, float | None]] | None,
    members: int,
    task: Task,
) -> pd.DataFrame:
    """Returns the scores of the chosen trial and, where its grid point has other seeds, those that its members have
    together (`ensembles.together`)."""
    found = {CHOSEN: chosen} | ({f"ensemble of {members}": together} if together else {})
    names = metrics.overall(task)
    rows = [{"predictions": of, "score": name} | _parts(scores[name]) for of, scores in found.items() for name in names]
    return _scores(rows)


def overall_scores(best: Mapping[str, Any], task: Task) -> pd.DataFrame:
    """Returns the chosen trial's scores that are of no one class; best: its scores by split, of best.json."""
    names = [*metrics.overall(task), *metrics.AVERAGES]
    rows = [
        {"split": split, "score": name} | _parts(best[split][name])
        for split in SCORED_SPLITS
        for name in names
        if name in best[split]
    ]
    return _scores(rows)


def decoder_scores(decoders: Mapping[str, Any]) -> pd.DataFrame:
    """Returns the chosen trial's error rates by each way to decode label sequences; decoders: of best.json."""
    rows = [
        {"decoder": name, "split": split, "score": rate} | _parts(measured)
        for name, by_split in decoders.items()
        for split, scores in by_split.items()
        for rate, measured in scores.items()
    ]
    return _scores(rows)


def class_scores(test: Mapping[str, Any], classes: tuple[str, ...]) -> pd.DataFrame:
    """Returns the chosen trial's scores of each class; test: its scores, of best.json."""
    rows = [
        {"class": name, "score": kind} | _parts(test[f"{kind}_{name}"])
        for name in classes
        for kind in metrics.CLASS_SCORES
    ]
    return _scores(rows)


def _parts(score: Mapping[str, Any]) -> dict[str, Any]:
    return {part: score.get(part) for part in MEASURED}


def _scores(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Returns a table of scores, whose numbers stay such where none is known."""
    return pd.DataFrame(rows).astype(dict.fromkeys(MEASURED, float))


COMPARISONS = ("trial", "objects", "accuracy", "difference", "low", "high", "chosen_alone", "other_alone", "p_value",
               "p_holm", "log_loss_difference", "log_loss_low", "log_loss_high")  # fmt: skip


def comparisons(chosen: Judged, others: Mapping[str, Judged], seed: int) -> pd.DataFrame:
    """Returns how other trials do on the same places: chosen minus other, with paired bootstrap intervals.

    chosen_alone, other_alone: places that the one classifies rightly and the other doesn't. p_value: of equal accuracy,
    McNemar's exact test, or for steps signs flipped by sequence; p_holm: corrected for the number of trials.
    """
    places = chosen.summed(np.ones(len(chosen.owners)))
    rows = []
    names = list(others)
    start = 0
    for size in blocks(len(names), max(1, BOOTSTRAP_VALUES // (2 * len(places)))):
        together = names[start : start + size]
        start += size
        differences = [chosen.hits.astype(np.float64) - others[name].hits for name in together]
        losses = [chosen.summed(chosen.surprise - others[name].surprise) for name in together]
        sums = np.stack([*map(chosen.summed, differences), *losses], axis=1)
        ends = _ends(_resampled_means(sums, places, seed, chosen.strata))
        means = sums.sum(axis=0) / places.sum()
        for number, (name, difference) in enumerate(zip(together, differences, strict=True)):
            loss = size + number
            rows.append({
                "trial": name, "objects": int((places > 0).sum()), "accuracy": float(others[name].hits.mean()),
                "difference": means[number], "low": ends[0, number], "high": ends[1, number],
                "chosen_alone": int((difference > 0).sum()), "other_alone": int((difference < 0).sum()),
                "p_value": _flipped(sums[:, number], seed) if chosen.by_step else mcnemar(difference),
                "log_loss_difference": means[loss], "log_loss_low": ends[0, loss], "log_loss_high": ends[1, loss],
            })  # fmt: skip
    table = pd.DataFrame(rows, columns=[name for name in COMPARISONS if name != "p_holm"])
    table["p_holm"] = metrics.holm(table["p_value"].to_numpy(dtype=float))
    return table.reindex(columns=list(COMPARISONS))


def mcnemar(difference: np.ndarray) -> float:
    """Returns the two-sided p-value of McNemar's exact test (1947); difference [object]: 1, 0 or -1."""
    more, less = int((difference > 0).sum()), int((difference < 0).sum())
    return float(stats.binomtest(more, more + less).pvalue) if more + less else 1.0


def _flipped(sums: np.ndarray, seed: int) -> float:
    """Returns the two-sided p-value of sums [object] that are as likely above 0 as below."""
    generator, found = np.random.default_rng(seed), abs(sums.sum())
    own = sums[sums != 0]
    if not len(own):
        return 1.0
    larger = 0
    for size in blocks(FLIPS, max(1, BOOTSTRAP_VALUES // len(own))):
        signs = generator.integers(0, 2, (size, len(own))) * 2 - 1
        larger += int((np.abs(signs @ own) >= found - 1e-9).sum())
    return (1 + larger) / (1 + FLIPS)


def _resampled_means(
    sums: np.ndarray, places: np.ndarray, seed: int, strata: list[np.ndarray] | None = None
) -> np.ndarray:
    """Returns the means [resample, column] over places of bootstrap samples of objects, the very samples that
    `metrics.with_intervals` draws. sums: [object, column]; places: [object] how many each has; strata: the objects that
    are drawn together, None for all."""
    seen = places > 0
    sums, places = sums[seen], places[seen]
    generator, count = np.random.default_rng(seed), len(places)
    found = []
    for size in blocks(RESAMPLES, max(1, BOOTSTRAP_VALUES // int(places.sum()))):
        drawn = np.zeros((size, count))
        for rows in [np.arange(count)] if strata is None else strata:
            drawn[:, rows] = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=size)
        found.append((drawn @ sums) / (drawn @ places)[:, None])
    return np.concatenate(found)


def _ends(resampled: np.ndarray) -> np.ndarray:
    """Returns the ends of the interval [end, column]; NaN where all resamples are the same."""
    tail = 50 * (1 - CONFIDENCE)
    ends = np.percentile(resampled, [tail, 100 - tail], axis=0)
    return np.where(ends[1] - ends[0] > metrics.ROUNDING, ends, np.nan)
