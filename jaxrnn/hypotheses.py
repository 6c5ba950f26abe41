"""Audits: each states a hypothesis that holds of sound data and a sound network, measures, and says in words what the
numbers support.

What is drawn by lot has a p-value. Under the hypothesis nothing that a network predicts of the test split knows its
labels, so that these may be exchanged: `DRAWS` exchanges of the test labels give the score that is expected, with its
interval, and p = (1 + draws that reach the score found) / (1 + draws) (Phipson and Smyth 2010, Stat. Appl. Genet. Mol.
Biol. 9, 39). That is exact for labels that were shuffled before training, whatever the network is; for the others it
holds where test sequences are independent of each other. Holm's correction over all
audits with a p-value keeps the level: in a sound experiment none of them raises an alarm, with a probability of at
least 1 - level. Audits without one compare what must be equal, or count.

The score is the macro AUC: it knows no threshold, and classes of any size have their part in it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from jaxrnn import metrics, shuffles
from jaxrnn.batches import Examples, Part
from jaxrnn.config import AUDITS, Output
from jaxrnn.config import TRAINED_AUDITS as TRAINED
from jaxrnn.errors import plural
from jaxrnn.shuffles import Relabel

DRAWS = 999
REPEATS = 3  # networks for each kind of changed features
MOST_PLACES = 5_000  # scored, of whole sequences
LEAST_SCORED = 50  # sequences, if there are so many, whatever places they have
MOST_TRAINED = 20_000  # sequences that the forests learn from
MOST_COMPARED = 512  # sequences that are predicted again
ROUNDING = 1e-3  # of a probability: programs of other shapes differ by less
TELLS_ALL = 0.99  # balanced accuracy of a single column
HOLDS, LEAK, SHORTCUT, REMARK, UNTOLD = "holds", "leak", "shortcut", "remark", "not told"
ONE_CLASS = "the scored sequences are of one class"
AUC, CHANGE, COUNT = "macro AUC", "largest change of a probability", "sequences"


class Lesson(NamedTuple):
    """What a network is trained on, watched by and scored on."""

    train: Part
    validation: Part
    test: Part


@dataclass(frozen=True)
class Cadence:
    """When things were observed, a row of numbers for each sequence of the training and of the test split."""

    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Subject:
    """What is audited.

    learn: trains a network anew on each of some lessons; returns the probabilities [place, class] of its test part.
    predict: those that the chosen network gives for a part; a place is a sequence or, of other kinds, a step. teach:
    the same by a decoder that is handed the true labels, None without a decoder. looks_ahead: what of the network knows
    later steps. normalised_by_sequence: whether features are normalised by their whole sequence. shared: how many
    sequences, and how many members of groups, of validation and test stand in another split too, and of how many; None
    where nobody looked. columns: names of features and metadata.
    """

    kind: Output
    lesson: Lesson
    classes: int
    learn: Callable[[Mapping[str, Lesson]], Mapping[str, np.ndarray]] | None = None
    predict: Callable[[Part], np.ndarray] | None = None
    teach: Callable[[Part], np.ndarray] | None = None
    looks_ahead: tuple[str, ...] = ()
    normalised_by_sequence: bool = False
    shared: Mapping[str, int] | None = None
    cadence: Cadence | None = None
    columns: Sequence[str] = ()
    seed: int = 0


@dataclass(frozen=True)
class Finding:
    """What an audit found, a row of `audit.csv`; None where there is no such number. p_corrected: by Holm."""

    audit: str
    hypothesis: str
    score: str = ""
    expected: float | None = None
    low: float | None = None
    high: float | None = None
    found: float | None = None
    p: float | None = None
    p_corrected: float | None = None
    verdict: str = UNTOLD
    words: str = ""
    fails: bool = field(default=False, repr=False)
    accuracy: float | None = None


COLUMNS = ("audit", "hypothesis", "score", "expected", "low", "high", "found", "p", "p_corrected", "verdict", "words")
COLUMNS += ("accuracy",)


class Statement(NamedTuple):
    """A hypothesis, and what it means where it does not hold."""

    hypothesis: str
    verdict: str
    meaning: str


STATEMENTS = {
    "copies": Statement(
        "No test sequence stands in training or validation too.",
        LEAK,
        "test scores tell how well the network remembers, not what it would make of new sequences",
    ),
    "groups": Statement(
        "No group of test sequences has others in training or validation.",
        LEAK,
        "what a group's sequences have in common is known from training; `split.by: group` keeps groups whole",
    ),
    "metadata_alone": Statement(
        "Metadata alone don't tell the class.",
        SHORTCUT,
        "sound only if a new object's metadata are known, and come about, in the same way; quote this score beside the "
        "network's",
    ),
    "length_alone": Statement(
        "The number of steps alone doesn't tell the class.",
        SHORTCUT,
        "sound only if new sequences end where these do for the same reasons; else cut all to one length",
    ),
    "cadence_alone": Statement(
        "When and how often was observed doesn't tell the class.",
        SHORTCUT,
        "sound only if new objects are observed in the same way, whatever they are",
    ),
    "padding_alone": Statement(
        "Values repeated at a sequence's ends don't tell the class.",
        SHORTCUT,
        "padding that the reader was not told of looks so, and its length tells the class",
    ),
    "label_in_feature": Statement(
        "No single column tells the class all by itself.",
        SHORTCUT,
        "is it the label in another form? If it can't be known of a new object, leave it out",
    ),
    "labels_over_sequences": Statement(
        "Trained on labels shuffled over sequences, networks are at chance.",
        LEAK,
        "they know labels that no feature tells: by labels handed over, or by training on the test split",
    ),
    "labels_over_steps": Statement(
        "Trained on labels shuffled over steps, networks are at chance.",
        LEAK,
        "they know labels that no feature tells: by labels handed over, or by training on the test split",
    ),
    "labels_constant": Statement(
        "Trained on labels shuffled over sequences and constant in time, networks are at chance.",
        LEAK,
        "they know labels that no feature tells, such as the label of the step before",
    ),
    "noise": Statement(
        "Trained on noise in place of features and metadata, networks are at chance.",
        LEAK,
        "they know the class from something that is no feature: the order of samples, ids, or labels handed over",
    ),
    "shuffled_in_time": Statement(
        "Trained on features shuffled in time, all alike, networks are at chance.",
        REMARK,
        "so much is told by which values there are, in whatever order",
    ),
    "shuffled_each_in_time": Statement(
        "Trained on features shuffled in time, each for itself, networks are at chance.",
        REMARK,
        "so much is told by each feature's own values, in whatever order",
    ),
    "another_order": Statement(
        "What is predicted of a sequence does not depend on the others, nor on their order.",
        LEAK,
        "the network sees neighbouring samples, as where recurrence runs along the axis of samples",
    ),
    "own_labels": Statement(
        "What is predicted does not depend on the labels of what is predicted.",
        LEAK,
        "true labels reach the network at test time, as with a decoder that is fed with them",
    ),
    "later_steps": Statement(
        "What is predicted at a step does not depend on later steps.",
        LEAK,
        "its earlier answers know the future, though it is meant to see the past alone",
    ),
}
assert set(STATEMENTS) == set(AUDITS)


def examine(
    subject: Subject,
    names: Sequence[str] = AUDITS,
    *,
    permutations: int = 20,
    level: float = 0.01,
    say: Callable[[str], None] = lambda text: None,
) -> list[Finding]:
    """Returns what these audits find, in the order of `AUDITS`, judged together at this level."""
    lessons = {name: _lessons(subject, name, permutations) for name in TRAINED if name in names}
    lessons = {name: entry for name, entry in lessons.items() if isinstance(entry, dict)}
    taught: Mapping[str, np.ndarray] = {}
    if subject.learn is not None and lessons:
        every = {key: lesson for entry in lessons.values() for key, lesson in entry.items()}
        say(f"{len(every)} networks are trained for {len(lessons)} audits")
        taught = subject.learn(every)
    found = []
    for name in AUDITS:
        if name not in names:
            continue
        if name in TRAINED:
            finding = _trained(subject, name, lessons.get(name), taught, level, say)
        else:
            finding = _UNTRAINED[name](subject, name, level)
        found.append(finding)
        if finding.found is not None:
            say(f"{name}: {_numbers(finding)}")
    return judged(found, level)


def judged(findings: Sequence[Finding], level: float) -> list[Finding]:
    """Returns the findings with corrected p-values, verdicts and words."""
    drawn = [at for at, entry in enumerate(findings) if entry.p is not None and not _is_remark(entry)]
    p_values = np.array([findings[at].p for at in drawn], dtype=float)
    corrected = dict(zip(drawn, metrics.holm(p_values).tolist(), strict=True))
    findings = [replace(entry, p_corrected=corrected.get(at)) for at, entry in enumerate(findings)]
    fails = [_fails(entry, level) for entry in findings]
    failed = {entry.audit for entry, fail in zip(findings, fails, strict=True) if fail}
    return [_worded(entry, failed) for entry in findings]


def _fails(finding: Finding, level: float) -> bool:
    p = finding.p if finding.p_corrected is None else finding.p_corrected
    return finding.fails if p is None else p <= level


def _is_remark(finding: Finding) -> bool:
    return STATEMENTS[finding.audit].verdict == REMARK


def _worded(finding: Finding, failed: set[str]) -> Finding:
    if finding.found is None:
        return finding
    if {"later_steps", "another_order"} <= failed and finding.audit == "later_steps":
        why = "what is predicted depends on other sequences (`another_order`), and these were cut too"
        return replace(finding, verdict=UNTOLD, words=f"Not applicable: {why}.")
    statement, numbers = STATEMENTS[finding.audit], _numbers(finding)
    verdict, meaning = statement.verdict, statement.meaning
    remark = finding.words if finding.score != COUNT else ""
    if finding.verdict == REMARK:  # it was said to look ahead
        return replace(finding, words=f"{numbers}: {finding.words}.")
    if finding.audit not in failed:
        return replace(finding, verdict=HOLDS, words=f"{remark}{numbers}: as it should be.")
    if finding.audit == "noise" and "length_alone" in failed:
        verdict = SHORTCUT
        meaning = (
            "the number of steps alone tells the class too (`length_alone`), and noise has it: no more can be said"
        )
    return replace(finding, verdict=verdict, words=f"{remark}{numbers}: {meaning}.")


def _numbers(finding: Finding) -> str:
    if finding.score == COUNT:
        return finding.words
    shown = f"{finding.score} {finding.found:.3g}"
    if finding.accuracy is not None:
        shown += f" (accuracy {finding.accuracy:.2f})"
    if finding.expected is None and finding.p is not None and finding.p < 1:
        p = finding.p if finding.p_corrected is None else finding.p_corrected
        return f"{shown}, at most {finding.high:g} is expected (p = {p:.3g} that chance reaches so much)"
    if finding.p is None or finding.expected is None:
        return shown + (f", at most {finding.high:g} is expected" if finding.high is not None else "")
    p = f"p = {finding.p:.3g}" + (f", {finding.p_corrected:.3g} corrected" if finding.p_corrected is not None else "")
    return f"{shown}, {finding.expected:.3g} [{finding.low:.3g}, {finding.high:.3g}] is expected ({p})"


def _untold(name: str, why: str) -> Finding:
    return Finding(name, STATEMENTS[name].hypothesis, words=f"Not applicable: {why}.")


# Networks trained anew


def _lessons(subject: Subject, name: str, permutations: int) -> dict[str, Lesson] | str:
    """Returns what networks are trained on for an audit, by the names that their results are kept under; or why there
    is nothing to train."""
    if subject.kind == "label_sequence":
        return "a label sequence has no one class"
    if name in ("labels_over_steps", "labels_constant") and subject.kind != "step":
        return "steps have no labels of their own"
    if name == "labels_constant" and all(shuffles.are_constant(part) for part in subject.lesson):
        return "labels are constant in time, so that `labels_over_sequences` is the same"
    if name in _RELABEL:
        return {f"{name}-{n}": _relabelled(subject, name, n) for n in range(permutations)}
    return {f"{name}-{n}": _refeatured(subject, name, n) for n in range(min(REPEATS, permutations))}


_RELABEL: dict[str, Relabel] = {
    "labels_over_sequences": shuffles.over_sequences,
    "labels_over_steps": shuffles.over_steps,
    "labels_constant": shuffles.constant,
}


def _generator(subject: Subject, name: str, *numbers: int) -> np.random.Generator:
    return np.random.default_rng(_seed(subject, name, *numbers))


def _seed(subject: Subject, name: str, *numbers: int) -> list[int]:
    return [subject.seed, AUDITS.index(name), *numbers]


def _relabelled(subject: Subject, name: str, number: int) -> Lesson:
    generator = _generator(subject, name, number)
    return Lesson(*(shuffles.relabelled(part, _RELABEL[name](part, generator)) for part in subject.lesson))


def _refeatured(subject: Subject, name: str, number: int) -> Lesson:
    change = {"shuffled_in_time": shuffles.jointly_in_time, "shuffled_each_in_time": shuffles.each_in_time}.get(name)
    change = change or shuffles.noise(*shuffles.moments(subject.lesson.train))
    parts = enumerate(subject.lesson)
    return Lesson(*(shuffles.refeatured(part, _seed(subject, name, number, role), change) for role, part in parts))


def _trained(
    subject: Subject,
    name: str,
    lessons: dict[str, Lesson] | None,
    taught: Mapping[str, np.ndarray],
    level: float,
    say: Callable[[str], None],
) -> Finding:
    if lessons is None:
        return _untold(name, str(_lessons(subject, name, 1)))
    if subject.learn is None:
        return _untold(name, "there is no trained network yet")
    test = subject.lesson.test
    sequences, finite = _scored(test), [key for key in lessons if np.isfinite(taught[key]).all()]
    ranked = {key: Ranked.of(subject.kind, test, sequences, taught[key]) for key in finite}
    if not ranked:
        return _untold(name, "every network diverged")
    own = {key: lessons[key].test.labels for key in ranked}
    if not all(ranked[key].of_classes(own[key]) for key in ranked):
        return _untold(name, ONE_CLASS)
    found = float(np.mean([ranked[key].auc(own[key]) for key in ranked]))
    accuracy = float(np.mean([ranked[key].accuracy(own[key]) for key in ranked]))
    relabel, entries = _RELABEL.get(name), list(ranked.values())
    if relabel is not shuffles.over_steps and shuffles.are_constant(test):
        # sequences are exchanged whole, so that sums of their ranks do
        labels, entries = _labels_alone(test, sequences), [entry.by_sequence(test) for entry in entries]
        relabel = relabel and shuffles.over_sequences
    else:
        labels = _without_features(test, sequences)
    places = np.flatnonzero(labels.labels >= 0)
    entries = [replace(entry, places=places) for entry in entries]
    generator, alike = _generator(subject, name, len(AUDITS)), None
    if relabel is None:
        alike = _alike(labels)
        if alike is not None and 2 * (np.bincount(alike)[alike] > 1).sum() < len(alike):
            return _untold(name, "labels change within sequences, most of which have labels at other steps than others")
    say(f"{name}: labels of {plural(len(labels), 'test sequence')} are exchanged {DRAWS} times")

    def draw() -> float:
        if relabel is not None:  # each network has labels of its own
            return float(np.mean([entry.auc(relabel(labels, generator)) for entry in entries]))
        same = shuffles.over_sequences(labels, generator, alike)
        return float(np.mean([entry.auc(same) for entry in entries]))

    drawn = np.array([draw() for _ in range(DRAWS)])
    if not np.isfinite(drawn).all():
        return _untold(name, ONE_CLASS)
    words = ""
    if _is_remark(finding := replace(_by_draws(name, found, drawn, level), accuracy=accuracy)) and subject.predict:
        chosen = Ranked.of(subject.kind, test, sequences, subject.predict(test)).auc(test.labels)
        words = f"In their order they give the chosen network {AUC} {chosen:.3g}; shuffled: "
    return replace(finding, words=words)


def _by_draws(name: str, found: float, drawn: np.ndarray, level: float) -> Finding:
    """Returns a finding from the scores under the hypothesis; an interval holds all but `level` of them."""
    low, high = np.quantile(drawn, [level / 2, 1 - level / 2])
    return Finding(
        name,
        STATEMENTS[name].hypothesis,
        AUC,
        float(drawn.mean()),
        float(low),
        float(high),
        found,
        _p_value(found, drawn),
    )


def _p_value(found: float, drawn: np.ndarray) -> float:
    return (1 + int((drawn >= found - 1e-12).sum())) / (1 + len(drawn))


def _scored(part: Part) -> np.ndarray:
    """Returns the sequences that are scored: all with a label, or of more than `MOST_PLACES` places a draw of sequences
    that have so many at most, but `LEAST_SCORED` of them, and of each class one."""
    places = np.flatnonzero(part.labels >= 0)
    owners = _owners(part)[places]
    _, first = np.unique(part.labels[places], return_index=True)
    needed, all_ = np.unique(owners[first]), np.unique(owners)
    others = np.random.default_rng(0).permutation(np.setdiff1d(all_, needed))
    order = np.r_[needed, others]
    fits = np.bincount(owners, minlength=len(part))[order].cumsum() <= MOST_PLACES
    fits[: max(len(needed), LEAST_SCORED)] = True
    return np.sort(order[fits])


def _owners(part: Part) -> np.ndarray:
    """Returns which sequence [label] each label of a part is of."""
    return np.repeat(np.arange(len(part)), part.lengths) if part.labels_by_step else np.arange(len(part))


def _labels_alone(part: Part, sequences: np.ndarray) -> Part:
    """Returns some of a part's sequences with one label each, as theirs have it throughout or mostly, and nothing to
    read."""
    labels = shuffles.of_sequences(part)[sequences]
    return replace(_without_features(part, sequences), labels=labels, labels_by_step=False)


def _without_features(part: Part, sequences: np.ndarray) -> Part:
    """Returns some of a part's sequences with their labels, and nothing to read."""
    kept = np.isin(np.arange(len(part)), sequences)
    labels = part.labels[np.repeat(kept, part.lengths) if part.labels_by_step else kept]
    ids, own, lengths = part.ids[kept], part.splits[kept], part.lengths[kept]
    return replace(part, ids=ids, labels=labels, splits=own, lengths=lengths)


