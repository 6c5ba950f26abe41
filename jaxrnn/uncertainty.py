"""How sure the chosen network is, also of what it never saw: entropy on test objects and on made-up inputs, by the
chosen trial, its ensemble, and Monte-Carlo dropout.

All of it is for after the choice. Probabilities are those of `jaxrnn predict`, calibrated by temperature; the passes of
Monte-Carlo dropout by that of the chosen trial. A place is what is scored: an object (of prefixes the whole sequence,
of label sequences all labels), or a step with a label. Everything is drawn from one seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from jaxrnn import blueprint, ensembles, evaluation, metrics, transcripts
from jaxrnn.blueprint import Blueprint
from jaxrnn.bundles import Bundle
from jaxrnn.early import Clock
from jaxrnn.ensembles import Together
from jaxrnn.evaluation import CHOSEN
from jaxrnn.features import TIME_FEATURES
from jaxrnn.metrics import CONFIDENCE, RESAMPLES
from jaxrnn.transcripts import Labels

if TYPE_CHECKING:
    from jaxrnn.batches import Examples, Part

PASSES = 50  # of Monte-Carlo dropout
MOST_OBJECTS = 500  # that are looked at
MOST_STEPS = 50_000  # that these have together, as far as their mean length tells: each is predicted hundreds of times
SURE = 0.9  # a probability above which what is said counts as sure
# Of the entropy's distribution, over its largest value: of equal ratio, but for the first one, from 0 to the least.
BINS, LEAST_ENTROPY = 20, 1e-4
DROPOUT = f"dropout, {PASSES} passes"
# Test objects, and what is made of them. `made_up` says how.
TEST, RANDOM, REVERSED, SHUFFLED, SINE = INPUTS = ("test", "random", "reversed", "shuffled", "sine")
QUANTILES = {"quantile_05": 0.05, "quantile_25": 0.25, "median": 0.5, "quantile_75": 0.75, "quantile_95": 0.95}
SCORES = ("accuracy", "log_loss", "calibration_error", "mistakes_auc", "entropy", "mutual_information")


@dataclass(frozen=True)
class Dropout:
    """The rates of layers that have none of their own, as the chosen trial was trained."""

    rate: float
    recurrent: float


class Said(NamedTuple):
    """What is said of places: whether it is right, with which probability, -log p of the truth, and how unsure it is.

    All [place]; entropy and mutual information in nats, of label sequences by `transcripts.means`. most_entropy: of a
    toss-up.
    """

    hits: np.ndarray
    confidence: np.ndarray
    surprise: np.ndarray
    entropy: np.ndarray
    mutual_information: np.ndarray
    most_entropy: float

    @classmethod
    def of(cls, together: Together, labels: np.ndarray) -> "Said":
        """Returns what is said of places that have one class each: labels [place]."""
        judged = evaluation.Classified(together.probabilities, labels, np.arange(len(labels)), by_step=False)
        most = float(np.log(together.probabilities.shape[1]))
        unsure = together.entropy, together.mutual_information
        return cls(judged.hits, judged.confidence, judged.surprise, *unsure, most)

    @classmethod
    def spelled(cls, together: Together, places: np.ndarray, truth: list[Labels], bundle: Bundle) -> "Said":
        """Returns what is said of label sequences; places: [sequence] how many each has."""
        pieces = np.split(together.probabilities, np.cumsum(places)[:-1])
        by_decoder = bundle.model.decoder is not None
        decoded = transcripts.decode(pieces, by_decoder, bundle.task.beam_width)
        most = float(np.log(together.probabilities.shape[1]))
        return cls(
            np.array([own == other for own, other in zip(decoded, truth, strict=True)]),
            np.exp(-transcripts.surprises(pieces, decoded, by_decoder)),
            transcripts.surprises(pieces, truth, by_decoder),
            transcripts.means(together.entropy, places, decoded, by_decoder),
            transcripts.means(together.mutual_information, places, decoded, by_decoder),
            most,
        )


class Tables(NamedTuple):
    """uncertainty: a row for each score of each of the predictions, on test objects. out_of_distribution: a row for
    each kind of inputs. entropies: how many places lie in each bin of the entropy."""

    uncertainty: pd.DataFrame
    out_of_distribution: pd.DataFrame
    entropies: pd.DataFrame


def tables(bundle: Bundle, test: "Part", train: "Part", dataset: Path, dropout: Dropout, seed: int) -> Tables:
    """Returns how sure the bundle's networks are of test objects, and of what is made of them.

    test, train: splits, of which some objects are looked at, `MOST_OBJECTS` or fewer of long ones; those of the
    training split for their moments. dataset: where the times of steps are found.
    """
    from jaxrnn import shuffles

    few, sample = _drawn(test, seed), _drawn(train, seed)
    (objects,), (known,) = shuffles.every(few), shuffles.every(sample)
    times = Clock.read(dataset, objects.ids, None).time
    made = made_up(objects, times, bundle.features, *moments(known.features, bundle.features), seed)
    # of features that are times or passbands alone some kinds change nothing
    other = {kind: own for kind, own in made.items() if not np.array_equal(own.features, objects.features)}
    inputs = {TEST: objects} | other
    said = {kind: _said(bundle, own, dropout, seed + at) for at, (kind, own) in enumerate(inputs.items())}
    owners = np.arange(len(objects))
    if few.labels_by_step:
        owners = np.repeat(owners, objects.lengths)[objects.labels >= 0]
    return judged(said, owners, seed, by_step=few.labels_by_step)


def judged(said: dict[str, dict[str, Said]], owners: np.ndarray, seed: int, *, by_step: bool) -> Tables:
    """Returns what the tables say of what was said, by kind of inputs and by whose predictions it is, of each place.

    owners: [place] the object of each, which is the same for all kinds. by_step: whether an object may have several
    places.
    """
    places = _Places(np.unique(owners, return_inverse=True)[1], by_step)
    draw = _Draws.of(int(places.owners.max()) + 1, seed)
    names = list(said[TEST])
    scores = [row for name in names for row in _scores(name, said[TEST][name], places, draw)]
    rows = [_row(name, kind, said, places, draw) for name in names for kind in said]
    bins = [row for name in names for kind in said for row in _bins(name, kind, said[kind][name])]
    return Tables(*map(pd.DataFrame, (scores, rows, bins)))


def _drawn(part: "Part", seed: int) -> "Part":
    from jaxrnn import shuffles

    count = min(MOST_OBJECTS, len(part), max(1, int(MOST_STEPS // part.lengths.mean())))
    rows = np.random.default_rng(seed).choice(len(part), count, replace=False)
    return shuffles.reordered(part, np.sort(rows))


def moments(features: np.ndarray, columns: Sequence[dict[str, object]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation [feature] of what was observed: 0 stands where a passband was not."""
    seen = _seen(features, columns)
    counts = np.maximum(seen.sum(axis=0), 1)
    mean = np.where(seen, features, 0).sum(axis=0, dtype=np.float64) / counts
    return mean, np.sqrt((np.where(seen, features - mean, 0) ** 2).sum(axis=0) / counts)


