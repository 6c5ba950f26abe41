"""Packs: what a trial becomes depends on itself alone."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from jaxrnn import attention, batches, losses, models, monitoring, training
from jaxrnn.batches import Bucket, Examples, Part, Window, Windows
from jaxrnn.config import ERROR_RATES, Model, Training
from jaxrnn.training import Hyperparameters, State

FEATURES, METADATA, CLASSES = 3, 2, 3
# The least network, for what is the same whatever is trained: it compiles in a moment.
LINEAR: list[Any] = [{"layer": "pool", "kind": "mean"}]


def examples(count: int = 90, longest: int = 15, seed: int = 0, by_step: bool = False) -> Examples:
    """by_step: each step has the sequence's label, but for some that are unknown."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, longest + 1, count)
    labels = (np.arange(count) % CLASSES).astype(np.int32)
    features = generator.normal(0, 1, (lengths.sum(), FEATURES)) + 0.5 * np.repeat(labels, lengths)[:, None]
    of_steps = np.where(generator.random(lengths.sum()) < 0.1, -1, np.repeat(labels, lengths)).astype(np.int32)
    return Examples(
        ids=np.arange(count).astype(str),
        labels=of_steps if by_step else labels,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        features=features.astype(np.float32),
        metadata=generator.normal(0, 1, (count, METADATA)).astype(np.float32),
    )


def copied(states: State) -> State:
    """Returns states for a program to write over."""
    return jax.tree.map(jnp.copy, states)


class Setting:
    """A program with data, for packs of any trials; its hyperparameters are the settings' where they don't differ."""

    def __init__(self, cell: str = "gru", **settings: Any) -> None:
        layers = settings.pop("layers", None)
        network = {"cell": cell, "units": 5, "dense_units": 4, "dropout": 0.3}
        # one program takes seconds to compile: what does not ask for a deep network gets a shallow one
        augment = settings.pop("augment", None)
        network["decoder"] = decoder = settings.pop("decoder", None)
        by_step = decoder is not None
        network |= {} if settings.pop("deep", False) else {"depth": 1, "dense_depth": 1}
        self.model = Model.model_validate(network if layers is None else {"layers": layers})
        recurrent = settings.pop("recurrent_dropout", False)
        self.training = Training.model_validate({"batch_size": 16, "epochs": 3, "length_buckets": 2} | settings)
        train, validation = examples(by_step=by_step), examples(40, seed=1, by_step=by_step)
        longest = batches.edges(train.lengths, self.training.length_buckets)
        window = Windows(Part.of([train], labels_by_step=by_step), longest, np.inf).get()
        self.buckets = window.buckets
        self.steps = int(-(-window.counts // self.training.batch_size).sum())
        self.schedule = batches.schedule(window.counts, self.training.batch_size, self.steps)
        self.validation = Windows(Part.of([validation], labels_by_step=by_step), longest, np.inf).get()
        kind = "step" if by_step else "sequence"
        self.targets = training.of_folds([training.targets(kind, self.validation.buckets)])
        self.make = partial(
            training.make,
            self.model,
            self.training,
            FEATURES,
            METADATA,
            CLASSES,
            augment,
            kind=kind,
            recurrent_dropout=recurrent,
            importance=(1.0, 2.0, 3.0),
            target=1,
        )
        self.program = self.make()

    def hyper(
        self, seed: int, rate: float = 0.01, gamma: float = 0.0, dropout: float = 0.3, **others: float
    ) -> Hyperparameters:
        clip = self.training.gradient_clip
        traced = {
            "learning_rate": rate,
            "dropout": dropout,
            "recurrent_dropout": others.pop("recurrent", 0.0),
            "l2": 0.001,
            "gamma": gamma,
            "gradient_clip": np.inf if clip is None else clip,
            **{
                key: getattr(self.training, key)
                for key in (
                    "momentum",
                    "weight_decay",
                    "warmup_epochs",
                    "final_share",
                    "plateau_factor",
                    "teacher_share",
                    "final_teacher_share",
                )
            },
            **others,
        }
        return Hyperparameters(
            seed=np.uint32(seed),
            class_weights=losses.class_weights("balanced", np.array([20, 40, 30])),
            plateau_patience=np.int32(self.training.plateau_patience),
            **{name: np.float32(value) for name, value in traced.items()},
        )

    def begin(self, pack: list[Hyperparameters]) -> tuple[Hyperparameters, State]:
        hypers = jax.device_put(training.stacked(pack), self.program.own)
        return hypers, self.program.begin(hypers)

    def advance(self, states: State, hypers: Hyperparameters, start: int, stop: int) -> State:
        numbers = [jnp.int32(number) for number in (0, start, stop)]
        return self.program.advance(copied(states), hypers, self.buckets, self.schedule, *numbers)

    def finish_epoch(self, states: State, hypers: Hyperparameters) -> tuple[State, Any]:
        logits = self.program.evaluate(states, hypers, self.validation.buckets)
        return self.program.finish_epoch(copied(states), hypers, logits, self.targets)

    def trained(self, pack: list[Hyperparameters], epochs: int = 3) -> tuple[State, list[Any]]:
        hypers, states = self.begin(pack)
        reports = []
        for _ in range(epochs):
            states = self.advance(states, hypers, 0, self.steps)
            states, report = self.finish_epoch(states, hypers)
            reports.append(jax.device_get(report))
        return jax.device_get(states), reports


def member(states: Any, index: int) -> list[np.ndarray]:
    return [np.asarray(leaf)[index] for leaf in jax.tree.leaves(states)]


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second, strict=True))


