"""Surveys and networks with a leak planted in each, and clean ones, for the audit: small, and learnt in no time.

The networks are ridge regressions on each sequence's (or step's) own numbers: what is tried is the audit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxrnn import shuffles
from jaxrnn.batches import Examples, Part
from jaxrnn.hypotheses import Cadence, Lesson, Subject

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Survey:
    """What is simulated of each split: examples, and the times of their steps."""

    examples: dict[str, Examples]
    times: dict[str, np.ndarray]
    by_step: bool = False

    def lesson(self) -> Lesson:
        return Lesson(
            *(
                replace(Part.of([self.examples[s]], s, labels_by_step=self.by_step), splits=self._split(s))
                for s in SPLITS
            )
        )

    def _split(self, name: str) -> np.ndarray:
        return np.full(len(self.examples[name]), name)

    def cadence(self) -> Cadence:
        from jaxrnn import audit

        found = (audit._gaps(self.times[name], self.examples[name].offsets) for name in ("train", "test"))
        return Cadence(*found)


def clean(
    seed: int,
    *,
    classes: int = 3,
    counts: tuple[int, int, int] = (240, 60, 120),
    by_step: bool = False,
    changing: bool = False,
) -> Survey:
    """Returns a survey in which values alone tell the class, and not too well: lengths, times and metadata are drawn
    alike for all classes, of which the first is the commonest. changing: labels of steps change within sequences, one
    class after another and each sooner or later, and lengths differ more."""
    generator = np.random.default_rng([seed, classes])
    shares = np.linspace(2, 1, classes) / np.linspace(2, 1, classes).sum()
    centres = np.random.default_rng([seed, 1]).normal(0, 0.6, (classes, 2))
    examples, times = {}, {}
    for split, count in zip(SPLITS, counts, strict=True):
        label = np.r_[np.arange(classes), generator.choice(classes, count - classes, p=shares)].astype(np.int32)
        label = generator.permutation(label)
        lengths = generator.integers(6, 19 if changing else 15, count)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        owner = np.repeat(np.arange(count), lengths)
        own = generator.normal(0, 0.7, (count, 2))
        of_steps = label[owner]
        if changing:
            within = (np.arange(len(owner)) - offsets[:-1][owner]) / lengths[owner]
            of_steps = (classes * within ** generator.uniform(0.7, 1.4, count)[owner]).astype(np.int32)
        values = centres[of_steps] + own[owner] + generator.normal(0, 1, (offsets[-1], 2))
        gaps = generator.exponential(2, offsets[-1]) + 0.1
        time = np.cumsum(gaps)
        time += (generator.uniform(0, 300, count) - time[offsets[:-1]])[owner]
        metadata = generator.normal(0, 1, (count, 2)).astype(np.float32)
        ids = np.array([f"{split}-{n}" for n in range(count)])
        labels = of_steps if by_step else label
        examples[split] = Examples(ids, labels, offsets, values.astype(np.float32), metadata)
        times[split] = time
    return Survey(examples, times, by_step)


def changed(survey: Survey, change: Callable[[Examples, np.random.Generator], Examples]) -> Survey:
    """Returns the survey with the examples of each split changed."""
    generator = np.random.default_rng(9)
    return replace(survey, examples={name: change(found, generator) for name, found in survey.examples.items()})


# What networks know


def told(part: Part) -> np.ndarray:
    """Returns what a ridge regression is given of each sequence, or of each step: nothing but its own past."""
    rows = []
    for examples in shuffles.every(part):
        steps = examples.features.astype(float)
        owner = np.repeat(np.arange(len(examples)), examples.lengths)
        if part.labels_by_step:
            sums = np.cumsum(steps, axis=0)
            before = np.r_[np.zeros((1, steps.shape[1])), sums][examples.offsets[:-1]]
            count = np.arange(len(steps)) - examples.offsets[:-1][owner] + 1
            rows.append(np.c_[steps, (sums - before[owner]) / count[:, None]])
            continue
        mean = np.add.reduceat(steps, examples.offsets[:-1], axis=0) / examples.lengths[:, None]
        rows.append(np.c_[mean, steps[examples.offsets[1:] - 1], examples.metadata])
    return np.concatenate(rows)


def softmax(values: np.ndarray) -> np.ndarray:
    values = np.exp(values - values.max(axis=1, keepdims=True))
    return values / values.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Network:
    """A ridge regression of the classes on what it is told."""

    weights: np.ndarray
    tell: Callable[[Part], np.ndarray] = told

    @classmethod
    def trained(cls, part: Part, classes: int, tell: Callable[[Part], np.ndarray] = told) -> "Network":
        inputs, known = np.c_[tell(part), np.ones(len(part.labels))], part.labels >= 0
        inputs, labels = inputs[known], part.labels[known]
        gram = inputs.T @ inputs + 1.0 * np.eye(inputs.shape[1])
        return cls(np.linalg.solve(gram, inputs.T @ (8 * np.eye(classes)[labels])), tell)

    def __call__(self, part: Part) -> np.ndarray:
        return softmax(np.c_[self.tell(part), np.ones(len(part.labels))] @ self.weights)


Train = Callable[[Lesson, int], Callable[[Part], np.ndarray]]


def sound(lesson: Lesson, classes: int) -> Callable[[Part], np.ndarray]:
    return Network.trained(lesson.train, classes)


def subject(survey: Survey, train: Train = sound, **more: Any) -> Subject:
    """Returns a survey with a way to train, and the network that it gives."""
    lesson = survey.lesson()
    classes = int(max(part.labels.max() for part in lesson)) + 1

    def learn(lessons: Mapping[str, Lesson]) -> dict[str, np.ndarray]:
        return {name: train(entry, classes)(entry.test) for name, entry in lessons.items()}

    kind = "step" if survey.by_step else "sequence"
    return Subject(kind, lesson, classes, learn, train(lesson, classes), cadence=survey.cadence(), **more)


# Leaks in surveys


def metadata(examples: Examples, generator: np.random.Generator) -> Examples:
    """A column of metadata follows from the class: the field that was searched for it."""
    fields = examples.labels + generator.normal(0, 0.5, len(examples))
    return replace(examples, metadata=np.c_[examples.metadata, fields].astype(np.float32))


def _kept(examples: Examples, kept: np.ndarray) -> Examples:
    within = np.arange(len(examples.features)) - np.repeat(examples.offsets[:-1], examples.lengths)
    stays = within < np.repeat(kept, examples.lengths)
    offsets = np.concatenate([[0], np.cumsum(kept)])
    return replace(examples, offsets=offsets, features=examples.features[stays])


def lengths(survey: Survey) -> Survey:
    """One class was observed for a shorter time."""
    cut = changed(survey, lambda examples, g: _kept(examples, _shorter(examples)))
    times = {}
    for name, old in survey.examples.items():
        within = np.arange(len(old.features)) - np.repeat(old.offsets[:-1], old.lengths)
        times[name] = survey.times[name][within < np.repeat(_shorter(old), old.lengths)]
    return replace(cut, times=times)


def _shorter(examples: Examples) -> np.ndarray:
    return np.where(examples.labels == 0, np.minimum(examples.lengths, 7), examples.lengths)


def _retimed(survey: Survey, change: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> Survey:
    """change: from times, the step's sequence's label and first time to times."""
    times = {}
    for name, examples in survey.examples.items():
        owner = np.repeat(np.arange(len(examples)), examples.lengths)
        first = survey.times[name][examples.offsets[:-1]]
        times[name] = change(survey.times[name], examples.labels[owner], first[owner])
    return replace(survey, times=times)


def cadence(survey: Survey) -> Survey:
    """One class was observed more often."""
    return _retimed(survey, lambda time, label, first: first + (time - first) * np.where(label == 0, 0.5, 1))


def dates(survey: Survey) -> Survey:
    """One class was observed in another season."""
    return _retimed(survey, lambda time, label, first: time + np.where(label == 0, 200, 0))


def padding(examples: Examples, generator: np.random.Generator) -> Examples:
    """Sequences end in zeros that nobody declared, more of them in one class."""
    features = examples.features.copy()
    for row, label in enumerate(examples.labels):
        stop = examples.offsets[row + 1]
        features[stop - generator.integers(2, 4) - 2 * (label == 0) : stop] = 0
    return replace(examples, features=features)


def feature(examples: Examples, generator: np.random.Generator) -> Examples:
    """A feature is the class, in units of its own and with a little noise."""
    owner = np.repeat(np.arange(len(examples)), examples.lengths)
    told = 7.5 - 2.5 * examples.labels[owner] + generator.normal(0, 0.1, len(owner))
    return replace(examples, features=np.c_[examples.features, told].astype(np.float32))


def last_step(examples: Examples, generator: np.random.Generator) -> Examples:
    """A flag in the last step says what the object turned out to be."""
    flag = np.zeros(len(examples.features))
    flag[examples.offsets[1:] - 1] = examples.labels
    return replace(examples, features=np.c_[examples.features, flag].astype(np.float32))


def missing(examples: Examples, generator: np.random.Generator) -> Examples:
    """How often a passband is missing follows from the class."""
    owner = np.repeat(np.arange(len(examples)), examples.lengths)
    within = np.arange(len(owner)) - examples.offsets[:-1][owner]
    present = within % (examples.labels[owner] + 1) == 0
    return replace(examples, features=np.c_[examples.features, present].astype(np.float32))


# Leaks in networks and in how they are trained


def along_samples(lesson: Lesson, classes: int) -> Callable[[Part], np.ndarray]:
    """Recurrence along the axis of samples, of a survey whose samples come in a fixed order of `PERIOD`: it knows where
    it is in the order."""
    train = shuffles.of_sequences(lesson.train)
    counts = np.ones((PERIOD, classes))
    np.add.at(counts, (np.arange(len(train)) % PERIOD, train), 1)

    def predict(part: Part) -> np.ndarray:
        found = (counts / counts.sum(axis=1, keepdims=True))[np.arange(len(part)) % PERIOD]
        return np.repeat(found, part.lengths, axis=0) if part.labels_by_step else found

    return predict


PERIOD = 6


def in_order(survey: Survey) -> Survey:
    """Returns the survey with its samples in a fixed order of classes."""

    def sorted_(examples: Examples, generator: np.random.Generator) -> Examples:
        whole = Part.of([examples], labels_by_step=survey.by_step)
        own = shuffles.of_sequences(whole)
        order = [np.flatnonzero(own == label).tolist() for label in range(own.max() + 1)]
        rows: list[int] = []
        turn = [0, 1, 2, 0, 1, 0]
        while all(order[label] for label in range(len(order))) and len(order[0]) >= 3 and len(order[1]) >= 2:
            rows += [order[label].pop() for label in turn]
        return shuffles.reordered(whole, np.array(rows)).read(0)

    return changed(survey, sorted_)


def fed_labels(lesson: Lesson, classes: int) -> Callable[[Part], np.ndarray]:
    """A decoder that is handed the true label of the step before, in prediction too."""

    def tell(part: Part) -> np.ndarray:
        before = np.r_[-1, part.labels[:-1]]
        before[part.offsets[:-1]] = -1
        return np.c_[told(part), 4 * np.eye(classes + 1)[before]]

    return Network.trained(lesson.train, classes, tell)


def counting(lesson: Lesson, classes: int) -> Callable[[Part], np.ndarray]:
    """A sound network that knows at which step it is, and how many there are."""

    def tell(part: Part) -> np.ndarray:
        within = np.arange(part.lengths.sum()) - np.repeat(part.offsets[:-1], part.lengths)
        shares = within / np.repeat(part.lengths, part.lengths)
        return np.c_[told(part), np.eye(10)[(10 * shares).astype(int)]]

    return Network.trained(lesson.train, classes, tell)


def by_batch(lesson: Lesson, classes: int) -> Callable[[Part], np.ndarray]:
    """Batch norm by the batch's own statistics in prediction."""

    def tell(part: Part) -> np.ndarray:
        values = told(part)
        return (values - values.mean(axis=0)) / values.std(axis=0)

    return Network.trained(lesson.train, classes, tell)


