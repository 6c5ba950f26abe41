"""The audit names what was planted, is silent where nothing was, and its numbers are those of other implementations."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import experiments
import numpy as np
import pandas as pd
import planted
import pytest
from numpy.random import default_rng
from planted import Survey, changed, clean, subject
from scipy import stats
from sklearn.metrics import roc_auc_score

from jaxrnn import aggregate, audit, config, hypotheses, jobs, metrics, plan, results, shuffles
from jaxrnn.batches import Part
from jaxrnn.errors import Interrupted
from jaxrnn.hypotheses import LEAK, SHORTCUT, Finding, Subject
from jaxrnn.report import audits, pages

SHUFFLES = {"over_sequences": shuffles.over_sequences, "over_steps": shuffles.over_steps, "constant": shuffles.constant}


def by_name(found: list[Finding]) -> dict[str, Finding]:
    return {finding.audit: finding for finding in found}


# What each planted leak is named by, and how


def steps(seed: int = 3, classes: int = 3) -> Survey:
    return clean(seed, classes=classes, by_step=True)


PLANTED: dict[str, tuple[Callable[[], Subject], str, str]] = {
    "metadata that follow from the class": (
        lambda: subject(changed(clean(1), planted.metadata)), "metadata_alone", SHORTCUT,
    ),
    "lengths": (lambda: subject(planted.lengths(clean(1))), "length_alone", SHORTCUT),
    "cadence": (lambda: subject(planted.cadence(clean(1))), "cadence_alone", SHORTCUT),
    "dates": (lambda: subject(planted.dates(clean(1))), "cadence_alone", SHORTCUT),
    "padding that nobody declared": (
        lambda: subject(changed(clean(1), planted.padding)), "padding_alone", SHORTCUT,
    ),
    "the label as a feature": (lambda: subject(changed(clean(1), planted.feature)), "label_in_feature", SHORTCUT),
    "the label in the last step": (
        lambda: subject(changed(clean(1), planted.last_step)), "label_in_feature", SHORTCUT,
    ),
    "missing values": (lambda: subject(changed(clean(1), planted.missing)), "label_in_feature", SHORTCUT),
    "recurrence along samples": (
        lambda: subject(planted.in_order(steps()), planted.along_samples), "noise", LEAK,
    ),
    "a decoder fed with true labels": (
        lambda: subject(steps(), planted.fed_labels), "labels_over_sequences", LEAK,
    ),
    "labels at prediction": (lambda: subject(steps(), planted.fed_labels), "own_labels", LEAK),
    "order at prediction": (
        lambda: subject(planted.in_order(steps()), planted.along_samples), "another_order", LEAK,
    ),
    "statistics of the test batch": (lambda: subject(clean(1), planted.by_batch), "another_order", LEAK),
    "later steps": (lambda: subject(steps(), planted.future), "later_steps", LEAK),
    "training on the test split": (
        lambda: subject(clean(1), planted.trained_on_test), "labels_over_sequences", LEAK,
    ),
    "names that tell the class": (
        lambda: subject(changed(clean(1), planted.named_by_class), planted.by_id), "noise", LEAK,
    ),
}  # fmt: skip


@pytest.mark.parametrize("leak", PLANTED)
def test_what_was_planted_is_named(leak: str) -> None:
    make, name, verdict = PLANTED[leak]
    (finding,) = hypotheses.examine(make(), [name], permutations=5)  # pyright: ignore[reportArgumentType]
    assert finding.verdict == verdict
    assert finding.words.endswith(f"{hypotheses.STATEMENTS[name].meaning}.")
    if finding.p is not None:
        assert finding.p == 1 / (1 + hypotheses.DRAWS) and finding.found > finding.high  # type: ignore[operator]


@pytest.mark.parametrize("by_step", [False, True])
def test_a_clean_experiment_raises_no_alarm(by_step: bool) -> None:
    """Twenty of them: benchmarks/audit.py."""
    found = by_name(hypotheses.examine(subject(clean(7, by_step=by_step)), permutations=5))
    assert {finding.verdict for finding in found.values()} <= {"holds", "remark", "not told"}
    assert found["labels_over_sequences"].verdict == found["noise"].verdict == "holds"
    # what is told by values whatever their order is no alarm, and said
    assert found["shuffled_in_time"].verdict == "remark" and "chosen network" in found["shuffled_in_time"].words


def test_labels_that_change_within_sequences_are_no_leak() -> None:
    """Though they are told by the place in a sequence: where lengths differ, labels are exchanged among equal ones."""
    survey = clean(7, by_step=True, changing=True)
    assert set(survey.examples["test"].lengths) == set(range(6, 19))
    only = ["noise", "shuffled_in_time", "labels_over_sequences", "label_in_feature"]
    found = by_name(hypotheses.examine(subject(survey, planted.counting), only, permutations=3))  # pyright: ignore
    assert found["noise"].found > 0.8 and found["noise"].p > 0.05  # type: ignore[operator]
    assert {entry.verdict for entry in found.values()} <= {"holds", "remark"}
    # no two test sequences are of one length
    rows = np.unique(survey.examples["test"].lengths, return_index=True)[1]
    test = shuffles.reordered(survey.lesson().test, rows).read(0)
    few = replace(survey, examples=survey.examples | {"test": test})
    (finding,) = hypotheses.examine(replace(subject(survey, planted.counting), lesson=few.lesson()), ["noise"])
    assert finding.verdict == "not told" and "at other steps" in finding.words


def test_the_best_of_many_columns_may_be_right_by_chance() -> None:
    """Of few objects; no p-value is then low enough."""
    for seed in range(10):
        survey = clean(seed, classes=2, counts=(60, 12, 6))
        generator = default_rng([seed, 1])

        def more(examples: planted.Examples, _: Any, generator: np.random.Generator = generator) -> planted.Examples:
            columns = generator.normal(size=(len(examples), 60)).astype(np.float32)
            return replace(examples, metadata=columns)

        (found,) = hypotheses.examine(subject(changed(survey, more)), ["label_in_feature"])
        assert found.verdict == "holds"


def test_trees_see_some_of_a_large_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as of the whole part where it is not; every sequence's steps are thinned alike."""
    part = Part.of([steps().examples[name] for name in ("train", "test")], labels_by_step=True)
    whole = hypotheses._columns(hypotheses._Seen.of(part, True))
    monkeypatch.setattr(hypotheses, "MOST_TRAINED", 500)
    seen = hypotheses._Seen.of(part, True)
    columns = hypotheses._columns(seen)
    assert columns.keys() == whole.keys() and seen.steps is not None and seen.steps.sum() <= 900
    for name, values in columns.items():
        np.testing.assert_array_equal(values, whole[name][seen.steps])
    assert len(seen.labels.labels) == seen.labels.lengths.sum() == seen.steps.sum()
    thinned = {
        (length, own.sum()) for length, own in zip(part.lengths, np.split(seen.steps, part.offsets[1:-1]), strict=True)
    }
    assert len(thinned) == len(set(part.lengths.tolist()))


