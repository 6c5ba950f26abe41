"""Each layer is PyTorch's on sequences that were never padded; one battery over every kind of layer."""

from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from numpy.random import default_rng
from padded import (
    FEATURES,
    LENGTHS,
    METADATA,
    PRESENT,
    QUICK,
    STEPS,
    TORCH_ACTIVATIONS,
    Batch,
    TorchLayers,
    arrays,
    batch,
    cached,
    cast,
    split,
    torch_inputs,
    torch_recurrent,
    with_garbage,
)
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from jaxrnn import blueprint, config, layers
from jaxrnn.blueprint import GATES, Blueprint
from jaxrnn.config import LAYER_KINDS, Model, Output
from jaxrnn.layers import Call, Recurrent


class Stack(nnx.Module):
    """A list of layers without the one of the classes: what they make is looked at as it is."""

    def __init__(self, model: Model, output: Output) -> None:
        self.blueprint = blueprint.of(model, output, FEATURES, METADATA, 2)
        self.layers = nnx.List([layers.made(placed, nnx.Rngs(0)) for placed in self.blueprint.layers])

    def __call__(self, of: Batch, bits: Any, rate: Any = None, recurrent_rate: Any = None) -> jax.Array:
        call = Call(jnp.asarray(of.lengths), jnp.asarray(of.metadata), rate, recurrent_rate, bits)
        values = call.masked(jnp.asarray(of.features), self.blueprint.takes)
        for layer in self.layers:
            values = layer(values, call)
        return values


class Case(NamedTuple):
    model: Model
    output: Output

    @property
    def blueprint(self) -> Blueprint:
        return blueprint.of(self.model, self.output, FEATURES, METADATA, 2)


def case(*listed: Any, output: Output = "step") -> Case:
    return Case(Model.model_validate({"layers": listed}), output)


def layer(kind: str, /, **settings: Any) -> dict[str, Any]:
    return ({"units": 3} if kind in (*GATES, "dense") else {}) | {"layer": kind} | settings


def pool(kind: str, **settings: Any) -> dict[str, Any]:
    return layer("pool", kind=kind, **settings)


CASES = {
    "input_normalisation": case("input_normalisation"),
    "simple": case(layer("simple")),
    "gru": case(layer("gru")),
    "lstm": case(layer("lstm")),
    "gru both": case(layer("gru", bidirectional=True)),
    "simple last": case(layer("simple", output="last"), output="sequence"),
    "lstm both last": case(layer("lstm", bidirectional=True, output="last"), output="sequence"),
    "conv": case(layer("conv", filters=3, kernel=3)),
    "conv even": case(layer("conv", filters=3, kernel=4, activation="tanh")),
    "conv wide": case(layer("conv", filters=3, kernel=layers.WIDEST_WINDOW + 1)),
    "conv one": case(layer("conv", filters=3, kernel=1, activation="sigmoid")),
    "conv stride": case(layer("conv", filters=3, kernel=5, stride=2, activation="linear")),
    "conv far": case(layer("conv", filters=3, kernel=2, stride=3, activation="elu")),
    "conv causal": case(layer("conv", filters=3, kernel=3, padding="causal", activation="softplus")),
    "conv causal stride": case(layer("conv", filters=3, kernel=4, stride=3, padding="causal", activation="gelu")),
    "max_pool": case("max_pool"),
    "max_pool overlapping": case(layer("max_pool", size=3, stride=2)),
    "max_pool causal": case(layer("max_pool", size=3, stride=1, causal=True)),
    "average_pool": case("average_pool"),
    "average_pool smooth": case(layer("average_pool", size=3, stride=1)),
    "average_pool causal": case(layer("average_pool", size=3, stride=2, causal=True)),
    "average_pool sparse": case(layer("average_pool", size=1, stride=3)),
    "batch_norm": case("batch_norm"),
    "layer_norm": case("layer_norm"),
    "dropout": case("dropout"),
    "dense": case(layer("dense", activation="sigmoid")),
    "pool last": case("pool", output="sequence"),
    "pool mean": case(pool("mean"), output="sequence"),
    "pool max": case(pool("max"), output="sequence"),
    "pool attention": case(pool("attention"), output="sequence"),
    "running last": case(pool("last", running=True)),
    "running mean": case(pool("mean", running=True)),
    "running max": case(pool("max", running=True)),
    "running attention": case(pool("attention", running=True)),
    "flatten": case(layer("flatten", steps=6), output="sequence"),
    "flatten more": case(layer("flatten", steps=11), output="sequence"),
    "metadata": case("metadata"),
    "residual": case(layer("residual", layers=[layer("dense", units=FEATURES, activation="tanh")])),
    "residual wider": case(layer("residual", layers=["metadata", layer("gru"), "batch_norm"])),
    # what follows a vector, and what follows a stride
    "vectors": case(
        pool("mean"), "metadata", layer("dense", activation="exponential"), "layer_norm", "batch_norm",
        layer("residual", layers=[layer("dense", units=5)]),
        output="sequence",
    ),
    "shortened": case(
        "input_normalisation", layer("conv", filters=4, kernel=3, stride=2, activation="silu"), "batch_norm",
        layer("lstm", bidirectional=True), "metadata", layer("max_pool", size=2), pool("attention"),
        output="sequence",
    ),
    "shortened steps": case(
        layer("average_pool", size=2, causal=True), layer("residual", layers=[layer("conv", kernel=3, filters=3)]),
        layer("gru"), pool("mean", running=True), layer("dense"),
    ),
}  # fmt: skip


