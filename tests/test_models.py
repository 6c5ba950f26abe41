"""The networks are PyTorch's on sequences that were never padded, and padding changes nothing."""

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from numpy.random import default_rng
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

from jaxrnn import models, predict, training
from jaxrnn.config import Model
from jaxrnn.models import GATES, Recurrent

FEATURES, METADATA, CLASSES = 2, 2, 3
# The row of length 0 is filling; no row reaches the last two steps.
LENGTHS = np.array([6, 1, 4, 0, 3, 6, 2], dtype=np.int32)
PRESENT = LENGTHS > 0
STEPS = 8
# Kernels that LLVM does not optimise compute the same and compile in half the time.
QUICK = {"xla_backend_optimization_level": 0}
# the arrays here are too small to share out among threads
torch.set_num_threads(1)
# pyright does not know that a frozen pydantic model can be hashed
cached: Any = cache
TORCH_CELLS = {"simple": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}
TORCH_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "gelu": lambda values: torch.nn.functional.gelu(values, approximate="tanh"),
}


class Batch(NamedTuple):
    features: np.ndarray
    lengths: np.ndarray
    metadata: np.ndarray


def batch(seed: int = 0, steps: int = STEPS, lengths: np.ndarray = LENGTHS) -> Batch:
    """Returns a batch whose valid values do not depend on how far it is padded, its padding 0."""
    generator = default_rng(seed)
    features = np.zeros((len(lengths), steps, FEATURES))
    for row, length in enumerate(lengths):
        features[row, :length] = generator.normal(0, 1, (length, FEATURES))
    return Batch(features, lengths, generator.normal(0, 1, (len(lengths), METADATA)))


def with_garbage(clean: Batch) -> Batch:
    """Returns the batch with nonsense at every place that must not count."""
    generator = default_rng(99)
    padding = np.arange(clean.features.shape[1])[None, :] >= clean.lengths[:, None]
    features = np.where(padding[:, :, None], generator.normal(0, 1e6, clean.features.shape), clean.features)
    filling = (clean.lengths == 0)[:, None]
    return Batch(features, clean.lengths, np.where(filling, 1e6, clean.metadata))


def cast(values: Any, dtype: Any) -> Any:
    """Returns a tree with its floating point arrays as `dtype`, others as they are."""
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, values)


def model_of(**settings: Any) -> Model:
    return Model.model_validate({"units": 3, "dense_units": 4, "dropout": 0.0} | settings)


def split(make: Callable[[], nnx.Module]) -> tuple[Any, Any, Any]:
    """Returns the structure of a module and random values for all its parameters and statistics, float64."""
    structure, *states = nnx.split(nnx.eval_shape(make), nnx.Param, nnx.BatchStat)
    generator = default_rng(5)
    parameters = jax.tree.map(lambda a: generator.normal(0, 0.6, a.shape), states[0])
    statistics = jax.tree.map(lambda a: generator.uniform(0.5, 1.5, a.shape), states[1])
    return structure, parameters, statistics


@cached
def network(model: Model) -> tuple[Any, Any, Any]:
    return split(lambda: training.network(model, FEATURES, METADATA, CLASSES))


def in_training(structure: Any, parameters: Any, statistics: Any, of: Batch) -> tuple[jax.Array, Any]:
    """Returns training's logits, without dropout, and the new statistics."""
    net = nnx.merge(structure, parameters, statistics, copy=True)
    logits = net(*of, dropout_bits=jnp.zeros(0, jnp.uint16))  # pyright: ignore
    return logits, nnx.state(net, nnx.BatchStat)


@cached
def forward(model: Model) -> Callable[[Any, Any, Batch], tuple[jax.Array, jax.Array, Any]]:
    """Returns the function that gives the logits of evaluation, those of training, and the new statistics."""
    structure = network(model)[0]

    def run(parameters: Any, statistics: Any, of: Batch) -> tuple[jax.Array, jax.Array, Any]:
        trained, new = in_training(structure, parameters, statistics, of)
        if model.normalisation == "none":
            # without dropout nothing is left that training does otherwise
            return trained, trained, new
        return nnx.merge(structure, parameters, statistics)(*of), trained, new

    return jax.jit(run, compiler_options=QUICK)