def test_what_is_normalised_by_its_whole_sequence_knows_later_steps() -> None:
    one = replace(subject(steps()), normalised_by_sequence=True)
    (found,) = hypotheses.examine(one, ["later_steps"])
    assert found.verdict == "remark" and "normalisation knows the whole sequence" in found.words
    assert "as it should be" not in found.words
    leaking = replace(subject(steps(), planted.future), normalised_by_sequence=True)
    assert hypotheses.examine(leaking, ["later_steps"])[0].verdict == LEAK


def test_how_far_a_length_explains_noise() -> None:
    """Where lengths tell the class noise has them too, and nothing more is claimed."""

    def by_length(lesson: hypotheses.Lesson, classes: int) -> Callable[[Part], np.ndarray]:
        return planted.Network.trained(lesson.train, classes, lambda part: (part.lengths[:, None] < 8) * 4.0)

    found = by_name(hypotheses.examine(subject(planted.lengths(clean(1)), by_length), ["length_alone", "noise"]))
    assert found["noise"].verdict == SHORTCUT and "`length_alone`" in found["noise"].words


def test_of_a_network_that_sees_its_neighbours_nothing_is_said_about_the_future() -> None:
    """Where sequences are cut, its neighbours are cut too."""

    def by_neighbour(lesson: hypotheses.Lesson, classes: int) -> Callable[[Part], np.ndarray]:
        network = planted.sound(lesson, classes)
        return lambda part: np.roll(network(part), 1, axis=0)

    found = by_name(hypotheses.examine(subject(steps(), by_neighbour), ["another_order", "later_steps"]))
    assert found["another_order"].verdict == LEAK
    assert found["later_steps"].verdict == "not told" and "`another_order`" in found["later_steps"].words