class Found(NamedTuple):
    """What a stack gives in evaluation and in training, training's statistics, and the gradient of its sum times
    coefficients by the parameters and by the features."""

    evaluated: np.ndarray
    trained: np.ndarray
    statistics: dict[str, np.ndarray]
    by_parameter: dict[str, np.ndarray]
    by_feature: np.ndarray


@cached
def stack(of: Case) -> tuple[Any, Any, Any]:
    return split(lambda: Stack(*of))


@cached
def compiled(of: Case) -> Callable[..., Any]:
    structure = stack(of)[0]

    def trained(parameters: Any, features: Any, statistics: Any, given: Batch, coefficients: Any) -> Any:
        net = nnx.merge(structure, parameters, statistics, copy=True)
        found = net(given._replace(features=features), jnp.zeros(0, jnp.uint16))
        return (coefficients * found).sum(), (found, nnx.state(net, nnx.BatchStat))

    def run(parameters: Any, statistics: Any, given: Batch, coefficients: Any) -> Any:
        gradient = jax.grad(trained, argnums=(0, 1), has_aux=True)
        by, aside = gradient(parameters, given.features, statistics, given, coefficients)
        return nnx.merge(structure, parameters, statistics)(given, None), *aside, *by

    return jax.jit(run, compiler_options=QUICK)


def coefficients(of: Case, given: Batch) -> np.ndarray:
    """Returns a number for each output: of a step the same however far it is padded, of a filling row's vector 0."""
    gives = of.blueprint.gives
    drawn = default_rng(2).normal(0, 1, (len(given.lengths), 16, gives.width))
    if gives.has_steps:
        return drawn[:, : gives.steps(given.features.shape[1])]
    return drawn[:, 0] * (given.lengths > 0)[:, None]


def found(of: Case, given: Batch, weights: np.ndarray | None = None) -> Found:
    _, parameters, statistics = stack(of)
    weights = coefficients(of, given) if weights is None else weights
    with jax.enable_x64(True):
        evaluated, trained, new, *by = compiled(of)(parameters, statistics, given, weights)
        return Found(np.asarray(evaluated), np.asarray(trained), arrays(new), arrays(by[0]), np.asarray(by[1]))


def valid(of: Case, values: np.ndarray, lengths: np.ndarray = LENGTHS) -> list[np.ndarray]:
    """Returns the outputs of each present row, those of valid steps alone."""
    gives = of.blueprint.gives
    rows = np.flatnonzero(lengths)
    return [values[row, : gives.steps(lengths[row])] if gives.has_steps else values[row] for row in rows]


everywhere = pytest.mark.parametrize("of", CASES.values(), ids=CASES)
# Of layers that see a few steps at once, one of a kind.
LONG = {name: of for name, of in CASES.items() if not name.startswith(("conv ", "max_pool ", "average_pool "))}
LONGER = 13  # steps that a batch is padded to


def test_every_kind_of_layer_is_in_the_battery() -> None:
    placed = [placed for of in CASES.values() for placed in blueprint.every(of.blueprint.layers)]
    assert {entry.kind for entry in placed} == set(LAYER_KINDS)
    assert set(layers.LAYERS) == set(get_args(config.Layer))


