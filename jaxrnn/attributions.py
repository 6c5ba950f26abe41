"""What the chosen network's decisions on a few test objects rest on: integrated gradients of the predicted class
(Sundararajan et al. 2017, arXiv 1703.01365).

The baseline is 0 in every input as the network sees it: the training mean of what is normalised by it, and no passband.
An object's attributions add up to its probability less that of the baseline (completeness, Proposition 1), but for what
the sum over midpoints leaves: the `gap`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from jaxrnn.bundles import Bundle
from jaxrnn.early import Clock
from jaxrnn.evaluation import Judged
from jaxrnn.predictions import Predictions

if TYPE_CHECKING:
    from jaxrnn.batches import Part

MIDPOINTS = 64
TOLERANCE = 0.05  # of probability, that a gap may have: the 5 % of the paper's section 5
MOST_OBJECTS, MOST_STEPS = 6, 1024
FEWEST_MISTAKES = 3  # that have a place, where there are as many
RIGHT, WRONG = "surely right", "dear mistake"
COLUMNS = ("id", "chosen_as", "truth", "predicted", "probability", "baseline", "gap", "step", "time", "feature",
           "value", "attribution")  # fmt: skip


def chosen(judged: Judged, lengths: np.ndarray) -> np.ndarray:
    """Returns which objects are looked at, at most `MOST_OBJECTS`: the one of each class that is most surely right, the
    surest first, then the mistakes that the network was surest of. Those of more than `MOST_STEPS` steps are left out.
    """
    confidence, hits = judged.probabilities.max(axis=1), judged.hits
    ranked = np.argsort(-confidence, kind="stable")
    ranked = ranked[lengths[ranked] <= MOST_STEPS]
    right, wrong = ranked[hits[ranked]], ranked[~hits[ranked]]
    first = np.sort(np.unique(judged.labels[right], return_index=True)[1])
    right = right[first][: MOST_OBJECTS - min(len(wrong), FEWEST_MISTAKES)]
    return np.concatenate([right, wrong[: MOST_OBJECTS - len(right)]])


def table(bundle: Bundle, test: "Part", dataset: Path, entry: Predictions, trial: str) -> pd.DataFrame:
    """Returns a row for each input of each of a few test objects, by `COLUMNS`: steps count from 1, and metadata has
    none. There is no row where steps have labels, which have no probability of the whole.

    dataset: where the times of steps are found; entry: what the chosen trial predicted. value: as the network sees it.
    attribution: to the probability of the class that it predicts.
    """
    from jaxrnn import predict, shuffles

    judged = Judged.of(entry, trial)
    rows = np.zeros(0, dtype=np.int64) if judged.by_step else chosen(judged, entry.lengths)
    if not len(rows):
        return pd.DataFrame(columns=list(COLUMNS))
    place = {name: row for row, name in enumerate(test.ids.tolist())}
    (few,) = shuffles.every(shuffles.reordered(test, np.array([place[name] for name in entry.ids[rows].tolist()])))
    classes = judged.probabilities[rows].argmax(axis=1)
    times = Clock.read(dataset, few.ids, None).time
    found = predict.attributed(bundle, few, classes, MIDPOINTS)
    known = bundle.statistics.classes
    pieces = []
    for number, (row, own) in enumerate(zip(rows, found, strict=True)):
        steps = slice(*few.offsets[number : number + 2])
        once = {
            "id": few.ids[number],
            "chosen_as": RIGHT if judged.hits[row] else WRONG,
            "truth": known[judged.labels[row]],
            "predicted": known[classes[number]],
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
    return pd.concat(pieces, ignore_index=True).reindex(columns=list(COLUMNS)).astype({"step": "Int64"})
