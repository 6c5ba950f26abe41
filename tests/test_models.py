"""The networks are PyTorch's on sequences that were never padded, and padding changes nothing."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from numpy.random import default_rng
from padded import (
    CLASSES,
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
    torch_decoded,
    torch_inputs,
    torch_pool,
    torch_recurrent,
    with_garbage,
)
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from jaxrnn import blueprint, models, training
from jaxrnn.blueprint import GATES, Blueprint, Misfit
from jaxrnn.config import Model, Output, layers_in_words
from jaxrnn.errors import JaxrnnError


class Wanted(NamedTuple):
    model: Model
    output: Output = "sequence"

    @property
    def blueprint(self) -> Blueprint:
        return blueprint.of(*self, FEATURES, METADATA, CLASSES)

    def __str__(self) -> str:
        return f"{self.output}: {layers_in_words(self.model.as_layers(self.output, METADATA))}"


def wanted(output: Output = "sequence", **settings: Any) -> Wanted:
    return Wanted(Model.model_validate({"units": 3, "dense_units": 4, "dropout": 0.0} | settings), output)


@cached
def network(of: Wanted) -> tuple[Any, Any, Any]:
    return split(lambda: training.network(of.model, FEATURES, METADATA, CLASSES, of.output))


def in_training(structure: Any, parameters: Any, statistics: Any, of: Batch) -> tuple[jax.Array, Any]:
    """Returns training's logits, without dropout, and the new statistics."""
    net = nnx.merge(structure, parameters, statistics, copy=True)
    logits = net(*of, dropout_bits=jnp.zeros(0, jnp.uint16), dropout_rate=None)  # pyright: ignore
    return logits, nnx.state(net, nnx.BatchStat)


@cached
def forward(of: Wanted) -> Callable[[Any, Any, Batch], tuple[jax.Array, jax.Array, Any]]:
    """Returns the function that gives the logits of evaluation, those of training, and the new statistics."""
    structure = network(of)[0]

    def run(parameters: Any, statistics: Any, given: Batch) -> tuple[jax.Array, jax.Array, Any]:
        trained, new = in_training(structure, parameters, statistics, given)
        if not jax.tree.leaves(new):
            # without dropout nothing is left that training does otherwise
            return trained, trained, new
        return nnx.merge(structure, parameters, statistics)(*given), trained, new

    return jax.jit(run, compiler_options=QUICK)


@cached
def gradient(of: Wanted) -> Callable[..., tuple[Any, jax.Array]]:
    """Returns the function that gives the gradient of sum(coefficients * training's logits)."""
    structure = network(of)[0]

    def objective(parameters: Any, features: Any, statistics: Any, given: Batch, coefficients: Any) -> jax.Array:
        logits, _ = in_training(structure, parameters, statistics, given._replace(features=features))
        return (coefficients * logits).sum()

    return jax.jit(jax.grad(objective, argnums=(0, 1)), compiler_options=QUICK)


def outcome(of: Wanted, given: Batch) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    _, parameters, statistics = network(of)
    with jax.enable_x64(True):
        evaluated, trained, new = forward(of)(parameters, statistics, given)
        return np.asarray(evaluated), np.asarray(trained), arrays(new)


def counted(of: Wanted, logits: Any, lengths: np.ndarray = LENGTHS) -> np.ndarray:
    """Returns the logits [row, class] that count: of present sequences, or of their valid steps one after another."""
    logits = np.asarray(logits)
    if of.output == "sequence":
        return logits[lengths > 0]
    assert (logits[np.arange(logits.shape[1])[None, :] >= lengths[:, None]] == 0).all()
    return np.concatenate([logits[row, :length] for row, length in enumerate(lengths)])


def expected_of(of: Wanted, reference: "TorchNetwork", given: Batch, learning: bool) -> torch.Tensor:
    found = reference(*torch_inputs(given), learning)
    return torch.stack(found) if of.output == "sequence" else torch.cat(found)


