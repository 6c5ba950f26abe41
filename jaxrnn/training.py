"""Training: a pack of trials at once, in one compiled program, epoch by epoch.

Everything about one trial is a function of its own hyperparameters and seed; a map makes a pack of it. Randomness
is drawn by folding the trial's seed with the epoch, the window and the step (or the object), never from a stream, so
that where the work is cut, or what trains beside it, changes nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array

from jaxrnn import attention, ctc, decoding, losses, models, monitoring, optimisers, shares
from jaxrnn.batches import Bucket, Schedule
from jaxrnn.config import LOWER_IS_BETTER, Model, Output, Training
from jaxrnn.monitoring import Scores
from jaxrnn.optimisers import Plateau

# What a trial's seed is folded with, so that its draws for different purposes have nothing in common.
INITIALISATION, ORDER, DROPOUT, AUGMENTATION, TEACHER = range(5)
EVALUATION_BATCH = 512
LEAST = np.finfo(np.float32).tiny  # instead of a sum of weights of 0

# From a batch, the key of a trial's epoch and its fold to the batch that is trained on.
Augment = Callable[[Bucket, Array, Any], Bucket]


class Hyperparameters(NamedTuple):
    """The traced keys of one trial; of a pack, each with a leading [trial] axis. Those with a value here do nothing by
    it. gradient_clip: inf for none. fold: which of the folds that windows hold is the trial's."""

    seed: Any
    learning_rate: Any
    dropout: Any
    recurrent_dropout: Any
    l2: Any
    gamma: Any
    class_weights: Any
    label_smoothing: Any = np.float32(0)
    momentum: Any = np.float32(0)
    weight_decay: Any = np.float32(0)
    gradient_clip: Any = np.float32(np.inf)
    warmup_epochs: Any = np.float32(0)
    final_share: Any = np.float32(1)
    plateau_factor: Any = np.float32(1)
    plateau_patience: Any = np.int32(1)
    teacher_share: Any = np.float32(0)
    final_teacher_share: Any = np.float32(0)
    fold: Any = np.int32(0)


class Targets(NamedTuple):
    """What a network is to say at its places: a place is a row, or a row's step where it predicts at every step.

    labels [place] class indices, weights [place] of each in the loss (0: counts nowhere), scored [scored] indices of
    the places whose predictions are scored, valid [scored] which of these are not filling. Of label sequences, whose
    place is a row, labels is how many there are. Programs take them with a leading [fold] axis (`of_folds`).
    """

    labels: Any
    weights: Any
    scored: Any
    valid: Any


class State(NamedTuple):
    """One trial in training; of a pack, each leaf with a leading [trial] axis.

    epoch: epochs finished. learning_rate: of the last step. loss_sum, hits, seen: of the epoch under way, weighted as
    in `weighted_labels`. best_*: at
    the epoch with the best validation score (higher is better; a monitored loss is negated). running: False once it is
    finished, stopped or diverged.
    """

    parameters: Any
    statistics: Any
    optimiser: Any
    plateau: Plateau
    epoch: Array
    learning_rate: Array
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
    """What a finished epoch says of one trial: the learning rate of its last step, means over its batches, in training
    mode, and validation scores."""

    learning_rate: Array
    train_loss: Array
    train_accuracy: Array
    validation: Scores


class Program(NamedTuple):
    """The compiled functions of a pack; all take and return states with a leading [trial] axis. own and
    common: where must lie what has that axis and what all trials share; None for the one device. Elsewhere `advance`
    would be compiled again."""

    begin: Callable[[Hyperparameters], State]
    advance: Callable[..., State]
    evaluate: Callable[[State, Hyperparameters, tuple[Bucket, ...]], Array]
    finish_epoch: Callable[..., tuple[State, EpochReport]]
    own: jax.sharding.NamedSharding | None
    common: jax.sharding.NamedSharding | None


