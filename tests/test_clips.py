"""Simulated subjects who watch clips: their form, what they share, and what decoders make of them."""

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.random import default_rng

from jaxrnn import batches, clips, predict, readers, training
from jaxrnn.batches import Examples, Part, Windows
from jaxrnn.clips import Clips
from jaxrnn.config import Model, Training
from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import Sequences
from jaxrnn.training import Hyperparameters

SMALL: dict[str, Any] = {"kind": "clips", "seed": 3, "subjects": 5, "train_subjects": 3, "regions": 40, "clips": 5}
SMALL |= {"repeats": 2, "shortest": 20, "longest": 34}
OPTIONS = {"features": "bold", "columns": "region_", "padding": "nan", "step_labels": "clip", "groups": "subject"}


def small(**changes: Any) -> Clips:
    return Clips.model_validate({**SMALL, **changes})


def made(simulation: Clips, folder: Path, ranks: int = 1) -> Path:
    for rank in reversed(range(ranks)):
        clips.simulate(simulation, folder, rank, ranks, lambda done, total: None)
    clips.finish(simulation, folder)
    return folder


def standardised(scans: list[np.ndarray]) -> list[np.ndarray]:
    return [(scan - scan.mean(axis=0)) / scan.std(axis=0) for scan in scans]


def test_the_form_is_the_published_one() -> None:
    published = Clips.model_validate({"kind": "clips"})
    seen = Counter(published.names[clip] for clip in published.seen)
    assert len(seen) == 15 and seen.pop("test_retest") == 4 and set(seen.values()) == {1}
    assert (published.subjects, published.train_subjects, published.regions) == (176, 100, 300)
    assert (min(published.steps), max(published.steps)) == (48, 90) and len(set(published.steps)) == 15
    assert [published.names[clip] for clip in published.seen].index("test_retest") == 4


def test_the_reader_finds_what_was_simulated(tmp_path: Path) -> None:
    simulation = small()
    folder = made(simulation, tmp_path / "survey")
    reader = readers.open_reader("hdf5", folder, OPTIONS | {"splits": "split"})
    assert isinstance(reader, readers.SequenceReader)
    found: Sequences = readers.joined([reader.read(part) for part in reader.parts(1 << 30)])
    scans = [scan for subject in range(5) for scan in clips.scans(simulation, subject)]
    np.testing.assert_allclose(found.values, np.concatenate(scans), rtol=1e-6)
    lengths = [simulation.steps[clip] for clip in simulation.seen] * 5
    assert np.diff(found.offsets).tolist() == lengths
    labels = np.repeat([simulation.names[clip] for clip in simulation.seen] * 5, lengths)
    assert found.step_labels is not None and found.step_labels.tolist() == labels.tolist()
    assert found.splits is not None and found.groups is not None
    by_subject = dict(zip(found.groups.tolist(), found.splits.tolist(), strict=True))
    assert by_subject == {f"subject_{n:03d}": "train" if n < 3 else "test" for n in range(5)}


def test_any_number_of_ranks_writes_the_same_bytes_and_another_survey_is_refused(tmp_path: Path) -> None:
    one, three = made(small(), tmp_path / "one"), made(small(), tmp_path / "three", ranks=3)
    contents = {file.name: file.read_bytes() for file in one.iterdir()}
    assert {file.name: file.read_bytes() for file in three.iterdir()} == contents and len(contents) == 6
    with pytest.raises(JaxrnnError, match="of a survey with other parameters"):
        made(small(seed=4), one)
    (three / "survey.json").unlink()
    (three / "subject_002.h5").write_bytes(b"nothing")
    with pytest.raises(JaxrnnError, match="not a whole file of a simulated survey"):
        made(small(), three)
    (three / "subject_002.h5").unlink()
    with pytest.raises(JaxrnnError, match=r"subject_002\.h5: not written"):
        clips.finish(small(), three)