def _alike(part: Part) -> np.ndarray | None:
    """Returns the kind [sequence] of each sequence: those of one kind have labels at the same steps, so that what is
    known by the place in a sequence stays so where they exchange them. None where one label a sequence is exchanged."""
    if shuffles.are_constant(part):
        return None
    kinds: dict[bytes, int] = {}
    masks = np.split(part.labels >= 0, part.offsets[1:-1])
    return np.array([kinds.setdefault(mask.tobytes(), len(kinds)) for mask in masks])


@dataclass(frozen=True)
class Ranked:
    """Predictions of the test split as ranks, for the scores of any labels. places: [scored] which of the part's labels
    they are scored against, ranks [scored, class], predicted [scored]. weights: [scored] how many places each stands
    for, whose ranks are summed."""

    places: np.ndarray
    ranks: np.ndarray
    predicted: np.ndarray
    weights: np.ndarray | None = None

    @classmethod
    def of(cls, kind: Output, test: Part, sequences: np.ndarray, probabilities: np.ndarray) -> "Ranked":
        """Returns what is scored of some sequences, of probabilities [place, class] of all."""
        places = np.flatnonzero(test.labels >= 0)
        at = places = places[np.isin(_owners(test)[places], sequences)]
        if kind == "prefix":  # the last one is that of the whole sequence
            at = test.offsets[1:][places] - 1
        chosen = probabilities[at]
        return cls(places, stats.rankdata(chosen, axis=0), chosen.argmax(axis=1))

    def by_sequence(self, test: Part) -> "Ranked":
        """Returns the same for labels that are one a sequence."""
        places, own = np.unique(_owners(test)[self.places], return_inverse=True)
        sums = np.zeros((len(places), self.ranks.shape[1]))
        np.add.at(sums, own, self.ranks)
        return Ranked(places, sums, np.zeros(0), np.bincount(own).astype(float))

    def of_classes(self, labels: np.ndarray) -> bool:
        """Returns whether these labels are of several classes, which alone have a score."""
        return len(np.unique(labels[self.places])) > 1

    def auc(self, labels: np.ndarray) -> float:
        """Returns the mean over classes of the area under the ROC curve, each against the rest (Mann-Whitney); NaN
        where there is one class."""
        own = labels[self.places]
        classes = self.ranks.shape[1]
        counts = np.bincount(own, self.weights, minlength=classes).astype(float)
        sums = np.bincount(own, self.ranks[np.arange(len(own)), own], minlength=classes)
        pairs = counts * (counts.sum() - counts)
        there = pairs > 0
        if not there.any():
            return float("nan")
        return float(((sums - counts * (counts + 1) / 2)[there] / pairs[there]).mean())

    def accuracy(self, labels: np.ndarray) -> float:
        return float((labels[self.places] == self.predicted).mean())