def make(
    model: Model,
    training: Training,
    features: int,
    metadata: int,
    outputs: int,
    augment: Augment | None = None,
    *,
    kind: Output = "sequence",
    recurrent_dropout: bool = False,
    importance: Sequence[float] | None = None,
    target: int | None = None,
    folds: int = 1,
    waits: bool = False,
    devices: int = 1,
    row_devices: int = 1,
) -> Program:
    """Returns the program that trains packs of trials of one network. kind: `task.kind`. Label sequences are spelled by
    CTC, or by the network's decoder where it has one.

    begin(hyperparameters) -> state. advance(state, hyperparameters, buckets, schedule, window, start, stop) -> state
    after the steps [start, stop) of a window's schedule; all but the states' shapes is traced, so that any cut of any
    window runs the same program. It and finish_epoch write over the state that they are given. evaluate(state,
    hyperparameters, buckets) -> logits [trial, place, class], or of label sequences the loss and the edit distance
    [trial, row, 2] of greedy decoding. finish_epoch(state, hyperparameters, what `evaluate` gives of validation,
    targets) -> state, report.
    outputs: how many output units the network has, one a class, or a single one for two classes.
    augment: changes each batch before it is trained on; None compiles nothing in. recurrent_dropout: whether any trial
    has some; else nothing of it is compiled in. importance, target: what `monitoring.scores` needs of the task.
    folds: how many the windows hold; a trial sees nothing but its own rows. waits: whether the schedule may have steps
    in which a trial has no batch, because another fold has one more; they leave it as it is. devices: how many share
    the trials out; the width of a pack is a multiple of it. row_devices: how many share each batch's rows out, every
    trial's; they divide the batch. One of the two numbers is 1.
    """
    template = network(model, features, metadata, outputs, kind)
    structure = nnx.graphdef(template)
    spells = kind == "label_sequence"
    last = outputs - 1  # of label sequences CTC's blank, or the end that a decoder names

    def with_end(batch: Bucket) -> Array:
        return attention.with_end(jnp.asarray(batch.labels), template.steps_out(batch.features.shape[1]), end=last)

    def spelling_losses(logits: Array, batch: Bucket) -> Array:
        if template.decoder is not None:
            return attention.surprise(logits, with_end(batch))
        labels, lengths = jnp.asarray(batch.labels), template.lengths_out(jnp.asarray(batch.lengths))
        return ctc.ctc(logits, lengths, labels, (labels >= 0).sum(axis=1), blank=last)

    def spelled(logits: Array, batch: Bucket) -> Array:
        """Returns the loss and the edit distance [row, 2]."""
        labels, lengths = jnp.asarray(batch.labels), template.lengths_out(jnp.asarray(batch.lengths))
        if template.decoder is None:
            found, counts = ctc.greedy(logits, lengths, blank=last)
        else:
            found = logits.argmax(axis=2)
            counts = attention.before_end(found, end=last)
        distances = ctc.edit_distance(labels, (labels >= 0).sum(axis=1), found, counts)
        return jnp.stack([spelling_losses(logits, batch), distances.astype(logits.dtype)], axis=1)

    def optimiser(hyper: Hyperparameters, learning_rate: Array) -> optax.GradientTransformation:
        return optimisers.make(
            training.optimiser,
            learning_rate=learning_rate,
            momentum=hyper.momentum,
            weight_decay=hyper.weight_decay,
            gradient_clip=hyper.gradient_clip,
        )

    def begin(hyper: Hyperparameters) -> State:
        key = jax.random.fold_in(jax.random.key(hyper.seed), INITIALISATION)
        _, parameters, statistics = nnx.split(
            network(model, features, metadata, outputs, kind, key), nnx.Param, nnx.BatchStat
        )
        return State(
            parameters=parameters,
            statistics=statistics,
            optimiser=optimiser(hyper, hyper.learning_rate).init(parameters),
            plateau=Plateau.begun(),
            epoch=jnp.int32(0),
            learning_rate=jnp.float32(0),
            loss_sum=jnp.float32(0),
            hits=jnp.float32(0),
            seen=jnp.float32(0),
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
            rows = len(bucket.lengths) // folds
            first = hyper.fold * rows if folds > 1 else 0
            lengths = jax.lax.dynamic_slice_in_dim(jnp.asarray(bucket.lengths), first, rows)
            drawn = jax.random.permutation(jax.random.fold_in(key, index), rows)
            present = lengths[drawn] > 0
            slots = rows + -rows % training.batch_size
            place = jnp.where(present, jnp.cumsum(present) - 1, slots)  # beyond the end: dropped
            drawn = jnp.full(slots, -1).at[place].set(drawn + first, mode="drop")
            orders.append(drawn.reshape(-1, training.batch_size))
        return tuple(orders)

    def update(
        state: State, hyper: Hyperparameters, batch: Bucket, bits: Array, teacher_bits: Array | None, over: Array
    ) -> State:
        """Returns the state after one step of gradient descent on one batch; `over` is the share of the epoch before
        it. teacher_bits: [row, step], where there is a decoder."""
        labels, weights = weighted_labels(kind, batch)
        if spells and template.decoder is None:
            # augmentation may leave too few steps
            steps = template.lengths_out(jnp.asarray(batch.lengths))
            weights = jnp.where(steps >= decoding.needed_steps(jnp.asarray(batch.labels)), weights, 0)
        total = shares.summed(weights.sum())
        learning_rate = optimisers.learning_rate(
            training.schedule,
            state.epoch + over,
            peak=hyper.learning_rate,
            epochs=training.epochs,
            warmup_epochs=hyper.warmup_epochs,
            final_share=hyper.final_share,
            plateau=state.plateau,
        )
        share = attention.teacher_share(
            training.teacher_schedule,
            state.epoch + over,
            start=hyper.teacher_share,
            final=hyper.final_teacher_share,
            epochs=training.epochs,
        )

        def objective(parameters: Any) -> tuple[Array, tuple[Any, Array]]:
            net = nnx.merge(structure, parameters, state.statistics, copy=True)
            inputs = batch.features, batch.lengths, batch.metadata
            rates = {
                "dropout_rate": hyper.dropout,
                "recurrent_dropout_rate": hyper.recurrent_dropout if recurrent_dropout else None,
            }
            if teacher_bits is None:
                found = net(*inputs, **rates, dropout_bits=bits)
            else:
                if kind == "step":
                    known = jnp.where(weights > 0, labels, -1)
                elif spells:
                    known = with_end(batch)
                else:
                    # the label of the whole sequence is none of its steps', and a teacher would tell it at once
                    known = jnp.full(labels.shape, -1)
                found = net.taught(
                    *inputs, known, **rates, dropout_bits=bits, teacher_share=share, teacher_bits=teacher_bits
                )
            logits = losses.class_logits(found)
            # a batch may be without a labelled step: it teaches nothing
            each = spelling_losses(logits, batch) if spells else unreduced(logits, labels, hyper)
            loss = _weighted_sum(weights, each) / jnp.maximum(total, LEAST)
            kernel = models.penalised_kernel(parameters)
            if kernel is not None:
                loss += hyper.l2 * jnp.square(kernel).sum() / shares.count()
            # what is spelled in training is not looked at: decoding takes its time
            hits = jnp.float32(jnp.nan) if spells else _weighted_sum(weights, logits.argmax(axis=-1) == labels)
            return loss, (nnx.state(net, nnx.BatchStat), hits)

        (loss, (statistics, hits)), gradient = jax.value_and_grad(objective, has_aux=True)(state.parameters)
        loss, hits, gradient = shares.summed((loss, hits, gradient))
        steps, memory = optimiser(hyper, learning_rate).update(gradient, state.optimiser, state.parameters)
        return state._replace(
            parameters=optax.apply_updates(state.parameters, steps),
            statistics=statistics,
            optimiser=memory,
            learning_rate=learning_rate,
            loss_sum=state.loss_sum + loss * total,
            hits=state.hits + hits,
            seen=state.seen + total,
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
        over: Array,
    ) -> State:
        def drawn(purpose: int, shape: tuple[int, ...]) -> Array:
            key = jax.random.fold_in(jax.random.fold_in(_epoch_key(hyper, purpose, state.epoch), window), place)
            return jax.random.bits(key, shape, jnp.uint16)

        longest = max(bucket.features.shape[1] for bucket in buckets)
        draws = template.dropout_draws(training.batch_size, longest, recurrent=recurrent_dropout)
        bits = drawn(DROPOUT, (draws,))
        taught = None
        if template.decoder is not None:
            taught = shares.own(drawn(TEACHER, (training.batch_size, template.steps_out(longest))))

        def on(index: int) -> Callable[[State], State]:
            def branch(state: State) -> State:
                rows = shares.own(orders[index][number])
                batch = jax.tree.map(lambda values: values[jnp.maximum(rows, 0)], buckets[index])
                batch = batch._replace(lengths=jnp.where(rows >= 0, batch.lengths, 0))
                if augment is not None:
                    batch = augment(batch, _epoch_key(hyper, AUGMENTATION, state.epoch), hyper.fold)
                teacher_bits = None if taught is None else taught[:, : template.steps_out(batch.features.shape[1])]

                def taught_by_batch() -> State:
                    return update(state, hyper, batch, bits, teacher_bits, over)

                # of the whole batch: who shares it must not go apart
                there = (orders[index][number] >= 0).any()
                return jax.lax.cond(there, taught_by_batch, lambda: state) if waits else taught_by_batch()

            return branch

        branches = [on(index) for index in range(len(buckets))]
        return jax.lax.switch(bucket, branches, state)

    def advance(
        state: State,
        hyper: Hyperparameters,
        buckets: tuple[Bucket, ...],
        schedule: Schedule,
        window: Array,
        start: Array,
        stop: Array,
    ) -> State:
        orders = order(hyper, state.epoch, window, buckets)

        def body(place: Array, state: State) -> State:
            at_place = schedule.bucket[place], schedule.number[place], schedule.over[place]
            return step(state, hyper, orders, buckets, window, place, *at_place)

        return jax.lax.fori_loop(start, stop, body, state)

    def finish_epoch(
        state: State, hyper: Hyperparameters, logits: Array, targets: Targets
    ) -> tuple[State, EpochReport]:
        targets = jax.tree.map(lambda values: values[hyper.fold if folds > 1 else 0], targets)
        each = logits[:, 0] if spells else unreduced(logits, targets.labels, hyper)
        loss = _weighted_sum(targets.weights, each) / targets.weights.sum()
        places, valid = targets.scored, targets.valid
        if spells:
            scored = monitoring.spelling_scores(each[places], logits[places, 1], targets.labels[places], valid)
        else:
            scored = monitoring.scores(
                logits[places], each[places], targets.labels[places], valid, importance=importance, target=target
            )._replace(loss=loss)
        seen = jnp.maximum(state.seen, LEAST)
        train_loss, train_accuracy = state.loss_sum / seen, state.hits / seen
        epoch = state.epoch + 1
        score = getattr(scored, training.monitor) * (-1 if training.monitor in LOWER_IS_BETTER else 1)
        finite = jnp.isfinite(train_loss) & jnp.isfinite(scored.loss)
        better = state.running & finite & (score > state.best_score)
        best_epoch = jnp.where(better, epoch, state.best_epoch)
        patient = True if training.patience is None else epoch - best_epoch < training.patience
        state = state._replace(
            plateau=state.plateau.after(better, factor=hyper.plateau_factor, patience=hyper.plateau_patience),
            epoch=epoch,
            loss_sum=jnp.float32(0),
            hits=jnp.float32(0),
            seen=jnp.float32(0),
            best_parameters=_where(better, state.parameters, state.best_parameters),
            best_statistics=_where(better, state.statistics, state.best_statistics),
            best_score=jnp.where(better, score, state.best_score),
            best_epoch=best_epoch,
            diverged=state.diverged | (state.running & ~finite),
            running=state.running & finite & patient & (epoch < training.epochs),
        )
        return state, EpochReport(state.learning_rate, train_loss, train_accuracy, scored)

    def scored(state: State, hyper: Hyperparameters, buckets: tuple[Bucket, ...]) -> Array:
        told = spelled if spells else None
        fold = hyper.fold if folds > 1 else 0
        return evaluate(structure, state.parameters, state.statistics, buckets, told, fold=fold, folds=folds)

    over_trials = jax.vmap if together() else one_by_one
    mesh = own = common = None
    if devices * row_devices > 1:
        axis = "trial" if devices > 1 else shares.AXIS
        mesh = jax.sharding.Mesh(np.array(jax.devices()[: devices * row_devices]), (axis,))
        own, common = (jax.sharding.NamedSharding(mesh, spec) for spec in (_of_trials(mesh), jax.P()))
    # on a CPU one by one: LAPACK's decompositions of 64 orthogonal kernels at once never return
    started = jax.jit(jax.vmap(begin) if together() else lambda hypers: jax.lax.map(begin, hypers))

    def begun(hypers: Hyperparameters) -> State:
        # on one device: the decompositions of orthogonal kernels, on several of a CPU's at once, never return
        if own is None:
            return started(hypers)
        return shares.put(started(jax.device_put(hypers, jax.local_devices()[0])), own)

    return Program(
        begin=begun,
        # the schedule is shared: a bucket that all trials are at is a branch, else all branches would run
        advance=jax.jit(
            shared_out(over_trials(advance, (0, 0, None, None, None, None, None)), mesh, own=2, common=5),
            donate_argnums=0,
        ),
        evaluate=jax.jit(shared_out(over_trials(scored, (0, 0, None)), mesh, own=2, common=1)),
        finish_epoch=jax.jit(
            shared_out(jax.vmap(finish_epoch, (0, 0, 0, None)), mesh, own=3, common=1), donate_argnums=0
        ),
        own=own,
        common=common,
    )


def together() -> bool:
    """Returns whether a pack's trials train side by side, as a GPU needs it to be busy; on a CPU one after another, all
    of a segment: what one trial works on stays in the cache."""
    return jax.default_backend() != "cpu"


def one_by_one(function: Callable[..., Any], in_axes: tuple[int | None, ...]) -> Callable[..., Any]:
    """Returns what `jax.vmap(function, in_axes)`, axes 0 or None, does, working on one trial after another. The first
    value is the trial's state; one that no longer runs takes no time, and gives zeros, or its state as it is where
    the function gives a state."""

    def mapped(*values: Any) -> Any:
        own = [value for value, axis in zip(values, in_axes, strict=True) if axis == 0]

        def worked(own: list[Any]) -> Any:
            taken = iter(own)
            return function(*(next(taken) if axis == 0 else value for value, axis in zip(values, in_axes, strict=True)))

        def idle(own: list[Any]) -> Any:
            shape = jax.eval_shape(worked, own)
            return own[0] if isinstance(shape, State) else jax.tree.map(lambda of: jnp.zeros(of.shape, of.dtype), shape)

        return jax.lax.map(lambda own: jax.lax.cond(own[0].running, worked, idle, own), own)

    return mapped


def shared_out(
    function: Callable[..., Any], mesh: jax.sharding.Mesh | None, *, own: int, common: int
) -> Callable[..., Any]:
    """Returns a function of a pack that gives each device its share of the trials, or all of them where the mesh is one
    of rows. own: how many of its values, the first ones, have a leading [trial] axis, a multiple of the devices;
    common: how many follow without."""
    if mesh is None:
        return function
    specs = (_of_trials(mesh),) * own + (jax.P(),) * common
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=_of_trials(mesh), check_vma=False)


