"""What the chosen network's decisions on a few test objects rest on: integrated gradients of what is predicted
(Sundararajan et al. 2017, arXiv 1703.01365): a class, or all labels of a label sequence.

A decoder names each label by those that it named before, through which no gradient goes: they are held fixed. The
baseline is 0 in every input as the network sees it: the training mean of what is normalised by it, and no passband.
An object's attributions add up to its probability less that of the baseline (completeness, Proposition 1), but for what
the sum over midpoints leaves: the `gap`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from jaxrnn import evaluation
from jaxrnn.bundles import Bundle
from jaxrnn.early import Clock
from jaxrnn.evaluation import Classified, Judged, Spelled
from jaxrnn.predictions import Predictions

if TYPE_CHECKING:
    from jaxrnn.batches import Part

MIDPOINTS = 64
TOLERANCE = 0.05  # of probability, that a gap may have: the 5 % of the paper's section 5
MOST_OBJECTS, MOST_STEPS = 6, 1024
FEWEST_MISTAKES = 3  # that have a place, where there are as many
RIGHT, WRONG = "surely right", "dear mistake"
COLUMNS = ("id", "of_step", "chosen_as", "truth", "predicted", "probability", "baseline", "gap", "step", "time",
           "feature", "value", "attribution")  # fmt: skip


def chosen(judged: Judged, lengths: np.ndarray) -> np.ndarray:
    """Returns which places are looked at, at most `MOST_OBJECTS` and one an object: the one of each class, or of each
    label sequence, that is most surely right, the surest first, then the mistakes that the network was surest of, for
    `FEWEST_MISTAKES` of which objects are kept free. lengths: steps [object]; objects of more than `MOST_STEPS` are
    left out."""
    confidence, hits, kinds, owners = judged.confidence, judged.hits, judged.kinds, judged.owners
    ranked = np.argsort(-confidence, kind="stable")
    ranked = ranked[lengths[owners[ranked]] <= MOST_STEPS]
    wrong = ranked[~hits[ranked]]
    wrong = wrong[np.sort(np.unique(owners[wrong], return_index=True)[1])]
    kept_free = wrong[:FEWEST_MISTAKES]
    left = ranked[hits[ranked] & ~np.isin(owners[ranked], owners[kept_free])]
    right: list[int] = []
    while len(left) and len(right) < MOST_OBJECTS - len(kept_free):
        first = left[0]
        right.append(int(first))
        left = left[(kinds[left] != kinds[first]) & (owners[left] != owners[first])]
    wrong = wrong[~np.isin(owners[wrong], owners[right])]
    return np.array([*right, *wrong[: MOST_OBJECTS - len(right)]], dtype=np.int64)


def table(bundle: Bundle, test: "Part", dataset: Path, entry: Predictions, trial: str) -> pd.DataFrame:
    """Returns a row for each input of each of a few test objects, by `COLUMNS`: steps count from 1, and metadata has
    none.

    dataset: where the times of steps are found; entry: what the chosen trial predicted. of_step: the step whose class
    it is about, where steps have labels. value: as the network sees it. attribution: to the probability of what is
    predicted.
    """
    from jaxrnn import predict, shuffles

    judged = evaluation.judged(entry, trial, bundle.task)
    places = chosen(judged, entry.lengths)
    if not len(places):
        return pd.DataFrame(columns=list(COLUMNS))
    owners = judged.owners[places]
    known_rows = {name: row for row, name in enumerate(test.ids.tolist())}
    rows = np.array([known_rows[name] for name in entry.ids[owners].tolist()])
    (few,) = shuffles.every(shuffles.reordered(test, rows))
    said = _said(bundle, judged, places, entry.probabilities[trial], entry.offsets)
    times = Clock.read(dataset, few.ids, None).time
    steps_of = entry.scored_steps[places] if judged.by_step else few.lengths
    found = predict.attributed(bundle, few, said, steps_of, MIDPOINTS)
    truth, predicted = judged.named(bundle.statistics.classes, bundle.task.separator)
    pieces = []
    for number, (place, own) in enumerate(zip(places, found, strict=True)):
        steps = slice(*few.offsets[number : number + 2])
        once = {
            "id": few.ids[number],
            "of_step": steps_of[number] if judged.by_step else pd.NA,
            "chosen_as": RIGHT if judged.hits[place] else WRONG,
            "truth": truth[place],
            "predicted": predicted[place],
            "probability": own.reached,
            "baseline": own.baseline,
            "gap": float(own.features.sum(dtype=np.float64) + own.metadata.sum(dtype=np.float64))
            - (own.reached - own.baseline),
        }
        names = [column["name"] for column in bundle.features]
        of_steps = {
            "step": np.repeat(np.arange(1, len(own.features) + 1), len(names)),
            "time": np.repeat(times[steps], len(names)),
            "feature": names * len(own.features),
            "value": few.features[steps].ravel(),
            "attribution": own.features.ravel(),
        }
        of_object = {
            "feature": [column["name"] for column in bundle.metadata],
            "value": few.metadata[number],
            "attribution": own.metadata,
        }
        pieces += [pd.DataFrame(columns).assign(**once) for columns in (of_steps, of_object) if len(columns["value"])]
    return (
        pd.concat(pieces, ignore_index=True)
        .reindex(columns=list(COLUMNS))
        .astype(dict.fromkeys(("of_step", "step"), "Int64"))
    )


def _said(
    bundle: Bundle, judged: Judged, places: np.ndarray, probabilities: np.ndarray, offsets: np.ndarray
) -> list[tuple[int, ...]]:
    """Returns what is said of these places, as `predict.attributed` takes it. probabilities: of all places that the
    network gives, of which `offsets` say whose they are."""
    if isinstance(judged, Spelled):
        return [judged.transcripts.decoded[place] for place in places]
    assert isinstance(judged, Classified)
    if bundle.model.decoder is not None:
        named = probabilities.argmax(axis=1)
        return [tuple(named[offsets[row] : offsets[row + 1]].tolist()) for row in judged.owners[places]]
    return [(label,) for label in judged.said[places].tolist()]