def made_up(
    objects: "Examples",
    times: np.ndarray,
    columns: Sequence[dict[str, Any]],
    mean: np.ndarray,
    deviation: np.ndarray,
    seed: int,
) -> dict[str, "Examples"]:
    """Returns inputs of no class that the network knows, with the lengths, times and metadata of the objects.

    The kinds are those of Möller & de Boissière (2020, MNRAS 491, 4277; arXiv 1901.06384), for any survey: there, times
    are reversed and shuffled with the rest, random values are uniform, and the wave has a period of 30 days.
    `random`: each value and error is drawn by itself from a normal distribution. `reversed`, `shuffled`: all but times
    stands in the opposite order of steps, or in a random one. `sine`: all values are one wave each object, of a random
    phase and of a period between four of its mean gaps and its whole time; the errors stay.
    mean, deviation: [feature] the moments of the training split as the network sees it, which random values and waves
    have too. What a passband has no observation of stays 0.
    """
    generator = np.random.default_rng([seed, 1])
    kinds = np.array([column["kind"] for column in columns])
    indicators = np.array([bool(column["indicator"]) for column in columns])
    timed = np.isin(kinds, TIME_FEATURES)
    waving = kinds == "value"
    free = waving | (kinds == "error")
    if not free.any():
        # where times are all that there is, there is nothing else to make up
        free = waving = ~indicators
    features, lengths = objects.features, objects.lengths
    owner, first = np.repeat(np.arange(len(objects)), lengths), objects.offsets[:-1]
    within = np.arange(len(features)) - first[owner]
    seen = _seen(features, columns)

    def with_columns(chosen: np.ndarray, values: np.ndarray) -> "Examples":
        return replace(objects, features=np.where(chosen & seen, values, features).astype(np.float32))

    def in_order(order: np.ndarray) -> "Examples":
        return replace(objects, features=np.where(timed, features, features[order]))

    last = times[objects.offsets[1:] - 1]
    whole = np.maximum(last - times[first], np.finfo(np.float64).tiny)
    shortest = np.minimum(4 / np.maximum(lengths - 1, 1), 1)  # of the whole
    period = whole * shortest ** generator.random(len(objects))
    phase = (times - times[first][owner]) / period[owner] + generator.random(len(objects))[owner]
    wave = np.sqrt(2) * np.sin(2 * np.pi * phase)[:, None]
    mixed = np.lexsort((generator.random(len(features)), owner))
    return {
        RANDOM: with_columns(free, generator.normal(mean, deviation, features.shape)),
        REVERSED: in_order(first[owner] + lengths[owner] - 1 - within),
        SHUFFLED: in_order(mixed),
        SINE: with_columns(waving, mean + deviation * wave),
    }