@cached
def gradient(model: Model) -> Callable[..., tuple[Any, jax.Array]]:
    """Returns the function that gives the gradient of sum(coefficients * training's logits)."""
    structure = network(model)[0]

    def objective(parameters: Any, features: Any, statistics: Any, of: Batch, coefficients: Any) -> jax.Array:
        logits, _ = in_training(structure, parameters, statistics, of._replace(features=features))
        return (coefficients * logits).sum()

    return jax.jit(jax.grad(objective, argnums=(0, 1)), compiler_options=QUICK)


def outcome(model: Model, of: Batch, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    _, parameters, statistics = network(model)
    with jax.enable_x64(dtype == np.float64):
        evaluated, trained, new = forward(model)(*cast((parameters, statistics, of), dtype))
        return np.asarray(evaluated), np.asarray(trained), predict.flattened(nnx.State({}), new)


# PyTorch's layers, with the same numbers


def torch_cell(
    cell: str, units: int, inputs: torch.Tensor, parameters: dict[str, torch.Tensor], end: str
) -> dict[str, Any]:
    """Returns our parameters of a recurrent layer under PyTorch's names; it has a second bias of all gates."""
    second = inputs.new_zeros(GATES[cell] * units)
    if cell == "gru":
        second = torch.cat([second[: 2 * units], parameters["recurrent_bias"]])
    return {
        f"weight_ih_l0{end}": parameters["input_kernel"].T,
        f"weight_hh_l0{end}": parameters["recurrent_kernel"].T,
        f"bias_ih_l0{end}": parameters["bias"],
        f"bias_hh_l0{end}": second,
    }


def torch_recurrent(
    cell: str, packed: PackedSequence, directions: list[dict[str, torch.Tensor]]
) -> tuple[PackedSequence, torch.Tensor]:
    """Returns the states of all valid steps and the last ones [direction, batch, unit] of a PyTorch layer."""
    units = directions[0]["recurrent_kernel"].shape[0]
    layer = TORCH_CELLS[cell](packed.data.shape[1], units, bidirectional=len(directions) == 2, dtype=packed.data.dtype)
    named: dict[str, torch.Tensor] = {}
    for parameters, end in zip(directions, ("", "_reverse"), strict=False):
        named |= torch_cell(cell, units, packed.data, parameters, end)
    outputs, last = torch.func.functional_call(layer, named, (packed,))
    return outputs, last[0] if cell == "lstm" else last


class TorchNetwork:
    """The network, of PyTorch's layers; its arrays are leaves under our paths. Sees no padding and no filling."""

    def __init__(self, model: Model, arrays: dict[str, np.ndarray]) -> None:
        self.model = model
        self.leaves = {path: torch.tensor(values) for path, values in arrays.items()}
        for path, leaf in self.leaves.items():
            leaf.requires_grad_(not path.endswith(("/mean", "/var")))

    def under(self, path: str) -> dict[str, torch.Tensor]:
        return {name.rpartition("/")[2]: leaf for name, leaf in self.leaves.items() if name.rpartition("/")[0] == path}

    def normalised(self, values: torch.Tensor, path: str, learning: bool) -> torch.Tensor:
        if self.model.normalisation == "none":
            return values
        norm, count = self.under(path), len(values)
        mean, variance = norm["mean"].clone(), norm["var"].clone()
        values = torch.nn.functional.batch_norm(
            values, mean, variance, norm["scale"], norm["bias"], learning, 0.01, 1e-3
        )
        if learning:
            # PyTorch keeps n / (n - 1) of the variance that it normalises by; Keras and Flax keep that itself
            kept = 0.99 * norm["var"]
            variance = kept + (variance - kept) * (count - 1) / count
            self.leaves |= {f"{path}/mean": mean, f"{path}/var": variance}
        return values

    def dense(self, values: torch.Tensor, path: str) -> torch.Tensor:
        return values @ self.leaves[f"{path}/kernel"] + self.leaves[f"{path}/bias"]

    def __call__(self, sequences: list[torch.Tensor], metadata: torch.Tensor, learning: bool) -> torch.Tensor:
        model = self.model
        packed, pooled = pack_sequence(sequences, enforce_sorted=False), metadata
        for index in range(model.depth):
            directions = [self.under(f"recurrent/{index}/{place}") for place in range(1 + model.bidirectional)]
            packed, last = torch_recurrent(model.cell, packed, directions)
            if index < model.depth - 1:
                values = self.normalised(packed.data, f"recurrent_norms/{index}", learning)
                packed = packed._replace(data=values)
            elif model.pooling == "last":
                pooled = torch.cat(list(last), dim=1)
            else:
                pool = torch.mean if model.pooling == "mean" else torch.amax
                pooled = torch.stack([pool(states, dim=0) for states in unpack_sequence(packed)])
        values = self.normalised(pooled, f"recurrent_norms/{model.depth - 1}", learning)
        values = torch.cat([values, metadata], dim=1)
        for index in range(model.dense_depth):
            values = TORCH_ACTIVATIONS[model.dense_activation](self.dense(values, f"dense/{index}"))
            if index < model.dense_depth - 1:
                values = self.normalised(values, f"dense_norms/{index}", learning)
        return self.dense(values, "classes")


def torch_inputs(of: Batch, dtype: torch.dtype = torch.float64) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Returns the present rows' valid steps, row by row, and their metadata."""
    rows = np.flatnonzero(of.lengths)
    sequences = [torch.tensor(of.features[row, : of.lengths[row]], dtype=dtype, requires_grad=True) for row in rows]
    return sequences, torch.tensor(of.metadata[rows], dtype=dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-5)])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", GATES)
