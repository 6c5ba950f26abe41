"""Prediction: a trained network's class probabilities, also with dropout, what these rest on, and what its decoder
attends to."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxrnn import batches, blueprint, ctc, losses, training
from jaxrnn.attention import surprise, with_end
from jaxrnn.batches import Bucket, Examples, Part, Window, Windows
from jaxrnn.blueprint import Blueprint
from jaxrnn.bundles import Bundle
from jaxrnn.config import Model, Output
from jaxrnn.errors import JaxrnnError

# Of a part that is kept whole, where nothing else stands on the device.
MOST_BYTES = 2.048e9
# Of a batch of `by_batches`: rows, and steps of all rows together with their padding.
MOST_ROWS, MOST_STEPS, LEAST_STEPS = 512, 1 << 18, 8
# Sequences whose attention is kept, and their longest length: the weights of one are its steps squared.
ATTENDED, MOST_ATTENDED_STEPS = 3, 256


def predict(bundle: Bundle, part: Part, most_bytes: float = MOST_BYTES) -> np.ndarray:
    """Returns the probabilities [place, class] float32 of a part's places, in its order: see `probabilities`."""
    kind = bundle.task.kind
    return probabilities(bundle.model, [bundle.arrays], part, bundle.outputs, most_bytes, kind=kind)[0]


def probabilities(
    model: Model,
    networks: list[dict[str, np.ndarray]],
    part: Part,
    outputs: int,
    most_bytes: float = MOST_BYTES,
    *,
    kind: Output = "sequence",
) -> list[np.ndarray]:
    """Returns the class probabilities [place, class] float32 of each of the networks with these parameters.

    A place is an object or, where `kind` (`task.kind`) predicts at every step, a step of the output: all of an object's
    in order. outputs: how many output units they have; one is that of two classes. Objects of more than `most_bytes`,
    padded, are read and predicted in windows of a quarter of that.
    """
    made = blueprint.of(model, kind, part.features, part.metadata, outputs)
    made.check_length(int(part.lengths.max(initial=0)))
    shape = part.features, part.metadata, outputs, kind
    states = [_states(model, *shape, arrays) for arrays in networks]
    evaluator = _evaluator(model, *shape)  # pyright: ignore[reportArgumentType]
    offsets = np.concatenate([[0], np.cumsum(made.places(part.lengths))]).astype(np.int64)
    found = [np.zeros((offsets[-1], max(outputs, 2)), dtype=np.float32) for _ in networks]
    with evaluation_windows(part, batches.edges(part.lengths, 1), most_bytes) as windows:
        for index in range(windows.count()):
            _predict_window(windows.get(0, index), evaluator, states, made, offsets, found)
    return found


def by_batches(bundle: Bundle, examples: Examples) -> list[np.ndarray]:
    """Returns the probabilities [place, class] float32 of each of the bundle's networks, as `probabilities` does.

    Batches have a power of two of steps and of rows, so that few programs do for any number of shards; what a batch
    holds follows from the examples alone.
    """
    evaluator = _evaluator(bundle.model, *_shape(bundle))  # pyright: ignore[reportArgumentType]
    return _by_batches(bundle, examples, evaluator, states(bundle))


def by_dropout(
    bundle: Bundle, examples: Examples, passes: int, seed: int, dropout: float, recurrent_dropout: float
) -> list[np.ndarray]:
    """Returns the probabilities [place, class] float32 of each of so many passes of the chosen network, which drops out
    as it did in training and is else as in evaluation: Monte-Carlo dropout (Gal & Ghahramani 2016, arXiv 1506.02142,
    section 4).

    dropout, recurrent_dropout: of layers that have no rate of their own. What is dropped follows from the seed, the
    pass and the batch, which is cut as by `by_batches`.
    """
    dropper = _dropper(bundle.model, *_shape(bundle), recurrent_dropout > 0)  # pyright: ignore[reportArgumentType]
    rates = np.float32(dropout), np.float32(recurrent_dropout)
    keys = jax.random.split(jax.random.key(seed), passes)
    return _by_batches(bundle, examples, dropper, [(*states(bundle)[0], key, *rates) for key in keys])