def future(lesson: Lesson, classes: int) -> Callable[[Part], np.ndarray]:
    """A network that is said to see the past alone, and is told the whole sequence's mean."""

    def tell(part: Part) -> np.ndarray:
        values = told(part)
        sums = np.add.reduceat(values, part.offsets[:-1], axis=0)
        return np.repeat(sums / part.lengths[:, None], part.lengths, axis=0)

    return Network.trained(lesson.train, classes, tell)


def trained_on_test(lesson: Lesson, classes: int) -> Callable[[Part], np.ndarray]:
    """The nearest neighbour among training and test sequences."""
    known = np.concatenate([told(part) for part in (lesson.train, lesson.test)])
    labels = np.concatenate([lesson.train.labels, lesson.test.labels])

    def predict(part: Part) -> np.ndarray:
        distance = np.square(told(part)[:, None] - known[None]).sum(axis=2)
        return softmax(4.0 * np.eye(classes)[labels[distance.argmin(axis=1)]])

    return predict


def by_id(lesson: Lesson, classes: int) -> Callable[[Part], np.ndarray]:
    """A network that reads the object's name, where names were given class by class."""

    def tell(part: Part) -> np.ndarray:
        return np.array([[float(name.split("-")[2]) ** power for power in (1, 2)] for name in part.ids.tolist()])

    return Network.trained(lesson.train, classes, tell)


def named_by_class(examples: Examples, generator: np.random.Generator) -> Examples:
    names = [f"object-{n}-{label}" for n, label in enumerate(examples.labels)]
    return replace(examples, ids=np.array(names))