def _seen(features: np.ndarray, columns: Sequence[dict[str, Any]]) -> np.ndarray:
    """Returns which values [step, feature] were observed, as far as columns of the passbands say it."""
    bands = {column["passband"]: place for place, column in enumerate(columns) if column["indicator"]}
    return np.stack(
        [
            features[:, bands[column["passband"]]] > 0
            if column["passband"] in bands
            else np.ones(len(features), dtype=bool)
            for column in columns
        ],
        axis=1,
    )


def _network(bundle: Bundle) -> Blueprint:
    return blueprint.of(bundle.model, bundle.task.kind, len(bundle.features), len(bundle.metadata), bundle.outputs)


def _said(bundle: Bundle, inputs: "Examples", dropout: Dropout, seed: int) -> dict[str, Said]:
    """Returns what is said of inputs by the chosen trial, by the ensemble where there is one, and by passes of dropout
    where the network has any: by their mean. Mutual information: Houlsby et al. 2011 (arXiv 1112.5745), eq. 2."""
    places, labels = _network(bundle).places(inputs.lengths), inputs.labels
    if bundle.task.kind == "label_sequence":
        truth: list[Labels] = [tuple(own[own >= 0].tolist()) for own in labels]
        together = _together(bundle, inputs, np.arange(places.sum()), dropout, seed)
        return {name: Said.spelled(own, places, truth, bundle) for name, own in together.items()}
    scored = np.flatnonzero(labels >= 0) if bundle.task.kind == "step" else np.cumsum(places) - 1
    together = _together(bundle, inputs, scored, dropout, seed)
    return {name: Said.of(own, labels[labels >= 0]) for name, own in together.items()}


def _together(
    bundle: Bundle, inputs: "Examples", scored: np.ndarray, dropout: Dropout, seed: int
) -> dict[str, Together]:
    """Returns the predictions of those of a network's places that are scored."""
    from jaxrnn import predict

    members = [found[scored] for found in predict.by_batches(bundle, inputs)]
    temperatures = [member.temperature for member in bundle.members]
    said = {CHOSEN: ensembles.together(members[:1], temperatures[:1])}
    if len(members) > 1:
        said[f"ensemble of {len(members)}"] = ensembles.together(members, temperatures)
    if _network(bundle).drops(dropout.rate, dropout.recurrent):
        passes = predict.by_dropout(bundle, inputs, PASSES, seed, dropout.rate, dropout.recurrent)
        said[DROPOUT] = ensembles.together([found[scored] for found in passes], temperatures[:1] * PASSES)
    return said


# Scores, with intervals by bootstrap over objects (percentiles): what is made of an object is drawn with it


class _Places(NamedTuple):
    owners: np.ndarray
    by_step: bool


@dataclass(frozen=True)
class _Draws:
    """Bootstrap samples of objects: how often each is drawn, [resample, object]."""

    counts: np.ndarray

    @classmethod
    def of(cls, objects: int, seed: int) -> "_Draws":
        generator = np.random.default_rng([seed, 2])
        return cls(generator.multinomial(objects, np.full(objects, 1 / objects), RESAMPLES).astype(np.float64))

    def summed(self, values: np.ndarray, owners: np.ndarray) -> np.ndarray:
        """Returns the sums [object] of values [place]."""
        return np.bincount(owners, values, self.counts.shape[1])

    def mean(self, values: np.ndarray, owners: np.ndarray) -> dict[str, float]:
        """Returns the mean of values [place] with its interval."""
        places = self.counts @ self.summed(np.ones(len(values)), owners)
        resampled = self.counts @ self.summed(values, owners) / np.where(places > 0, places, np.nan)
        return {"value": float(values.mean())} | _ends(resampled)

    def share(self, hits: np.ndarray, owners: np.ndarray, by_step: bool) -> dict[str, float]:
        """Returns a share; of objects with Wilson's interval."""
        if by_step:
            return self.mean(hits.astype(np.float64), owners)
        low, high = metrics.wilson(int(hits.sum()), len(hits))
        return {"value": float(hits.mean()), "low": low, "high": high}

    def area(self, above: np.ndarray, owners: np.ndarray, below: np.ndarray, others: np.ndarray) -> dict[str, float]:
        """Returns the area under the ROC curve of scores [place] of what should score high (`above`) and low (`below`),
        with the object [place] of each; NaN without one of either, or where a score is not finite. It is the share of
        pairs in the right order, ties counting half: each resample weighs the pairs of its objects."""
        if not len(above) or not len(below) or not np.isfinite([*above, *below]).all():
            return dict.fromkeys(("value", "low", "high"), np.nan)
        order = np.argsort(owners, kind="stable")
        whose, starts = np.unique(owners[order], return_index=True)
        won = np.zeros((self.counts.shape[1],) * 2)  # [object of the high one, object of the low one]
        for one, scores in zip(whose, np.split(above[order], starts[1:]), strict=True):
            ranked = np.sort(scores)
            lower = (np.searchsorted(ranked, below, "left") + np.searchsorted(ranked, below, "right")) / 2
            won[one] = self.summed(len(ranked) - lower, others)
        pairs = [self.counts @ self.summed(np.ones(len(own)), own) for own in (owners, others)]
        total = pairs[0] * pairs[1]
        resampled = ((self.counts @ won) * self.counts).sum(axis=1) / np.where(total > 0, total, np.nan)
        return {"value": float(won.sum() / (len(above) * len(below)))} | _ends(resampled)