def _of_trials(mesh: jax.sharding.Mesh) -> jax.P:
    """Returns how what has a leading [trial] axis lies on the devices."""
    return jax.P("trial") if "trial" in mesh.axis_names else jax.P()


def row_devices() -> int:
    """Returns how many devices share each batch's rows out: those of several processes, where one trains alone none."""
    return len(jax.devices()) if jax.process_count() > 1 else 1


def devices_for(width: int) -> int:
    """Returns how many of the devices share out a pack of this width, a multiple of it: as many as can."""
    if row_devices() > 1:
        return 1
    return max(count for count in range(1, min(len(jax.devices()), width) + 1) if width % count == 0)


def width_for(trials: int) -> int:
    """Returns the width of a pack for so many trials: for each of as many devices as there are trials an equal share,
    so that places may stay empty."""
    return trials if row_devices() > 1 else trials + -trials % min(len(jax.devices()), trials)


def free_memory(devices: int) -> int | None:
    """Returns the bytes that are free on each of so many devices; None where one doesn't tell, as a CPU doesn't."""
    found = [device.memory_stats() for device in jax.local_devices()[:devices]]
    if not all(each and "bytes_limit" in each for each in found):
        return None
    return min(each["bytes_limit"] - each["bytes_in_use"] for each in found)