@everywhere
def test_a_layer_and_its_gradient_are_pytorchs(of: Case) -> None:
    clean = batch()
    got = found(of, with_garbage(clean))
    _, parameters, statistics = stack(of)
    reference = TorchLayers(arrays(parameters) | arrays(statistics))
    sequences, metadata = torch_inputs(clean)
    expected: list[torch.Tensor] = []
    for learning, values in ((False, got.evaluated), (True, got.trained)):
        expected = reference(of.model.layers, sequences, metadata, learning)
        for actual, desired in zip(valid(of, values), expected, strict=True):
            np.testing.assert_allclose(actual, desired.detach().numpy(), rtol=1e-9, atol=1e-9)
    for path, values in got.statistics.items():
        np.testing.assert_allclose(values, reference.leaves[path].numpy(), rtol=1e-9, atol=1e-9)
    weights = valid(of, coefficients(of, clean))
    torch.stack([(torch.tensor(w) * v).sum() for w, v in zip(weights, expected, strict=True)]).sum().backward()
    for path, values in got.by_parameter.items():
        gradient = reference.leaves[path].grad
        assert gradient is not None
        np.testing.assert_allclose(values, gradient.numpy(), rtol=1e-8, atol=1e-9, err_msg=path)
    for row, sequence in zip(np.flatnonzero(LENGTHS), sequences, strict=True):
        assert sequence.grad is not None
        np.testing.assert_allclose(got.by_feature[row, : LENGTHS[row]], sequence.grad.numpy(), rtol=1e-8, atol=1e-9)