def test_a_layer_and_its_gradient_are_pytorchs(cell: str, reverse: bool, dtype: Any, tolerance: float) -> None:
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
        found = predict.flattened(by_parameter, nnx.State({}))

    leaves = {
        path: torch.tensor(values.astype(dtype), requires_grad=True)
        for path, values in predict.flattened(parameters, nnx.State({})).items()
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
    for path, values in found.items():
        close(values, leaves[path].grad)
    beyond = np.arange(STEPS)[None, :] >= LENGTHS[:, None]
    assert (np.asarray(states)[beyond] == 0).all()
    assert (np.asarray(by_feature)[beyond] == 0).all()
    assert (np.asarray(last)[~PRESENT] == 0).all()


def grid() -> list[Model]:
    """Returns every (cell, bidirectional, pooling, normalisation), with the other settings dealt out among them."""
    settings = product(GATES, (False, True), ("last", "mean", "max"), ("batch", "none"))
    return [
        model_of(
            cell=cell,
            bidirectional=bidirectional,
            pooling=pooling,
            normalisation=normalisation,
            dense_depth=(2, 3, 0, 1)[index // 2 % 4],
            dense_activation=list(models.ACTIVATIONS)[index // 2 % 3 + index % 2],
        )
        for index, (cell, bidirectional, pooling, normalisation) in enumerate(settings)
    ]


def name(model: Model) -> str:
    both = "both" if model.bidirectional else "forward"
    return f"{model.cell}-{both}-{model.pooling}-{model.normalisation}-{model.dense_depth}{model.dense_activation}"


@pytest.mark.parametrize("model", grid(), ids=name)
def test_a_network_does_not_see_padding_filling_or_order(model: Model) -> None:
    clean = batch()
    evaluated, trained, statistics = outcome(model, clean)

    # what PyTorch's layers give where there is no padding and no filling
    _, parameters, before = network(model)
    reference = TorchNetwork(model, predict.flattened(parameters, before))
    for learning, logits in ((False, evaluated), (True, trained)):
        expected = reference(*torch_inputs(clean), learning)
        np.testing.assert_allclose(logits[PRESENT], expected.detach().numpy(), rtol=1e-9, atol=1e-9)
    assert len(statistics) == (2 * (2 + max(model.dense_depth - 1, 0)) if model.normalisation == "batch" else 0)
    for path, values in statistics.items():
        np.testing.assert_allclose(values, reference.leaves[path].numpy(), rtol=1e-9, atol=1e-9)

    # nonsense where nothing counts: not a bit changes
    disturbed = outcome(model, with_garbage(clean))
    for actual, desired in zip(disturbed[:2], (evaluated, trained), strict=True):
        np.testing.assert_array_equal(actual[PRESENT], desired[PRESENT])
    assert all((disturbed[2][path] == values).all() for path, values in statistics.items())

    # another order: the logits move with their rows; sums over the batch round otherwise
    order = default_rng(3).permutation(len(LENGTHS))
    moved = outcome(model, Batch(*(values[order] for values in clean)))
    np.testing.assert_allclose(moved[0], evaluated[order], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moved[1][PRESENT[order]], trained[order][PRESENT[order]], rtol=1e-9, atol=1e-9)
    for path, values in statistics.items():
        np.testing.assert_allclose(moved[2][path], values, rtol=1e-9, atol=1e-9)


# Depth 1 and 3 among them; the pooling and the activation go round.
DIFFERENTIATED = [
    model_of(cell="simple", depth=3, pooling="max", dense_activation="gelu"),
    model_of(cell="gru", pooling="last", dense_depth=3),
    model_of(cell="lstm", depth=1, pooling="mean", dense_activation="tanh"),
    model_of(cell="gru", bidirectional=True, pooling="max", dense_activation="relu"),
    model_of(cell="lstm", bidirectional=True, pooling="last", normalisation="none", dense_depth=0),
]


@pytest.mark.parametrize("model", DIFFERENTIATED, ids=name)
def test_a_networks_gradient_in_training_is_pytorchs(model: Model) -> None:
    clean = batch(seed=1)
    _, parameters, statistics = network(model)
    coefficients = default_rng(2).normal(0, 1, (len(LENGTHS), CLASSES)) * PRESENT[:, None]
    with jax.enable_x64(True):
        arguments = statistics, clean, coefficients
        by_parameter, by_feature = gradient(model)(parameters, clean.features, *arguments)
        found = predict.flattened(by_parameter, nnx.State({}))
        disturbed = with_garbage(clean)
        undisturbed = gradient(model)(parameters, disturbed.features, statistics, disturbed, coefficients)
    reference = TorchNetwork(model, predict.flattened(parameters, statistics))
    sequences, metadata = torch_inputs(clean)
    (reference(sequences, metadata, True) * torch.tensor(coefficients[PRESENT])).sum().backward()
    for path, values in found.items():
        expected = reference.leaves[path].grad
        assert expected is not None
        np.testing.assert_allclose(values, expected.numpy(), rtol=1e-8, atol=1e-9, err_msg=path)
    for row, sequence in zip(np.flatnonzero(PRESENT), sequences, strict=True):
        assert sequence.grad is not None
        np.testing.assert_allclose(by_feature[row, : LENGTHS[row]], sequence.grad.numpy(), rtol=1e-8, atol=1e-9)
    assert (np.asarray(by_feature)[np.arange(STEPS)[None, :] >= LENGTHS[:, None]] == 0).all()
    for path, values in predict.flattened(undisturbed[0], nnx.State({})).items():
        np.testing.assert_array_equal(values, found[path], err_msg=path)


@pytest.mark.parametrize("rows", [1, len(LENGTHS)])
@pytest.mark.parametrize("model", DIFFERENTIATED, ids=name)
def test_gradients_of_single_steps_are_finite(model: Model, rows: int) -> None:
    """With one row of one step, batch norm's variance is 0."""
    lengths = np.where(np.arange(len(LENGTHS)) < rows, 1, 0).astype(np.int32)
    _, parameters, statistics = network(model)
    single = batch(lengths=lengths)
    coefficients = np.ones((len(lengths), CLASSES)) * (lengths > 0)[:, None]
    with jax.enable_x64(True):
        found = gradient(model)(parameters, single.features, statistics, single, coefficients)
    assert all(np.isfinite(values).all() for values in jax.tree.leaves(found))


def test_the_default_network_is_gotos() -> None:
    """Burhanudin et al. 2021, section 3.3: two GRU layers with batch norm, metadata joined, two sigmoid layers."""
    model = Model.model_validate({"units": 100, "dense_units": 100})
    structure, parameters, statistics = cast(network(model), np.float32)
    parameters = jax.tree.map(lambda values: values / 6, parameters)
    clean = cast(batch(), np.float32)
    logits = jax.jit(lambda p, s, of: nnx.merge(structure, p, s)(*of))(parameters, statistics, clean)
    assert logits.dtype == np.float32
    reference = TorchNetwork(model, predict.flattened(parameters, statistics))
    expected = reference(*torch_inputs(clean, torch.float32), False).detach().numpy()
    np.testing.assert_allclose(logits[PRESENT], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("cell", "bidirectional", "pooling"), [("gru", False, "last"), ("lstm", True, "mean")])
def test_longer_padding_rounds_alike_in_float32(cell: str, bidirectional: bool, pooling: str) -> None:
    """To rounding, not to the bit: the kernels by which XLA multiplies and sums follow from the shape."""
    model = model_of(cell=cell, bidirectional=bidirectional, pooling=pooling, units=32, dense_units=25)
    structure, parameters, statistics = cast(network(model), np.float32)
    evaluate = jax.jit(lambda *of: nnx.merge(structure, parameters, statistics)(*of))
    short, long = (np.asarray(evaluate(*cast(batch(steps=steps), np.float32)))[PRESENT] for steps in (6, 50))
    np.testing.assert_allclose(long, short, rtol=1e-5, atol=2e-6)


# What a layer may know


@pytest.mark.parametrize("cell", GATES)
def test_states_know_only_what_came_before(cell: str) -> None:
    seen, steps = 5, 9
    lengths = np.full(3, steps, dtype=np.int32)
    past = batch(seed=1, steps=steps, lengths=lengths).features.astype(np.float32)
    other = np.concatenate([past[:, :seen], default_rng(8).normal(0, 10, (3, steps - seen, FEATURES))], axis=1)
    for reverse in (False, True):
        structure, parameters, _ = split(lambda r=reverse: Recurrent(cell, FEATURES, 4, reverse=r, rngs=nnx.Rngs(0)))
        layer = jax.jit(lambda *inputs, s=structure, p=parameters: nnx.merge(s, p)(*inputs), compiler_options=QUICK)
        known, changed = (np.asarray(layer(v.astype(np.float32), lengths)[0])[:, :seen] for v in (past, other))
        assert (known == changed).all() == (not reverse)
        cut, last = layer(past, np.full(3, seen, dtype=np.int32))
        assert (known == np.asarray(cut)[:, :seen]).all() == (not reverse)
        assert (np.asarray(last) == np.asarray(cut)[:, 0 if reverse else seen - 1]).all()


def test_reversal_turns_the_valid_steps_round_twice_to_where_they_were() -> None:
    features = with_garbage(batch()).features
    once = models.reversed_valid(jnp.asarray(features, jnp.float32), jnp.asarray(LENGTHS))
    for row, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(once[row, :length], features[row, :length][::-1].astype(np.float32))
    np.testing.assert_array_equal(models.reversed_valid(once, jnp.asarray(LENGTHS)), features.astype(np.float32))


@cached
def initialised(cell: str, units: int) -> tuple[Any, Any]:
    structure = nnx.graphdef(nnx.eval_shape(lambda: Recurrent(cell, FEATURES, units, rngs=nnx.Rngs(0))))
    made = jax.jit(lambda key: nnx.state(Recurrent(cell, FEATURES, units, rngs=nnx.Rngs(params=key)), nnx.Param))
    return structure, made(jax.random.key(4))


@pytest.mark.parametrize("cell", GATES)
def test_layers_start_as_in_keras(cell: str) -> None:
    units = 5
    arrays = predict.flattened(initialised(cell, units)[1], nnx.State({}))
    np.testing.assert_allclose(arrays["recurrent_kernel"] @ arrays["recurrent_kernel"].T, np.eye(units), atol=1e-5)
    assert np.abs(arrays["input_kernel"]).max() <= np.sqrt(6 / (FEATURES + GATES[cell] * units))
    forget = slice(units, 2 * units) if cell == "lstm" else slice(0)
    expected = np.zeros(GATES[cell] * units)
    expected[forget] = 1
    np.testing.assert_array_equal(arrays["bias"], expected)
    assert not arrays.get("recurrent_bias", np.zeros(1)).any()


@pytest.mark.parametrize("cell", GATES)
def test_gradients_through_5000_steps_are_finite(cell: str) -> None:
    steps = 5000
    structure, parameters = initialised(cell, 5)
    features = default_rng(6).normal(0, 3, (2, steps, FEATURES)).astype(np.float32)

    def objective(parameters: Any, features: Any, lengths: Any) -> jax.Array:
        states, last = nnx.merge(structure, parameters)(features, lengths)
        return jnp.square(last).sum() + states.sum(axis=(0, 2)).mean()

    lengths = np.array([steps, 1], dtype=np.int32)
    found = jax.jit(jax.grad(objective, argnums=(0, 1)), compiler_options=QUICK)(parameters, features, lengths)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(found)]
    assert all(np.isfinite(leaf).all() and leaf.any() for leaf in leaves)


# Batch norm and dropout


def test_batch_norm_takes_the_statistics_of_valid_steps_alone() -> None:
    width, clean = 3, default_rng(0).normal(2, 3, (len(LENGTHS), STEPS, 3)).astype(np.float32)
    norm = models._norm(model_of(), width, nnx.Rngs(0))
    assert norm is not None
    valid = np.arange(STEPS)[None, :] < LENGTHS[:, None]
    reference = torch.nn.BatchNorm1d(width, eps=1e-3, momentum=0.01)
    mask = jnp.asarray(valid)[..., None]
    learned = norm(clean, use_running_average=False, mask=mask)
    expected = reference(torch.tensor(clean[valid])).detach()
    np.testing.assert_allclose(np.asarray(learned)[valid], expected.numpy(), rtol=1e-4, atol=1e-5)
    assert reference.running_mean is not None
    np.testing.assert_allclose(norm.mean[...], reference.running_mean.numpy(), rtol=1e-5)
    variance = 0.99 + 0.01 * clean[valid].var(axis=0)
    np.testing.assert_allclose(norm.var[...], variance, rtol=1e-5)
    reference.running_var = torch.tensor(variance)
    kept = norm(clean, use_running_average=True, mask=mask)
    expected = reference.eval()(torch.tensor(clean[valid])).detach()
    np.testing.assert_allclose(np.asarray(kept)[valid], expected.numpy(), rtol=1e-5, atol=1e-5)


def bits_of(seed: int, *shape: int) -> jax.Array:
    return jax.random.bits(jax.random.key(seed), shape, jnp.uint16)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_expected_value(rate: float) -> None:
    values = default_rng(0).uniform(1, 2, (200, 50, 20)).astype(np.float32)
    dropped = np.asarray(models.dropout(jnp.asarray(values), jnp.float32(rate), bits_of(0, *values.shape)))
    kept = dropped != 0
    deviation = np.sqrt(rate * (1 - rate))
    assert abs(kept.mean() - (1 - rate)) < 5 * deviation / np.sqrt(values.size)
    np.testing.assert_allclose(dropped[kept], values[kept] / (1 - rate), rtol=1e-6)


def test_the_dropout_rate_holds_to_its_16_bits() -> None:
    every = jnp.arange(65536, dtype=jnp.uint16)
    rates = jnp.array([0.0, 1e-4, 0.3, 0.999])
    drop = jax.vmap(models.dropout, in_axes=(None, 0, None))
    found = np.asarray(drop(jnp.ones(65536), rates, every))
    np.testing.assert_allclose((found == 0).mean(axis=1), rates, atol=1 / 65536)
    # a rate of 0 is the identity
    values = default_rng(0).normal(0, 1, 65536).astype(np.float32)
    np.testing.assert_array_equal(models.dropout(jnp.asarray(values), jnp.float32(0), every), values)


@pytest.mark.parametrize("model", DIFFERENTIATED, ids=name)
def test_a_network_uses_as_many_bits_as_it_says(model: Model) -> None:
    structure, *states = network(model)
    draws = nnx.merge(structure, *states).dropout_draws(len(LENGTHS), STEPS)

    def trained(states: Any, of: Batch, bits: Any) -> jax.Array:
        return nnx.merge(structure, *states)(*of, dropout_rate=jnp.float32(0.5), dropout_bits=bits)  # pyright: ignore

    def drawing(count: int) -> Any:
        return jax.eval_shape(trained, states, batch(), jax.ShapeDtypeStruct((count,), jnp.uint16))

    assert drawing(draws).shape == (len(LENGTHS), CLASSES)
    with pytest.raises(TypeError, match="reshape"):
        drawing(draws - 1)


def test_a_network_drops_out_by_its_bits_in_training_alone() -> None:
    model = model_of(normalisation="none", units=8)
    structure, parameters, statistics = cast(network(model), np.float32)
    clean = cast(batch(), np.float32)
    draws = nnx.merge(structure, parameters, statistics).dropout_draws(len(LENGTHS), STEPS)

    def run(rate: Any, bits: Any) -> jax.Array:
        return nnx.merge(structure, parameters, statistics)(*clean, dropout_rate=rate, dropout_bits=bits)

    trained = jax.jit(run, compiler_options=QUICK)
    first, again, other = (np.asarray(trained(jnp.float32(0.5), bits_of(seed, draws))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first[PRESENT] != other[PRESENT]).all()
    evaluated = np.asarray(jax.jit(lambda: run(None, None), compiler_options=QUICK)())
    np.testing.assert_allclose(trained(jnp.float32(0), bits_of(1, draws)), evaluated, rtol=1e-5, atol=1e-6)
    assert (first[PRESENT] != evaluated[PRESENT]).all()


def test_the_penalty_is_on_the_last_dense_layer() -> None:
    model = model_of(dense_depth=3, normalisation="none")
    _, parameters, _ = network(model)
    np.testing.assert_array_equal(models.penalised_kernel(parameters), parameters["dense"][2]["kernel"][...])