def memory_needed(compiled: Any) -> int:
    """Returns the bytes that a compiled program takes on each device besides its arguments, which lie there."""
    analysis = compiled.memory_analysis()
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes


def unreduced(logits: Array, labels: Array, hyper: Hyperparameters) -> Array:
    """Returns the loss of each label, of which a trial minimises the mean."""
    return losses.focal(
        logits,
        labels,
        class_weights=hyper.class_weights,
        gamma=hyper.gamma,
        label_smoothing=hyper.label_smoothing,
    )


def _epoch_key(hyper: Hyperparameters, purpose: int, epoch: Array) -> Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(hyper.seed), purpose), epoch)


def weighted_labels(kind: Output, batch: Bucket) -> tuple[Array, Array]:
    """Returns the labels of a batch's places and their weights in the loss, [row], or [row, step] by step.

    Each row weighs 1, shared by its steps where every prefix is predicted; where steps have labels, each step weighs 1.
    Filling, steps beyond the length and steps without a label weigh 0. Label sequences are [row, position] as they are.
    """
    lengths, labels = jnp.asarray(batch.lengths), jnp.asarray(batch.labels)
    if kind in ("sequence", "label_sequence"):
        return labels, (lengths > 0).astype(jnp.float32)
    valid = jnp.arange(batch.features.shape[1]) < lengths[:, None]
    if kind == "prefix":
        weights = valid / jnp.maximum(lengths, 1)[:, None].astype(jnp.float32)
        return jnp.broadcast_to(labels[:, None], valid.shape), weights
    return jnp.maximum(labels, 0), (valid & (labels >= 0)).astype(jnp.float32)


