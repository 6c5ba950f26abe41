"""What was decoded of label sequences beside the truth, its scores with intervals, and which edits part the two."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from jaxrnn import decoding, metrics
from jaxrnn.config import ERROR_RATES
from jaxrnn.predictions import Predictions

Labels = tuple[int, ...]
SCORES = ("log_loss", *ERROR_RATES)
INTERVALS = "95 %; by bootstrap over sequences (percentiles, 1,000 resamples)"
BEAM_WIDTH = 8  # where the task names none
# Of the table of edits: the row of what nothing in the truth stands for, and the column of what was not decoded.
INSERTED, DELETED = "(inserted)", "(deleted)"
DECODED_COLUMNS = ("id", "truth", "decoded", "edits", "log_loss")


@dataclass(frozen=True)
class Transcripts:
    """Sequences of labels, class indices: truth, and what a decoder made of a trial's probabilities.

    log_losses, edits: [sequence], -log p of the truth and the edit distance. All NaN, and nothing decoded, where the
    probabilities are no numbers (a trial that diverged at once).
    """

    truth: list[Labels]
    decoded: list[Labels]
    log_losses: np.ndarray
    edits: np.ndarray

    @classmethod
    def of(cls, predicted: Predictions, trial: str, beam_width: int | None = None) -> "Transcripts":
        """Returns what prefix beam search of this width decodes of a split, without a width greedy decoding. What the
        network's decoder names needs no search."""
        probabilities, offsets = predicted.probabilities[trial], predicted.offsets
        last = probabilities.shape[1] - 1  # CTC's blank, or the end that a decoder names
        truth: list[Labels] = [tuple(labels[labels >= 0].tolist()) for labels in predicted.labels]
        if not np.isfinite(probabilities).all():
            nothing = np.full(len(truth), np.nan)
            return cls(truth, [()] * len(truth), nothing, nothing)
        pieces = [probabilities[start:stop] for start, stop in itertools.pairwise(offsets)]
        surprise = decoding.named_surprise if predicted.by_decoder else decoding.surprise
        decoded = decode(pieces, predicted.by_decoder, beam_width)
        pairs = zip(pieces, truth, strict=True)
        log_losses = np.array([surprise(piece, labels, last) for piece, labels in pairs])
        edits = [len(decoding.edit_operations(*pair)) for pair in zip(truth, decoded, strict=True)]
        return cls(truth, decoded, log_losses, np.array(edits, dtype=float))

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

        def text(labels: Labels) -> str:
            return separator.join(classes[label] for label in labels)

        columns = (ids, map(text, self.truth), map(text, self.decoded), self.edits, self.log_losses)
        return pd.DataFrame(dict(zip(DECODED_COLUMNS, map(list, columns), strict=True)))


def decode(pieces: Sequence[np.ndarray], by_decoder: bool, beam_width: int | None) -> list[Labels]:
    """Returns the labels of sequences with these probabilities, [place, label] each, whose last label is CTC's blank or
    the end that a decoder names; see `Transcripts.of`."""
    if by_decoder:
        return [decoding.named(piece, end=piece.shape[1] - 1) for piece in pieces]
    if beam_width is None:
        return [decoding.greedy(piece, blank=piece.shape[1] - 1) for piece in pieces]
    return [decoding.prefix_beam(piece, blank=piece.shape[1] - 1, width=beam_width)[0][0] for piece in pieces]