def test_subjects_share_a_clip_where_they_respond_and_only_there() -> None:
    simulation = small(subjects=60, train_subjects=30, regions=60, shortest=300, longest=300, shared_variance=0.3)
    first = [standardised(clips.scans(simulation, subject))[0] for subject in range(60)]
    together = np.einsum("atr,btr->abr", first, first) / 300
    pairs = together[np.triu_indices(60, 1)].mean(axis=0)
    responds = np.abs(clips._anatomy(simulation)[0]).sum(axis=0) > 0
    assert responds.sum() == 18
    # a film of 300 s has scenes enough to come near its variance
    assert 0.15 < pairs[responds].mean() < 0.4
    assert np.abs(pairs[~responds]).max() < 0.03
    nothing = [standardised(clips.scans(small(shared_variance=0, subjects=40), s))[0] for s in range(40)]
    alike = np.einsum("atr,btr->abr", nothing, nothing)[np.triu_indices(40, 1)].mean() / len(nothing[0])
    assert abs(alike) < 0.01


def test_the_blood_answers_late_and_remembers() -> None:
    """Nothing of a scene shows before a second is over, most of it after six; noise has the memory that it says."""
    response = clips._response(60)
    step = response @ np.concatenate([np.zeros(clips.RESPONSE_SECONDS), np.ones(60)])
    assert step[0] == 0 and step[1] < 0.02 and 0.5 < step[6] < 1.2
    assert step[-1] == pytest.approx(1)
    memory = clips._memory(50)
    covariance = memory @ memory.T
    lag = np.abs(np.subtract.outer(np.arange(50), np.arange(50)))
    np.testing.assert_allclose(covariance, clips.MEMORY**lag, atol=1e-12)


# Decoders: what they know, and padding

CLASSES, REGIONS, STEPS = 4, 6, (5, 8, 12)


def scanned(count: int, seed: int) -> Examples:
    """Returns scans of unequal length with one class each: a pattern of regions under noise, from the third step on."""
    generator = default_rng(seed)
    patterns = default_rng(0).normal(0, 1, (CLASSES, REGIONS))
    lengths = np.array(STEPS)[generator.permutation(count) % len(STEPS)]
    label = np.repeat(generator.permutation(count) % CLASSES, lengths).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    features = generator.normal(0, 1, (offsets[-1], REGIONS)) + patterns[label] * (place >= 2)[:, None]
    return Examples(np.arange(count).astype(str), label, offsets, features.astype(np.float32), np.zeros((count, 0)))


def random_features(of: Examples) -> Examples:
    noise = default_rng(9).normal(0, 1, of.features.shape).astype(np.float32)
    return Examples(of.ids, of.labels, of.offsets, noise, of.metadata)


def shuffled_labels(of: Examples) -> Examples:
    one_each = default_rng(8).permutation(of.labels[of.offsets[:-1]])
    return Examples(of.ids, np.repeat(one_each, of.lengths), of.offsets, of.features, of.metadata)


MODEL = Model.model_validate(
    {"units": 10, "depth": 1, "dense_depth": 0, "normalisation": "none", "dropout": 0.0, "decoder": {"units": 10}}
)
SETTINGS = Training.model_validate({"batch_size": 32, "length_buckets": 1, "epochs": 30})


@cache
def program() -> training.Program:
    return training.make(MODEL, SETTINGS, REGIONS, 0, CLASSES, kind="step")