def targets(kind: Output, buckets: Iterable[Bucket]) -> Targets:
    """Returns what is to be said at the places of these buckets, in the order of `evaluate`.

    Of the prefixes of a sequence the last one is scored, the whole sequence.
    """
    found = []
    for bucket in buckets:
        labels, weights = (np.asarray(values) for values in weighted_labels(kind, bucket))
        scored = weights > 0
        if kind == "label_sequence":
            labels = (labels >= 0).sum(axis=1)
        if kind == "prefix":
            scored &= np.arange(labels.shape[1]) == np.asarray(bucket.lengths)[:, None] - 1
        places = np.flatnonzero(scored)
        found.append(Targets(labels.ravel(), weights.ravel(), places, np.ones(len(places), dtype=bool)))
    return joined(found)


def joined(pieces: list[Targets]) -> Targets:
    """Returns the targets of all pieces' places, one piece after another."""
    starts = np.cumsum([0, *(len(piece.labels) for piece in pieces)])
    return Targets(
        np.concatenate([piece.labels for piece in pieces]),
        np.concatenate([piece.weights for piece in pieces]),
        np.concatenate([piece.scored + start for piece, start in zip(pieces, starts, strict=False)]),
        np.concatenate([piece.valid for piece in pieces]),
    )


def of_folds(found: list[Targets]) -> Targets:
    """Returns the targets of folds, which have equally many places, with a leading [fold] axis; what is scored is
    filled up to the most that one has."""
    most = max(len(entry.scored) for entry in found)
    filled = []
    for entry in found:
        scored, valid = (np.pad(values, (0, most - len(values))) for values in (entry.scored, entry.valid))
        filled.append(entry._replace(scored=scored, valid=valid))
    return Targets(*(np.stack(values) for values in zip(*filled, strict=True)))


