"""Training: a pack of trials at once, in one compiled program, epoch by epoch.

Everything about one trial is a function of its own hyperparameters and seed; `jax.vmap` makes a pack of it. Randomness
is drawn by folding the trial's seed with the epoch, the window and the step (or the object), never from a stream, so
that where the work is cut, or what trains beside it, changes nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array

from jaxrnn import losses, models, monitoring
from jaxrnn.batches import Bucket, Schedule
from jaxrnn.config import Model, Output, Training
from jaxrnn.monitoring import Scores

# What a trial's seed is folded with, so that its draws for different purposes have nothing in common.
INITIALISATION, ORDER, DROPOUT, AUGMENTATION = range(4)
EVALUATION_BATCH = 512

# From a batch, and the key of a trial's epoch, to the batch that is trained on.
Augment = Callable[[Bucket, Array], Bucket]


class Hyperparameters(NamedTuple):
    """The traced keys of one trial; of a pack, each with a leading [trial] axis."""

    seed: Any
    learning_rate: Any
    dropout: Any
    recurrent_dropout: Any
    l2: Any
    gamma: Any
    class_weights: Any


class State(NamedTuple):
    """One trial in training; of a pack, each leaf with a leading [trial] axis.

    epoch: epochs finished. loss_sum, hits, seen: of the epoch under way. best_*: at the epoch with the best validation
    score (higher is better; a monitored loss is negated). running: False once it is finished, stopped or diverged.
    """

    parameters: Any
    statistics: Any
    optimiser: Any
    epoch: Array
    loss_sum: Array
    hits: Array
    seen: Array
    best_parameters: Any
    best_statistics: Any
    best_score: Array
    best_epoch: Array
    diverged: Array
    running: Array


class EpochReport(NamedTuple):
    """What a finished epoch says of one trial: means over its batches, in training mode, and validation scores."""

    train_loss: Array
    train_accuracy: Array
    validation: Scores


class Program(NamedTuple):
    """The compiled functions of a pack; all take and return states with a leading [trial] axis."""

    begin: Callable[[Hyperparameters], State]
    advance: Callable[..., State]
    evaluate: Callable[[State, tuple[Bucket, ...]], Array]
    finish_epoch: Callable[..., tuple[State, EpochReport]]


def make(
    model: Model,
    training: Training,
    features: int,
    metadata: int,
    classes: int,
    augment: Augment | None = None,
    *,
    recurrent_dropout: bool = False,
) -> Program:
    """Returns the program that trains packs of trials of one network.

    begin(hyperparameters) -> state. advance(state, hyperparameters, buckets, schedule, window, start, stop) -> state
    after the steps [start, stop) of a window's schedule; all but the states' shapes is traced, so that any cut of any
    window runs the same program. evaluate(state, buckets) -> logits [trial, row, class].
    finish_epoch(state, hyperparameters, validation logits, labels [row], valid [row]) -> state, report.
    augment: changes each batch before it is trained on; None compiles nothing in. recurrent_dropout: whether any trial
    has some; else nothing of it is compiled in.
    """
    template = network(model, features, metadata, classes)
    structure = nnx.graphdef(template)

    def optimiser(hyper: Hyperparameters) -> optax.GradientTransformation:
        clip = training.gradient_clip
        adam = optax.adam(hyper.learning_rate)
        return adam if clip is None else optax.chain(optax.clip_by_global_norm(clip), adam)

    def begin(hyper: Hyperparameters) -> State:
        key = jax.random.fold_in(jax.random.key(hyper.seed), INITIALISATION)
        _, parameters, statistics = nnx.split(
            network(model, features, metadata, classes, key), nnx.Param, nnx.BatchStat
        )
        return State(
            parameters=parameters,
            statistics=statistics,
            optimiser=optimiser(hyper).init(parameters),
            epoch=jnp.int32(0),
            loss_sum=jnp.float32(0),
            hits=jnp.int32(0),
            seen=jnp.int32(0),
            best_parameters=parameters,
            best_statistics=statistics,
            best_score=jnp.float32(-jnp.inf),
            best_epoch=jnp.int32(0),
            diverged=jnp.bool(False),
            running=jnp.bool(True),
        )

    def order(hyper: Hyperparameters, epoch: Array, window: Array, buckets: tuple[Bucket, ...]) -> tuple[Array, ...]:
        """Returns for each bucket [batch, row] which row goes into which batch, -1 for filling, which comes last."""
        key = jax.random.fold_in(_epoch_key(hyper, ORDER, epoch), window)
        orders = []
        for index, bucket in enumerate(buckets):
            rows = len(bucket.lengths)
            drawn = jax.random.permutation(jax.random.fold_in(key, index), rows)
            present = jnp.asarray(bucket.lengths)[drawn] > 0
            slots = rows + -rows % training.batch_size
            place = jnp.where(present, jnp.cumsum(present) - 1, slots)  # beyond the end: dropped
            drawn = jnp.full(slots, -1).at[place].set(drawn, mode="drop")
            orders.append(drawn.reshape(-1, training.batch_size))
        return tuple(orders)

    def update(state: State, hyper: Hyperparameters, batch: Bucket, bits: Array) -> State:
        """Returns the state after one step of gradient descent on one batch."""
        present = batch.lengths > 0
        count = present.sum()

        def objective(parameters: Any) -> tuple[Array, tuple[Any, Array]]:
            net = nnx.merge(structure, parameters, state.statistics, copy=True)
            logits = net(
                batch.features,
                batch.lengths,
                batch.metadata,
                dropout_rate=hyper.dropout,
                recurrent_dropout_rate=hyper.recurrent_dropout if recurrent_dropout else None,
                dropout_bits=bits,
            )
            each = losses.focal(logits, jnp.asarray(batch.labels), class_weights=hyper.class_weights, gamma=hyper.gamma)
            loss = jnp.where(present, each, 0).sum() / count
            kernel = models.penalised_kernel(parameters)
            if kernel is not None:
                loss += hyper.l2 * jnp.square(kernel).sum()
            hits = (present & (logits.argmax(axis=1) == batch.labels)).sum()
            return loss, (nnx.state(net, nnx.BatchStat), hits)

        (loss, (statistics, hits)), gradient = jax.value_and_grad(objective, has_aux=True)(state.parameters)
        steps, memory = optimiser(hyper).update(gradient, state.optimiser, state.parameters)
        return state._replace(
            parameters=optax.apply_updates(state.parameters, steps),
            statistics=statistics,
            optimiser=memory,
            loss_sum=state.loss_sum + loss * count,
            hits=state.hits + hits,
            seen=state.seen + count,
        )

    def step(
        state: State,
        hyper: Hyperparameters,
        orders: tuple[Array, ...],
        buckets: tuple[Bucket, ...],
        window: Array,
        place: Array,
        bucket: Array,
        number: Array,
    ) -> State:
        key = jax.random.fold_in(jax.random.fold_in(_epoch_key(hyper, DROPOUT, state.epoch), window), place)
        longest = max(bucket.features.shape[1] for bucket in buckets)
        draws = template.dropout_draws(training.batch_size, longest, recurrent=recurrent_dropout)
        bits = jax.random.bits(key, (draws,), jnp.uint16)

        def on(index: int) -> Callable[[State], State]:
            def branch(state: State) -> State:
                rows = orders[index][number]
                batch = jax.tree.map(lambda values: values[jnp.maximum(rows, 0)], buckets[index])
                batch = batch._replace(lengths=jnp.where(rows >= 0, batch.lengths, 0))
                if augment is not None:
                    batch = augment(batch, _epoch_key(hyper, AUGMENTATION, state.epoch))
                return update(state, hyper, batch, bits)

            return branch

        branches = [on(index) for index in range(len(buckets))]
        return jax.lax.switch(bucket, branches, state)

    @jax.jit
    def advance(
        states: State,
        hypers: Hyperparameters,
        buckets: tuple[Bucket, ...],
        schedule: Schedule,
        window: Array,
        start: Array,
        stop: Array,
    ) -> State:
        orders = jax.vmap(order, in_axes=(0, 0, None, None))(hypers, states.epoch, window, buckets)
        # the schedule stays outside of vmap: a bucket that all trials share is a branch, else all branches would run
        pack_step = jax.vmap(step, in_axes=(0, 0, 0, None, None, None, None, None))

        def body(place: Array, states: State) -> State:
            bucket, number = schedule.bucket[place], schedule.number[place]
            return pack_step(states, hypers, orders, buckets, window, place, bucket, number)

        return jax.lax.fori_loop(start, stop, body, states)

    def finish_epoch(
        state: State, hyper: Hyperparameters, logits: Array, labels: Array, valid: Array
    ) -> tuple[State, EpochReport]:
        each = losses.focal(logits, labels, class_weights=hyper.class_weights, gamma=hyper.gamma)
        scored = monitoring.scores(logits, each, labels, valid)
        train_loss, train_accuracy = state.loss_sum / state.seen, state.hits / state.seen
        epoch = state.epoch + 1
        score = -scored.loss if training.monitor == "loss" else getattr(scored, training.monitor)
        finite = jnp.isfinite(train_loss) & jnp.isfinite(scored.loss)
        better = state.running & finite & (score > state.best_score)
        best_epoch = jnp.where(better, epoch, state.best_epoch)
        patient = True if training.patience is None else epoch - best_epoch < training.patience
        state = state._replace(
            epoch=epoch,
            loss_sum=jnp.float32(0),
            hits=jnp.int32(0),
            seen=jnp.int32(0),
            best_parameters=_where(better, state.parameters, state.best_parameters),
            best_statistics=_where(better, state.statistics, state.best_statistics),
            best_score=jnp.where(better, score, state.best_score),
            best_epoch=best_epoch,
            diverged=state.diverged | (state.running & ~finite),
            running=state.running & finite & patient & (epoch < training.epochs),
        )
        return state, EpochReport(train_loss, train_accuracy, scored)

    return Program(
        begin=jax.jit(jax.vmap(begin)),
        advance=advance,
        evaluate=jax.jit(
            jax.vmap(
                lambda state, buckets: evaluate(structure, state.parameters, state.statistics, buckets),
                in_axes=(0, None),
            )
        ),
        finish_epoch=jax.jit(jax.vmap(finish_epoch, in_axes=(0, 0, 0, None, None))),
    )


def _epoch_key(hyper: Hyperparameters, purpose: int, epoch: Array) -> Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(hyper.seed), purpose), epoch)


def network(
    model: Model, features: int, metadata: int, classes: int, key: Any = None, *, output: Output = "sequence"
) -> models.Network:
    """Returns the network of a config; without a key only its structure is of use."""
    rngs = nnx.Rngs(params=jax.random.key(0) if key is None else key)
    return models.Network(model, output, features, metadata, classes, rngs=rngs)


def evaluate(structure: Any, parameters: Any, statistics: Any, buckets: tuple[Bucket, ...]) -> Array:
    """Returns the logits [row, class] of one trial's network for all buckets' rows, in their order.

    Each bucket's rows must be a multiple of the evaluation batch (`evaluation_multiple`), which bounds the memory.
    """

    def batch_logits(batch: Bucket) -> Array:
        return nnx.merge(structure, parameters, statistics)(batch.features, batch.lengths, batch.metadata)

    logits = []
    for bucket in buckets:
        rows = len(bucket.lengths)
        size = min(rows, EVALUATION_BATCH)
        count = rows // size  # written out: a survey without metadata has arrays of no columns, which -1 can't divide
        shaped = [values.reshape(count, size, *values.shape[1:]) for values in bucket]
        batches = Bucket(*shaped)
        logits.append(jax.lax.map(batch_logits, batches).reshape(rows, -1))
    return jnp.concatenate(logits)


def evaluation_multiple(count: int) -> int:
    """Returns what number of rows a split's buckets are filled up to a multiple of: small splits go in one batch."""
    return EVALUATION_BATCH if count > EVALUATION_BATCH else 1


def _where(condition: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def stacked(trials: list[Hyperparameters]) -> Hyperparameters:
    """Returns the hyperparameters of a pack, with a leading [trial] axis."""
    return Hyperparameters(*(np.stack(values) for values in zip(*trials, strict=True)))