class TorchNetwork(TorchLayers):
    """A network of the family by its options, of PyTorch's layers."""

    def __init__(self, of: Wanted, arrays: dict[str, np.ndarray]) -> None:
        super().__init__(arrays)
        self.model, self.output, self.at = of.model, of.output, 0

    def next(self) -> str:
        """Returns the path of the next layer."""
        self.at += 1
        return f"layers/{self.at - 1}"

    def regularised(self, values: list[torch.Tensor], learning: bool) -> list[torch.Tensor]:
        self.next()  # dropout
        if self.model.normalisation == "batch":
            return self.normalised(values, self.next(), learning)
        if self.model.normalisation == "layer":
            norm = self.under(self.next())
            return [
                torch.nn.functional.layer_norm(each, each.shape[-1:], norm["scale"], norm["bias"]) for each in values
            ]
        return values

    def dense(self, values: list[torch.Tensor], path: str) -> list[torch.Tensor]:
        return [each @ self.leaves[f"{path}/kernel"] + self.leaves[f"{path}/bias"] for each in values]

    def pooled(self, states: list[torch.Tensor], last: torch.Tensor) -> list[torch.Tensor]:
        kind = self.model.pooling
        if self.output == "step" or (self.output == "prefix" and kind == "last"):
            return states
        if kind == "last":
            return list(torch.cat(list(last), dim=1))
        own = self.under(self.next())
        if self.output == "sequence":
            return [torch_pool(kind, each, own) for each in states]
        return [torch.stack([torch_pool(kind, each[: end + 1], own) for end in range(len(each))]) for each in states]

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, values: list[torch.Tensor], metadata: torch.Tensor, learning: bool
    ) -> list[torch.Tensor]:
        model, self.at = self.model, 0
        if model.input_normalisation:
            values = self.normalised(values, self.next(), learning)
        for index in range(model.depth):
            path = self.next()
            directions = [self.under(f"{path}/directions/{place}") for place in range(1 + model.bidirectional)]
            states, last = torch_recurrent(model.cell, pack_sequence(values, enforce_sorted=False), directions)
            values = unpack_sequence(states)
            if index == model.depth - 1:
                values = self.pooled(values, last)
            values = self.regularised(values, learning)
        self.next()  # metadata
        rows = [row.expand(*each.shape[:-1], -1) for each, row in zip(values, metadata, strict=True)]
        values = [torch.cat([each, row], dim=-1) for each, row in zip(values, rows, strict=True)]
        for index in range(model.dense_depth):
            values = [
                TORCH_ACTIVATIONS[model.dense_activation](each) for each in self.dense(values, f"{self.next()}/dense")
            ]
            if index < model.dense_depth - 1:
                values = self.regularised(values, learning)
        decoder = model.decoder
        if decoder is None:
            return self.dense(values, "logits")
        own = {path.removeprefix("decoder/"): leaf for path, leaf in self.leaves.items() if path.startswith("decoder/")}
        settings = (decoder.cell, decoder.attention, own)
        return [torch_decoded(*settings, each, [None] * len(each), look_ahead=decoder.look_ahead)[0] for each in values]


DECODED = [
    wanted("step", depth=1, normalisation="none", dense_depth=0, decoder={"units": 4, "look_ahead": False}),
    wanted(
        "step", cell="lstm", bidirectional=True, depth=1, dense_depth=1,
        decoder={"units": 4, "attention": "dot", "cell": "lstm"},
    ),
    wanted("prefix", pooling="mean", depth=1, decoder={"units": 3, "attention": "additive", "look_ahead": False}),
]  # fmt: skip


def grid() -> list[Wanted]:
    """Returns every (pooling, cell), each of them and each normalisation in every output and in both directions; the
    other settings go round. Decoders come last."""
    poolings = ("last", "mean", "max", "attention")
    return [
        wanted(
            ("sequence", "prefix", "step")[(row + column) % 3],
            cell=cell,
            bidirectional=(row + column) % 2 == 1,
            pooling=pooling,
            normalisation=("batch", "layer", "none")[(row - column) % 3],
            input_normalisation=(row, column) in ((0, 1), (2, 2), (3, 0)),
            dense_depth=(2, 3, 0, 1)[(row + 2 * column) % 4],
            dense_activation=("sigmoid", "relu", "gelu")[row % 3],
        )
        for row, pooling in enumerate(poolings)
        for column, cell in enumerate(GATES)
    ] + DECODED


