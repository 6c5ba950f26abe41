"""Successive halving through real jobs: who goes on is the trial that it would have been, to the bit."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from experiments import prepared, write_arrays

from jaxrnn import aggregate, bundles, jobs, plan, report, search, selection, trials
from jaxrnn.errors import JaxrnnError
from jaxrnn.results import Results

GRID = {"training.learning_rate": [0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003]}
HALVING = {"halving": {"reduction": 2, "rungs": 3}}
SETTINGS: dict[str, Any] = {
    "grid": GRID,
    "seeds": 2,
    "model__cell": "simple",
    "training__epochs": 8,
    "training__length_buckets": 1,
    "training__schedule": "cosine",
}
# Scores are computed for all trials at once: another width, other last digits. Parameters know nothing of it.
ROUNDING = 1e-6


def quiet(text: str) -> None:
    pass


def train(at: Results, made: plan.Plan, rung: int | None = None, say: jobs.Say = quiet) -> None:
    for job in made.jobs:
        folder = at.job("tiny", job.name)
        jobs.train(plan.load_job(folder / "config.yaml"), at, folder, say, rung=rung)


def whole(at: Results, made: plan.Plan) -> None:
    for rung in made.rungs[:-1]:
        train(at, made, rung.number)
        aggregate.promote(made.experiment, at, rung.number)
    train(at, made)


def read(at: Results, made: plan.Plan, name: str) -> pd.DataFrame:
    return pd.concat([pd.read_csv(at.job("tiny", job.name) / name) for job in made.jobs], ignore_index=True)


def networks(at: Results, made: plan.Plan) -> dict[str, dict[str, np.ndarray]]:
    """Returns the parameters of each trial's best epoch."""
    found = {}
    for job in made.jobs:
        for trial in job.trials:
            found[trial.id] = bundles.read_arrays(at.job("tiny", job.name) / "models" / f"{trial.id}.npz")
    return found


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name])


@pytest.fixture(scope="module")
def to_the_end(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results, plan.Plan]:
    """All trials, trained without halving."""
    folder = tmp_path_factory.mktemp("to-the-end")
    _, at, made = prepared(folder, **SETTINGS)
    train(at, made)
    return folder, at, made


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results, plan.Plan]:
    folder = tmp_path_factory.mktemp("halved")
    _, at, made = prepared(folder, search=HALVING, **SETTINGS)
    whole(at, made)
    return folder, at, made


def test_survivors_are_what_they_would_have_been_and_others_stop_where_their_rung_does(
    to_the_end: tuple[Path, Results, plan.Plan], halved: tuple[Path, Results, plan.Plan]
) -> None:
    _, at, made = halved
    _, full_at, full_made = to_the_end
    assert [(rung.epochs, rung.points) for rung in made.rungs] == [(2, 8), (4, 4), (8, 2)]
    table, full = (read(*of, "trials.csv").set_index("trial") for of in ((at, made), (full_at, full_made)))
    assert list(table.index) == list(full.index) == [trial.id for trial in made.trials]
    assert table["epochs"].value_counts().to_dict() == {2: 8, 4: 4, 8: 4}
    assert table["outcome"].tolist() == ["completed" if epochs == 8 else "halted" for epochs in table["epochs"]]
    found, expected = networks(at, made), networks(full_at, full_made)
    history, full_history = (read(*of, "history.csv") for of in ((at, made), (full_at, full_made)))
    for trial, row in table.to_dict("index").items():
        rows = history.query("trial == @trial").reset_index(drop=True)
        whole_rows = full_history.query("trial == @trial").head(row["epochs"]).reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, whole_rows, rtol=ROUNDING)
        losses = rows["validation_loss"].tolist()
        assert row["best_epoch"] == 1 + losses.index(min(losses))
        if row["epochs"] == 8:
            assert_same(found[str(trial)], expected[str(trial)])