# The numbers


def test_p_values_are_uniform_under_the_hypothesis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of networks that know nothing: those below any level are no more than it, and none is 0."""
    monkeypatch.setattr(hypotheses, "DRAWS", 99)
    generator, p_values = default_rng(5), []

    def knows_nothing(lesson: hypotheses.Lesson, classes: int) -> Callable[[Part], np.ndarray]:
        return lambda part: generator.dirichlet([1, 1], len(part))

    for seed in range(60):
        one = subject(clean(seed, classes=2, counts=(20, 20, 40)), knows_nothing)
        (found,) = hypotheses.examine(one, ["labels_over_sequences"], permutations=2)
        p_values.append(found.p)
    assert min(p_values) >= 1 / 100
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3


def test_scores_are_scikit_learns() -> None:
    generator = default_rng(1)
    part = planted.clean(2).lesson().test
    probabilities = generator.dirichlet([1, 1, 1], len(part)).round(1)  # with ties
    ranked = hypotheses.Ranked.of("sequence", part, np.arange(len(part)), probabilities)
    areas = [roc_auc_score(part.labels == label, probabilities[:, label]) for label in range(3)]
    assert ranked.auc(part.labels) == pytest.approx(np.mean(areas), abs=1e-12)
    assert ranked.accuracy(part.labels) == (probabilities.argmax(axis=1) == part.labels).mean()


def scored(count: int, lengths: np.ndarray, generator: np.random.Generator) -> Part:
    """Returns a part of steps with labels, of one class but for its last sequence."""
    offsets = np.r_[0, np.cumsum(lengths)]
    labels = np.repeat(np.arange(count) == count - 1, lengths).astype(np.int32)
    ids, features = np.array([f"{n}" for n in range(count)]), generator.normal(size=(offsets[-1], 1))
    examples = planted.Examples(ids, labels, offsets, features.astype(np.float32), np.zeros((count, 0)))
    return Part.of([examples], labels_by_step=True)


def test_of_many_places_whole_sequences_of_each_class_are_scored() -> None:
    generator = default_rng(4)
    for lengths in (generator.integers(1, 400, 200), generator.permutation(np.r_[np.full(199, 3), 5_500])):
        part = scored(200, lengths, generator)
        kept = hypotheses.Ranked.of("step", part, hypotheses._scored(part), np.zeros((lengths.sum(), 2))).places
        sequences = np.unique(np.repeat(np.arange(200), lengths)[kept])
        assert len(kept) == lengths[sequences].sum() and set(part.labels[kept]) == {0, 1}
        assert len(sequences) >= 50 and (len(kept) <= hypotheses.MOST_PLACES or len(sequences) == 50)


def test_labels_are_exchanged_among_what_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is said: of many sequences and steps it takes a while."""
    for name, value in {"MOST_PLACES": 100, "LEAST_SCORED": 20, "DRAWS": 9}.items():
        monkeypatch.setattr(hypotheses, name, value)
    said: list[str] = []
    hypotheses.examine(subject(steps()), ["noise"], permutations=1, say=said.append)
    assert "noise: labels of 20 test sequences are exchanged 9 times" in said


@pytest.mark.parametrize("by_step", [False, True])
def test_where_one_class_is_scored_nothing_is_told(by_step: bool) -> None:
    survey = clean(7, by_step=by_step, classes=2)
    test = replace(survey.examples["test"], labels=np.zeros_like(survey.examples["test"].labels))
    one = subject(replace(survey, examples=survey.examples | {"test": test}))
    found = hypotheses.examine(one, permutations=2)
    numbers = [value for entry in found for value in (entry.found, entry.p, entry.accuracy) if value is not None]
    assert np.isfinite(numbers).all()
    for name in ("labels_over_sequences", "noise", "metadata_alone", "length_alone"):
        assert by_name(found)[name].words == f"Not applicable: {hypotheses.ONE_CLASS}."
    assert {entry.verdict for entry in found} <= {"holds", "not told"}