@everywhere
def test_padding_filling_and_order_do_not_count(of: Case) -> None:
    clean = batch()
    got = found(of, clean)
    # the same bits again, and whatever stands where nothing counts
    for other in (found(of, clean), found(of, with_garbage(clean))):
        for one, another in zip(jax.tree.leaves(got), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(one, another)
    assert all(np.isfinite(values).all() for values in jax.tree.leaves(got))
    assert (got.by_feature[np.arange(STEPS)[None, :] >= LENGTHS[:, None]] == 0).all()
    gives = of.blueprint.gives
    if gives.has_steps:
        beyond = np.arange(gives.steps(STEPS))[None, :] >= gives.steps(LENGTHS)[:, None]
        assert beyond.any() and (got.trained[beyond] == 0).all() and (got.evaluated[beyond] == 0).all()
    order = default_rng(3).permutation(len(LENGTHS))
    in_order = Batch(*(values[order] for values in clean))
    moved, longer = found(of, in_order, coefficients(of, clean)[order]), found(of, batch(steps=LONGER))
    for other, lengths, rows in ((moved, LENGTHS[order], order), (longer, LENGTHS, np.arange(len(LENGTHS)))):
        for name in ("evaluated", "trained"):
            desired = dict(zip(np.flatnonzero(LENGTHS), valid(of, getattr(got, name)), strict=True))
            for row, actual in zip(rows[lengths > 0], valid(of, getattr(other, name), lengths), strict=True):
                np.testing.assert_allclose(actual, desired[row], rtol=1e-9, atol=1e-12)
        for name in ("statistics", "by_parameter"):
            for path, values in getattr(got, name).items():
                np.testing.assert_allclose(getattr(other, name)[path], values, rtol=1e-9, atol=1e-12, err_msg=path)
        np.testing.assert_allclose(other.by_feature[:, :STEPS], got.by_feature[rows], rtol=1e-9, atol=1e-12)


@everywhere
def test_what_looks_ahead_says_so_and_nothing_else_does(of: Case) -> None:
    # in the shape of the test before: another one is compiled anew
    rows, steps, gives = len(LENGTHS), LONGER, of.blueprint.gives
    past = batch(seed=1, steps=steps, lengths=np.full(rows, steps, dtype=np.int32))
    known = found(of, past).evaluated
    same = []
    for seen in (3, 4, 5):
        future = default_rng(8).normal(0, 10, (rows, steps - seen, FEATURES))
        changed = past._replace(features=np.concatenate([past.features[:, :seen], future], axis=1))
        # other steps follow, and none: what is not there yet
        for given in (changed, past._replace(lengths=np.full(rows, seen, dtype=np.int32))):
            other = found(of, given).evaluated
            # an output of a shortened sequence stands at the first of the steps that it stands for
            upto = gives.steps(seen) if gives.has_steps else None
            same.append((known[:, :upto] == other[:, :upto]).all())
    assert all(same) == (gives.has_steps and of.blueprint.looks_ahead == ())


@everywhere
def test_a_blueprint_knows_shapes_and_parameters(of: Case) -> None:
    structure, parameters, statistics = stack(of)
    expected, given = of.blueprint, batch()
    shape = jax.eval_shape(lambda: nnx.merge(structure, parameters, statistics)(given, None)).shape
    gives = expected.gives
    assert shape == (
        (len(LENGTHS), gives.steps(STEPS), gives.width) if gives.has_steps else (len(LENGTHS), gives.width)
    )
    assert sum(leaf.size for leaf in arrays(parameters).values()) == sum(entry.parameters for entry in expected.layers)


@pytest.mark.parametrize("rows", [1, len(LENGTHS)])
@everywhere
def test_gradients_of_single_steps_are_finite(of: Case, rows: int) -> None:
    """With one row of one step, batch norm's variance is 0."""
    lengths = np.where(np.arange(len(LENGTHS)) < rows, 1, 0).astype(np.int32)
    assert all(np.isfinite(values).all() for values in jax.tree.leaves(found(of, batch(lengths=lengths))))


@pytest.mark.parametrize("of", LONG.values(), ids=LONG)
def test_gradients_through_5000_steps_are_finite(of: Case) -> None:
    steps = 5000
    structure, *states = stack(of)
    features = default_rng(6).normal(0, 3, (2, steps, FEATURES))
    given = Batch(features, np.array([steps, 1], dtype=np.int32), np.ones((2, METADATA)))

    def objective(parameters: Any, features: Any, statistics: Any, given: Batch) -> jax.Array:
        net = nnx.merge(structure, parameters, statistics, copy=True)
        return jnp.square(net(given._replace(features=features), jnp.zeros(0, jnp.uint16))).mean()

    differentiated = jax.jit(jax.grad(objective, argnums=(0, 1)), compiler_options=QUICK)
    parameters, statistics, given = cast((*states, given), np.float32)
    by = differentiated(parameters, given.features, statistics, given)
    assert all(np.isfinite(leaf).all() and np.asarray(leaf).any() for leaf in jax.tree.leaves(by))


# Recurrent layers


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-5)])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", GATES)
def test_one_direction_and_its_gradient_are_pytorchs(cell: str, reverse: bool, dtype: Any, tolerance: float) -> None:
    units, clean = 4, batch()
    structure, parameters, _ = split(lambda: Recurrent(cell, FEATURES, units, reverse=reverse, rngs=nnx.Rngs(0)))
    generator = default_rng(1)
    of_states, of_last = (
        generator.normal(0, 1, (len(LENGTHS), STEPS, units)),
        generator.normal(0, 1, (len(LENGTHS), units)),
    )

    def objective(parameters: Any, features: Any, lengths: Any, of_states: Any, of_last: Any) -> tuple[jax.Array, Any]:
        states, last = nnx.merge(structure, parameters)(features, lengths)
        return (of_states * states).sum() + (of_last * last).sum(), (states, last)

    with jax.enable_x64(dtype == np.float64):
        values = cast((parameters, clean.features, LENGTHS, of_states, of_last), dtype)
        options = QUICK if dtype == np.float64 else None
        differentiated = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True), compiler_options=options)
        (by_parameter, by_feature), (states, last) = differentiated(*values)
        assert states.dtype == by_feature.dtype == dtype
        gradients = arrays(by_parameter)

    leaves = {
        path: torch.tensor(values.astype(dtype), requires_grad=True) for path, values in arrays(parameters).items()
    }
    sequences, _ = torch_inputs(clean, torch.float64 if dtype == np.float64 else torch.float32)
    outputs, ends = torch_recurrent(cell, pack_sequence(sequences, enforce_sorted=False), [leaves] * (1 + reverse))
    rows = np.flatnonzero(PRESENT)
    # of a bidirectional layer whose two directions share their parameters, the backward half is the reverse layer
    expected = [output[:, -units:] for output in unpack_sequence(outputs)]
    total = (torch.tensor(of_last[rows]) * ends[-1]).sum()
    for row, output in zip(rows, expected, strict=True):
        total = total + (torch.tensor(of_states[row, : LENGTHS[row]]) * output).sum()
    total.backward()

    def close(actual: Any, desired: torch.Tensor | None) -> None:
        assert desired is not None
        np.testing.assert_allclose(actual, desired.detach().numpy(), rtol=tolerance, atol=tolerance)

    close(np.asarray(last)[rows], ends[-1])
    for row, output, sequence in zip(rows, expected, sequences, strict=True):
        close(states[row, : LENGTHS[row]], output)
        close(by_feature[row, : LENGTHS[row]], sequence.grad)
    for path, values in gradients.items():
        close(values, leaves[path].grad)
    beyond = np.arange(STEPS)[None, :] >= LENGTHS[:, None]
    assert (np.asarray(states)[beyond] == 0).all()
    assert (np.asarray(by_feature)[beyond] == 0).all()
    assert (np.asarray(last)[~PRESENT] == 0).all()


