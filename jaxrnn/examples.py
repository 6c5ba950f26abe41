"""The objects that the report draws: which ones, and what was observed of them, in the survey's own units.

Examples of the classes are of training, and chosen by a seed; mistakes and growing objects are of test. Shards are read
one after another, and of each no more than the steps of these objects.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from jaxrnn import features, results, shards, splits
from jaxrnn.config import Data
from jaxrnn.predictions import Predictions
from jaxrnn.shards import Shard
from jaxrnn.splits import LABELS, STEPS, TRAIN

PER_CLASS = 3
MOST_CLASSES = 12
TOGETHER = 6  # examples where objects have no class of their own
MOST_MISTAKES = 6
MOST_GROWING = 6
MOST_LINES = 6  # inputs that are drawn as lines; more are a map
MOST_VALUES = 100  # of an object as lines
MOST_DRAWN = 2000  # of all examples as lines: the page stays small
MOST_CELLS = 3000  # of an object as a map
MOST_INPUTS = 100  # rows of a map
EXAMPLE, MISTAKE, GROWING = "example", "mistake", "growing"
COLUMNS = ("drawn_as", "split", "class", "id", "steps", "step", "time", "since_first")
PROBABILITIES = ("id", "truth", "predicted", "step", "since_first", "class", "probability")


class Wanted(NamedTuple):
    """An object to draw. name: of its class; of label sequences what it spells, "" where its steps have labels.
    step: the one that is meant, from 1, None for the whole object."""

    drawn_as: str
    split: str
    name: str
    id: str
    step: int | None = None


def of_classes(known: pd.DataFrame, fold: int | None, classes: Sequence[str], seed: int) -> list[Wanted]:
    """Returns up to `PER_CLASS` training objects of each of the first `MOST_CLASSES` classes, or `TOGETHER` of all
    where objects have no class of their own: those with the smallest hash of seed and id.

    known: `splits.csv`, whose training split is the one that trials of `fold` see.
    """
    training = splits.assigned(known, fold) == TRAIN
    names, ids, labels = (known[column].to_numpy(dtype=object)[training] for column in ("class", "id", "label"))
    if (names == STEPS).any() or (names == LABELS).any():
        chosen = _first(ids, seed, TOGETHER)
        return [Wanted(EXAMPLE, TRAIN, labels[at] if names[at] == LABELS else "", ids[at]) for at in chosen]
    found = []
    for name in classes[:MOST_CLASSES]:
        own = ids[names == name]
        found += [Wanted(EXAMPLE, TRAIN, name, own[at]) for at in _first(own, seed, PER_CLASS)]
    return found


def mistaken(mistakes: pd.DataFrame) -> list[Wanted]:
    """Returns the dearest mistakes, at most `MOST_MISTAKES` and one an object. mistakes: `evaluation.mistakes`."""
    dearest = mistakes.drop_duplicates("id").head(MOST_MISTAKES)
    steps = dearest["step"].tolist() if "step" in dearest else [None] * len(dearest)
    pairs = zip(dearest["truth"].tolist(), dearest["id"].tolist(), steps, strict=True)
    return [Wanted(MISTAKE, "test", *pair) for pair in pairs]


def growing(predicted: Predictions, trial: str, classes: Sequence[str], seed: int) -> list[Wanted]:
    """Returns one test object of each class that the trial classifies rightly by the whole sequence and one that it
    doesn't, where there are such, until they are `MOST_GROWING`; chosen as examples are."""
    hits = predicted.scored(trial).argmax(axis=1) == predicted.labels
    found: list[Wanted] = []
    for index, name in enumerate(classes):
        for right in (True, False) if len(found) < MOST_GROWING else ():
            own = predicted.ids[(predicted.labels == index) & (hits == right)]
            found += [Wanted(GROWING, "test", name, str(own[at])) for at in _first(own, seed, 1)]
    return found[:MOST_GROWING]


def _first(ids: np.ndarray, seed: int, most: int) -> list[int]:
    """Returns the places of the ids with the smallest hashes."""
    return sorted(range(len(ids)), key=lambda at: splits.uniform(seed, f"drawn/{ids[at]}"))[:most]


class Observed(NamedTuple):
    """What was observed of an object: times [step], and by input, a name with its unit, values [step, input], NaN where
    there is none."""

    time: np.ndarray
    inputs: tuple[str, ...]
    values: np.ndarray