def test_holms_correction_rejects_what_the_procedure_rejects() -> None:
    generator = default_rng(3)
    for _ in range(50):
        p_values, level = generator.random(6) ** 3, generator.uniform(0.01, 0.5)
        rejected = set()
        for rank, at in enumerate(np.argsort(p_values)):
            if p_values[at] > level / (6 - rank):
                break
            rejected.add(int(at))
        corrected = metrics.holm(p_values)
        assert {at for at, p in enumerate(corrected) if p <= level} == rejected


# Shuffled parts


@pytest.mark.parametrize("name", SHUFFLES)
def test_shuffled_labels_stay_in_their_split(name: str) -> None:
    survey = steps(classes=4)
    pieces = [survey.examples["validation"], survey.examples["test"]]
    part = Part.of(pieces, labels_by_step=True)
    splits = np.repeat(["validation", "test"], [len(piece) for piece in pieces])
    part = hypotheses.replace(part, splits=splits)
    part.labels[[3, 40, 41]] = -1
    labels = SHUFFLES[name](part, default_rng(0))
    assert ((labels >= 0) == (part.labels >= 0)).all() and (labels != part.labels).any()
    of_steps = np.repeat(splits, part.lengths)
    owner = np.repeat(np.arange(len(part)), part.lengths)
    for split in ("validation", "test"):
        before, after = part.labels[of_steps == split], labels[of_steps == split]
        assert set(after) <= set(before)
        if name == "over_steps":
            assert sorted(before) == sorted(after)
    if name != "over_steps":
        assert all(len(set(labels[(owner == row) & (labels >= 0)])) == 1 for row in range(len(part)))
    relabelled = shuffles.relabelled(part, labels)
    assert np.concatenate([found.labels for found in shuffles.every(relabelled)]).tolist() == labels.tolist()
    one = shuffles.of_split(relabelled, "test")
    assert one.labels.tolist() == labels[of_steps == "test"].tolist()
    np.testing.assert_array_equal(one.read(1).features, pieces[1].features)


def test_changed_features_keep_what_they_promise() -> None:
    part = clean(5, counts=(2000, 10, 10)).lesson().train
    mean, deviation = shuffles.moments(part)
    (before,) = shuffles.every(part)
    np.testing.assert_allclose(mean, np.r_[before.features.mean(axis=0), before.metadata.mean(axis=0)], atol=1e-5)
    changes = {name: getattr(shuffles, name) for name in ("jointly_in_time", "each_in_time")}
    for name, change in ({"noise": shuffles.noise(mean, deviation)} | changes).items():
        changed_part = shuffles.refeatured(part, [1, 2], change)
        (after,), (again,) = shuffles.every(changed_part), shuffles.every(changed_part)
        np.testing.assert_array_equal(after.features, again.features)  # a shard that is read again is the same
        assert after.labels.tolist() == before.labels.tolist() and after.offsets.tolist() == before.offsets.tolist()
        assert not np.array_equal(after.features, before.features)
        if name == "noise":
            np.testing.assert_allclose(after.features.std(axis=0), deviation[:2], rtol=0.03)
            assert not np.isin(after.metadata, before.metadata).any()
            continue
        for start, stop in zip(before.offsets[:5], before.offsets[1:6], strict=True):
            old, new = before.features[start:stop], after.features[start:stop]
            np.testing.assert_array_equal(np.sort(old, axis=0), np.sort(new, axis=0))
            rows_kept = {tuple(row) for row in old} == {tuple(row) for row in new}
            assert rows_kept == (name == "jointly_in_time")


def test_a_few_sequences_in_another_order_are_themselves() -> None:
    part = Part.of([steps().examples[name] for name in ("train", "test")], labels_by_step=True)
    rows = default_rng(0).permutation(len(part))[:50]
    few = shuffles.reordered(part, rows)
    everything = list(shuffles.every(part))
    features, labels = (np.concatenate([getattr(e, name) for e in everything]) for name in ("features", "labels"))
    (found,) = shuffles.every(few)
    assert few.ids.tolist() == part.ids[rows].tolist()
    for at, row in enumerate(rows):
        own, there = slice(*found.offsets[at : at + 2]), slice(*part.offsets[row : row + 2])
        np.testing.assert_array_equal(found.features[own], features[there])
        np.testing.assert_array_equal(found.labels[own], labels[there])


