"""Packs: what a trial becomes depends on itself alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import batches, losses, training
from jaxrnn.batches import Examples
from jaxrnn.config import Model, Training
from jaxrnn.training import Hyperparameters, State

FEATURES, METADATA, CLASSES = 3, 2, 3


def examples(count: int = 90, longest: int = 15, seed: int = 0) -> Examples:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, longest + 1, count)
    labels = (np.arange(count) % CLASSES).astype(np.int32)
    features = generator.normal(0, 1, (lengths.sum(), FEATURES)) + 0.5 * np.repeat(labels, lengths)[:, None]
    return Examples(
        ids=np.arange(count).astype(str),
        labels=labels,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        features=features.astype(np.float32),
        metadata=generator.normal(0, 1, (count, METADATA)).astype(np.float32),
    )


class Setting:
    """A program with data, for packs of any trials."""

    def __init__(self, cell: str = "gru", **settings: Any) -> None:
        network = {"cell": cell, "units": 5, "dense_units": 4, "dropout": 0.3}
        # one program takes seconds to compile: what does not ask for a deep network gets a shallow one
        network |= {} if settings.pop("deep", False) else {"depth": 1, "dense_depth": 1}
        self.model = Model.model_validate(network)
        self.training = Training.model_validate({"batch_size": 16, "epochs": 3, "length_buckets": 2} | settings)
        train, validation = examples(), examples(40, seed=1)
        longest = batches.edges(train.lengths, self.training.length_buckets)
        self.buckets, _ = batches.bucketed(train, longest)
        self.validation, _ = batches.bucketed(validation, longest)
        self.schedule = batches.schedule(self.buckets, self.training.batch_size)
        self.steps = len(self.schedule.bucket)
        self.program = training.make(self.model, self.training, FEATURES, METADATA, CLASSES)

    def hyper(self, seed: int, rate: float = 0.01, gamma: float = 0.0, dropout: float = 0.3) -> Hyperparameters:
        weights = losses.class_weights("balanced", np.array([20, 40, 30]))
        return Hyperparameters(np.uint32(seed), *map(np.float32, (rate, dropout, 0.001, gamma)), weights)  # pyright: ignore[reportCallIssue]

    def begin(self, pack: list[Hyperparameters]) -> tuple[Hyperparameters, State]:
        hypers = training.stacked(pack)
        return hypers, self.program.begin(hypers)

    def advance(self, states: State, hypers: Hyperparameters, start: int, stop: int) -> State:
        return self.program.advance(states, hypers, self.buckets, self.schedule, jnp.int32(start), jnp.int32(stop))

    def trained(self, pack: list[Hyperparameters], epochs: int = 3) -> tuple[State, list[Any]]:
        hypers, states = self.begin(pack)
        reports = []
        for _ in range(epochs):
            states = self.advance(states, hypers, 0, self.steps)
            states, report = self.program.finish_epoch(states, hypers, self.validation)
            reports.append(jax.device_get(report))
        return jax.device_get(states), reports


def member(states: Any, index: int) -> list[np.ndarray]:
    return [np.asarray(leaf)[index] for leaf in jax.tree.leaves(states)]


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second, strict=True))


@pytest.fixture(scope="module", params=["gru", "lstm", "simple"])
def setting(request: pytest.FixtureRequest) -> Setting:
    return Setting(request.param, deep=True)


@pytest.fixture(scope="module")
def shallow() -> Setting:
    return Setting(epochs=12)


def test_companions_and_order_change_no_bit(setting: Setting) -> None:
    one = setting.hyper(7, 0.02, 1.0)
    first, _ = setting.trained([one, setting.hyper(1), setting.hyper(2), setting.hyper(3)])
    # other companions, another place, one companion diverging at once
    second, _ = setting.trained([setting.hyper(9, 0.5), setting.hyper(8, 1e30), one, setting.hyper(4, dropout=0.0)])
    assert bool(second.diverged[1]) and not bool(second.diverged[2])
    assert same(member(first, 0), member(second, 2))


def test_a_member_is_the_lone_trial_within_rounding(setting: Setting) -> None:
    pack = [setting.hyper(seed) for seed in range(4)]
    steps = 20
    leaves = {}
    for name, members in (("alone", pack[:1]), ("pack", pack)):
        hypers, states = setting.begin(members)
        done = 0
        while done < steps:
            stop = min(setting.steps, steps - done)
            states = setting.advance(states, hypers, 0, stop)
            states = states._replace(epoch=states.epoch + 1)
            done += stop
        leaves[name] = member(states.parameters, 0)
    for alone, packed in zip(leaves["alone"], leaves["pack"], strict=True):
        np.testing.assert_allclose(packed, alone, atol=1e-5)


def test_where_the_epoch_is_cut_changes_no_bit(setting: Setting) -> None:
    hypers, states = setting.begin([setting.hyper(seed) for seed in range(4)])
    whole = setting.advance(states, hypers, 0, setting.steps)
    cut = states
    for start, stop in ((0, 1), (1, 4), (4, setting.steps)):
        cut = setting.advance(cut, hypers, start, stop)
    assert all(same(member(whole, index), member(cut, index)) for index in range(4))
    # one program served every cut, at each of the two widths used so far
    assert setting.program.advance._cache_size() <= 2  # pyright: ignore[reportFunctionMemberAccess]


def test_seeds_differ_and_repeat(setting: Setting) -> None:
    states, _ = setting.trained([setting.hyper(seed) for seed in (1, 2, 1, 3)], epochs=1)
    assert same(member(states, 0), member(states, 2))
    assert not same(member(states.parameters, 0), member(states.parameters, 1))


def test_training_learns_and_reports(shallow: Setting) -> None:
    _, reports = shallow.trained([shallow.hyper(1, dropout=0.0)] * 2, epochs=12)
    losses_seen = [float(report.train_loss[0]) for report in reports]
    assert losses_seen[-1] < 0.8 * losses_seen[0]
    assert 0 < float(reports[-1].train_accuracy[0]) <= 1
    assert float(reports[-1].validation.macro_auc[0]) > 0.7


def test_every_sequence_is_seen_once_an_epoch(shallow: Setting) -> None:
    hypers, states = shallow.begin([shallow.hyper(1), shallow.hyper(2)])
    states = shallow.advance(states, hypers, 0, shallow.steps)
    assert np.asarray(states.seen).tolist() == [90, 90]


def test_a_diverged_trial_stops_and_keeps_no_later_best(shallow: Setting) -> None:
    states, _ = shallow.trained([shallow.hyper(1, 1e30), shallow.hyper(1)], epochs=3)
    assert states.diverged.tolist() == [True, False]
    assert states.running.tolist() == [False, True]
    assert all(np.isfinite(leaf[1]).all() for leaf in jax.tree.leaves(states.best_parameters))


def test_patience_stops_a_trial_that_gets_no_better() -> None:
    setting = Setting(epochs=50, patience=2, length_buckets=1)
    states, reports = setting.trained([setting.hyper(1, 1e-12)], epochs=4)
    # a learning rate of nothing: batch norm's statistics move the loss, so the best epoch is known from the reports
    watched = [float(report.validation.loss[0]) for report in reports]
    stop = next((e for e in range(2, 5) if min(watched[: e - 2 + 1]) <= min(watched[e - 2 + 1 : e])), None)
    assert bool(states.running[0]) is (stop is None)
    if stop is not None:
        assert int(states.best_epoch[0]) == int(np.argmin(watched[:stop])) + 1


@pytest.mark.parametrize("monitor", ["loss", "accuracy", "macro_f1", "macro_auc"])
def test_the_best_epoch_is_the_monitored_scores_first_best(monitor: str) -> None:
    setting = Setting(epochs=6, monitor=monitor, length_buckets=1)
    states, reports = setting.trained([setting.hyper(3, 0.05)], epochs=6)
    watched = [float(getattr(report.validation, monitor)[0]) for report in reports]
    best = np.argmin(watched) if monitor == "loss" else np.argmax(watched)
    assert int(states.best_epoch[0]) == best + 1
    assert not bool(states.running[0])


def test_l2_shrinks_the_last_dense_layer(shallow: Setting) -> None:
    from jaxrnn.models import penalised_kernel

    strong = shallow.hyper(1)._replace(l2=np.float32(10.0))
    states, _ = shallow.trained([strong, shallow.hyper(1)], epochs=3)
    norms = [float(np.square(np.asarray(penalised_kernel(states.parameters))[index]).sum()) for index in range(2)]
    assert norms[0] < norms[1]