def test_the_grid_has_every_option_in_every_output() -> None:
    pairs = {(of.output, getattr(of.model, key)) for of in grid() for key in ("cell", "pooling", "normalisation")}
    values = (*GATES, "last", "mean", "max", "attention", "batch", "layer", "none")
    # of label sequences it is the network of steps
    assert pairs == set(product({*get_args(Output)} - {"label_sequence"}, values))


@pytest.mark.parametrize("of", grid(), ids=str)
def test_a_network_does_not_see_padding_filling_or_order(of: Wanted) -> None:
    clean = batch()
    evaluated, trained, statistics = outcome(of, clean)

    # what PyTorch's layers give where there is no padding and no filling
    _, parameters, before = network(of)
    reference = TorchNetwork(of, arrays(parameters) | arrays(before))
    for learning, logits in ((False, evaluated), (True, trained)):
        expected = expected_of(of, reference, clean, learning)
        np.testing.assert_allclose(counted(of, logits), expected.detach().numpy(), rtol=1e-9, atol=1e-9)
    norms = (of.model.depth + max(of.model.dense_depth - 1, 0)) * (of.model.normalisation == "batch")
    assert len(statistics) == 2 * norms + 3 * of.model.input_normalisation
    for path, values in statistics.items():
        np.testing.assert_allclose(values, reference.leaves[path].numpy(), rtol=1e-9, atol=1e-9)

    # nonsense where nothing counts: not a bit changes
    disturbed = outcome(of, with_garbage(clean))
    for actual, desired in zip(disturbed[:2], (evaluated, trained), strict=True):
        np.testing.assert_array_equal(actual, desired)
    assert all((disturbed[2][path] == values).all() for path, values in statistics.items())

    # another order: the logits move with their rows; sums over the batch round otherwise
    order = default_rng(3).permutation(len(LENGTHS))
    moved = outcome(of, Batch(*(values[order] for values in clean)))
    np.testing.assert_allclose(moved[0], evaluated[order], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moved[1], trained[order], rtol=1e-9, atol=1e-9)
    for path, values in statistics.items():
        np.testing.assert_allclose(moved[2][path], values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("of", grid(), ids=str)
def test_a_blueprint_is_the_network_that_is_built(of: Wanted) -> None:
    structure, parameters, statistics = network(of)
    net = nnx.merge(structure, parameters, statistics)
    assert net.blueprint == of.blueprint
    assert of.blueprint.parameters == sum(leaf.size for leaf in arrays(parameters).values())
    assert net.per_step == (of.output != "sequence")
    ahead = [f"{of.model.cell} {1 + index} reads backwards" for index in range(of.model.depth * of.model.bidirectional)]
    if of.model.decoder is not None and of.model.decoder.look_ahead:
        ahead.append("decoder attends to later steps")
    assert list(of.blueprint.looks_ahead) == ahead


# Depth 1 and 3 among them; the pooling, the activation and the output go round.
DIFFERENTIATED = [
    wanted(cell="simple", depth=3, pooling="max", dense_activation="gelu"),
    wanted(cell="gru", pooling="last", dense_depth=3, input_normalisation=True),
    wanted("prefix", cell="lstm", depth=1, pooling="attention", dense_activation="tanh"),
    wanted("step", cell="gru", bidirectional=True, pooling="max", dense_activation="softplus"),
    wanted(cell="lstm", bidirectional=True, pooling="last", normalisation="layer", dense_depth=0),
]


@pytest.mark.parametrize("of", DIFFERENTIATED, ids=str)
def test_a_networks_gradient_in_training_is_pytorchs(of: Wanted) -> None:
    clean = batch(seed=1)
    _, parameters, statistics = network(of)
    shape = (len(LENGTHS), *([] if of.output == "sequence" else [STEPS]), CLASSES)
    coefficients = default_rng(2).normal(0, 1, shape)
    if of.output == "sequence":
        coefficients *= PRESENT[:, None]
    with jax.enable_x64(True):
        by_parameter, by_feature = gradient(of)(parameters, clean.features, statistics, clean, coefficients)
        disturbed = with_garbage(clean)
        undisturbed = gradient(of)(parameters, disturbed.features, statistics, disturbed, coefficients)
    reference = TorchNetwork(of, arrays(parameters) | arrays(statistics))
    sequences, metadata = torch_inputs(clean)
    logits = reference(sequences, metadata, True)
    rows = np.flatnonzero(LENGTHS)
    weights = [coefficients[row] if of.output == "sequence" else coefficients[row, : LENGTHS[row]] for row in rows]
    torch.stack([(torch.tensor(w) * v).sum() for w, v in zip(weights, logits, strict=True)]).sum().backward()
    for path, values in arrays(by_parameter).items():
        expected = reference.leaves[path].grad
        assert expected is not None
        np.testing.assert_allclose(values, expected.numpy(), rtol=1e-8, atol=1e-9, err_msg=path)
    for row, sequence in zip(rows, sequences, strict=True):
        assert sequence.grad is not None
        np.testing.assert_allclose(by_feature[row, : LENGTHS[row]], sequence.grad.numpy(), rtol=1e-8, atol=1e-9)
    assert (np.asarray(by_feature)[np.arange(STEPS)[None, :] >= LENGTHS[:, None]] == 0).all()
    for path, values in arrays(undisturbed[0]).items():
        np.testing.assert_array_equal(values, arrays(by_parameter)[path], err_msg=path)


def test_the_default_network_is_gotos() -> None:
    """Burhanudin et al. 2021, section 3.3: two GRU layers with batch norm, metadata joined, two sigmoid layers."""
    assert layers_in_words(Model().as_layers("sequence", 2)) == (
        "gru 32, dropout, batch_norm, gru 32 last, dropout, batch_norm, metadata, "
        "dense 25 sigmoid, dropout, batch_norm, dense 25 sigmoid"
    )
    of = wanted(units=100, dense_units=100)
    structure, parameters, statistics = cast(network(of), np.float32)
    parameters = jax.tree.map(lambda values: values / 6, parameters)
    clean = cast(batch(), np.float32)
    logits = jax.jit(lambda p, s, given: nnx.merge(structure, p, s)(*given))(parameters, statistics, clean)
    assert logits.dtype == np.float32
    reference = TorchNetwork(of, arrays(parameters) | arrays(statistics))
    expected = torch.stack(reference(*torch_inputs(clean, torch.float32), False)).detach().numpy()
    np.testing.assert_allclose(logits[PRESENT], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "of",
    [
        wanted(units=32, dense_units=25),
        wanted(cell="lstm", bidirectional=True, pooling="mean", units=32, dense_units=25),
        wanted("prefix", pooling="attention", units=32, dense_units=25),
    ],
    ids=str,
)
def test_longer_padding_rounds_alike_in_float32(of: Wanted) -> None:
    """To rounding, not to the bit: the kernels by which XLA multiplies and sums follow from the shape."""
    structure, parameters, statistics = cast(network(of), np.float32)
    evaluate = jax.jit(lambda *given: nnx.merge(structure, parameters, statistics)(*given))
    short, long = (counted(of, evaluate(*cast(batch(steps=steps), np.float32))) for steps in (6, 50))
    np.testing.assert_allclose(long, short, rtol=1e-5, atol=2e-6)


# Prefixes and steps


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
def test_each_prefix_has_what_the_network_of_whole_sequences_gives_for_it(pooling: str) -> None:
    """The same parameters serve both, and no later step changes a bit."""
    whole, running = (wanted(output, cell="lstm", pooling=pooling) for output in ("sequence", "prefix"))
    assert running.blueprint.looks_ahead == ()
    _, parameters, statistics = network(running)
    assert jax.tree.structure(network(whole)[1]) == jax.tree.structure(parameters)
    assert jax.tree.map(np.shape, network(whole)[1]) == jax.tree.map(np.shape, parameters)
    clean = batch()
    with jax.enable_x64(True):
        logits = np.asarray(forward(running)(parameters, statistics, clean)[0])
        for upto in range(1, 7):
            cut = clean._replace(lengths=np.minimum(LENGTHS, upto))
            longer = upto <= LENGTHS
            known = forward(running)(parameters, statistics, cut)[0]
            np.testing.assert_array_equal(logits[longer, :upto], known[longer, :upto])
            single = forward(whole)(parameters, statistics, cut)[0]
            np.testing.assert_allclose(logits[longer, upto - 1], single[longer], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("of", DECODED, ids=str)
def test_a_decoder_is_taught_in_training_and_by_its_own_labels_alone_elsewhere(of: Wanted) -> None:
    """With no share of true labels training is inference, as PyTorch's is above; with all of them labels count. Garbage
    changes no bit, and later steps none where nothing looks ahead."""
    structure, parameters, statistics = network(of)
    clean, generator = batch(), default_rng(9)
    labels = generator.integers(-1, CLASSES, (len(LENGTHS), STEPS)).astype(np.int32)
    bits = generator.integers(0, 65536, labels.shape).astype(np.uint16)

    def traced(states: Any, given: Batch, share: Any, labels: Any) -> tuple[jax.Array, jax.Array]:
        net = nnx.merge(structure, *states)
        nothing = jnp.zeros(0, jnp.uint16)
        weights = net.attended(*given)  # pyright: ignore
        logits = net.taught(*given, labels, teacher_share=share, teacher_bits=bits, dropout_bits=nothing)  # pyright: ignore
        return logits, weights

    run = partial(jax.jit(traced, compiler_options=QUICK), (parameters, statistics))
    with jax.enable_x64(True):
        untaught, weights = run(clean, 0.0, labels)
        np.testing.assert_array_equal(untaught, run(clean, 0.0, (labels + 1) % CLASSES)[0])
        taught = np.asarray(run(clean, 1.0, labels)[0])
        assert (taught != untaught).any()
        spoilt = np.where(np.arange(STEPS) < LENGTHS[:, None], labels, 99).astype(np.int32)
        np.testing.assert_array_equal(run(with_garbage(clean), 1.0, spoilt)[0], taught)
        short = clean._replace(lengths=np.minimum(LENGTHS, 3))
        same = (np.asarray(run(short, 1.0, labels)[0])[:, :3] == taught[:, :3]).all()
        evaluated, _, _ = forward(of)(parameters, statistics, clean)
    assert same == (of.blueprint.looks_ahead == () and of.model.normalisation == "none")
    if of.model.normalisation == "none":
        np.testing.assert_allclose(untaught, evaluated, rtol=1e-9, atol=1e-9)
    sums = np.asarray(weights).sum(axis=2)
    np.testing.assert_allclose(sums, np.arange(STEPS) < LENGTHS[:, None], atol=1e-9)
    causal = of.model.decoder is not None and not of.model.decoder.look_ahead
    assert (np.triu(np.asarray(weights), 1) == 0).all() == causal


def test_a_list_may_shorten_the_steps_that_it_answers() -> None:
    listed = [{"layer": "conv", "stride": 2}, "gru", {"layer": "max_pool", "size": 3}, {"layer": "dense", "units": 4}]
    of = wanted("step", units=32, dense_units=25, layers=listed)
    net = training.network(of.model, FEATURES, METADATA, CLASSES, "step", jax.random.key(0))
    assert [net.steps_out(steps) for steps in (1, 5, 6, 7, 12, 13)] == [1, 1, 1, 2, 2, 3]
    np.testing.assert_array_equal(net.lengths_out(jnp.asarray(LENGTHS)), -(-LENGTHS // 6))
    given = cast(batch(steps=13), np.float32)
    logits = net(*given)  # pyright: ignore
    assert logits.shape == (len(LENGTHS), 3, CLASSES)
    beyond = np.arange(3)[None, :] >= np.asarray(net.lengths_out(jnp.asarray(LENGTHS)))[:, None]
    assert (np.asarray(logits)[beyond] == 0).all() and (np.asarray(logits)[~beyond] != 0).all()


# Dropout and the penalty


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("of", DIFFERENTIATED, ids=str)
def test_a_network_uses_as_many_bits_as_it_says(of: Wanted, recurrent: bool) -> None:
    structure, *states = network(of)
    draws = nnx.merge(structure, *states).dropout_draws(len(LENGTHS), STEPS, recurrent=recurrent)
    rate = jnp.float32(0.5)

    def trained(states: Any, given: Batch, bits: Any) -> jax.Array:
        return nnx.merge(structure, *states)(
            *given, dropout_rate=rate, recurrent_dropout_rate=rate if recurrent else None, dropout_bits=bits
        )  # pyright: ignore

    def drawing(count: int) -> Any:
        return jax.eval_shape(trained, states, batch(), jax.ShapeDtypeStruct((count,), jnp.uint16))

    assert drawing(draws).shape[0] == len(LENGTHS)
    with pytest.raises(TypeError, match="reshape"):
        drawing(draws - 1)


@pytest.mark.parametrize("which", ["dropout_rate", "recurrent_dropout_rate"])
def test_a_network_drops_out_by_its_bits_in_training_alone(which: str) -> None:
    of = wanted(normalisation="none", units=8)
    structure, parameters, statistics = cast(network(of), np.float32)
    clean = cast(batch(), np.float32)
    draws = nnx.merge(structure, parameters, statistics).dropout_draws(len(LENGTHS), STEPS, recurrent=True)
    # the first step has no state yet that could be hidden
    changed = (1 if which == "recurrent_dropout_rate" else 0) < LENGTHS

    def run(rate: Any, bits: Any) -> jax.Array:
        rates = {"dropout_rate": 0.0, "recurrent_dropout_rate": 0.0} | {which: rate}
        return nnx.merge(structure, parameters, statistics)(*clean, **rates, dropout_bits=bits)

    def bits_of(seed: int) -> jax.Array:
        return jax.random.bits(jax.random.key(seed), (draws,), jnp.uint16)

    trained = jax.jit(run, compiler_options=QUICK)
    first, again, other = (np.asarray(trained(jnp.float32(0.5), bits_of(seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first[changed] != other[changed]).all()
    evaluated = np.asarray(jax.jit(lambda: run(jnp.float32(0.5), None), compiler_options=QUICK)())
    np.testing.assert_allclose(trained(jnp.float32(0), bits_of(1)), evaluated, rtol=1e-5, atol=1e-6)
    assert (first[changed] != evaluated[changed]).all()


def test_the_penalty_is_on_the_last_dense_layer() -> None:
    for normalisation, depth, place in (("none", 3, 7), ("batch", 3, 10), ("batch", 1, 4)):
        parameters = network(wanted(depth=1, dense_depth=depth, normalisation=normalisation))[1]
        last = arrays(parameters)[f"layers/{place}/dense/kernel"]
        np.testing.assert_array_equal(models.penalised_kernel(parameters), last)
    assert models.penalised_kernel(network(wanted(dense_depth=0))[1]) is None
    # of more than ten layers, and of those within a residual
    inner = {"layer": "residual", "layers": [{"layer": "dense", "units": 2}, "dropout", {"layer": "dense", "units": 5}]}
    listed = [*["dropout"] * 9, {"layer": "dense", "units": 7}, inner, "pool"]
    _, parameters, _ = network(wanted(units=32, dense_units=25, layers=listed))
    np.testing.assert_array_equal(
        models.penalised_kernel(parameters), arrays(parameters)["layers/10/layers/2/dense/kernel"]
    )


# Lists that don't fit


def layer(kind: str, /, **settings: Any) -> dict[str, Any]:
    return {"layer": kind, **settings}


def residual(*listed: Any) -> dict[str, Any]:
    return layer("residual", layers=listed)


LAST, FLATTEN = layer("gru", output="last"), layer("flatten", steps=3)


@pytest.mark.parametrize(
    ("listed", "output", "said"),
    [
        (["gru"], "sequence", ": the list ends with steps, and the task wants one answer a sequence"),
        ([layer("pool", running=True)], "sequence", ": the list ends with steps"),
        (["gru", "pool", "gru"], "sequence", "[2] (gru): takes steps, and model.layers[1] (pool) makes one vector"),
        (["gru", LAST, "dense", "pool"], "sequence", "[3] (pool): takes steps, and model.layers[1] (gru) makes"),
        ([FLATTEN, "conv"], "sequence", "[1] (conv): takes steps, and model.layers[0] (flatten) makes"),
        (["pool", FLATTEN], "sequence", "[1] (flatten): takes steps"),
        (["pool", "max_pool"], "sequence", "[1] (max_pool): takes steps"),
        (["pool", residual("dense", "lstm")], "sequence", "[1].layers[1] (lstm): takes steps, and a layer before it"),
        (["gru", residual("dense", "pool"), "pool"], "sequence", "[1] (residual): adds its input to what its layers"),
        ([residual("dense", "pool"), "pool"], "sequence", "give, and they make one vector of the steps"),
        ([residual("max_pool"), "pool"], "sequence", "give, and they shorten the sequence by their stride"),
        (["gru", "input_normalisation", "pool"], "sequence", "[1] (input_normalisation): stands first"),
        ([residual("input_normalisation"), "pool"], "sequence", "[0].layers[0] (input_normalisation): stands first"),
        (["gru", "pool", "metadata"], "sequence", "[2] (metadata): joins the metadata, and `data.metadata` names no"),
        (["gru", "pool", "dense"], "step", "[1] (pool): makes one vector of the steps, and the task wants an answer"),
        (["gru", LAST], "prefix", "[1] (gru): makes one vector of the steps"),
    ],
)
def test_lists_that_do_not_fit(listed: list[Any], output: Output, said: str) -> None:
    model = Model.model_validate({"layers": listed})
    with pytest.raises(Misfit) as error:
        blueprint.of(model, output, 2, 0, 3)
    assert str(error.value).startswith("model.layers") and said in str(error.value)
    with pytest.raises(JaxrnnError, match=r"model\.layers"):
        training.network(model, 2, 0, 3, output)


@pytest.mark.parametrize(
    ("settings", "output", "classes", "said"),
    [
        ({"decoder": {}}, "sequence", 3, "model.decoder: names a label for each step, and `task.kind: sequence` wants"),
        ({"decoder": {}}, "step", 1, "model.decoder: reads the class that it named before, and there is one output"),
        ({"decoder": {"attention": "dot", "units": 7}}, "step", 3,
         "model.decoder.units: dot attention compares the decoder's state of 7 units with what dense 2 gives, 25 wide"),
        ({"layers": [layer("gru", units=5)], "decoder": {"attention": "dot", "units": 4}}, "step", 3,
         "model.decoder.units: dot attention compares the decoder's state of 4 units with what gru 1 gives, 5 wide"),
        ({"layers": ["gru", "pool"], "decoder": {}}, "step", 3, "model.layers[1] (pool): makes one vector of the step"),
    ],
)  # fmt: skip
def test_decoders_that_do_not_fit(settings: dict[str, Any], output: Output, classes: int, said: str) -> None:
    with pytest.raises(Misfit) as error:
        blueprint.of(Model.model_validate(settings), output, 2, 0, classes)
    assert str(error.value).startswith(said)


def test_a_list_may_be_short() -> None:
    """What comes straight from the inputs, and metadata joined twice, or nowhere."""
    for listed, metadata, parameters in (
        (["pool"], 0, (2 + 1) * 3),
        (["metadata", "pool", "metadata"], 4, (2 + 4 + 4 + 1) * 3),
        ([layer("flatten", steps=5)], 4, (2 * 5 + 1) * 3),
    ):
        model = Model.model_validate({"layers": listed})
        assert blueprint.of(model, "sequence", 2, metadata, 3).parameters == parameters


def test_flattened_sequences_may_not_be_longer() -> None:
    listed = [layer("conv", stride=2), layer("average_pool", size=3), layer("flatten", steps=4)]
    of = blueprint.of(Model.model_validate({"layers": listed}), "sequence", 2, 0, 3)
    assert of.longest == 24
    of.check_length(24)
    with pytest.raises(JaxrnnError, match=r"`flatten` takes sequences of at most 24 steps, and the data has .* of 25"):
        of.check_length(25)
    blueprint.of(Model(), "sequence", 2, 0, 3).check_length(10**6)


def test_reasons_to_look_ahead_name_the_layers() -> None:
    listed = [
        "conv", layer("conv", padding="causal"), layer("conv", kernel=1), layer("conv"),
        layer("residual", layers=[layer("gru", bidirectional=True)]), layer("max_pool", causal=True), "average_pool",
        layer("pool", running=True),
    ]  # fmt: skip
    of = blueprint.of(Model.model_validate({"layers": listed}), "step", 2, 0, 3)
    assert of.looks_ahead == (
        "conv 1 is centred",
        "conv 4 is centred",
        "gru 1 reads backwards",
        "average_pool 1 begins its windows at their step",
    )
