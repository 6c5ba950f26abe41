"""Attention is its formula, the decoder is PyTorch's cells fed by hand, and nothing but what may be known gets in."""

import inspect
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
from padded import QUICK, cast, torch_attention, torch_decoded

from jaxrnn import predict
from jaxrnn.attention import Attention, Decoder, before_end
from jaxrnn.blueprint import GATES
from jaxrnn.errors import JaxrnnError
from jaxrnn.layers import Recurrent
from jaxrnn.recurrence import step_of

KINDS = ("dot", "general", "additive")
# The row of length 0 is filling; no row reaches the last step.
LENGTHS = np.array([5, 1, 3, 0, 4, 5], dtype=np.int32)
PRESENT = LENGTHS > 0
ROWS, STEPS, WIDTH, CLASSES, POSITIONS = len(LENGTHS), 6, 4, 3, 4
# as many as positions where each label is fed back, for comparison with inference
LABEL_LENGTHS = np.array([4, 2, 3, 2, 1, 4], dtype=np.int32)


def initial(make: Any, seed: int = 5) -> tuple[Any, Any]:
    """Returns the structure of a module and random values for all its parameters, float64."""
    structure, parameters = nnx.split(nnx.eval_shape(make))
    generator = default_rng(seed)
    return structure, jax.tree.map(lambda a: generator.normal(0, 0.8, a.shape), parameters)


def named(parameters: Any) -> dict[str, np.ndarray]:
    return predict.flattened(parameters, nnx.State({}))


def close(actual: Any, desired: Any, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance)


def beyond(lengths: np.ndarray, steps: int) -> np.ndarray:
    return np.arange(steps)[None, :] >= lengths[:, None]


# Attention


@cache
def attention(kind: str, look_ahead: bool, source: int = WIDTH) -> tuple[Any, Any, Any]:
    """Returns the structure, the parameters, and the function that gives gradients, contexts and weights."""
    structure, parameters = initial(
        lambda: Attention(kind, WIDTH, source, units=5, look_ahead=look_ahead, rngs=nnx.Rngs(0))
    )

    def objective(parameters: Any, queries: Any, source: Any, lengths: Any, coefficients: Any) -> tuple[Any, Any]:
        context, weights = nnx.merge(structure, parameters)(queries, source, lengths)
        # a weight in padding has a gradient in no formula: it is left out
        return (coefficients[0] * context).sum() + (coefficients[1] * weights).sum(), (context, weights)

    differentiated = jax.grad(objective, argnums=(0, 1, 2), has_aux=True)
    return structure, parameters, jax.jit(differentiated, compiler_options=QUICK)


def seen(targets: int, steps: int, look_ahead: bool) -> torch.Tensor:
    ones = torch.ones((targets, steps), dtype=torch.bool)
    return ones if look_ahead else torch.tril(ones)


@pytest.mark.parametrize("look_ahead", [True, False])
@pytest.mark.parametrize(("kind", "width"), [("dot", WIDTH), ("general", 3), ("additive", 3)])
def test_attention_and_its_gradient_are_the_formula(kind: str, width: int, look_ahead: bool) -> None:
    _, parameters, run = attention(kind, look_ahead, width)
    generator, targets = default_rng(1), 7
    queries = generator.normal(0, 1, (ROWS, targets, WIDTH))
    source = generator.normal(0, 1, (ROWS, STEPS, width))
    coefficients = (
        generator.normal(0, 1, (ROWS, targets, width)),
        generator.normal(0, 1, (ROWS, targets, STEPS)),
    )
    with jax.enable_x64(True):
        found = jax.tree.map(np.asarray, run(parameters, queries, source, LENGTHS, coefficients))
    (by_parameter, by_query, by_source), (context, weights) = found
    leaves = {path: torch.tensor(values, requires_grad=True) for path, values in named(parameters).items()}
    for row in np.flatnonzero(PRESENT):
        length = LENGTHS[row]
        query = torch.tensor(queries[row], requires_grad=True)
        states = torch.tensor(source[row, :length], requires_grad=True)
        found = torch_attention(kind, leaves, query, states, seen(targets, length, look_ahead))
        close(context[row], found[0].detach())
        close(weights[row, :, :length], found[1].detach())
        close(weights[row].sum(axis=1), np.ones(targets))
        total = (torch.tensor(coefficients[0][row]) * found[0]).sum()
        (total + (torch.tensor(coefficients[1][row, :, :length]) * found[1]).sum()).backward()
        assert query.grad is not None and states.grad is not None
        close(by_query[row], query.grad)
        close(by_source[row, :length], states.grad)
    for path, values in named(by_parameter).items():
        close(values, leaves[path].grad)
    padding = beyond(LENGTHS, STEPS)
    assert (np.asarray(weights).transpose(0, 2, 1)[padding] == 0).all()
    assert (np.asarray(by_source)[padding] == 0).all()
    assert (np.asarray(context)[~PRESENT] == 0).all() and (np.asarray(by_query)[~PRESENT] == 0).all()