# Simple layers are in HYBRID.
@pytest.fixture(scope="module", params=["gru", "lstm", "decoder"])
def setting(request: pytest.FixtureRequest) -> Setting:
    if request.param == "decoder":
        # the share of its teacher falls from step to step
        return Setting(decoder={"units": 5}, teacher_share=0.9, teacher_schedule="linear", length_buckets=1)
    return Setting(request.param, deep=True)


@pytest.fixture(scope="module")
def shallow() -> Setting:
    """For packs of four: each width is compiled anew."""
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


def test_devices_share_a_pack_out(shallow: Setting) -> None:
    assert len(jax.devices()) > 1
    pack = [shallow.hyper(seed, dropout=0.1 * seed) for seed in range(4)]
    hypers, states = shallow.begin(pack)
    alone = shallow.advance(states, hypers, 0, shallow.steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shallow, "program", shallow.make(devices=2))
        own = shallow.program.own
        shared = shallow.advance(jax.device_put(states, own), jax.device_put(hypers, own), 0, shallow.steps)
        first, reports = shallow.trained(pack, epochs=2)
        # every trial on the other device, in another order
        second, others = shallow.trained(pack[::-1], epochs=2)
        # begun, advanced, and after an epoch, all in one program
        assert shallow.program.advance._cache_size() == 1  # pyright: ignore[reportFunctionMemberAccess]
        assert shallow.program.evaluate._cache_size() == 1  # pyright: ignore[reportFunctionMemberAccess]
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(shared)} == {2}
    # XLA compiles for several devices otherwise
    for one, other in zip(jax.tree.leaves(shared), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    for index in range(4):
        assert same(member(first, index), member(second, 3 - index))
        assert same(member(reports[-1], index), member(others[-1], 3 - index))


def test_a_pack_on_several_devices_begins(shallow: Setting) -> None:
    """Kernels of this width, decomposed on two of a CPU's devices at once, would keep the program waiting for ever."""
    model = Model.model_validate({"cell": "gru", "units": 25, "depth": 2})
    program = training.make(model, Training(), FEATURES, METADATA, CLASSES, devices=2)
    hypers = training.stacked([shallow.hyper(seed) for seed in range(8)])
    states = jax.block_until_ready(program.begin(jax.device_put(hypers, program.own)))
    assert {leaf.sharding for leaf in jax.tree.leaves(states)} == {program.own}
    alone = training.make(model, Training(), FEATURES, METADATA, CLASSES).begin(hypers)
    assert same(jax.tree.leaves(states), jax.tree.leaves(alone))


def test_trials_side_by_side_are_those_one_after_another(shallow: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = [shallow.hyper(seed) for seed in range(4)]
    hypers, states = shallow.begin(pack)
    in_turn = shallow.advance(states, hypers, 0, shallow.steps)
    monkeypatch.setattr(training, "together", lambda: True)
    for devices in (1, 2):
        monkeypatch.setattr(shallow, "program", shallow.make(devices=devices))
        own = shallow.program.own
        at_once = shallow.advance(jax.device_put(states, own), jax.device_put(hypers, own), 0, shallow.steps)
        for one, other in zip(jax.tree.leaves(at_once), jax.tree.leaves(in_turn), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_trial_that_has_ended_stays_as_it_is(shallow: Setting) -> None:
    hypers, states = shallow.begin([shallow.hyper(seed) for seed in range(4)])
    states = states._replace(running=np.array([True, False, True, True]))
    after = shallow.advance(states, hypers, 0, shallow.steps)
    assert same(member(after, 1), member(states, 1))
    others = shallow.advance(states._replace(running=np.full(4, True)), hypers, 0, shallow.steps)
    for index in (0, 2, 3):
        assert same(member(after.parameters, index), member(others.parameters, index))


@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 20))
def test_every_device_has_an_equal_share_of_a_pack(trials: int, devices: int, later: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: [None] * devices)
        width = training.width_for(trials)
        assert trials <= width < trials + devices
        assert training.devices_for(width) >= min(trials, devices) and width % training.devices_for(width) == 0
        # resumed where there are more devices, or fewer
        patch.setattr(jax, "devices", lambda: [None] * later)
        assert 1 <= training.devices_for(width) <= later and width % training.devices_for(width) == 0


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
    _, reports = shallow.trained([shallow.hyper(1, dropout=0.0)] * 4, epochs=12)
    losses_seen = [float(report.train_loss[0]) for report in reports]
    assert losses_seen[-1] < 0.8 * losses_seen[0]
    assert 0 < float(reports[-1].train_accuracy[0]) <= 1
    assert float(reports[-1].validation.macro_auc[0]) > 0.7


def test_every_sequence_is_seen_once_an_epoch(shallow: Setting) -> None:
    hypers, states = shallow.begin([shallow.hyper(seed) for seed in range(4)])
    states = shallow.advance(states, hypers, 0, shallow.steps)
    assert np.asarray(states.seen).tolist() == [90] * 4


def test_a_diverged_trial_stops_and_keeps_no_later_best(shallow: Setting) -> None:
    states, _ = shallow.trained([shallow.hyper(1, 1e30), *[shallow.hyper(1)] * 3], epochs=3)
    assert states.diverged.tolist() == [True, False, False, False]
    assert states.running.tolist() == [False, True, True, True]
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


@pytest.mark.parametrize("monitor", [name for name in monitoring.Scores._fields if name not in ERROR_RATES])
def test_the_best_epoch_is_the_monitored_scores_first_best(monitor: str) -> None:
    setting = Setting(epochs=6, monitor=monitor, length_buckets=1, layers=LINEAR)
    states, reports = setting.trained([setting.hyper(3, 0.05)], epochs=6)
    watched = [float(getattr(report.validation, monitor)[0]) for report in reports]
    best = np.argmin(watched) if monitor.endswith("loss") else np.argmax(watched)
    assert int(states.best_epoch[0]) == best + 1
    assert not bool(states.running[0])


def test_l2_shrinks_the_last_dense_layer(shallow: Setting) -> None:
    from jaxrnn.models import penalised_kernel

    strong = shallow.hyper(1)._replace(l2=np.float32(10.0))
    states, _ = shallow.trained([strong, *[shallow.hyper(1)] * 3], epochs=3)
    norms = [float(np.square(np.asarray(penalised_kernel(states.parameters))[index]).sum()) for index in range(2)]
    assert norms[0] < norms[1]


# Optimisers and schedules


@pytest.mark.parametrize("schedule", ["constant", "cosine", "plateau"])
def test_trials_of_every_schedule_are_cut_alike_and_keep_to_themselves(schedule: str) -> None:
    """A learning rate that changes in every step is no reason to compile again, whatever the trials' own numbers."""
    settings = {"schedule": schedule, "warmup_epochs": 1.5, "plateau_patience": 1}
    setting = Setting(epochs=5, optimiser="sgd", momentum=0.9, layers=LINEAR, **settings)
    pack = [setting.hyper(1), setting.hyper(2, warmup_epochs=0.3, final_share=0.5), setting.hyper(1, momentum=0.0)]
    hypers, whole = setting.begin(pack)
    cut, rates = whole, []
    for epoch in range(5):
        whole = setting.advance(whole, hypers, 0, setting.steps)
        for start, stop in ((0, 2), (2, 3), (3, setting.steps)):
            cut = setting.advance(cut, hypers, start, stop)
        whole, report = setting.finish_epoch(whole, hypers)
        cut, other = setting.finish_epoch(cut, hypers)
        assert same(member(report, 1), member(other, 1)), epoch
        rates.append(np.asarray(report.learning_rate))
    assert all(same(member(whole, index), member(cut, index)) for index in range(3))
    assert setting.program.advance._cache_size() == 1  # pyright: ignore[reportFunctionMemberAccess]
    swapped, _ = setting.trained([pack[1], pack[2], pack[0]], epochs=5)
    assert same(member(jax.device_get(whole), 1), member(swapped, 0))
    # of the epoch's last step
    last = np.arange(5) + (setting.steps - 1) / setting.steps
    expected = np.stack([np.minimum(last / 1.5, 1), np.ones(5), np.minimum(last / 1.5, 1)], axis=1)
    if schedule == "cosine":
        for column, (warmup, final) in enumerate([(1.5, 0.0), (0.3, 0.5), (1.5, 0.0)]):
            over = np.clip((last - warmup) / (5 - warmup), 0, 1)
            expected[:, column] *= final + (1 - final) * (1 + np.cos(np.pi * over)) / 2
    found = np.stack(rates) / 0.01
    if schedule == "plateau":
        # 1, 1/2, 1/4, ... of it; when, is the next test
        found = found / expected
        expected = 0.5 ** np.round(-np.log2(found))
        assert (np.diff(found, axis=0) <= 1e-6).all()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("monitor", ["loss", "accuracy"])
def test_the_learning_rate_falls_where_the_monitor_gets_no_better(monitor: str) -> None:
    setting = Setting(epochs=30, schedule="plateau", monitor=monitor, length_buckets=1, plateau_patience=2)
    _, reports = setting.trained([setting.hyper(1, 0.05, plateau_factor=0.25)], epochs=14)
    best, waited, scale, falls = -np.inf, 0, 1.0, 0
    for report in reports:
        assert float(report.learning_rate[0]) == pytest.approx(0.05 * scale, rel=1e-6)
        score = float(getattr(report.validation, monitor)[0]) * (-1 if monitor == "loss" else 1)
        waited = 0 if score > best else waited + 1
        best = max(best, score)
        if waited == 2:
            scale, waited, falls = scale / 4, 0, falls + 1
    assert falls


def test_what_a_trial_is_made_with_is_all_that_its_optimiser_has() -> None:
    """Each number changes the trial that has it, and no other."""
    setting = Setting(length_buckets=1, optimiser="rmsprop", layers=LINEAR)
    changes: dict[str, float] = {
        "momentum": 0.5, "weight_decay": 0.1, "gradient_clip": 0.01, "label_smoothing": 0.2, "warmup_epochs": 2.0
    }  # fmt: skip
    pack = [setting.hyper(1), *(setting.hyper(1, **{name: value}) for name, value in changes.items()), setting.hyper(1)]
    states, _ = setting.trained(pack, epochs=1)
    parameters = [member(states.parameters, index) for index in range(len(pack))]
    assert same(parameters[0], parameters[-1])
    assert not any(same(parameters[0], other) for other in parameters[1:-1])


def test_one_output_is_trained_by_the_binary_cross_entropy() -> None:
    """One step of plain gradient descent moves the output's bias by PyTorch's gradient, and its logits are [0, z]."""
    model = Model.model_validate({"units": 4, "depth": 1, "dense_depth": 0, "dropout": 0.0, "normalisation": "none"})
    settings = Training.model_validate({"batch_size": 64, "length_buckets": 1, "optimiser": "sgd"})
    data = examples(64)
    data.labels[:] = data.labels > 0
    window = Windows(Part.of([data]), [15], np.inf).get()
    schedule = batches.schedule(window.counts, 64, 1)
    weights = np.array([0.7, 1.4], np.float32)
    hypers = training.stacked([Hyperparameters(np.uint32(3), *map(np.float32, (0.5, 0, 0, 0, 0)), weights)])  # pyright: ignore[reportCallIssue]
    program = training.make(model, settings, FEATURES, METADATA, 1)
    before = program.begin(hypers)
    logits = np.asarray(program.evaluate(before, hypers, window.buckets))[0]
    assert logits.shape == (len(window.sources), 2)
    assert not logits[:, 0].any()
    after = program.advance(copied(before), hypers, window.buckets, schedule, *map(jnp.int32, (0, 0, 1)))
    truth = torch.tensor(data.labels[window.sources], dtype=torch.float32)
    leaf = torch.tensor(logits[:, 1], requires_grad=True)
    weight = torch.tensor(weights)[truth.long()]
    torch.nn.functional.binary_cross_entropy_with_logits(leaf, truth, weight).backward()
    assert leaf.grad is not None
    moved = after.parameters["logits"]["bias"][...] - before.parameters["logits"]["bias"][...]
    np.testing.assert_allclose(np.asarray(moved)[0, 0], -0.5 * float(leaf.grad.sum()), rtol=1e-5)
    assert abs(float(leaf.grad.sum())) > 1e-3
    assert int(after.hits[0]) == ((logits[:, 1] > 0) == data.labels[window.sources]).sum()


# Decoders and their teachers


@pytest.fixture(scope="module")
def taught() -> Setting:
    return Setting(
        decoder={"units": 5, "look_ahead": False}, teacher_schedule="inverse_sigmoid", length_buckets=1,
        optimiser="sgd", gradient_clip=None, batch_size=90,
    )  # fmt: skip


def test_a_teachers_share_is_a_trials_own(taught: Setting) -> None:
    shares = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5)]
    pack = [taught.hyper(1, teacher_share=first, final_teacher_share=last) for first, last in shares]
    first, _ = taught.trained(pack)
    second, _ = taught.trained([pack[2], pack[3], pack[1], pack[0]])
    for one, other in ((2, 0), (3, 1), (1, 2), (0, 3)):
        assert same(member(first, one), member(second, other))
    parameters = [member(first.parameters, index) for index in range(4)]
    assert not any(same(parameters[a], parameters[b]) for a in range(4) for b in range(a))
    assert taught.program.advance._cache_size() == 1  # pyright: ignore[reportFunctionMemberAccess]