@pytest.mark.parametrize("cell", GATES)
def test_states_know_only_what_came_before(cell: str) -> None:
    seen, steps = 5, 9
    lengths = np.full(3, steps, dtype=np.int32)
    past = batch(seed=1, steps=steps, lengths=lengths).features.astype(np.float32)
    other = np.concatenate([past[:, :seen], default_rng(8).normal(0, 10, (3, steps - seen, FEATURES))], axis=1)
    for reverse in (False, True):
        structure, parameters, _ = split(lambda r=reverse: Recurrent(cell, FEATURES, 4, reverse=r, rngs=nnx.Rngs(0)))
        run = jax.jit(lambda *inputs, s=structure, p=parameters: nnx.merge(s, p)(*inputs), compiler_options=QUICK)
        known, changed = (np.asarray(run(v.astype(np.float32), lengths)[0])[:, :seen] for v in (past, other))
        assert (known == changed).all() == (not reverse)
        cut, last = run(past, np.full(3, seen, dtype=np.int32))
        assert (known == np.asarray(cut)[:, :seen]).all() == (not reverse)
        assert (np.asarray(last) == np.asarray(cut)[:, 0 if reverse else seen - 1]).all()


def test_reversal_turns_the_valid_steps_round_twice_to_where_they_were() -> None:
    features = with_garbage(batch()).features
    once = layers.reversed_valid(jnp.asarray(features, jnp.float32), jnp.asarray(LENGTHS))
    for row, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(once[row, :length], features[row, :length][::-1].astype(np.float32))
    np.testing.assert_array_equal(layers.reversed_valid(once, jnp.asarray(LENGTHS)), features.astype(np.float32))


@cached
def initialised(cell: str, units: int) -> tuple[Any, Any]:
    structure = nnx.graphdef(nnx.eval_shape(lambda: Recurrent(cell, FEATURES, units, rngs=nnx.Rngs(0))))
    made = jax.jit(lambda key: nnx.state(Recurrent(cell, FEATURES, units, rngs=nnx.Rngs(params=key)), nnx.Param))
    return structure, made(jax.random.key(4))


@pytest.mark.parametrize("cell", GATES)
def test_layers_start_as_in_keras(cell: str) -> None:
    units = 5
    found = arrays(initialised(cell, units)[1])
    np.testing.assert_allclose(found["recurrent_kernel"] @ found["recurrent_kernel"].T, np.eye(units), atol=1e-5)
    assert np.abs(found["input_kernel"]).max() <= np.sqrt(6 / (FEATURES + GATES[cell] * units))
    forget = slice(units, 2 * units) if cell == "lstm" else slice(0)
    expected = np.zeros(GATES[cell] * units)
    expected[forget] = 1
    np.testing.assert_array_equal(found["bias"], expected)
    assert not found.get("recurrent_bias", np.zeros(1)).any()


def one_step(cell: str) -> Callable[..., Any]:
    """Returns the next hidden state and memory of a cell, of PyTorch's documentation; `seen` is what the recurrence
    sees of the hidden state."""

    def parts(values: torch.Tensor) -> Any:
        return values.chunk(GATES[cell])

    def step(x: torch.Tensor, hidden: torch.Tensor, memory: torch.Tensor, seen: torch.Tensor, own: Any) -> Any:
        inner = parts(seen @ own["recurrent_kernel"])
        outer = parts(x @ own["input_kernel"] + own["bias"])
        if cell == "simple":
            return torch.tanh(outer[0] + inner[0]), memory
        if cell == "gru":
            reset, update = torch.sigmoid(outer[0] + inner[0]), torch.sigmoid(outer[1] + inner[1])
            candidate = torch.tanh(outer[2] + reset * (inner[2] + own["recurrent_bias"]))
            return (1 - update) * candidate + update * hidden, memory
        i, f, o = (torch.sigmoid(outer[at] + inner[at]) for at in (0, 1, 3))
        memory = f * memory + i * torch.tanh(outer[2] + inner[2])
        return o * torch.tanh(memory), memory

    return step