def _ends(resampled: np.ndarray) -> dict[str, float]:
    """Returns the ends of an interval; NaN where all resamples are the same, or none is a number."""
    finite = resampled[np.isfinite(resampled)]
    if not len(finite):
        return {"low": np.nan, "high": np.nan}
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(finite, [tail, 100 - tail])
    apart = high - low > metrics.ROUNDING
    return {"low": float(low) if apart else np.nan, "high": float(high) if apart else np.nan}


def _scores(name: str, said: Said, places: _Places, draw: _Draws) -> list[dict[str, Any]]:
    """Returns the rows of `SCORES`: `mistakes_auc` is how well entropy tells mistakes, and rests on the objects of what
    is rarer, right or wrong."""
    right, owners = said.hits, places.owners
    found = {
        "accuracy": draw.share(right, owners, places.by_step),
        "log_loss": draw.mean(said.surprise, owners),
        # above 0 by chance too: resampling it gives no interval of the true one
        "calibration_error": {"value": metrics.calibration_gap(said.confidence, right), "low": np.nan, "high": np.nan},
        "mistakes_auc": draw.area(said.entropy[~right], owners[~right], said.entropy[right], owners[right]),
        "entropy": draw.mean(said.entropy.astype(np.float64), owners),
        "mutual_information": draw.mean(_disagreement(name, said), owners),
    }
    every = len(np.unique(owners))
    few = min(len(np.unique(owners[right])), len(np.unique(owners[~right])))
    return [
        {"predictions": name, "score": score} | found[score] | {"objects": few if score == "mistakes_auc" else every}
        for score in SCORES
    ]


def _disagreement(name: str, said: Said) -> np.ndarray:
    """Returns the mutual information [place]; NaN of one network alone, which has nobody to disagree with."""
    return np.full(len(said.entropy), np.nan) if name == CHOSEN else said.mutual_information.astype(np.float64)


def _row(name: str, kind: str, said: dict[str, dict[str, Said]], places: _Places, draw: _Draws) -> dict[str, Any]:
    """Returns how sure is said of one kind of inputs: `sure`, the share of places of which something is said with a
    probability above `SURE`; quantiles of the entropy (nats); `auc`, how well it tells these inputs from test objects;
    means of entropy and mutual information (nats)."""
    own, test, owners = said[kind][name], said[TEST][name], places.owners
    sure = draw.share(own.confidence > SURE, owners, places.by_step)
    nothing = dict.fromkeys(("value", "low", "high"), np.nan)
    area = nothing if kind == TEST else draw.area(own.entropy, owners, test.entropy, owners)
    quantiles = np.quantile(own.entropy.astype(np.float64), list(QUANTILES.values()))
    return {
        "predictions": name,
        "inputs": kind,
        "objects": len(np.unique(owners)),
        "places": len(owners),
        "sure": sure["value"],
        "sure_low": sure["low"],
        "sure_high": sure["high"],
        "entropy": float(own.entropy.mean(dtype=np.float64)),
        **dict(zip(QUANTILES, quantiles.tolist(), strict=True)),
        "mutual_information": float(_disagreement(name, own).mean()),
        "auc": area["value"],
        "low": area["low"],
        "high": area["high"],
    }


def _bins(name: str, kind: str, said: Said) -> list[dict[str, Any]]:
    """Returns how many places lie in each bin of the entropy, as a share of its largest value."""
    shares = said.entropy / said.most_entropy
    edges = np.concatenate([[0], np.geomspace(LEAST_ENTROPY, 1, BINS)])
    counts = np.histogram(np.clip(shares, 0, 1), edges)[0]
    return [
        {"predictions": name, "inputs": kind, "from": low, "to": high, "places": int(count)}
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