def test_each_rung_promotes_the_best_points_by_validation_alone(halved: tuple[Path, Results, plan.Plan]) -> None:
    _, at, made = halved
    history = read(at, made, "history.csv")
    standing = {trial.id: made.points[trial.id] for trial in made.trials}
    for rung, following in itertools.pairwise(made.rungs):
        table = pd.read_csv(search.table(at.experiment("tiny"), rung.number))
        assert set(table["trial"]) == set(standing)
        assert not any("test" in column for column in table)
        best: dict[str, float] = {}
        for trial in standing:
            rows = history.query("trial == @trial").head(rung.epochs)
            losses = rows["validation_loss"].tolist()
            best[trial] = rows["validation_macro_auc"].tolist()[losses.index(min(losses))]
        assert dict(zip(table["trial"], table["validation_macro_auc"], strict=True)) == pytest.approx(best, abs=1e-9)
        points = {str(standing[trial]): [] for trial in standing}
        for trial, point in standing.items():
            points[str(point)].append(best[trial])
        order = sorted(points, key=lambda point: -np.mean(points[point]))
        going = set(table.loc[table["promoted"], "trial"])
        assert len(going) == 2 * following.points
        least = min(np.mean(points[str(standing[trial])]) for trial in going)
        assert all(np.mean(points[point]) <= least for point in order[following.points :])
        standing = {trial: point for trial, point in standing.items() if trial in going}


def test_what_halving_ended_is_not_chosen_and_the_report_says_so(halved: tuple[Path, Results, plan.Plan]) -> None:
    _, at, made = halved
    best = aggregate.aggregate(made.experiment, at)
    table = pd.read_csv(at.experiment("tiny") / "training_results.csv").set_index("trial")
    assert table.loc[best["trial"], "outcome"] == "completed"
    # whatever it scored: the others are set above it here
    flattered = table.assign(macro_auc=np.where(table["outcome"] == "halted", 1.0, 0.6)).reset_index()
    choice = selection.choose(flattered, list(GRID), "macro_auc")
    assert table.loc[choice.trial, "outcome"] == "completed"
    page = report.write(at.experiment("tiny"), at.dataset(made.dataset_key)).read_text()
    assert "Successive halving" in page and "12 halted" in page