@pytest.mark.parametrize("cell", GATES)
def test_recurrent_dropout_hides_the_same_of_the_state_at_every_step(cell: str) -> None:
    units, clean = 3, batch()
    of = case(layer(cell, bidirectional=True))
    structure, parameters, statistics = stack(of)
    bits = np.asarray(bits_of(3, 2, len(LENGTHS), units))

    def objective(parameters: Any, features: Any, given: Batch, rate: Any, bits: Any) -> Any:
        states = nnx.merge(structure, parameters, statistics)(given._replace(features=features), bits, None, rate)
        return (coefficients(of, given) * states).sum(), states

    with jax.enable_x64(True):
        run = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True), compiler_options=QUICK)
        by, states = run(parameters, clean.features, clean, 0.4, bits.reshape(-1))
        none, plain = run(parameters, clean.features, clean, 0.0, bits.reshape(-1))
    # a rate of 0 is no dropout
    np.testing.assert_array_equal(plain, found(of, clean).trained)
    assert not np.allclose(states, plain) and np.isfinite(jax.tree.leaves(none)[0]).all()

    leaves = TorchLayers(arrays(parameters))
    sequences, _ = torch_inputs(clean)
    expected = []
    for row, sequence in zip(np.flatnonzero(LENGTHS), sequences, strict=True):
        both = []
        for place in range(2):
            own = leaves.under(f"layers/0/directions/{place}")
            kept = torch.tensor((bits[place, row] >= 0.4 * 65536) / 0.6)
            hidden = memory = torch.zeros(units, dtype=torch.float64)
            after = []
            for x in sequence.flip(0) if place else sequence:
                hidden, memory = one_step(cell)(x, hidden, memory, hidden * kept, own)
                after.append(hidden)
            both.append(torch.stack(after[::-1] if place else after))
        expected.append(torch.cat(both, dim=1))
    weights = valid(of, coefficients(of, clean))
    torch.stack([(torch.tensor(w) * v).sum() for w, v in zip(weights, expected, strict=True)]).sum().backward()
    for actual, desired in zip(valid(of, np.asarray(states)), expected, strict=True):
        np.testing.assert_allclose(actual, desired.detach().numpy(), rtol=1e-9, atol=1e-9)
    for path, values in arrays(by[0]).items():
        gradient = leaves.leaves[path].grad
        assert gradient is not None
        np.testing.assert_allclose(values, gradient.numpy(), rtol=1e-8, atol=1e-9, err_msg=path)


# Normalisation, activations and dropout


def test_inputs_are_normalised_by_the_mean_of_all_batches() -> None:
    """As in PyTorch without a momentum; inputs may lie anywhere."""
    of = case("input_normalisation")
    net = Stack(*of)
    reference = torch.nn.BatchNorm1d(FEATURES, affine=False, momentum=None, dtype=torch.float64)
    kept = []
    for seed in range(5):
        shifted = batch(seed)
        shifted = shifted._replace(features=1000 + 30 * shifted.features)
        kept.append(np.concatenate([row.detach().numpy() for row in torch_inputs(shifted)[0]]))
        expected = reference(torch.tensor(kept[-1]))
        actual = net(cast(shifted, np.float32), jnp.zeros(0, jnp.uint16))
        np.testing.assert_allclose(np.concatenate(valid(of, np.asarray(actual))), expected.numpy(), atol=1e-3)
    assert reference.running_mean is not None
    normalisation: Any = net.layers[0]
    np.testing.assert_allclose(normalisation.mean[...], reference.running_mean.numpy(), rtol=1e-6)
    np.testing.assert_allclose(normalisation.var[...], np.mean([rows.var(axis=0) for rows in kept], axis=0), rtol=1e-4)