def trained(train: Examples) -> dict[str, np.ndarray]:
    """Returns the arrays of a network that was taught half of its labels."""
    window = Windows(Part.of([train], labels_by_step=True), [max(STEPS)], np.inf).get()
    steps = int(-(-window.counts // SETTINGS.batch_size).sum())
    schedule = batches.schedule(window.counts, SETTINGS.batch_size, steps)
    rates = map(np.float32, (0.01, 0, 0, 0, 0))
    one = Hyperparameters(np.uint32(1), *rates, np.ones(CLASSES, np.float32))  # pyright: ignore[reportCallIssue]
    one = one._replace(teacher_share=np.float32(0.5))
    hypers = training.stacked([one])
    states = program().begin(hypers)
    for epoch in range(SETTINGS.epochs):
        states = states._replace(epoch=jnp.full(1, epoch, jnp.int32))
        states = program().advance(states, hypers, window.buckets, schedule, *map(jnp.int32, (0, 0, steps)))
    states = jax.tree.map(lambda leaf: np.asarray(leaf[0]), (states.parameters, states.statistics))
    return predict.flattened(*states)


def probabilities(network: dict[str, np.ndarray], of: Examples) -> np.ndarray:
    part = Part.of([of], labels_by_step=True)
    return predict.probabilities(MODEL, [network], part, CLASSES, kind="step")[0]


def of_length(of: Examples, length: int) -> tuple[Examples, np.ndarray]:
    """Returns the scans of one length, which need no padding, and where their steps stand."""
    rows = np.flatnonzero(of.lengths == length)
    steps = (of.offsets[rows][:, None] + np.arange(length)).ravel()
    offsets = np.arange(len(rows) + 1) * length
    return Examples(of.ids[rows], of.labels[steps], offsets, of.features[steps], of.metadata[rows]), steps


def test_steps_after_a_short_clips_end_count_nowhere() -> None:
    """Together with longer ones, and so padded, a short clip has the probabilities, and so the scores, that it has
    among its like; and its accuracy does not fall before its end."""
    test = scanned(240, seed=2)
    network = trained(scanned(240, seed=1))
    padded = probabilities(network, test)
    assert len(padded) == len(test.labels) == test.lengths.sum()
    place = np.arange(len(padded)) - np.repeat(test.offsets[:-1], test.lengths)
    right = padded.argmax(axis=1) == test.labels
    for length in STEPS:
        alone, steps = of_length(test, length)
        unpadded = probabilities(network, alone)
        np.testing.assert_allclose(padded[steps], unpadded, atol=2e-6)
        assert (padded[steps].argmax(axis=1) == unpadded.argmax(axis=1)).all()
        by_place = [right[steps][place[steps] == at].mean() for at in range(length)]
        # 80 clips of each length: 3 standard errors
        assert by_place[-1] > max(by_place) - 3 * np.sqrt(0.25 * 0.75 / 80)
    assert right.mean() > 0.8


@pytest.mark.parametrize("broken", [random_features, shuffled_labels])
def test_a_decoder_is_at_chance_where_nothing_is_to_be_learnt(broken: Any) -> None:
    """Though it learnt in training to copy the label before. Handed true labels at test time, it would seem to know the
    clips: so a decoder that is taught in its evaluation reaches 80 % on features that are noise."""
    network = trained(broken(scanned(240, seed=1)))
    test = broken(scanned(400, seed=2))
    right = probabilities(network, test).argmax(axis=1) == test.labels
    # steps of a scan have one label: 400 of them decide, 4 standard errors
    assert abs(right.mean() - 1 / CLASSES) < 4 * np.sqrt(0.25 * 0.75 / 400)

    with Windows(Part.of([test], labels_by_step=True), [max(STEPS)], np.inf) as windows:
        (bucket,) = windows.get().buckets
    structure = nnx.graphdef(training.network(MODEL, REGIONS, 0, CLASSES, "step"))
    states = predict._states(MODEL, REGIONS, 0, CLASSES, "step", network)
    net = nnx.merge(structure, *states)
    inputs = [jnp.asarray(values) for values in bucket[:3]]
    nothing = jnp.zeros(bucket.labels.size * MODEL.units, jnp.uint16)
    logits = net.taught(
        *inputs, jnp.asarray(bucket.labels), teacher_share=1.0, teacher_bits=nothing[: bucket.labels.size].reshape(
            bucket.labels.shape), dropout_rate=0.0, dropout_bits=nothing,
    )  # fmt: skip
    valid = np.arange(bucket.labels.shape[1]) < np.asarray(bucket.lengths)[:, None]
    told = (np.asarray(logits).argmax(axis=2) == bucket.labels)[valid].mean()
    assert told > 0.7