# Whole experiments


def trained(folder: Path, **changes: Any) -> tuple[config.Experiment, results.Results]:
    experiment, at, made = experiments.prepared(folder, **changes)
    for job in made.jobs:
        file = at.job(experiment.experiment, job.name) / "config.yaml"
        jobs.train(plan.load_job(file), at, file.parent, print)
    aggregate.aggregate(experiment, at)
    return experiment, at


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[config.Experiment, results.Results, list[Finding]]:
    """A tiny experiment with two audits, one of which trains, that was killed once."""
    values = {"permutations": 3, "only": ["copies", "labels_over_sequences", "another_order"]}
    experiment, at = trained(
        tmp_path_factory.mktemp("audited"),
        audit=values,
        # nothing recurrent: it compiles sooner
        model={"layers": [{"layer": "dense", "units": 4}, {"layer": "pool"}]},
        loss={},
        training__epochs=2,
        training__length_buckets=1,
    )
    kept = at.experiment("tiny") / "audit" / "trials"
    with pytest.MonkeyPatch.context() as patch:
        save = jobs.Store.save

        def stopped(*values: Any) -> None:
            save(*values)
            raise Interrupted("killed")

        patch.setattr(jobs.Store, "save", stopped)
        with pytest.raises(Interrupted):
            audit.audit(experiment, at, print)
    assert len(list(kept.iterdir())) == 1
    said: list[str] = []
    found = audit.audit(experiment, at, said.append)
    assert any("1 trials are finished already" in line for line in said)
    return experiment, at, found


def test_an_experiment_is_audited_with_its_own_networks(audited: Any) -> None:
    experiment, at, found = audited
    assert [finding.audit for finding in found] == ["copies", "labels_over_sequences", "another_order"]
    assert {finding.verdict for finding in found} == {"holds"}
    folder = at.experiment("tiny")
    assert len(list((folder / "audit" / "trials").iterdir())) == 3
    assert not (folder / "audit" / "checkpoints").exists() or not list((folder / "audit" / "checkpoints").iterdir())
    table = pd.read_csv(folder / "audit.csv")
    assert table["p"].tolist()[1] == found[1].p and table["found"].tolist()[1] == found[1].found
    # to the best epoch of the chosen trial, and each with labels of its own
    histories = [pd.read_csv(path) for path in (folder / "audit" / "trials").glob("*/history.csv")]
    best = pd.read_csv(folder / "training_results.csv")["best_epoch"].iloc[0]
    assert {len(history) for history in histories} == {best}
    assert len({history["train_loss"].iloc[0] for history in histories}) == 3
    # by the experiment's seed, from which labels are drawn
    chosen = results.read_json(folder / "best.json", "")["fingerprint"]
    names = (f"labels_over_sequences-{number}" for number in range(3))
    expected = {config.digest([chosen, int(best), experiment.seed, name]) for name in names}
    assert {path.name for path in (folder / "audit" / "trials").iterdir()} == expected


def test_the_report_says_what_was_found(audited: Any) -> None:
    _, at, found = audited
    read = audits.read(at.experiment("tiny"))
    assert read is not None
    assert audits.check(read, str(read.trial)) == (
        "passed", "The audits found nothing", "None of the 3 audits found a leak or a shortcut (level 0.01).",
    )  # fmt: skip
    page = shown(read)
    assert all(f'data-value="{finding.found}"' in page for finding in found) and "✓ holds" in page
    (figure,) = audits.drawn(read)
    assert "labels over sequences" in figure.svg and "another order" not in figure.svg, "what has no draws"
    assert figure.svg.count("mark-symbol") == 2, "what was found, and the legend"
    leaking = [entry | {"verdict": "leak", "words": "<script>"} for entry in read.findings[:1]]
    level, title, text = audits.check(read._replace(findings=leaking), str(read.trial)) or ("", "", "")
    assert (level, title, text) == ("warning", "The audits found a leak", "`copies`: <script>")
    assert "<script>" not in shown(read._replace(findings=leaking))
    assert (audits.check(read, "another") or ("", ""))[1] == "The audits are old"
    assert "These audits are" not in shown(read)
    path, own = at.experiment("tiny") / "best.json", str(read.trial)
    before = path.read_text()
    for name in ("fingerprint", "data_digest"):
        results.write_json(path, results.read_json(path, "") | {name: "0"})
        old = audits.read(at.experiment("tiny"))
        assert old is not None and "of another run" in (audits.check(old, own) or ("", "", ""))[2]
        assert "These audits are of another run" in shown(old)
        path.write_text(before)
    # what turns a line around is not shown
    findings = at.experiment("tiny") / "audit.json"
    kept = findings.read_text()
    values = results.read_json(findings, "")
    values["findings"][0]["words"] = "leak\N{RIGHT-TO-LEFT OVERRIDE}"
    results.write_json(findings, values)
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in shown(audits.read(at.experiment("tiny")))
    findings.write_text(kept)
    assert shown(None) == "" and audits.drawn(None) == [] and audits.check(None, "any") is None