# What is told beside the features


def _alone(subject: Subject, name: str, level: float) -> Finding:
    """Returns how well a random forest tells a sequence's class from these numbers alone."""
    if subject.kind == "label_sequence":
        return _untold(name, "a label sequence has no one class")
    numbers = _TOLD[name](subject)
    if isinstance(numbers, str):
        return _untold(name, numbers)
    train, test = numbers
    if not (np.ptp(train, axis=0) > 0).any():
        return replace(
            Finding(name, STATEMENTS[name].hypothesis, AUC, 0.5, 0.5, 0.5, 0.5, 1.0),
            words="The same for all training sequences: ",
        )
    labels, truth = (shuffles.of_sequences(part) for part in (subject.lesson.train, subject.lesson.test))
    if min(len(np.unique(known[known >= 0])) for known in (labels, truth)) < 2:
        return _untold(name, ONE_CLASS)
    rows = np.flatnonzero(labels >= 0)
    rows = rows[:: -(-len(rows) // MOST_TRAINED)]
    forest = RandomForestClassifier(
        200, min_samples_leaf=5, class_weight="balanced_subsample", random_state=subject.seed, n_jobs=1
    ).fit(train[rows], labels[rows])
    scored = np.flatnonzero(truth >= 0)
    probabilities = np.zeros((len(test), subject.classes))
    probabilities[:, forest.classes_] = forest.predict_proba(test)
    ranked = Ranked(scored, stats.rankdata(probabilities[scored], axis=0), probabilities[scored].argmax(axis=1))
    generator = _generator(subject, name)

    def exchanged() -> np.ndarray:
        labels = truth.copy()
        labels[scored] = truth[generator.permutation(scored)]
        return labels

    drawn = np.array([ranked.auc(exchanged()) for _ in range(DRAWS)])
    return replace(_by_draws(name, ranked.auc(truth), drawn, level), accuracy=ranked.accuracy(truth))


Numbers = tuple[np.ndarray, np.ndarray]  # [sequence, column] of the training and of the test split


def _metadata(subject: Subject) -> Numbers | str:
    if not subject.lesson.train.metadata:
        return "there are no metadata"
    train, test = (
        np.concatenate([examples.metadata for examples in shuffles.every(part)])
        for part in (subject.lesson.train, subject.lesson.test)
    )
    return train, test


def _lengths(subject: Subject) -> Numbers:
    return subject.lesson.train.lengths[:, None], subject.lesson.test.lengths[:, None]


def _cadence(subject: Subject) -> Numbers | str:
    if subject.cadence is None:
        return "nobody told when things were observed"
    return subject.cadence.train, subject.cadence.test


def _padding(subject: Subject) -> Numbers:
    train, test = (
        np.concatenate([_repeats(part.read(index)) for index in np.flatnonzero(np.diff(part.starts)).tolist()])
        for part in (subject.lesson.train, subject.lesson.test)
    )
    return train, test


def _repeats(examples: Examples) -> np.ndarray:
    """Returns [sequence, 2] for how many steps at the end, and at the beginning, a value stays the same, where that is
    longer than anywhere else in the sequence; the median over features that vary in it, so that a clock that ticks on
    does not hide it."""
    first, last = examples.offsets[:-1], examples.offsets[1:] - 1
    columns = [_runs(column, first, last) for column in examples.features.T]
    if not columns:
        return np.zeros((len(examples), 2))
    runs = np.stack(columns)  # [feature, sequence, end]
    median = np.zeros(runs.shape[1:])
    known = ~np.isnan(runs).all(axis=0)
    median[known] = np.nanmedian(runs[:, known], axis=0)
    return median


def _runs(values: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Returns [sequence, 2] the lengths of each sequence's last and first run of equal values, 0 where another run is
    as long; NaN where it has one value throughout."""
    begins = np.r_[True, values[1:] != values[:-1]]
    begins[first] = True
    starts = np.flatnonzero(begins)
    lengths = np.diff(np.r_[starts, len(values)])
    first_run = np.searchsorted(starts, first)
    last_run = np.searchsorted(starts, last, side="right") - 1
    found = []
    for own in (last_run, first_run):
        others = lengths.copy()
        others[own] = 0
        longest = np.maximum.reduceat(others, first_run)
        found.append(np.where(lengths[own] > longest, lengths[own], 0))
    return np.where((first_run == last_run)[:, None], np.nan, np.stack(found, axis=1).astype(float))


_TOLD: dict[str, Callable[[Subject], Numbers | str]] = {
    "metadata_alone": _metadata,
    "length_alone": _lengths,
    "cadence_alone": _cadence,
    "padding_alone": _padding,
}


def _label_in_feature(subject: Subject, name: str, level: float) -> Finding:
    """Returns how well a small tree tells the class from one column's own values, of the column that does so best."""
    if subject.kind == "label_sequence":
        return _untold(name, "a label sequence has no one class")
    by_step = not all(shuffles.are_constant(part) for part in subject.lesson)
    seen = [_Seen.of(part, by_step) for part in (subject.lesson.train, subject.lesson.test)]
    (train, labels), (test, truth) = ((_columns(one), one.labels.labels) for one in seen)
    known, own = truth >= 0, labels >= 0
    if min(len(np.unique(found)) for found in (labels[own], truth[known])) < 2:
        return _untold(name, ONE_CLASS)
    scores: dict[str, float] = {}
    answers = []
    for column, values in train.items():
        tree = DecisionTreeClassifier(
            max_leaf_nodes=8 * subject.classes, min_samples_leaf=2, class_weight="balanced", random_state=0
        ).fit(values[own], labels[own])
        answers.append(tree.predict(test[column]))
        scores[column] = _balanced(truth[known], answers[-1][known])
    best = max(scores, key=scores.__getitem__, default="")
    found = scores.get(best, 0.0)
    p = 1.0
    if found >= TELLS_ALL:  # else it is no alarm, however seldom chance reaches it
        generator = _generator(subject, name)

        def draw() -> float:
            others = shuffles.over_sequences(seen[1].labels, generator)[known]
            return max(_balanced(others, answer[known]) for answer in answers)

        p = _p_value(found, np.array([draw() for _ in range(DRAWS)]))
    named = subject.columns[int(best)] if best and int(best) < len(subject.columns) else f"column {best}"
    return Finding(
        name,
        STATEMENTS[name].hypothesis,
        "balanced accuracy",
        high=TELLS_ALL,
        found=found,
        p=p,
        words=f"Best of {plural(len(train), 'column')} is {named}: ",
    )


def _balanced(truth: np.ndarray, answers: np.ndarray) -> float:
    """Returns the mean over classes of the share of their places that are answered rightly."""
    counts = np.bincount(truth)
    right = np.bincount(truth[truth == answers], minlength=len(counts))
    return float((right[counts > 0] / counts[counts > 0]).mean())


@dataclass(frozen=True)
class _Seen:
    """What the trees see of a part: some of its sequences, or of their steps. labels: those, with nothing to read.
    steps: [step of the part] whether it is seen, None where a sequence is seen as a whole."""

    part: Part
    sequences: np.ndarray
    labels: Part
    steps: np.ndarray | None

    @classmethod
    def of(cls, part: Part, by_step: bool) -> "_Seen":
        """Returns of a larger part `MOST_TRAINED` sequences or steps about, spread over all; every sequence's steps are
        thinned alike, so that those of one length stay so."""
        every = max(1, -(-len(part) // MOST_TRAINED))
        sequences = np.arange(0, len(part), every)
        if not by_step:
            sequences = sequences[shuffles.of_sequences(part)[sequences] >= 0]
            return cls(part, sequences, _labels_alone(part, sequences), None)
        within = np.arange(part.lengths.sum()) - np.repeat(part.offsets[:-1], part.lengths)
        seen = np.repeat(np.arange(len(part)) % every == 0, part.lengths)
        steps = seen & (within % max(1, -(-int(seen.sum()) // MOST_TRAINED)) == 0)
        owner = np.repeat(np.arange(len(part)), part.lengths)[steps]
        lengths = np.bincount(owner, minlength=len(part))[sequences]
        labels = replace(
            part, ids=part.ids[sequences], labels=part.labels[steps], splits=part.splits[sequences], lengths=lengths
        )
        return cls(part, sequences, labels, steps)


def _columns(seen: _Seen) -> dict[str, np.ndarray]:
    """Returns of each column, by its number, metadata behind features, what a tree is given: the values at steps, or a
    sequence's mean, deviation, extremes, first and last."""
    part = seen.part
    rows: dict[str, list[np.ndarray]] = {}
    chosen = np.zeros(len(part), bool)
    chosen[seen.sequences] = True
    for index in np.flatnonzero(np.diff(part.starts)).tolist():
        examples, (start, stop) = part.read(index), part.starts[index : index + 2]
        first, count, own = examples.offsets[:-1], examples.lengths, chosen[start:stop]
        # the shard's steps that are seen, and of which sequence each is
        steps = None if seen.steps is None else np.flatnonzero(seen.steps[slice(*part.offsets[[start, stop]])])
        for column in range(part.features):
            if steps is not None:
                rows.setdefault(str(column), []).append(examples.features[steps][:, [column]])
                continue
            values = examples.features[:, column].astype(np.float64)
            mean = np.add.reduceat(values, first) / count
            square = np.add.reduceat(values**2, first) / count
            ends = values[first], values[examples.offsets[1:] - 1]
            extremes = np.minimum.reduceat(values, first), np.maximum.reduceat(values, first)
            told = (mean, np.sqrt(np.maximum(square - mean**2, 0)), *extremes, *ends)
            rows.setdefault(str(column), []).append(np.stack(told, axis=1)[own])
        for column in range(part.metadata):
            values = examples.metadata[:, [column]]
            values = values[own] if steps is None else np.repeat(values, count, axis=0)[steps]
            rows.setdefault(str(part.features + column), []).append(values)
    return {name: np.concatenate(values) for name, values in rows.items()}


# What must be equal


def _compared(subject: Subject, name: str) -> Part:
    """Returns test sequences to predict again, in memory: all, or a run of them in the middle."""
    test = subject.lesson.test
    start = max(0, (len(test) - MOST_COMPARED) // 2)
    return test.some(np.arange(start, min(len(test), start + MOST_COMPARED)))


def _places(subject: Subject, part: Part, probabilities: np.ndarray) -> list[np.ndarray]:
    """Returns the probabilities [place, class] of each sequence."""
    if subject.kind == "sequence":
        return list(probabilities[:, None])
    return np.split(probabilities, part.offsets[1:-1])


def _has_strides(subject: Subject, part: Part, probabilities: np.ndarray) -> bool:
    return subject.kind != "sequence" and len(probabilities) != part.lengths.sum()


def _equal(name: str, change: float, words: str = "") -> Finding:
    return Finding(
        name,
        STATEMENTS[name].hypothesis,
        CHANGE,
        expected=0.0,
        low=0.0,
        high=ROUNDING,
        found=change,
        fails=not change <= ROUNDING,
        words=words,
    )


def _another_order(subject: Subject, name: str, level: float) -> Finding:
    """Returns how far predictions change where the sequences come in another order, and where half of them are left
    out."""
    if subject.predict is None:
        return _untold(name, "there is no trained network yet")
    part = _compared(subject, name)
    if subject.kind == "label_sequence":
        return _untold(name, "positions of a label sequence are not compared")
    probabilities = subject.predict(part)
    if _has_strides(subject, part, probabilities):
        return _untold(name, "the network's strides leave fewer places than steps")
    before, generator = _places(subject, part, probabilities), _generator(subject, name)
    mixed = generator.permutation(len(part))
    largest = 0.0
    for rows in (mixed, np.sort(mixed[: max(1, len(part) // 2)])):
        again = shuffles.reordered(part, rows)
        after = _places(subject, again, subject.predict(again))
        largest = max(
            [largest, *(float(np.abs(before[row] - new).max()) for row, new in zip(rows, after, strict=True))]
        )
    return _equal(name, largest)


def _own_labels(subject: Subject, name: str, level: float) -> Finding:
    """Returns how far predictions change where the sequences have other labels."""
    if subject.predict is None:
        return _untold(name, "there is no trained network yet")
    part = _compared(subject, name)
    if subject.kind == "label_sequence":
        other = part.labels[_generator(subject, name).permutation(len(part))]
    else:
        # every label becomes another one
        other = np.where(part.labels >= 0, (part.labels + 1) % subject.classes, part.labels).astype(part.labels.dtype)
    alone = subject.predict(part)
    change = float(np.abs(alone - subject.predict(shuffles.relabelled(part, other))).max())
    words = ""
    if subject.teach is not None and subject.kind == "step":
        told = subject.teach(part)
        labelled = part.labels >= 0
        free, forced = ((found.argmax(axis=1) == part.labels)[labelled].mean() for found in (alone, told))
        words = f"Fed with its own labels the decoder has accuracy {free:.2f}, handed the true ones {forced:.2f}; "
        words += "of sequences with other labels: "
    return _equal(name, change, words)


def _later_steps(subject: Subject, name: str, level: float) -> Finding:
    """Returns how far predictions change at steps whose successors are taken away."""
    if subject.kind not in ("step", "prefix"):
        return _untold(name, "a sequence has one answer, of all its steps")
    if subject.predict is None:
        return _untold(name, "there is no trained network yet")
    part = _compared(subject, name)
    probabilities = subject.predict(part)
    if _has_strides(subject, part, probabilities):
        return _untold(name, "the network's strides leave fewer places than steps")
    before = _places(subject, part, probabilities)
    kept = _generator(subject, name).integers(1, np.maximum(part.lengths, 2))
    kept = np.minimum(kept, part.lengths)
    shorter = shuffles.cut(part, kept)
    after = _places(subject, shorter, subject.predict(shorter))
    change = max(float(np.abs(old[: len(new)] - new).max()) for old, new in zip(before, after, strict=True))
    finding = _equal(name, change)
    if not subject.looks_ahead and subject.normalised_by_sequence and not finding.fails:
        why = "but the features' normalisation knows the whole sequence (`normalisation: sequence`), later steps too"
        return replace(finding, verdict=REMARK, words=why)
    if subject.looks_ahead:
        ahead = ", ".join(subject.looks_ahead)
        return replace(finding, verdict=REMARK, words=f"it looks ahead by design ({ahead}), and serves whole sequences")
    return finding


# What stands in two splits


def _shared(subject: Subject, name: str, level: float) -> Finding:
    if subject.shared is None or name not in subject.shared:
        return _untold(name, "the survey has no groups" if name == "groups" else "nobody looked")
    found, total = subject.shared[name], subject.shared["sequences"]
    some = f"All {total}" if found == total else f"{found} of the {total}" if found else f"None of the {total}"
    like = "are copies of sequences" if name == "copies" else "are of groups that are"
    words = f"{some} test sequences {like} in training or validation"
    return Finding(name, STATEMENTS[name].hypothesis, COUNT, 0.0, 0.0, 0.0, float(found), fails=found > 0, words=words)


_UNTRAINED: dict[str, Callable[[Subject, str, float], Finding]] = {
    "copies": _shared,
    "groups": _shared,
    **dict.fromkeys(_TOLD, _alone),
    "label_in_feature": _label_in_feature,
    "another_order": _another_order,
    "own_labels": _own_labels,
    "later_steps": _later_steps,
}