def test_labels_teach_and_nothing_else(taught: Setting) -> None:
    """A step of gradient descent is that of `Network.taught` with the true labels before; without a share the labels
    before count for nothing; and validation has no use for labels at all."""
    (bucket,) = taught.buckets
    hypers, states = taught.begin([
        taught.hyper(1, 0.1, dropout=0.0, teacher_share=share, final_teacher_share=share) for share in (0, 1, 0, 0)
    ])  # fmt: skip
    after = taught.advance(states, hypers, 0, 1)
    structure, parameters, statistics = nnx.split(
        training.network(taught.model, FEATURES, METADATA, CLASSES, "step"), nnx.Param, nnx.BatchStat
    )
    parameters, statistics = (jax.tree.map(lambda a: a[0], of) for of in (states.parameters, states.statistics))
    weights = jnp.asarray(hypers.class_weights)[0]
    valid = (np.arange(bucket.features.shape[1]) < bucket.lengths[:, None]) & (bucket.labels >= 0)

    def loss(parameters: Any, share: float) -> jax.Array:
        net = nnx.merge(structure, parameters, statistics, copy=True)
        features, lengths, metadata, known, _ = map(jnp.asarray, bucket)
        draws = jnp.full(net.dropout_draws(len(bucket.lengths), bucket.features.shape[1]), 65535, jnp.uint16)
        nobody = jnp.zeros(bucket.labels.shape, jnp.uint16)
        logits = net.taught(
            features, lengths, metadata, known, teacher_share=share, teacher_bits=nobody, dropout_rate=0.0,
            dropout_bits=draws,
        )  # fmt: skip
        labels = jnp.maximum(known, 0)
        each = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=2)[..., 0] * weights[labels]
        penalty = 0.001 * jnp.square(models.penalised_kernel(parameters)).sum()  # pyright: ignore[reportArgumentType]
        return jnp.where(valid, each, 0).sum() / valid.sum() + penalty

    gradient = jax.jit(jax.grad(loss))
    for index, share in ((0, 0.0), (1, 1.0)):
        expected = jax.tree.map(lambda a, b: a - 0.1 * b, parameters, gradient(parameters, share))
        found = jax.tree.map(lambda a, at=index: a[at], after.parameters)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    others = tuple(of._replace(labels=(np.asarray(of.labels) + 1) % CLASSES) for of in taught.validation.buckets)
    np.testing.assert_array_equal(
        taught.program.evaluate(states, hypers, others),
        taught.program.evaluate(states, hypers, taught.validation.buckets),
    )