@pytest.mark.parametrize("garbage", [1e30, np.nan, np.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_attention_sees_no_padding(kind: str, garbage: float) -> None:
    _, parameters, run = attention(kind, True)
    generator = default_rng(2)
    queries, source = generator.normal(0, 1, (ROWS, 3, WIDTH)), generator.normal(0, 1, (ROWS, STEPS, WIDTH))
    ones = np.ones((ROWS, 3, WIDTH)), np.ones((ROWS, 3, STEPS))
    spoilt = np.where(beyond(LENGTHS, STEPS)[:, :, None], garbage, source)
    clean, disturbed = (run(*cast((parameters, queries, of, LENGTHS, ones), np.float32)) for of in (source, spoilt))
    for actual, desired in zip(jax.tree.leaves(disturbed), jax.tree.leaves(clean), strict=True):
        np.testing.assert_array_equal(actual, desired)


def test_dot_attention_compares_equally_wide_states() -> None:
    with pytest.raises(JaxrnnError, match=r"decoder state of 4 units with an encoder state of 8.*general or additive"):
        Attention("dot", 4, 8, rngs=nnx.Rngs(0))


# The decoder


class Setting(NamedTuple):
    cell: str
    kind: str
    positions: int | None = None
    look_ahead: bool = True

    @property
    def targets(self) -> int:
        return STEPS if self.positions is None else self.positions

    @property
    def label_lengths(self) -> np.ndarray:
        return LENGTHS if self.positions is None else LABEL_LENGTHS

    @property
    def target_lengths(self) -> np.ndarray:
        return np.where(PRESENT, self.label_lengths, 0)


# Every cell, every kind, aligned with the steps (causal or not) and not.
SETTINGS = [
    Setting("simple", "additive", None, False),
    Setting("gru", "general"),
    Setting("gru", "dot", POSITIONS),
    Setting("lstm", "general", None, False),
    Setting("lstm", "additive", POSITIONS),
]
ALL = [
    *(Setting(cell, kind, (None, POSITIONS)[place % 2]) for place, (cell, kind) in enumerate(product(GATES, KINDS))),
    *(Setting(cell, kind, None, False) for cell, kind in zip(GATES, KINDS, strict=True)),
]


def decoder_of(setting: Setting) -> Decoder:
    cell, kind, positions, look_ahead = setting
    # dot attention wants the source as wide as the state
    return Decoder(
        cell, WIDTH, WIDTH, CLASSES, attention=kind, positions=positions, look_ahead=look_ahead, rngs=nnx.Rngs(0)
    )


@cache
def decoder(setting: Setting) -> tuple[Any, Any]:
    return initial(lambda: decoder_of(setting))


@cache
def inferring(setting: Setting) -> Any:
    structure = decoder(setting)[0]
    return jax.jit(lambda p, source, lengths: nnx.merge(structure, p).infer(source, lengths), compiler_options=QUICK)


@cache
def teaching(setting: Setting) -> Any:
    """Returns the function that gives the gradients by parameter and source, logits and weights."""
    structure = decoder(setting)[0]

    def objective(parameters: Any, source: Any, share: Any, bits: Any, coefficients: Any, *of: Any) -> tuple[Any, Any]:
        logits, weights = nnx.merge(structure, parameters).teach(source, *of, teacher_share=share, bits=bits)
        return (coefficients[0] * logits).sum() + (coefficients[1] * weights).sum(), (logits, weights)

    return jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True), compiler_options=QUICK)