def test_trials_that_are_finished_already_train_no_more(
    to_the_end: tuple[Path, Results, plan.Plan],
    halved: tuple[Path, Results, plan.Plan],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Halving an experiment that was trained to the end chooses as if it had not been, and trains nothing."""
    folder, _, _ = to_the_end
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    _, at, made = prepared(tmp_path, search=HALVING, data__path=str(folder / "survey"), **SETTINGS)
    monkeypatch.setattr(jobs, "_Pack", lambda *_, **__: pytest.fail("trained again"))
    whole(at, made)
    _, other, _ = halved
    for number in (1, 2):
        tables = [pd.read_csv(search.table(of.experiment("tiny"), number)) for of in (at, other)]
        # the surveys lie in different folders, which fingerprints know
        pd.testing.assert_frame_equal(tables[0].drop(columns="fingerprint"), tables[1].drop(columns="fingerprint"))
    # and chooses among those that it would have trained
    outcomes = [read(of, made, "trials.csv")["outcome"].tolist() for of in (at, other)]
    assert outcomes[0] == outcomes[1] and set(outcomes[0]) == {"completed", "halted"}


def test_a_rung_that_is_done_again_trains_nothing_and_promotes_the_same(
    halved: tuple[Path, Results, plan.Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, at, made = halved
    shutil.copytree(folder / "results", tmp_path / "results")
    other = Results(tmp_path / "results")
    monkeypatch.setattr(jobs, "_Pack", lambda *_, **__: pytest.fail("trained again"))
    for job in made.jobs:
        shutil.rmtree(other.job("tiny", job.name) / "rung-1")
    train(other, made, 1)
    said = aggregate.promote(made.experiment, other, 1)
    assert said == "rung 1 of 3: 4 of 8 grid points go on from epoch 2 to 4"
    one, two = (search.table(of.experiment("tiny"), 1).read_text() for of in (at, other))
    assert one == two


class Killed(BaseException):
    pass


@pytest.mark.parametrize("rung", [1, None])
def test_a_rung_killed_at_any_epoch_goes_on_to_the_same_bits(
    halved: tuple[Path, Results, plan.Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rung: int | None
) -> None:
    """Killed once before, and once after the first trials of a rung are stored."""
    folder, at, made = halved
    shutil.copytree(folder / "results", tmp_path / "results")
    other = Results(tmp_path / "results")
    until = made.rungs[-1 if rung is None else rung - 1].epochs
    for path in (other.experiment("tiny") / "trials").iterdir():
        record = trials.record(path)
        if record and (record["epochs"] == until):
            shutil.rmtree(path)
    before = jobs._Pack._store
    stored: list[int] = []

    def killed(self: Any, index: int, *rest: Any) -> None:
        if len(stored) in (0, 2):
            stored.append(index)
            raise Killed
        before(self, index, *rest)
        stored.append(index)

    monkeypatch.setattr(jobs._Pack, "_store", killed)
    said: list[str] = []
    for _ in range(3):
        try:
            train(other, made, rung, said.append)
            break
        except Killed:
            continue
    assert len(stored) > 3 and any("goes on from the checkpoint" in line for line in said)
    assert not list((other.experiment("tiny") / "checkpoints").glob("*"))
    if rung is not None:
        for job in made.jobs:
            one, two = (pd.read_csv(of.job("tiny", job.name) / f"rung-{rung}" / "trials.csv") for of in (at, other))
            pd.testing.assert_frame_equal(one, two, rtol=ROUNDING)
    else:
        expected = networks(at, made)
        for trial, found in networks(other, made).items():
            assert_same(found, expected[trial])


def test_without_halving_trials_go_on_from_where_they_were_halted(
    to_the_end: tuple[Path, Results, plan.Plan], halved: tuple[Path, Results, plan.Plan], tmp_path: Path
) -> None:
    folder, _, _ = halved
    shutil.copytree(folder / "results", tmp_path / "results")
    _, at, made = prepared(tmp_path, data__path=str(folder / "survey"), **SETTINGS)
    begun: list[int] = []
    before = jobs._Pack._begun

    def counted(pack: Any) -> Any:
        begun.extend(len(place.history) for place in pack.places if place is not None)
        return before(pack)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs._Pack, "_begun", counted)
        train(at, made)
    assert sorted(begun) == [2] * 8 + [4] * 4
    expected = networks(*to_the_end[1:])
    for trial, found in networks(at, made).items():
        assert_same(found, expected[trial])
    # finished trials need nothing to go on from
    assert not list((at.experiment("tiny") / "trials").glob("*.epoch-*"))


def test_a_checkpoint_of_other_rungs_is_not_taken(
    halved: tuple[Path, Results, plan.Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed within the first rung, which is then made shorter."""
    folder, _, _ = halved
    _, at, made = prepared(
        tmp_path, data__path=str(folder / "survey"), search={"halving": {"reduction": 2, "rungs": 2}}, **SETTINGS
    )
    assert made.rungs[0].epochs == 4

    def killed(pack: Any, index: int, *_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(jobs._Pack, "_store", killed)
        with pytest.raises(Killed):
            train(at, made, 1)
    _, at, made = prepared(tmp_path, data__path=str(folder / "survey"), search=HALVING, **SETTINGS)
    said: list[str] = []
    train(at, made, 1, said.append)
    assert any("is of other rungs and is not used" in line for line in said)
    assert set(pd.read_csv(at.job("tiny", made.jobs[0].name) / "rung-1" / "trials.csv")["epochs"]) == {2}


def test_with_windows_of_data_survivors_are_the_same_too(tmp_path: Path) -> None:
    """Where an epoch's number decides what its windows hold, trials go on at their own epoch."""
    write_arrays(tmp_path / "survey")
    settings = {**SETTINGS, "grid": {"training.learning_rate": [0.03, 0.01, 0.003, 0.001]}, "training__window_mb": 0.01}
    _, at, made = prepared(tmp_path, data__shard_mb=0.005, **settings)
    train(at, made)
    expected = networks(at, made)
    shutil.rmtree(at.experiment("tiny") / "trials")
    _, at, made = prepared(tmp_path, data__shard_mb=0.005, search=HALVING, **settings)
    whole(at, made)
    table = read(at, made, "trials.csv")
    assert sorted(table["epochs"]) == [2, 2, 2, 2, 4, 4, 8, 8]
    found = networks(at, made)
    for trial in table.loc[table["epochs"] == 8, "trial"]:
        assert_same(found[trial], expected[trial])


def test_a_diverged_trial_goes_no_further_and_the_job_without_survivors_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = {"model.units": [3, 4], "training.learning_rate": [0.01, 1e30]}
    _, at, made = prepared(
        tmp_path,
        grid=grid,
        search={"halving": {"reduction": 4, "rungs": 2}},
        training__epochs=8,
        training__gradient_clip=None,
        training__length_buckets=1,
    )
    train(at, made, 1)
    aggregate.promote(made.experiment, at, 1)
    table = pd.read_csv(search.table(at.experiment("tiny"), 1))
    assert table["promoted"].tolist() == [True, False, False, False]
    assert table["outcome"].tolist() == ["halted", "halted", "diverged", "diverged"]
    assert table["rank"].isna().tolist() == [False, False, True, True]
    (lost,) = [job for job in made.jobs if job.name != table["job"][0]]
    folder = at.job("tiny", lost.name)
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "_Pack", lambda *_, **__: pytest.fail("trained"))
        jobs.train(plan.load_job(folder / "config.yaml"), at, folder, quiet)
    train(at, made)
    best = aggregate.aggregate(made.experiment, at)
    assert best["trial"] == table["trial"][0]


def test_where_all_trials_diverge_there_is_nothing_to_promote(tmp_path: Path) -> None:
    rates = {"training.learning_rate": [1e30, 1e31]}
    halving = {"halving": {"reduction": 2, "rungs": 2}}
    settings = {"training__gradient_clip": None, "training__length_buckets": 1}
    _, at, made = prepared(tmp_path, grid=rates, search=halving, **settings)
    train(at, made, 1)
    with pytest.raises(JaxrnnError, match="all 2 trials of rung 1 diverged: there is nothing to choose"):
        aggregate.promote(made.experiment, at, 1)


def test_what_is_not_there_is_named(tmp_path: Path, halved: tuple[Path, Results, plan.Plan]) -> None:
    folder, _, made = halved
    shutil.copytree(folder / "results", tmp_path / "results")
    at = Results(tmp_path / "results")
    with pytest.raises(JaxrnnError, match="--rung 3: trials go on from rungs 1 to 2"):
        aggregate.promote(made.experiment, at, 3)
    job = at.job("tiny", made.jobs[0].name)
    for rung in (0, 4):
        with pytest.raises(JaxrnnError, match=f"--rung {rung}: the experiment's rungs are 1 to 3"):
            jobs.train(plan.load_job(job / "config.yaml"), at, job, quiet, rung=rung)
    with pytest.raises(JaxrnnError, match="--rung 1: `--retrain` trains to the end"):
        jobs.train(plan.load_job(job / "config.yaml"), at, tmp_path / "replay", quiet, rung=1, retrain=True)
    first = at.job("tiny", made.jobs[0].name) / "rung-1"
    shutil.move(first, tmp_path / "aside")
    with pytest.raises(JaxrnnError, match=r"rung-1/trials.csv: not there yet; run `jaxrnn train --rung 1`"):
        aggregate.promote(made.experiment, at, 1)
    shutil.copytree(at.job("tiny", made.jobs[0].name) / "rung-2", first)
    with pytest.raises(JaxrnnError, match=r"rung-1/trials.csv: holds trials of other settings or data"):
        aggregate.promote(made.experiment, at, 1)
    search.table(at.experiment("tiny"), 2).unlink()
    with pytest.raises(JaxrnnError, match=r"rungs/2.csv: not there yet; run `jaxrnn promote --rung 2`"):
        train(at, made)
    shutil.copytree(folder / "results" / "tiny" / "rungs", at.experiment("tiny") / "rungs", dirs_exist_ok=True)
    shutil.rmtree(at.experiment("tiny") / "trials")
    with pytest.raises(JaxrnnError, match=r"successive halving ended it, .* run `jaxrnn train --rung 1`"):
        train(at, made)
