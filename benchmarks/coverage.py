"""How often the report's 95 % intervals hold the truth, over surveys that are simulated from a known one.

    python benchmarks/coverage.py

Accuracy and recall: a share of right ones among n objects, Wilson's score. Area under the ROC curve of one class and
of the mean of three classes: scores normal in each class, DeLong's variance on the logit scale; for comparison the
percentiles of a bootstrap within classes, which it took the place of. `few` says how an interval fares where a class
has but few objects, below `metrics.FEWEST_OBJECTS` and above. Surveys in which the interval is unknown (every object
of a class above all others) count as not covered, and their share is told.
Nothing is timed. Results go to benchmarks/results/coverage.json; some minutes.
"""

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import record
from scipy import special

from jaxrnn import metrics

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
BEYOND = (0.02, 0.95, 0.98, 0.99)
COUNTS = (100, 300, 1000)
FEW = (5, 10, 20, 50)
SEED = 7
Ends = tuple[float | None, float | None]


def covered(truth: float, draw: Callable[[np.random.Generator], Ends], surveys: int, seed: int) -> dict[str, float]:
    """Returns how often the interval of a simulated survey holds the truth, and how often it is unknown."""
    generator = np.random.default_rng(seed)
    found = [draw(generator) for _ in range(surveys)]
    known = [(low, high) for low, high in found if low is not None and high is not None]
    held = sum(low <= truth <= high for low, high in known)
    return {"coverage": held / surveys, "unknown": 1 - len(known) / surveys}


def share(count: int, truth: float) -> Callable[[np.random.Generator], Ends]:
    kept = {}

    def draw(generator: np.random.Generator) -> Ends:
        hits = int(generator.binomial(count, truth))
        if hits not in kept:
            kept[hits] = metrics.wilson(hits, count)
        return kept[hits]

    return draw


def scored(members: list[np.ndarray], truth: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns probabilities [object, class] and labels, each class's area under the ROC curve being `truth`.

    A class's score is normal, and higher by so much for its own objects; classes are scored apart, as if by networks of
    their own: what areas depend on is the order of a class's scores alone.
    """
    labels = np.repeat(np.arange(len(members)), [len(rows) for rows in members])
    apart = np.sqrt(2) * special.ndtri(truth)
    logits = generator.normal(size=(len(labels), len(members))) + apart * np.eye(len(members))[labels]
    return special.expit(logits), labels


def area(counts: tuple[int, ...], truth: float, weights: np.ndarray) -> Callable[[np.random.Generator], Ends]:
    ends = np.cumsum([0, *counts])
    members = [np.arange(start, stop) for start, stop in itertools.pairwise(ends)]

    def draw(generator: np.random.Generator) -> Ends:
        influence = metrics.auc_influence(*scored(members, truth, generator))
        return metrics.area_interval(influence, members, weights)

    return draw


def percentiles(counts: tuple[int, ...], truth: float) -> Callable[[np.random.Generator], Ends]:
    """The bootstrap that was there before, of the first class's area."""
    ends = np.cumsum([0, *counts])
    members = [np.arange(start, stop) for start, stop in itertools.pairwise(ends)]

    def draw(generator: np.random.Generator) -> Ends:
        probabilities, labels = scored(members, truth, generator)
        drawn = np.hstack([
            generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=300) for rows in members
        ])  # fmt: skip
        areas, _ = metrics._weighted_areas(probabilities[:, 0], labels == 0, drawn.astype(float))
        low, high = np.percentile(areas, [2.5, 97.5])
        return (float(low), float(high)) if low < high else (None, None)

    return draw


def measure(surveys: int) -> list[dict[str, Any]]:
    first, mean = np.array([1.0, 0.0]), np.full(3, 1 / 3)
    rows = []

    def add(score: str, counts: tuple[int, ...], truth: float, draw: Callable[..., Ends], of: int) -> None:
        found = covered(truth, draw, of, SEED + len(rows))
        rows.append({"score": score, "objects": list(counts), "truth": truth, "surveys": of} | found)

    for truth in (*SHARES, *BEYOND):
        for count in (*FEW, *COUNTS):
            # of a share 10 times as many: it costs nothing
            add("accuracy, recall", (count,), truth, share(count, truth), 10 * surveys)
            even, rare = (count - count // 2, count // 2), (count // 5, count - count // 5)
            add("area of a class", even, truth, area(even, truth, first), surveys)
            add("area of a rare class", rare, truth, area(rare, truth, first), surveys)
            of_three = (count // 5, count // 3, count - count // 5 - count // 3)
            add("macro area, three classes", of_three, truth, area(of_three, truth, mean), surveys)
    for truth in (0.7, 0.9, 0.98):
        for counts in ((20, 80), (50, 50), (150, 150)):
            add("area of a class, bootstrap", counts, truth, percentiles(counts, truth), surveys)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--surveys", type=int, default=1000, help="simulated for each row (default 1000)")
    arguments = parser.parse_args()
    begun = record.begun()
    record.keep(record.RESULTS / "coverage.json", begun | {"rows": measure(arguments.surveys)})


if __name__ == "__main__":
    main()