@pytest.mark.parametrize("schedule", ["constant", "linear", "inverse_sigmoid"])
def test_the_teachers_share_goes_from_one_to_the_other(schedule: str) -> None:
    over = np.linspace(0, 1, 11)
    k = np.exp(5)  # a tenth of the training's steps, so that there are 10 k of them
    sigmoid = k / (k + np.exp(10 * over))
    left = {
        "constant": np.ones(11), "linear": 1 - over,
        "inverse_sigmoid": (sigmoid - sigmoid[-1]) / (sigmoid[0] - sigmoid[-1]),
    }[schedule]  # fmt: skip
    found = attention.teacher_share(
        schedule, jnp.asarray(4 * over), start=jnp.float32(0.9), final=jnp.float32(0.2), epochs=4
    )
    np.testing.assert_allclose(found * np.ones(11), 0.2 + 0.7 * left, atol=1e-6)


def in_windows(setting: Setting, windows: Windows, states: State, hypers: Hyperparameters, longest: int) -> State:
    """Returns the states after an epoch in windows, in segments of at most `longest` steps."""
    size = setting.training.batch_size
    most_steps = int(-(-windows.rows // size).sum())
    for index in range(windows.count(0)):
        window = windows.get(0, index)
        steps = int(-(-window.counts // size).sum())
        schedule = batches.schedule(window.counts, size, most_steps)
        for start in range(0, steps, longest):
            numbers = [jnp.int32(number) for number in (index, start, min(start + longest, steps))]
            states = setting.program.advance(copied(states), hypers, window.buckets, schedule, *numbers)
    return states


def test_windows_are_trained_on_as_what_fits_is(shallow: Setting) -> None:
    """Every sequence once an epoch, no batch of filling alone, one program, and the same bits however it is cut."""
    hypers, states = shallow.begin([shallow.hyper(seed) for seed in range(4)])
    pieces = [examples(count, seed=count) for count in (7, 20, 11, 16, 9, 17, 10)]
    part, size = Part.of(pieces), 15 * 4 * FEATURES
    with Windows(part, [8, 15], 30 * size, seed=3) as windows:
        assert windows.count(0) > 2
        before = shallow.program.advance._cache_size()  # pyright: ignore[reportFunctionMemberAccess]
        whole = in_windows(shallow, windows, states, hypers, 100)
        cut = in_windows(shallow, windows, states, hypers, 1)
        assert shallow.program.advance._cache_size() == before + 1  # pyright: ignore[reportFunctionMemberAccess]
    assert np.asarray(whole.seen).tolist() == [90] * 4
    assert np.isfinite(whole.loss_sum).all()
    assert all(same(member(whole, index), member(cut, index)) for index in range(4))
    assert not same(member(whole, 0), member(states, 0))


def test_what_is_in_filling_rows_changes_no_bit(shallow: Setting) -> None:
    hypers, states = shallow.begin([shallow.hyper(seed) for seed in range(4)])
    part = Part.of([examples(count, seed=count) for count in (7, 20, 11, 16, 9, 17, 10)])

    class Scribbled(Windows):
        def get(self, epoch: int = 0, index: int = 0) -> Window:
            window = super().get(epoch, index)
            buckets = []
            for bucket in window.buckets:
                filling = np.asarray(bucket.lengths) == 0
                values = [np.where(filling.reshape(-1, *[1] * (a.ndim - 1)), 7, a).astype(a.dtype) for a in bucket]
                buckets.append(Bucket(*values)._replace(lengths=np.asarray(bucket.lengths)))
            return window._replace(buckets=tuple(buckets))

    found = []
    for kind in (Windows, Scribbled):
        with kind(part, [8, 15], 30 * 15 * 4 * FEATURES, seed=3) as windows:
            found.append(in_windows(shallow, windows, states, hypers, 100))
    assert all(same(member(found[0], index), member(found[1], index)) for index in range(4))


def test_a_fold_sees_its_own_rows_alone_and_waits_where_another_has_a_batch_more() -> None:
    """Two folds of 40 and 90 sequences: batches of 16 are three of one and six of the other."""
    setting = Setting(length_buckets=1)
    parts, checks = (
        [Part.of([examples(count, seed=seed)]) for count, seed in sizes]
        for sizes in (((40, 5), (90, 0)), ((30, 6), (40, 1)))
    )
    window = Windows(parts, [15], np.inf, held=(0, 1)).get()
    validation = Windows(checks, [15], np.inf, held=(0, 1)).get()
    schedule = batches.schedule(window.counts, 16, 6)
    shares = [[batches.fold_rows(bucket, fold, 2) for bucket in validation.buckets] for fold in range(2)]
    targets = training.of_folds([training.targets("sequence", buckets) for buckets in shares])
    program = setting.make(folds=2, waits=True)

    def trained(pack: list[Hyperparameters], buckets: tuple[Bucket, ...]) -> list[Any]:
        hypers = training.stacked(pack)
        states = program.begin(hypers)
        kept = []
        for start, stop in ((0, 3), (3, 6)):
            states = program.advance(states, hypers, buckets, schedule, *map(jnp.int32, (0, start, stop)))
            kept.append(jax.device_get(states.parameters))
        logits = program.evaluate(states, hypers, validation.buckets)
        states, report = program.finish_epoch(states, hypers, logits, targets)
        return [*kept, jax.device_get((states.best_parameters, report))]

    first, second = (setting.hyper(3)._replace(fold=np.int32(fold)) for fold in range(2))
    other = setting.hyper(4)._replace(fold=np.int32(1))
    half, whole, (_, report) = trained([first, second], window.buckets)
    assert same(member(half, 0), member(whole, 0)) and not same(member(half, 1), member(whole, 1))
    # no companion of another fold, and no row of another fold, has a part in it
    ones = [
        [np.concatenate([values[:90], 1 + 0 * values[90:]]) for values in map(np.asarray, b)] for b in window.buckets
    ]
    spoilt = tuple(Bucket(*values) for values in ones)
    for pack, buckets in (([first, other], window.buckets), ([first, other], spoilt), ([first, first], window.buckets)):
        _, again, (_, told) = trained(pack, buckets)
        assert same(member(again, 0), member(whole, 0)) and same(member(told, 0), member(report, 0))
    # as one fold alone with the same number of rows is trained and scored
    alone = Windows(parts[1], [15], np.inf).get()
    scored = Windows(checks[1], [15], np.inf).get()
    hypers = training.stacked([setting.hyper(3)])
    states = setting.program.begin(hypers)
    states = setting.program.advance(states, hypers, alone.buckets, schedule, *map(jnp.int32, (0, 0, 6)))
    logits = setting.program.evaluate(states, hypers, scored.buckets)
    own = training.of_folds([training.targets("sequence", scored.buckets)])
    states, expected = setting.program.finish_epoch(states, hypers, logits, own)
    for one, two in zip(member(whole, 1), member(states.best_parameters, 0), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
    for one, two in zip(member(report, 1), member(expected, 0), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


class Flipped:
    """Changes each sequence by a draw of its own: its sign."""

    def __call__(self, batch: Bucket, key: jax.Array, fold: Any = 0) -> Bucket:
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, batch.keys)
        signs = jax.vmap(jax.random.rademacher, in_axes=(0, None))(keys, ())
        return batch._replace(features=batch.features * signs[:, None, None])


def test_augmented_sequences_are_those_of_the_trials_seed_and_epoch() -> None:
    setting = Setting(length_buckets=1, augment=Flipped(), layers=LINEAR)
    pair = [setting.hyper(seed, dropout=0.0) for seed in (1, 2)]
    first, _ = setting.trained(pair, epochs=2)
    second, _ = setting.trained([setting.hyper(5), pair[0]], epochs=2)
    assert same(member(first, 0), member(second, 1))
    # flipped by hand beforehand: the same epoch without augmentation
    plain = Setting(length_buckets=1, layers=LINEAR)
    hypers, states = plain.begin(pair)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), training.AUGMENTATION), 0)
    (bucket,) = plain.buckets
    by_hand = plain.program.advance(
        copied(states), hypers, (Flipped()(bucket, key),), plain.schedule, *(jnp.int32(n) for n in (0, 0, plain.steps))
    )
    augmented = setting.advance(states, hypers, 0, setting.steps)
    for one, other in zip(member(by_hand.parameters, 0), member(augmented.parameters, 0), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    plainly = plain.advance(states, hypers, 0, plain.steps)
    assert (
        max(
            np.abs(one - other).max()
            for one, other in zip(member(plainly.parameters, 0), member(augmented.parameters, 0), strict=True)
        )
        > 1e-3
    )


# Three simple layers, a convolution, two dropouts, two dense layers and flatten, with normalisation inside: the best
# network of "Predicting LSST data with Keras Tuner and recurrent neural networks".
HYBRID = [
    "input_normalisation",
    *[{"layer": "simple", "units": 8}] * 3,
    {"layer": "conv", "filters": 8, "kernel": 3},
    "dropout",
    {"layer": "flatten", "steps": 15},
    "metadata",
    {"layer": "dense", "units": 16},
    "dropout",
    {"layer": "dense", "units": 8},
]


@pytest.fixture(scope="module")
def hybrid() -> Setting:
    return Setting(layers=HYBRID, epochs=12)


def test_a_network_of_ones_own_learns(hybrid: Setting) -> None:
    states, reports = hybrid.trained([hybrid.hyper(1, 0.005, dropout=0.1)] * 3, epochs=12)
    seen = [float(report.train_loss[0]) for report in reports]
    assert seen[-1] < 0.8 * seen[0]
    assert float(reports[-1].validation.macro_auc[0]) > 0.7
    # every parameter was trained, and every statistic kept
    begun = hybrid.begin([hybrid.hyper(1)] * 3)[1]
    for before, after in zip(
        jax.tree.leaves((begun.parameters, begun.statistics)),
        jax.tree.leaves((states.parameters, states.statistics)),
        strict=True,
    ):
        assert (np.asarray(before)[0] != after[0]).any()


def test_companions_of_a_network_of_ones_own_change_no_bit(hybrid: Setting) -> None:
    one = hybrid.hyper(7, dropout=0.4)
    first, _ = hybrid.trained([one, hybrid.hyper(1), hybrid.hyper(2)], epochs=2)
    second, _ = hybrid.trained([hybrid.hyper(9, dropout=0.0), hybrid.hyper(8, 1e30), one], epochs=2)
    assert same(member(first, 0), member(second, 2))


def test_recurrent_dropout_is_a_trials_own() -> None:
    """A companion's changes no bit; a rate of 0 is the program without it, to rounding."""
    setting = Setting(recurrent_dropout=True, length_buckets=1)
    none, some = setting.hyper(1), setting.hyper(1, recurrent=0.5)
    first, _ = setting.trained([none, some, some._replace(seed=np.uint32(2))], epochs=2)
    second, _ = setting.trained([some, setting.hyper(3, recurrent=0.9), none], epochs=2)
    assert same(member(first, 0), member(second, 2)) and same(member(first, 1), member(second, 0))
    assert not same(member(first, 0), member(first, 1))
    plain, _ = Setting(length_buckets=1).trained([none._replace(dropout=np.float32(0))] * 2, epochs=1)
    nothing, _ = setting.trained([none._replace(dropout=np.float32(0))] * 2, epochs=1)
    for one, other in zip(member(plain.parameters, 0), member(nothing.parameters, 0), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.timeout(120)
def test_a_pack_of_many_trials_begins() -> None:
    """Their kernels' decompositions, of many trials at once, once waited for each other for ever."""
    setting = Setting(layers=[{"layer": "gru", "units": 25}, {"layer": "gru", "units": 25, "output": "last"}])
    _, states = setting.begin([setting.hyper(seed) for seed in range(256)])
    jax.block_until_ready(states)
    kernels = [leaf for leaf in jax.tree.leaves(states.parameters) if leaf.shape[1:] == (25, 75)]
    assert kernels and all(len(np.unique(np.asarray(leaf)[:, 0, 0])) == 256 for leaf in kernels)
