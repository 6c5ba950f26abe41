"""Reservoir networks (Jaeger 2001, GMD report 148) for benchmarks/audit.py: recurrence with fixed random weights, of
whose states at each time point a ridge regression reads the class. One is sound, and two have the leaks that the fifth
system is suspected of."""

from collections.abc import Callable

import numpy as np

from jaxrnn import shuffles
from jaxrnn.batches import Part
from jaxrnn.hypotheses import Lesson

UNITS, RADIUS, PENALTY = 150, 0.95, 10.0
SCANS = 18  # of a subject
Train = Callable[[Lesson, int], Callable[[Part], np.ndarray]]


def along_time(lesson: Lesson, classes: int) -> Callable[[Part], np.ndarray]:
    """Sound: a step's class from the steps up to it."""
    return _trained(lesson, classes, lambda part: _states(_steps(part), scale=0.5))


def fed(lesson: Lesson, classes: int) -> Callable[[Part], np.ndarray]:
    """The same as a decoder, which is told the true label of the step before: in training, and in prediction too."""

    def tell(part: Part) -> np.ndarray:
        labels = _padded(part, part.labels[:, None])[:, :, 0].astype(int)
        before = np.c_[np.full(len(part), classes), labels[:, :-1]]
        return np.concatenate([_states(_steps(part), scale=0.5), 2 * np.eye(classes + 1)[before]], axis=2)

    return _trained(lesson, classes, tell)


def along_samples(lesson: Lesson, classes: int) -> Callable[[Part], np.ndarray]:
    """Recurrence over a subject's scans in the order in which they come, at each time point by itself."""

    def tell(part: Part) -> np.ndarray:
        steps = _steps(part)
        runs = [steps[start : start + SCANS].swapaxes(0, 1) for start in range(0, len(steps), SCANS)]
        return np.concatenate([_states(run, scale=0.1).swapaxes(0, 1) for run in runs])

    return _trained(lesson, classes, tell)


def _steps(part: Part) -> np.ndarray:
    """Returns the features [sequence, step, feature], 0 beyond a sequence's end."""
    return _padded(part, np.concatenate([examples.features for examples in shuffles.every(part)]))


def valid(part: Part) -> np.ndarray:
    """Returns [sequence, step] which steps are not padding."""
    return np.arange(part.lengths.max()) < part.lengths[:, None]


def _padded(part: Part, values: np.ndarray) -> np.ndarray:
    there = valid(part)
    found = np.zeros((*there.shape, values.shape[1]))
    found[there] = values
    return found


def _states(steps: np.ndarray, scale: float) -> np.ndarray:
    """Returns the states [row, step, unit] of the reservoir that reads the steps of each row, from 0 on."""
    generator = np.random.default_rng(0)
    recurrent = np.linalg.qr(generator.normal(size=(UNITS, UNITS)))[0] * RADIUS
    inputs = generator.normal(0, scale / np.sqrt(steps.shape[2]), (steps.shape[2], UNITS))
    bias = generator.normal(0, 0.3, UNITS)
    state, found = np.zeros((len(steps), UNITS)), []
    for step in range(steps.shape[1]):
        state = np.tanh(state @ recurrent + steps[:, step] @ inputs + bias)
        found.append(state)
    return np.stack(found, axis=1)


def _trained(lesson: Lesson, classes: int, tell: Callable[[Part], np.ndarray]) -> Callable[[Part], np.ndarray]:
    """Returns what reads the class from the states, by a ridge regression of its own for each time point."""

    def inputs(part: Part) -> np.ndarray:
        told = tell(part)
        return np.concatenate([told, np.ones((*told.shape[:2], 1))], axis=2)

    known, labels = inputs(lesson.train), _padded(lesson.train, np.eye(classes)[lesson.train.labels])
    gram = np.einsum("nti,ntj->tij", known, known, optimize=True) + PENALTY * np.eye(known.shape[2])
    weights = np.linalg.solve(gram, np.einsum("nti,ntc->tic", known, labels, optimize=True))

    def predict(part: Part) -> np.ndarray:
        told = inputs(part)
        values = np.exp(8 * np.einsum("nti,tic->ntc", told, weights[: told.shape[1]], optimize=True))[valid(part)]
        return values / values.sum(axis=1, keepdims=True)

    return predict
