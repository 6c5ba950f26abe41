"""What was decoded of label sequences beside the truth, its scores with intervals, and which edits part the two."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from jaxrnn import calibration, decoding, metrics
from jaxrnn.config import ERROR_RATES
from jaxrnn.predictions import Predictions

Labels = tuple[int, ...]
SCORES = ("log_loss", *ERROR_RATES)
INTERVALS = "95 %; by bootstrap over sequences (percentiles, 1,000 resamples)"
BEAM_WIDTH = 8  # where the task names none
# Of the table of edits: the row of what nothing in the truth stands for, and the column of what was not decoded.
INSERTED, DELETED = "(inserted)", "(deleted)"
DECODED_COLUMNS = ("id", "truth", "decoded", "edits", "log_loss", "probability")
MOST_FITTED = 100_000  # places that a temperature is fitted to


@dataclass(frozen=True)
class Transcripts:
    """Sequences of labels, class indices: truth, and what a decoder made of a trial's probabilities.

    pieces: the probabilities [place, label] of each sequence, whose last label is CTC's blank or, `by_decoder`, the end
    that a decoder names. log_losses, edits: [sequence], -log p of the truth and the edit distance. Both are NaN, and
    nothing is decoded, where the probabilities are no numbers (a trial that diverged at once).
    """

    truth: list[Labels]
    decoded: list[Labels]
    edits: np.ndarray
    pieces: list[np.ndarray]
    by_decoder: bool

    @classmethod
    def of(cls, predicted: Predictions, trial: str, beam_width: int | None = None) -> "Transcripts":
        """Returns what prefix beam search of this width decodes of a split, without a width greedy decoding. What the
        network's decoder names needs no search."""
        probabilities, by_decoder = predicted.probabilities[trial], predicted.by_decoder
        pieces = [probabilities[start:stop] for start, stop in itertools.pairwise(predicted.offsets)]
        truth: list[Labels] = [tuple(labels[labels >= 0].tolist()) for labels in predicted.labels]
        if not np.isfinite(probabilities).all():
            return cls(truth, [()] * len(truth), np.full(len(truth), np.nan), pieces, by_decoder)
        decoded = decode(pieces, by_decoder, beam_width)
        edits = [len(decoding.edit_operations(*pair)) for pair in zip(truth, decoded, strict=True)]
        return cls(truth, decoded, np.array(edits, dtype=float), pieces, by_decoder)

    @cached_property
    def log_losses(self) -> np.ndarray:
        return self.surprises(self.truth)

    def surprises(self, labels: Sequence[Labels], temperature: float = 1.0) -> np.ndarray:
        """Returns -log p [sequence] of these labels by probabilities that are scaled by a temperature."""
        if not np.isfinite(self.edits).all():
            return np.full(len(labels), np.nan)
        return surprises(self.pieces, labels, self.by_decoder, temperature)

    def temperature(self) -> float:
        """Returns the temperature that makes the mean of -log p of the truth least, as `calibration.temperature` does,
        by the first sequences that can spell it and have `MOST_FITTED` places; 1 where all that is decoded is right."""
        if not (self.edits > 0).any():
            return 1.0
        finite = np.flatnonzero(np.isfinite(self.log_losses))
        places = np.cumsum([len(self.pieces[at]) for at in finite])
        chosen = finite[: max(1, int((places <= MOST_FITTED).sum()))]
        pieces, truth = ([values[at] for at in chosen] for values in (self.pieces, self.truth))
        return calibration.fitted(lambda own: float(surprises(pieces, truth, self.by_decoder, own).mean()))

    def scores(self) -> dict[str, float]:
        """Returns the mean of -log p, and the two error rates of `decoding`."""
        return dict(zip(SCORES, self._scores(np.ones((1, len(self.truth))))[0].tolist(), strict=True))

    def with_intervals(self, seed: int) -> dict[str, dict[str, float | None]]:
        """Returns each score's `value` with the `low` and `high` end of its interval (see `INTERVALS`), as
        `metrics.with_intervals` does."""
        if not np.isfinite(self.log_losses).all():
            return {name: {"value": None, "low": None, "high": None} for name in SCORES}
        count = len(self.truth)
        generator, share = np.random.default_rng(seed), np.full(count, 1 / count)
        sizes = metrics.blocks(metrics.RESAMPLES, max(1, metrics.BOOTSTRAP_VALUES // count))
        resampled = np.concatenate([self._scores(generator.multinomial(count, share, size)) for size in sizes])
        found = metrics.bootstrapped(self.scores(), resampled)
        return {name: entry | {"objects": count} for name, entry in found.items()}

    def _scores(self, drawn: np.ndarray) -> np.ndarray:
        """Returns the scores [sample, score] where each sequence was drawn so often, [sample, sequence]."""
        labels, total = np.array([len(labels) for labels in self.truth]), drawn.sum(axis=1)
        edits, wrong = drawn @ self.edits, drawn @ np.where(self.edits > 0, 1.0, self.edits)
        return np.stack([drawn @ self.log_losses / total, edits / np.maximum(drawn @ labels, 1), wrong / total], axis=1)

    def edit_counts(self, classes: int) -> np.ndarray:
        """Returns how often each label became each, [truth, decoded]: in the last row what was inserted, in the last
        column what was deleted, on the diagonal what is right."""
        counts = np.zeros((classes + 1, classes + 1), dtype=np.int64)
        for truth, decoded in zip(self.truth, self.decoded, strict=True):
            for label in truth:
                counts[label, label] += 1
            for one, other in decoding.edit_operations(truth, decoded):
                counts[classes if one is None else one, classes if other is None else other] += 1
                if one is not None:
                    counts[one, one] -= 1
        return counts

    def table(self, ids: Sequence[str], classes: Sequence[str], separator: str) -> pd.DataFrame:
        """Returns a row of `DECODED_COLUMNS` for each sequence."""
        truth, decoded = (texts(labels, classes, separator) for labels in (self.truth, self.decoded))
        columns = (ids, truth, decoded, self.edits, self.log_losses, np.exp(-self.surprises(self.decoded)))
        return pd.DataFrame(dict(zip(DECODED_COLUMNS, map(list, columns), strict=True)))


def texts(sequences: Sequence[Labels], classes: Sequence[str], separator: str) -> np.ndarray:
    """Returns label sequences [sequence] in words."""
    return np.array([separator.join(classes[label] for label in labels) for labels in sequences], dtype=object)


def means(values: np.ndarray, places: np.ndarray, decoded: Sequence[Labels], by_decoder: bool) -> np.ndarray:
    """Returns the means [sequence] float32 of values [place] over the steps of each sequence, of which there are
    `places`, or over the positions up to the end that a decoder names; 0 of a sequence without any."""
    counts = np.minimum(places, [len(labels) + 1 for labels in decoded]) if by_decoder else places
    owners = np.repeat(np.arange(len(places)), places)
    within = np.arange(len(owners)) - np.repeat(np.cumsum(places) - places, places)
    sums = np.bincount(owners, np.where(within < counts[owners], values, 0), len(places))
    return (sums / np.maximum(counts, 1)).astype(np.float32)


def surprises(
    pieces: Sequence[np.ndarray], labels: Sequence[Labels], by_decoder: bool, temperature: float = 1.0
) -> np.ndarray:
    """Returns -log p [sequence] of labels by probabilities [place, label] of each sequence, scaled by a temperature."""
    if not len(pieces):
        return np.zeros(0)
    if temperature != 1:
        scaled = calibration.scaled(np.concatenate(pieces), temperature)
        pieces = np.split(scaled, np.cumsum([len(piece) for piece in pieces])[:-1])
    last = pieces[0].shape[1] - 1
    if by_decoder:
        return np.array([decoding.named_surprise(*pair, last) for pair in zip(pieces, labels, strict=True)])
    return decoding.surprises(pieces, labels, last)


def decode(pieces: Sequence[np.ndarray], by_decoder: bool, beam_width: int | None) -> list[Labels]:
    """Returns the labels of sequences with these probabilities, [place, label] each, whose last label is CTC's blank or
    the end that a decoder names; see `Transcripts.of`."""
    if by_decoder:
        return [decoding.named(piece, end=piece.shape[1] - 1) for piece in pieces]
    if beam_width is None:
        return [decoding.greedy(piece, blank=piece.shape[1] - 1) for piece in pieces]
    return [decoding.prefix_beam(piece, blank=piece.shape[1] - 1, width=beam_width)[0][0] for piece in pieces]