def shown(read: audits.Audits | None) -> str:
    """Returns the page's section."""
    drawn = {figure.name: {"svg": figure.svg, "width": figure.width} for figure in audits.drawn(read)}
    template = pages.environment().get_template("audits.html.j2")
    return template.render(audits=audits.section(read), figures=drawn).strip()


def with_copies(folder: Path, noise: float) -> None:
    """Replaces half of the test sequences by training ones, with a little noise if so."""
    experiments.write_arrays(folder)
    for name in ("time_features", "contextual_features", "labels"):
        train, test = (np.load(folder / f"{split}_{name}.npy") for split in ("train", "test"))
        lengths = (np.load(folder / "train_time_features.npy")[:, :, 0] > -99).sum(axis=1)
        long = np.flatnonzero(lengths > 8)[:20]
        test[:20] = train[long]
        if name == "time_features" and noise:
            padded = test == -99.0
            test[:20] *= 1 + noise * default_rng(0).normal(0, 1, test[:20].shape)
            test[padded] = -99.0
        np.save(folder / f"test_{name}.npy", test)


@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_copies_are_named_before_anything_is_split_or_trained(tmp_path: Path, noise: float) -> None:
    """Though `split` refuses them."""
    with_copies(tmp_path / "survey", noise)
    with pytest.raises(config.JaxrnnError, match="what stands in one split stands in another too"):
        experiments.prepared(tmp_path)
    experiment, at = config.load(tmp_path / "tiny.yaml"), results.Results(tmp_path / "results")
    found = by_name(audit.audit(experiment, at, print))
    assert found["copies"].verdict == LEAK and found["copies"].found == 20
    assert found["copies"].words.startswith("20 of the 40 test sequences are copies of sequences in training")
    assert found["noise"].words == "Not applicable: there is no trained network yet."


def test_groups_in_two_splits_are_named(tmp_path: Path) -> None:
    from test_clips import OPTIONS, made, small

    simulation = small(subjects=8, train_subjects=4, clips=3, regions=6)
    data = {"reader": "hdf5", "path": str(made(simulation, tmp_path / "survey")), "options": OPTIONS}
    data["features"] = ["region_*"]
    experiment, at, _ = experiments.prepared(
        tmp_path, data=data, task={"kind": "step"}, model={"units": 3, "dense_depth": 0}, loss={},
        split={"method": "exact", "train": 0.5, "validation": 0.25, "leaks": "report"},
    )  # fmt: skip
    found = by_name(
        audit.audit(experiment.model_copy(update={"audit": config.Audit(only=("copies", "groups"))}), at, print)
    )
    assert found["groups"].verdict == LEAK and "of groups that are in training" in found["groups"].words
    assert found["copies"].verdict == "holds"


@pytest.mark.data
def test_the_adacs_files_are_named_at_once(tmp_path: Path, data_folder: Path) -> None:
    from workflows import CHECKOUT

    from jaxrnn import ingest
    from jaxrnn.ranks import Ranks

    experiment, at = config.load(CHECKOUT / "config" / "audit_copies.yaml"), results.Results(tmp_path)
    dataset = at.dataset(plan.dataset_key(experiment))
    ingest.ingest(experiment.data, data_folder / "adacs", dataset, Ranks(), lambda done, total: None)
    found = by_name(audit.audit(experiment, at, print))
    assert found["copies"].verdict == LEAK
    assert found["copies"].words.startswith("All 50 test sequences are copies of sequences in training or validation")