class Case(NamedTuple):
    source: np.ndarray
    labels: np.ndarray
    bits: np.ndarray
    coefficients: tuple[np.ndarray, np.ndarray]


def case(setting: Setting, seed: int = 3, steps: int = STEPS) -> Case:
    generator = default_rng(seed)
    source = np.zeros((ROWS, steps, WIDTH))
    source[:, :STEPS] = generator.normal(0, 1.5, (ROWS, STEPS, WIDTH))
    targets = steps if setting.positions is None else setting.positions
    return Case(
        source=source,
        labels=generator.integers(0, CLASSES, (ROWS, targets)).astype(np.int32),
        bits=generator.integers(0, 65536, (ROWS, targets)).astype(np.uint16),
        coefficients=(generator.normal(0, 1, (ROWS, targets, CLASSES)), generator.normal(0, 1, (ROWS, targets, steps))),
    )


def taught(setting: Setting, of: Case, share: float, dtype: Any = np.float64, lengths: Any = None) -> Any:
    """Returns the gradients by parameter and source, and logits and weights."""
    parameters = decoder(setting)[1]
    label_lengths = setting.label_lengths if lengths is None else lengths
    with jax.enable_x64(dtype == np.float64):
        values = cast((parameters, of.source, np.asarray(share), of.bits, of.coefficients), dtype)
        found = teaching(setting)(*values, LENGTHS, of.labels, label_lengths)
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(found))
        return jax.tree.map(np.asarray, found)