def _weighted_sum(weights: Array, values: Array) -> Array:
    # what weighs nothing may be no number
    return jnp.where(weights > 0, weights * values, 0).sum()


def network(
    model: Model, features: int, metadata: int, outputs: int, kind: Output = "sequence", key: Any = None
) -> models.Network:
    """Returns the network of a config; without a key its structure alone, and shapes where arrays would be."""

    def made(key: Any) -> models.Network:
        return models.Network(model, kind, features, metadata, outputs, rngs=nnx.Rngs(params=key))

    return nnx.eval_shape(lambda: made(jax.random.key(0))) if key is None else made(key)


def evaluate(
    structure: Any,
    parameters: Any,
    statistics: Any,
    buckets: tuple[Bucket, ...],
    told: Callable[[Array, Bucket], Array] | None = None,
    *,
    fold: int | Array = 0,
    folds: int = 1,
) -> Array:
    """Returns the logits [place, class] of one trial's network for all buckets' rows, in their order: a row's, or those
    of its steps one after another where it predicts at every step.

    told: what of a batch's logits is kept instead, [row, value]. fold: of `folds` that share the rows, the one that is
    looked at.
    Each fold's rows of a bucket must be a multiple of the evaluation batch (`evaluation_multiple`), which bounds the
    memory.
    """

    def batch_logits(batch: Bucket) -> Array:
        batch = jax.tree.map(shares.own, batch)
        net = nnx.merge(structure, parameters, statistics)
        found = losses.class_logits(net(batch.features, batch.lengths, batch.metadata))
        return found if told is None else told(found, batch)

    logits = []
    for bucket in buckets:
        rows = len(bucket.lengths) // folds
        size = min(rows, EVALUATION_BATCH)

        def at(number: Array, bucket: Bucket = bucket, rows: int = rows, size: int = size) -> Array:
            start = fold * rows + number * size
            return batch_logits(jax.tree.map(lambda values: jax.lax.dynamic_slice_in_dim(values, start, size), bucket))

        found = shares.gathered(jax.lax.map(at, jnp.arange(rows // size)), size, axis=1)
        logits.append(found.reshape(-1, found.shape[-1]))
    return jnp.concatenate(logits)


def attended(structure: Any, parameters: Any, statistics: Any, batch: Bucket) -> Array:
    """Returns the attention weights [row, target step, source step] of one trial's network, which has a decoder."""
    net = nnx.merge(structure, parameters, statistics)
    return net.attended(batch.features, batch.lengths, batch.metadata)


def evaluation_multiple(count: int) -> int:
    """Returns what number of rows a split's buckets are filled up to a multiple of: small splits go in one batch."""
    return EVALUATION_BATCH if count > EVALUATION_BATCH else 1


def _where(condition: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def stacked(trials: list[Hyperparameters]) -> Hyperparameters:
    """Returns the hyperparameters of a pack, with a leading [trial] axis."""
    return Hyperparameters(*(np.stack(values) for values in zip(*trials, strict=True)))