@pytest.mark.parametrize("activation", get_args(config.Activation))
def test_an_activation_and_its_gradient_are_pytorchs(activation: str) -> None:
    values = default_rng(0).normal(0, 4, 200)
    with jax.enable_x64(True):
        ours = layers.ACTIVATIONS[activation](jnp.asarray(values))
        gradient = jax.grad(lambda values: layers.ACTIVATIONS[activation](values).sum())(jnp.asarray(values))
    leaf = torch.tensor(values, requires_grad=True)
    expected = TORCH_ACTIVATIONS[activation](leaf)
    expected.sum().backward()
    np.testing.assert_allclose(ours, expected.detach().numpy(), rtol=1e-9, atol=1e-12)
    assert leaf.grad is not None
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-9, atol=1e-12)


def bits_of(seed: int, *shape: int) -> jax.Array:
    return jax.random.bits(jax.random.key(seed), shape, jnp.uint16)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_expected_value(rate: float) -> None:
    values = default_rng(0).uniform(1, 2, (200, 50, 20)).astype(np.float32)
    dropped = np.asarray(layers.dropout(jnp.asarray(values), jnp.float32(rate), bits_of(0, *values.shape)))
    kept = dropped != 0
    deviation = np.sqrt(rate * (1 - rate))
    assert abs(kept.mean() - (1 - rate)) < 5 * deviation / np.sqrt(values.size)
    np.testing.assert_allclose(dropped[kept], values[kept] / (1 - rate), rtol=1e-6)


def test_the_dropout_rate_holds_to_its_16_bits() -> None:
    every = jnp.arange(65536, dtype=jnp.uint16)
    rates = jnp.array([0.0, 1e-4, 0.3, 0.999])
    drop = jax.vmap(layers.dropout, in_axes=(None, 0, None))
    found = np.asarray(drop(jnp.ones(65536), rates, every))
    np.testing.assert_allclose((found == 0).mean(axis=1), rates, atol=1 / 65536)
    # a rate of 0 is the identity
    values = default_rng(0).normal(0, 1, 65536).astype(np.float32)
    np.testing.assert_array_equal(layers.dropout(jnp.asarray(values), jnp.float32(0), every), values)


DROPPED = case(
    layer("gru", bidirectional=True),
    "dropout",
    layer("residual", layers=["dropout", layer("lstm", recurrent_dropout=0.1)]),
    layer("max_pool", size=3),
    layer("dropout", rate=0.5),
    layer("dropout", rate=0.0),
    layer("simple", recurrent_dropout=0.0, output="last"),
    "dropout",
    output="sequence",
)


@pytest.mark.parametrize("recurrent", [False, True])
def test_layers_take_as_many_bits_as_their_blueprint_says(recurrent: bool) -> None:
    rows = len(LENGTHS)
    expected = rows * (STEPS * 6 + STEPS * 6 + 3 + 3 * 3 + 3) + recurrent * rows * 6
    assert DROPPED.blueprint.draws(rows, STEPS, recurrent) == expected
    structure, *states = stack(DROPPED)

    def run(states: Any, given: Batch, bits: Any) -> jax.Array:
        rate = jnp.float32(0.5)
        return nnx.merge(structure, *states)(given, bits, rate, rate if recurrent else None)

    def drawing(count: int) -> Any:
        return jax.eval_shape(run, states, batch(), jax.ShapeDtypeStruct((count,), jnp.uint16))

    assert drawing(expected).shape == (rows, 3)
    with pytest.raises(TypeError, match="reshape"):
        drawing(expected - 1)


def test_each_dropout_has_bits_and_a_rate_of_its_own() -> None:
    of = case(layer("dropout", rate=0.25), "dropout")
    net = Stack(*of)
    given = Batch(
        np.ones((40, 50, FEATURES), np.float32), np.full(40, 50, np.int32), np.zeros((40, METADATA), np.float32)
    )
    bits = bits_of(0, of.blueprint.draws(40, 50, False))
    first = np.asarray(bits[: 40 * 50 * FEATURES]).reshape(40, 50, FEATURES) >= 0.25 * 65536
    second = np.asarray(bits[40 * 50 * FEATURES :]).reshape(40, 50, FEATURES) >= 0.5 * 65536
    np.testing.assert_allclose(net(given, bits, jnp.float32(0.5)), first / 0.75 * second / 0.5, rtol=1e-6)
    # evaluation drops nothing
    np.testing.assert_array_equal(net(given, None, jnp.float32(0.5)), given.features)