def _by_batches(bundle: Bundle, examples: Examples, evaluator: Any, members: Sequence[Any]) -> list[np.ndarray]:
    """Returns the probabilities [place, class] of each member, which is what `evaluator` takes before the buckets."""
    made = blueprint.of(bundle.model, bundle.task.kind, *_shape(bundle)[:3])
    lengths = examples.lengths
    offsets = np.concatenate([[0], np.cumsum(made.places(lengths))]).astype(np.int64)
    found = [np.zeros((offsets[-1], max(bundle.outputs, 2)), dtype=np.float32) for _ in members]
    for rows, steps in _batches(lengths):
        window = Window((_batch(examples, rows, steps),), rows, np.array([(rows >= 0).sum()]))
        _predict_window(window, evaluator, members, made, offsets, found)
    return found


def _predict_window(
    window: Window,
    evaluator: Any,
    networks: Sequence[tuple[Any, ...]],
    made: Blueprint,
    offsets: np.ndarray,
    found: Sequence[np.ndarray],
) -> None:
    """Puts each network's probabilities for a window into its result in `found`; offsets: where each object's places
    begin there."""
    places = _step_places(window, made, offsets) if made.gives.has_steps else window.sources
    present = places >= 0
    for result, state in zip(found, networks, strict=True):
        result[places[present]] = np.asarray(jax.nn.softmax(evaluator(*state, window.buckets)))[present]


def states(bundle: Bundle) -> list[tuple[Any, Any]]:
    """Returns the parameters and statistics of each of the bundle's networks."""
    return [_states(bundle.model, *_shape(bundle), member.arrays) for member in bundle.members]


def _shape(bundle: Bundle) -> tuple[int, int, int, Output]:
    """Returns the numbers of features, of columns of metadata and of outputs, and the task."""
    return len(bundle.features), len(bundle.metadata), bundle.outputs, bundle.task.kind