def inferred(setting: Setting, source: np.ndarray, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
    with jax.enable_x64(dtype == np.float64):
        logits, weights = inferring(setting)(*cast((decoder(setting)[1], source), dtype), LENGTHS)
        return np.asarray(logits), np.asarray(weights)


def decoded_by_hand(
    setting: Setting, of: dict[str, torch.Tensor], source: torch.Tensor, true: list[int | None]
) -> tuple[torch.Tensor, torch.Tensor]:
    cell, kind, positions, look_ahead = setting
    return torch_decoded(cell, kind, of, source, true, aligned=positions is None, look_ahead=look_ahead)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_teaching_and_its_gradient_are_labels_fed_by_hand(setting: Setting, share: float) -> None:
    """The reference takes the label itself at every position where the bits say so, and its own elsewhere."""
    of = case(setting)
    of.labels[4, 0] = -1
    (by_parameter, by_source), (logits, weights) = taught(setting, of, share)
    leaves = {path: torch.tensor(values, requires_grad=True) for path, values in named(decoder(setting)[1]).items()}
    own = 0
    for row in np.flatnonzero(PRESENT):
        length, targets = LENGTHS[row], setting.target_lengths[row]
        true = [
            int(label) if bits < share * 65536 and label >= 0 else None
            for label, bits in zip(of.labels[row, :targets], of.bits[row, :targets], strict=True)
        ]
        own += true[:-1].count(None)
        source = torch.tensor(of.source[row, :length], requires_grad=True)
        found = decoded_by_hand(setting, leaves, source, true)
        close(logits[row, :targets], found[0].detach())
        close(weights[row, :targets, :length], found[1].detach())
        total = (torch.tensor(of.coefficients[0][row, :targets]) * found[0]).sum()
        (total + (torch.tensor(of.coefficients[1][row, :targets, :length]) * found[1]).sum()).backward()
        assert source.grad is not None
        close(by_source[row, :length], source.grad)
    assert (own > 1) == (share < 1)
    for path, values in named(by_parameter).items():
        close(values, leaves[path].grad)
    assert (logits[beyond(setting.target_lengths, setting.targets)] == 0).all()
    assert (weights[beyond(setting.target_lengths, setting.targets)] == 0).all()
    assert (weights.transpose(0, 2, 1)[beyond(LENGTHS, STEPS)] == 0).all()
    assert (by_source[beyond(LENGTHS, STEPS)] == 0).all()


@pytest.mark.parametrize("setting", ALL, ids=str)
def test_inference_is_the_decoder_fed_by_its_own_labels(setting: Setting) -> None:
    of = case(setting, seed=4)
    logits, weights = inferred(setting, of.source)
    leaves = {path: torch.tensor(values) for path, values in named(decoder(setting)[1]).items()}
    for row in range(ROWS):
        targets = LENGTHS[row] if setting.positions is None else setting.positions * PRESENT[row]
        if targets:
            source = torch.tensor(of.source[row, : LENGTHS[row]])
            expected = decoded_by_hand(setting, leaves, source, [None] * targets)
            close(logits[row, :targets], expected[0])
            close(weights[row, :targets, : LENGTHS[row]], expected[1])
        assert (logits[row, targets:] == 0).all() and (weights[row, targets:] == 0).all()


# What a decoder may know


def test_inference_has_no_way_in_for_labels() -> None:
    assert list(inspect.signature(Decoder.infer).parameters) == ["self", "source", "lengths"]
    # nor does teaching leave anything behind in the decoder
    setting = SETTINGS[2]
    structure, parameters = cast(decoder(setting), np.float32)
    of, net = case(setting), nnx.merge(structure, parameters)
    source = jnp.asarray(of.source, jnp.float32)
    before = net.infer(source, jnp.asarray(LENGTHS))
    net.teach(
        source,
        jnp.asarray(LENGTHS),
        jnp.asarray(of.labels),
        jnp.asarray(LABEL_LENGTHS),
        teacher_share=1.0,
        bits=jnp.asarray(of.bits),
    )
    assert nnx.graphdef(net) == structure
    for actual, desired in zip(net.infer(source, jnp.asarray(LENGTHS)), before, strict=True):
        np.testing.assert_array_equal(actual, desired)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_without_a_teacher_labels_count_for_nothing(setting: Setting) -> None:
    """It is inference, whatever the labels; with a teacher the same change of labels shows."""
    of = case(setting)
    other = of._replace(labels=(of.labels + 1) % CLASSES)
    every = np.full(ROWS, setting.targets, dtype=np.int32) if setting.positions else LENGTHS
    expected = inferred(setting, of.source)
    for labels in (of, other):
        _, found = taught(setting, labels, 0.0, lengths=every)
        for actual, desired in zip(found, expected, strict=True):
            np.testing.assert_allclose(actual, desired, rtol=1e-12, atol=1e-12)
    _, first = taught(setting, of, 0.0)
    _, second = taught(setting, other, 0.0)
    np.testing.assert_array_equal(first[0], second[0])
    assert (taught(setting, of, 1.0)[1][0] != taught(setting, other, 1.0)[1][0]).any()


def test_shares_of_0_and_1_leave_nothing_to_chance() -> None:
    setting = SETTINGS[1]
    of = case(setting)
    other = of._replace(labels=(of.labels + 1) % CLASSES)
    lowest, highest = np.zeros_like(of.bits), np.full_like(of.bits, 65535)
    first, second = (taught(setting, labels._replace(bits=lowest), 0.0)[1][0] for labels in (of, other))
    np.testing.assert_array_equal(first, second)
    first, second = (taught(setting, of._replace(bits=bits), 1.0)[1][0] for bits in (lowest, highest))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_position_knows_no_label_but_those_before_it(setting: Setting, share: float) -> None:
    of = case(setting)
    gradients, found = taught(setting, of, share)
    for place in range(setting.targets):
        labels = of.labels.copy()
        labels[:, place:] = (labels[:, place:] + 1) % CLASSES
        _, changed = taught(setting, of._replace(labels=labels), share)
        for actual, desired in zip(changed, found, strict=True):
            np.testing.assert_array_equal(actual[:, : place + 1], desired[:, : place + 1])
        later = (changed[0][:, place + 1 :] != found[0][:, place + 1 :]).any()
        assert later == (place < setting.target_lengths.max() - 1) or share < 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_row_knows_no_other(setting: Setting) -> None:
    """The recurrence runs along time: neither neighbours nor their order change a row."""
    of = case(setting)
    clean, (logits, weights) = inferred(setting, of.source), taught(setting, of, 0.5)[1]
    for row in np.flatnonzero(PRESENT):
        stranger = case(setting, seed=77)
        for values, own in zip(stranger[:3], of[:3], strict=True):
            values[row] = own[row]
        for actual, desired in zip(inferred(setting, stranger.source), clean, strict=True):
            np.testing.assert_array_equal(actual[row], desired[row])
        _, found = taught(setting, stranger, 0.5)
        np.testing.assert_array_equal(found[0][row], logits[row])
        np.testing.assert_array_equal(found[1][row], weights[row])
        assert (found[0] != logits).any()
    order = default_rng(0).permutation(ROWS)
    parameters = decoder(setting)[1]
    with jax.enable_x64(True):
        moved = jax.tree.map(np.asarray, inferring(setting)(parameters, of.source[order], LENGTHS[order]))
    for actual, desired in zip(moved, clean, strict=True):
        close(actual, desired[order], 1e-12)


@pytest.mark.parametrize("setting", [s for s in ALL if s.positions is None], ids=str)
def test_a_decoder_that_does_not_look_ahead_knows_only_what_came_before(setting: Setting) -> None:
    of, known = case(setting), 3
    source = of.source.copy()
    source[:, known:] = default_rng(8).normal(0, 10, source[:, known:].shape)
    for found, changed in (
        (inferred(setting, of.source), inferred(setting, source)),
        (taught(setting, of, 0.5)[1], taught(setting, of._replace(source=source), 0.5)[1]),
    ):
        same = all((one[:, :known] == other[:, :known]).all() for one, other in zip(found, changed, strict=True))
        assert same == (not setting.look_ahead)
        assert (found[0][:, known:] != changed[0][:, known:]).any()


def test_looking_ahead_or_not_is_a_question_for_labels_of_steps() -> None:
    with pytest.raises(JaxrnnError, match="needs one label for each step"):
        Decoder("gru", 4, 4, 3, attention="general", positions=5, look_ahead=False, rngs=nnx.Rngs(0))


# Padding, packs, long and short


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_decoder_sees_no_padding(setting: Setting) -> None:
    of = case(setting)
    spoilt = np.where(beyond(LENGTHS, STEPS)[:, :, None], np.nan, of.source)
    labels = np.where(beyond(setting.target_lengths, setting.targets), 99, of.labels).astype(np.int32)
    clean = jax.tree.leaves(taught(setting, of, 0.5))
    disturbed = jax.tree.leaves(taught(setting, of._replace(source=spoilt, labels=labels), 0.5))
    for actual, desired in zip(disturbed, clean, strict=True):
        np.testing.assert_array_equal(actual, desired)
    for actual, desired in zip(inferred(setting, spoilt), inferred(setting, of.source), strict=True):
        np.testing.assert_array_equal(actual, desired)
    longer = case(setting, steps=STEPS + 5)
    logits, weights = inferred(setting, longer.source)
    clean = inferred(setting, longer.source[:, :STEPS])
    close(logits[:, : setting.targets], clean[0], 1e-12)
    close(weights[:, : setting.targets, :STEPS], clean[1], 1e-12)
    assert (logits[:, setting.targets :] == 0).all() and (weights[:, :, STEPS:] == 0).all()


def test_a_pack_of_trials_has_a_teacher_share_each() -> None:
    setting = SETTINGS[1]
    structure, parameters = cast(decoder(setting), np.float32)
    of = cast(case(setting), np.float32)
    shares = jnp.array([0.0, 0.4, 1.0])

    def trial(share: Any) -> tuple[jax.Array, jax.Array]:
        net = nnx.merge(structure, parameters)
        return net.teach(of.source, LENGTHS, of.labels, LENGTHS, teacher_share=share, bits=of.bits)  # pyright: ignore

    pack = jax.jit(jax.vmap(trial), compiler_options=QUICK)(shares)
    for place, share in enumerate(shares):
        for actual, desired in zip(pack, taught(setting, of, float(share), np.float32)[1], strict=True):
            close(actual[place], desired, 1e-5)


@pytest.mark.parametrize("cell", GATES)
def test_one_step_is_the_layers(cell: str) -> None:
    structure, parameters = initial(lambda: Recurrent(cell, WIDTH, WIDTH, rngs=nnx.Rngs(0)))
    inputs = default_rng(0).normal(0, 1, (2, STEPS, WIDTH))
    with jax.enable_x64(True):
        layer = nnx.merge(structure, jax.tree.map(jnp.asarray, parameters))
        expected, _ = layer(jnp.asarray(inputs), jnp.full(2, STEPS))
        bias = None if layer.recurrent_bias is None else layer.recurrent_bias[...]
        step, state = (
            step_of(cell, layer.recurrent_kernel[...], bias),
            (jnp.zeros((2, WIDTH)),) * (1 + (cell == "lstm")),
        )
        for place in range(STEPS):
            projected = inputs[:, place] @ layer.input_kernel[...] + layer.bias[...]
            state = step(state, tuple(jnp.split(projected, GATES[cell], axis=-1)))
            close(state[0], expected[:, place], 1e-12)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_gradients_of_single_steps_are_finite(setting: Setting) -> None:
    of = case(setting)
    structure, parameters = cast(decoder(setting), np.float32)
    lengths = jnp.asarray(np.where(np.arange(ROWS) < 1, 1, 0).astype(np.int32))

    def objective(parameters: Any, source: Any) -> jax.Array:
        net = nnx.merge(structure, parameters)
        logits, _ = net.teach(source, lengths, of.labels, lengths, teacher_share=0.5, bits=of.bits)  # pyright: ignore
        return jnp.square(logits).sum()

    found = jax.jit(jax.grad(objective, argnums=(0, 1)), compiler_options=QUICK)(
        parameters, of.source.astype(np.float32)
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert np.asarray(found[1])[0, 0].any() and not np.asarray(found[1])[1:].any()


@pytest.mark.parametrize(
    "setting",
    [Setting("simple", "dot", None, False), Setting("gru", "general"), Setting("lstm", "additive", POSITIONS)],
    ids=str,
)
def test_gradients_through_5000_steps_are_finite(setting: Setting) -> None:
    steps, generator = 5000, default_rng(6)
    structure, parameters = decoder(setting)
    parameters = jax.tree.map(lambda values: (values / 2).astype(np.float32), parameters)
    targets = steps if setting.positions is None else setting.positions
    source = generator.normal(0, 1, (2, steps, WIDTH)).astype(np.float32)
    labels = jnp.asarray(generator.integers(0, CLASSES, (2, targets)).astype(np.int32))
    bits = jnp.asarray(generator.integers(0, 65536, (2, targets)).astype(np.uint16))
    lengths = jnp.array([steps, 1])
    label_lengths = jnp.minimum(lengths, targets)

    def objective(parameters: Any, source: Any) -> jax.Array:
        net = nnx.merge(structure, parameters)
        logits, _ = net.teach(source, lengths, labels, label_lengths, teacher_share=0.5, bits=bits)
        return jnp.square(logits).sum(axis=(0, 2)).mean()

    found = jax.jit(jax.grad(objective, argnums=(0, 1)), compiler_options=QUICK)(parameters, source)
    assert all(np.isfinite(leaf).all() and np.asarray(leaf).any() for leaf in jax.tree.leaves(found))


def test_labels_count_until_the_end() -> None:
    labels = jnp.array([[1, 2, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1], [2, 2, 2, 0]])
    np.testing.assert_array_equal(before_end(labels, end=0), [2, 0, 4, 3])