def read(dataset: Path, data: Data, wanted: Iterable[Wanted]) -> tuple[pd.DataFrame, int]:
    """Returns `examples.csv`, and how many inputs there are, of which it may not have all.

    A row is a step that is drawn, counted from 1 of `steps`; behind `COLUMNS` each input has a column, named with its
    unit. Times are in the dataset's unit. Scalings are undone, and an input is a column of the survey in one passband,
    where there are passbands; without such columns it is any feature. Of long objects steps lie evenly, first and last
    and a step that is meant among them.
    """
    wanted, found = list(wanted), dict[str, Observed]()
    lacking = {each.id for each in wanted}
    columns = results.read_json(dataset / "manifest.json", "jaxrnn ingest").get("survey", {}).get("columns", [])
    units = {column["name"]: column["unit"] for column in columns}
    of = 0
    for path in splits.shard_paths(dataset):
        if not lacking:
            break
        shard = shards.of_sequences(path, lacking)
        inputs, values = _inputs(shard, data, units)
        of, kept = len(inputs), _kept_inputs(shard, inputs)
        for row, name in enumerate(shard.ids.tolist()):
            steps = slice(shard.offsets[row], shard.offsets[row + 1])
            own = values[steps][:, kept].astype(np.float32)
            found[name] = Observed(shard.time[steps], tuple(inputs[at] for at in kept), own)
        lacking -= set(shard.ids.tolist())
    examples = sum(each.drawn_as == EXAMPLE for each in wanted)
    most = min(MOST_VALUES, MOST_DRAWN // max(examples, 1))
    pieces = [
        _rows(each, found[each.id], most if each.drawn_as == EXAMPLE else MOST_VALUES)
        for each in wanted
        if each.id in found
    ]
    return (pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame(columns=list(COLUMNS))), of


def _inputs(shard: Shard, data: Data, units: dict[str, str]) -> tuple[list[str], np.ndarray]:
    """Returns the inputs, each with its unit, and their values [step, input]."""
    described = shard.feature_columns
    bands = [at for at, column in enumerate(described) if column.kind == "passband"]
    names, values = [], []
    for at, column in enumerate(described):
        if column.kind != "value":
            continue
        unit = units.get(column.column, "")
        own = features.unscaled(data.features[column.source], shard.features[:, at])
        if column.passband or not bands:
            names.append(_titled(column.name, unit))
            values.append(own)
            continue
        # a step that is an observation says beside it which passband it is of
        for band in bands:
            names.append(_titled(f"{column.name}_{described[band].passband}", unit))
            values.append(np.where(shard.features[:, band] > 0, own, np.nan))
    if not names:
        return [_titled(column.name, column.unit) for column in described], shard.features
    return names, np.stack(values, axis=1)


def _titled(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name


def _kept_inputs(shard: Shard, inputs: Sequence[str]) -> list[int]:
    """Returns the inputs that are drawn: all, where they are few or have no passbands, else those of the first column;
    of very many some that lie evenly."""
    count = len(inputs)
    bands = len({column.passband for column in shard.feature_columns if column.passband})
    if bands and count > MOST_LINES:
        count = bands
    return np.unique(np.linspace(0, count - 1, min(count, MOST_INPUTS)).round().astype(int)).tolist()


def _rows(wanted: Wanted, found: Observed, most: int = MOST_VALUES) -> pd.DataFrame:
    """Returns the rows of an object; most: values, where it is drawn as lines."""
    steps, inputs = found.values.shape
    values = int(np.isfinite(found.values).sum())
    most = most if inputs <= MOST_LINES else MOST_CELLS
    number = steps if values <= most else max(2, steps * most // values)
    kept = np.linspace(0, steps - 1, number).round().astype(int)
    kept = np.union1d(kept, [] if wanted.step is None else [wanted.step - 1]).astype(int)
    described = (wanted.drawn_as, wanted.split, wanted.name, wanted.id, steps)
    table = pd.DataFrame(dict(zip(COLUMNS, described, strict=False)), index=range(len(kept)))
    table = table.assign(step=kept + 1, time=found.time[kept], since_first=found.time[kept] - found.time[0])
    return pd.concat([table, pd.DataFrame(found.values[kept], columns=list(found.inputs))], axis=1)


def grown(examples: pd.DataFrame, predicted: Predictions, trial: str, classes: Sequence[str]) -> pd.DataFrame:
    """Returns `growing_test.csv`: the probability of each class behind each drawn step of the growing objects.

    examples: of `read`. predicted: what the trial said of each prefix; the class behind the last step is its answer.
    """
    place = {name: at for at, name in enumerate(predicted.ids.tolist())}
    answers = predicted.scored(trial).argmax(axis=1)
    pieces = []
    own_columns = examples.iloc[:, : len(COLUMNS)]  # an input may be called "step" as well
    for name, own in own_columns[own_columns["drawn_as"] == GROWING].groupby("id", sort=False):
        at = place[str(name)]
        found = predicted.probabilities[trial][predicted.offsets[at] + own["step"].to_numpy() - 1]
        columns = [name, classes[predicted.labels[at]], classes[answers[at]]]
        columns += [np.repeat(own[column].to_numpy(), len(classes)) for column in ("step", "since_first")]
        columns += [np.tile(np.array(classes, dtype=object), len(own)), found.ravel()]
        pieces.append(pd.DataFrame(dict(zip(PROBABILITIES, columns, strict=True))))
    return pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame(columns=list(PROBABILITIES))