def _batches(lengths: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the rows of each batch, -1 for filling, and its steps."""
    order = np.argsort(lengths, kind="stable")
    widths = np.array([_power_of_two(max(LEAST_STEPS, int(length))) for length in lengths[order]], dtype=np.int64)
    for steps in np.unique(widths).tolist():
        own = order[widths == steps]
        size = min(_power_of_two(len(own)), MOST_ROWS, max(1, MOST_STEPS // steps))
        for start in range(0, len(own), size):
            rows = own[start : start + size]
            yield np.pad(rows, (0, size - len(rows)), constant_values=-1), steps


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _batch(examples: Examples, rows: np.ndarray, steps: int) -> Bucket:
    count, whole = int((rows >= 0).sum()), len(rows)
    features = np.zeros((whole, steps, examples.features.shape[1]), dtype=np.float32)
    metadata = np.zeros((whole, examples.metadata.shape[1]), dtype=np.float32)
    lengths = np.zeros(whole, dtype=np.int32)
    lengths[:count], metadata[:count] = examples.lengths[rows[:count]], examples.metadata[rows[:count]]
    for place, row in enumerate(rows[:count]):
        features[place, : lengths[place]] = examples.features[examples.offsets[row] : examples.offsets[row + 1]]
    keys = np.pad(batches.object_keys(examples.ids[rows[:count]]), (0, whole - count))
    return Bucket(features, lengths, metadata, np.zeros(whole, np.int32), keys)


class Attributed(NamedTuple):
    """What each input of an object adds to a probability. features: [step, feature]; metadata: [column]; reached: the
    probability; baseline: what it is where all inputs are 0."""

    features: np.ndarray
    metadata: np.ndarray
    reached: float
    baseline: float


def attributed(
    bundle: Bundle, examples: Examples, said: Sequence[Sequence[int]], steps_of: np.ndarray, midpoints: int
) -> list[Attributed]:
    """Returns what each input of each sequence adds to the chosen network's probability of what is said of it, by
    integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365, eq. 1) from inputs that are all 0, of the same
    length: midpoints of so many equal parts of the straight way there.

    said: [sequence] a class; the class at every step of a decoder, which hands no gradient on from one to the next: on
    all the way it is fed these; or all labels of a label sequence, each after those before it. steps_of: of a network
    that predicts at every step, after how many steps [sequence]; a whole one has its length.
    """
    attribute = _attributor(bundle.model, *_shape(bundle))  # pyright: ignore[reportArgumentType]
    state, found = states(bundle)[0], []
    steps = _power_of_two(max(LEAST_STEPS, int(examples.lengths.max(initial=0))))
    # a power of two, so that it divides the midpoints if these are one
    at_once = min(midpoints, 1 << max(0, (MOST_STEPS // (2 * steps)).bit_length() - 1))
    way = ((np.arange(midpoints) + 0.5) / midpoints).astype(np.float32)
    parts = np.stack(np.split(way, range(at_once, midpoints, at_once)))
    labels = np.full((len(said), max(map(len, said), default=0)), -1, dtype=np.int32)
    for row, own in enumerate(said):
        labels[row, : len(own)] = own
    for row, (length, step) in enumerate(zip(examples.lengths, steps_of, strict=True)):
        one = _batch(examples, np.array([row]), steps)
        *gradients, ends = attribute(*state, one, labels[row], np.int32(step), parts)
        of_features, of_metadata = (np.asarray(values) for values in gradients)
        reached, baseline = np.asarray(ends).tolist()
        found.append(Attributed(of_features[:length], of_metadata, reached, baseline))
    return found


def attention(
    model: Model,
    networks: list[dict[str, np.ndarray]],
    part: Part,
    among: np.ndarray,
    outputs: int,
    *,
    kind: Output,
) -> list[dict[str, np.ndarray]]:
    """Returns the attention weights [target, source step] float32 of each of the networks on a few objects, by id. A
    target is a step, or a position of a label sequence and its end.

    Which ones follows from ids and lengths alone: `ATTENDED` of those that `among` [object] marks, evenly spread in the
    order of their ids over all that have at most `MOST_ATTENDED_STEPS` steps.
    """
    short = np.flatnonzero(among & (part.lengths <= MOST_ATTENDED_STEPS))
    ordered = short[np.argsort(part.ids[short], kind="stable")]
    places = np.linspace(0, len(ordered) - 1, min(ATTENDED, len(ordered))).round().astype(int)
    chosen = np.sort(ordered[places])
    if not len(chosen):
        return [{} for _ in networks]
    shape = part.features, part.metadata, outputs, kind
    attend = _attender(model, *shape)  # pyright: ignore[reportArgumentType]
    few = part.some(chosen)
    made = blueprint.of(model, kind, part.features, part.metadata, outputs)
    assert made.decoder is not None
    targets, sources = made.places(few.lengths), made.decoder.takes.steps(few.lengths)
    with Windows(few, batches.edges(few.lengths, 1), np.inf) as windows:
        window = windows.get()
    (bucket,) = window.buckets
    found = []
    for arrays in networks:
        weights = np.asarray(attend(*_states(model, *shape, arrays), bucket))
        rows = sorted((int(at), number) for number, at in enumerate(window.sources) if at >= 0)
        found.append({str(few.ids[at]): weights[number, : targets[at], : sources[at]] for at, number in rows})
    return found


def taught(bundle: Bundle, part: Part) -> np.ndarray:
    """Returns the probabilities [step, class] of a few sequences by a decoder that is handed the true label of the step
    before at each step: what teacher forcing makes of them, and no prediction."""
    model, kind = bundle.model, bundle.task.kind
    shape = part.features, part.metadata, bundle.outputs, kind
    made = blueprint.of(model, kind, part.features, part.metadata, bundle.outputs)
    offsets = np.concatenate([[0], np.cumsum(made.places(part.lengths))]).astype(np.int64)
    with Windows(part, batches.edges(part.lengths, 1), np.inf) as windows:
        window = windows.get()
    (bucket,) = window.buckets
    structure = nnx.graphdef(training.network(model, *shape))
    net = nnx.merge(structure, *_states(model, *shape, bundle.arrays))
    rows, steps = bucket.features.shape[:2]
    logits = net.taught(
        *map(jax.numpy.asarray, (bucket.features, bucket.lengths, bucket.metadata, bucket.labels)),
        teacher_share=1.0,
        teacher_bits=jax.numpy.zeros((rows, net.steps_out(steps)), jax.numpy.uint16),
    )
    places = _step_places(window, made, offsets)
    result = np.zeros((offsets[-1], bundle.outputs), dtype=np.float32)
    result[places[places >= 0]] = np.asarray(jax.nn.softmax(logits)).reshape(-1, bundle.outputs)[places >= 0]
    return result


def _step_places(window: Window, made: Blueprint, offsets: np.ndarray) -> np.ndarray:
    """Returns where each output step of a window's rows stands among the part's, -1 for padding and filling."""
    places, start = [], 0
    for bucket in window.buckets:
        rows, steps = len(bucket.lengths), made.gives.steps(bucket.features.shape[1])
        sources = window.sources[start : (start := start + rows)]
        valid = np.arange(steps) < made.gives.steps(np.asarray(bucket.lengths))[:, None]
        places.append(np.where(valid, offsets[sources][:, None] + np.arange(steps), -1).ravel())
    return np.concatenate(places)


def evaluation_windows(
    parts: Part | Sequence[Part], longest: list[int], most_bytes: float, held: Sequence[int] = (0,)
) -> Windows:
    """Returns a part's windows, or those of each fold's, for `training.evaluate`: the whole part, or windows of a
    quarter of `most_bytes`, since they stand in memory beside those that are trained on."""
    parts = [parts] if isinstance(parts, Part) else parts
    multiple = training.evaluation_multiple(max(len(part) for part in parts))

    def windows(most_bytes: float) -> Windows:
        return Windows(parts, longest, most_bytes, held=held, multiple=multiple)

    whole = windows(most_bytes)
    return whole if whole.whole else windows(most_bytes / 4)


@lru_cache
def _evaluator(model: Model, features: int, metadata: int, outputs: int, kind: Output) -> Any:
    structure = nnx.graphdef(training.network(model, features, metadata, outputs, kind))
    return jax.jit(
        lambda parameters, statistics, buckets: training.evaluate(structure, parameters, statistics, buckets)
    )


@lru_cache
def _dropper(model: Model, features: int, metadata: int, outputs: int, kind: Output, recurrent: bool) -> Any:
    template = training.network(model, features, metadata, outputs, kind)
    structure = nnx.graphdef(template)

    def logits(
        parameters: Any, statistics: Any, key: Any, dropout: Any, recurrent_dropout: Any, buckets: tuple[Bucket, ...]
    ) -> Any:
        (bucket,) = buckets
        draws = template.dropout_draws(*bucket.features.shape[:2], recurrent=recurrent)
        # an object stands in one batch alone: its first one parts the batch from all others
        bits = jax.random.bits(jax.random.fold_in(key, bucket.keys[0]), (draws,), jax.numpy.uint16)
        found = nnx.merge(structure, parameters, statistics)(
            bucket.features,
            bucket.lengths,
            bucket.metadata,
            dropout_rate=dropout,
            recurrent_dropout_rate=recurrent_dropout if recurrent else None,
            dropout_bits=bits,
            frozen=True,
        )
        found = losses.class_logits(found)
        return found.reshape(-1, found.shape[-1])

    return jax.jit(logits)


@lru_cache
def _attributor(model: Model, features: int, metadata: int, outputs: int, kind: Output) -> Any:
    structure = nnx.graphdef(training.network(model, features, metadata, outputs, kind))
    last = outputs - 1  # of label sequences CTC's blank, or the end that a decoder names

    def attribute(parameters: Any, statistics: Any, one: Bucket, said: Any, step: Any, parts: Any) -> Any:
        net = nnx.merge(structure, parameters, statistics)

        def reached(inputs: Any) -> Any:
            """Returns the probability [row] of what is said for rows of the object with other values."""
            values, rows = inputs[0], len(inputs[0])
            lengths, given = jax.numpy.repeat(one.lengths, rows), jax.numpy.tile(said, (rows, 1))
            if net.decoder is None:
                logits = net(values, lengths, inputs[1])
                if kind == "label_sequence":
                    counts = (given >= 0).sum(axis=1)
                    return jax.numpy.exp(-ctc.ctc(logits, net.lengths_out(lengths), given, counts, blank=last))
            else:
                places = net.steps_out(values.shape[1])
                given = with_end(given, places, end=last)  # which of steps lies beyond the last one
                bits = jax.numpy.zeros((rows, places), jax.numpy.uint16)
                logits = net.taught(values, lengths, inputs[1], given, teacher_share=1.0, teacher_bits=bits)
                if kind == "label_sequence":
                    return jax.numpy.exp(-surprise(logits, given))
            probabilities = jax.nn.softmax(losses.class_logits(logits))
            if not net.per_step:
                return probabilities[:, said[0]]
            place = net.lengths_out(step) - 1
            return probabilities[:, place, said[0 if net.decoder is None else place]]

        def at(shares: Any) -> Any:
            return shares[:, None, None] * one.features, shares[:, None] * one.metadata

        def gradients(shares: Any) -> Any:
            return [values.sum(axis=0) for values in jax.grad(lambda inputs: reached(inputs).sum())(at(shares))]

        of_features, of_metadata = (values.sum(axis=0) / parts.size for values in jax.lax.map(gradients, parts))
        ends = reached(at(jax.numpy.array([1.0, 0.0], jax.numpy.float32)))
        return of_features * one.features[0], of_metadata * one.metadata[0], ends

    return jax.jit(attribute)


@lru_cache
def _attender(model: Model, features: int, metadata: int, outputs: int, kind: Output) -> Any:
    structure = nnx.graphdef(training.network(model, features, metadata, outputs, kind))
    return jax.jit(lambda parameters, statistics, bucket: training.attended(structure, parameters, statistics, bucket))


def flattened(parameters: Any, statistics: Any) -> dict[str, np.ndarray]:
    """Returns the arrays of a network's state by their path, such as `layers/0/directions/0/input_kernel`."""
    return {
        "/".join(str(part) for part in path): np.asarray(leaf[...])
        for state in (parameters, statistics)
        for path, leaf in nnx.to_flat_state(state)
    }


@lru_cache
def _shapes(model: Model, features: int, metadata: int, outputs: int, kind: Output) -> tuple[Any, Any]:
    """Returns the states of a network, with shapes for arrays."""
    _, parameters, statistics = nnx.split(
        training.network(model, features, metadata, outputs, kind), nnx.Param, nnx.BatchStat
    )
    return parameters, statistics


def _states(
    model: Model, features: int, metadata: int, outputs: int, kind: Output, arrays: dict[str, np.ndarray]
) -> tuple[Any, Any]:
    filled = []
    for state in _shapes(model, features, metadata, outputs, kind):  # pyright: ignore[reportArgumentType]
        leaves = []
        for path, leaf in nnx.to_flat_state(state):
            name = "/".join(str(part) for part in path)
            if name not in arrays or arrays[name].shape != leaf.get_value().shape:
                found = arrays[name].shape if name in arrays else "none"
                raise JaxrnnError(f"parameters: '{name}' has shape {found}; the network needs {leaf.get_value().shape}")
            leaves.append((path, leaf.replace(jax.numpy.asarray(arrays[name]))))
        filled.append(nnx.from_flat_state(leaves))
    return filled[0], filled[1]
