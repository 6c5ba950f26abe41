"""Sequence to sequence: attention over an encoder's states, and a recurrent decoder that names one label after another.

Sources are right-padded with lengths, as everywhere. Time is the axis of every recurrence: a row never sees another.
True labels can be fed in `Decoder.teach` alone; `Decoder.infer` takes none.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt16

from jaxrnn.blueprint import GATES
from jaxrnn.errors import JaxrnnError
from jaxrnn.layers import Recurrent, glorot
from jaxrnn.recurrence import step_of

# before a softmax: a score that leaves no weight, yet finite
NEVER = -1e30
# Of the inverse sigmoid: how many of its widths k the training has.
STEEPNESS = 10.0


class Attention(nnx.Module):
    """Weighs a source's steps by how well each fits a query.

    The score of step s for query q is q . s (dot), q W s (general; both Luong et al. 2015, arXiv 1508.04025, eq. 8) or
    v tanh(W q + U s) (additive; Bahdanau et al. 2015, arXiv 1409.0473, appendix A.1.2), without biases as there.
    """

    def __init__(
        self, kind: str, queries: int, source: int, *, units: int | None = None, look_ahead: bool = True, rngs: nnx.Rngs
    ) -> None:
        """queries, source: the widths of a query and of a source's step. units: of the additive score; as wide as the
        queries where None. look_ahead: whether the query at position t sees the steps beyond t.
        """
        if kind == "dot" and queries != source:
            raise JaxrnnError(
                f"dot attention compares a decoder state of {queries} units with an encoder state of {source}: they "
                "must be equally wide. Give both as many units (a bidirectional encoder counts twice), or choose "
                "general or additive attention"
            )
        units = queries if units is None else units
        self.kind, self.look_ahead = kind, look_ahead
        width = {"dot": None, "general": source, "additive": units}[kind]
        self.query_kernel = None if width is None else nnx.Param(glorot(rngs.params(), (queries, width)))
        additive = kind == "additive"
        self.source_kernel = nnx.Param(glorot(rngs.params(), (source, units))) if additive else None
        self.score_kernel = nnx.Param(glorot(rngs.params(), (units, 1))) if additive else None

    def __call__(
        self,
        queries: Float[Array, "batch target query"],
        source: Float[Array, "batch source feature"],
        lengths: Int[Array, " batch"],
    ) -> tuple[Float[Array, "batch target feature"], Float[Array, "batch target source"]]:
        """Returns the context, the weighted mean of the source's valid steps, and the weights, whose sum is 1.

        Both are 0 where a query sees no step: in a row of length 0.
        """
        visible = self.visible(lengths, jnp.arange(queries.shape[1]), source.shape[1])
        # garbage times a weight of 0 would still be NaN where it is infinite
        source = jnp.where(_valid(lengths, source.shape[1]), source, 0)
        return self.weigh(queries, self.keys(source), source, visible)

    def visible(
        self, lengths: Int[Array, " batch"], positions: Int[Array, " target"], steps: int
    ) -> Bool[Array, "batch target source"]:
        """Returns which of a source's steps the queries at these positions see."""
        step = jnp.arange(steps)
        valid = jnp.broadcast_to((step < lengths[:, None])[:, None, :], (lengths.shape[0], positions.shape[0], steps))
        return valid if self.look_ahead else valid & (step <= positions[:, None])

    def keys(self, source: Float[Array, "batch source feature"]) -> Float[Array, "batch source key"]:
        """Returns what queries are compared with: the part of a score that is the same for every query."""
        return source if self.source_kernel is None else source @ self.source_kernel[...]

    def weigh(
        self,
        queries: Float[Array, "batch target query"],
        keys: Float[Array, "batch source key"],
        source: Float[Array, "batch source feature"],
        visible: Bool[Array, "batch target source"],
    ) -> tuple[Float[Array, "batch target feature"], Float[Array, "batch target source"]]:
        """Returns the context and the weights. source: 0 in padding."""
        if self.query_kernel is not None:
            queries = queries @ self.query_kernel[...]
        if self.score_kernel is None:
            scores = jnp.einsum("bth,bsh->bts", queries, keys)
        else:
            score_kernel = self.score_kernel[...]

            # one target at a time, and anew in the backward pass: [batch, target, source, unit] would fill the memory
            @jax.checkpoint
            def additive(query: Array) -> Array:
                return (jnp.tanh(query[:, None, :] + keys) @ score_kernel)[:, :, 0]

            scores = jnp.swapaxes(jax.lax.map(additive, jnp.swapaxes(queries, 0, 1)), 0, 1)
        weights = jnp.where(visible, jax.nn.softmax(jnp.where(visible, scores, NEVER)), 0)
        return jnp.einsum("bts,bsf->btf", weights, source), weights


class Decoder(nnx.Module):
    """A recurrent decoder with attention (Luong et al. 2015, arXiv 1508.04025, section 3, eq. 5 and 6).

    At position t the cell reads the label before (a learned start token at the first) and a summary of the source; the
    context c is that of its new state h; the logits are linear in tanh(W [c; h]). Labels enter one-hot: a label's row
    of the cell's input kernel is its embedding, one vector a gate.

    With `positions` None there is one label for each step of the source, and the summary is the source's state at the
    same step (Liu and Lane 2016, arXiv 1609.01454: aligned inputs). Otherwise there are so many positions at most, one
    class must mean the sequence's end, and the summary is the mean of the source's valid states.
    """

    def __init__(
        self,
        cell: str,
        source: int,
        units: int,
        classes: int,
        *,
        attention: str,
        positions: int | None = None,
        look_ahead: bool = True,
        rngs: nnx.Rngs,
    ) -> None:
        """cell: as of `Recurrent`. source: width of an encoder's state. attention: kind of `Attention`. look_ahead:
        whether a position's attention sees the source's later steps; without, the decoder is as causal as its source.
        """
        if positions is not None and not look_ahead:
            raise JaxrnnError(
                "attention that does not look ahead needs one label for each step: the positions of a label sequence "
                "are no steps, and its labels summarise the whole input. Let it look ahead, or label each step"
            )
        self.classes, self.positions = classes, positions
        self.recurrent = Recurrent(cell, classes + 1 + source, units, rngs=rngs)
        self.attention = Attention(attention, units, source, look_ahead=look_ahead, rngs=rngs)
        self.combined = nnx.Linear(source + units, units, use_bias=False, kernel_init=glorot, rngs=rngs)
        self.logits = nnx.Linear(units, classes, kernel_init=glorot, rngs=rngs)

    def teach(
        self,
        source: Float[Array, "batch source feature"],
        lengths: Int[Array, " batch"],
        labels: Int[Array, "batch target"],
        label_lengths: Int[Array, " batch"],
        *,
        teacher_share: Float[Array, ""] | float,
        bits: UInt16[Array, "batch target"],
    ) -> tuple[Float[Array, "batch target class"], Float[Array, "batch target source"]]:
        """Returns training's logits and attention weights, 0 beyond `label_lengths`: scheduled sampling (Bengio et al.
        2015, arXiv 1506.03099).

        Each position is fed the true label before it with probability `teacher_share`, which may be traced, else the
        decoder's own most probable one; so too where the true one is -1, unknown. 1 is teacher forcing, 0 is `infer`.
        bits: uniform, drawn outside of the differentiated loop; with 16 of them the share holds to 1 / 65,536. The
        choice of labels has no gradient.
        """
        true = jnp.where(bits.astype(jnp.float32) < teacher_share * 65536, labels, -1)
        given = jnp.pad(true[:, :-1], ((0, 0), (1, 0)), constant_values=self.classes)
        # which labels are fed has no gradient: of a copy that has none, the loop is not differentiated at all
        structure, state = nnx.split(self)
        still = nnx.merge(structure, jax.lax.stop_gradient(state))
        fed, _, _ = still._feed_back(jax.lax.stop_gradient(source), lengths, given)
        # once they are known, all positions are read at once
        logits, weights = self._read(source, lengths, fed, label_lengths)
        return _masked(logits, weights, jnp.where(lengths > 0, label_lengths, 0))

    def infer(
        self, source: Float[Array, "batch source feature"], lengths: Int[Array, " batch"]
    ) -> tuple[Float[Array, "batch target class"], Float[Array, "batch target source"]]:
        """Returns the logits and attention weights of a decoder that is fed its own most probable labels alone.

        With one label a step they are 0 beyond `lengths`. Of a label sequence all positions are decoded; `before_end`
        says how many labels count.
        """
        targets = source.shape[1] if self.positions is None else self.positions
        given = jnp.full((source.shape[0], targets), -1).at[:, 0].set(self.classes)
        _, logits, weights = self._feed_back(source, lengths, given)
        ends = lengths if self.positions is None else jnp.where(lengths > 0, targets, 0)
        return _masked(logits, weights, ends)

    def _feed_back(
        self, source: Array, lengths: Array, given: Int[Array, "batch target"]
    ) -> tuple[Int[Array, "batch target"], Array, Array]:
        """Returns the labels that the positions are fed, those given, and where that is -1 what the position before
        found most probable; with the logits and weights that they lead to.
        """
        source, summaries = self._prepared(source, lengths, given.shape[1])
        keys, layer = self.attention.keys(source), self.recurrent
        embeddings, kernel = jnp.split(layer.input_kernel[...], [self.classes + 1])
        projected = jnp.einsum("bts,sg->tbg", summaries, kernel) + layer.bias[...]
        candidate_bias = None if layer.recurrent_bias is None else layer.recurrent_bias[...]
        step = step_of(layer.cell, layer.recurrent_kernel[...], candidate_bias)

        def position(carry: Any, x: Any) -> Any:
            state, found = carry
            given, projected, place = x
            fed = jnp.where(given >= 0, given, found)
            state = step(state, tuple(jnp.split(embeddings[fed] + projected, GATES[layer.cell], axis=-1)))
            visible = self.attention.visible(lengths, place[None], source.shape[1])
            logits, weights = (values[:, 0] for values in self._named(state[0][:, None, :], keys, source, visible))
            return (state, logits.argmax(axis=1).astype(fed.dtype)), (fed, logits, weights)

        zeros = jnp.zeros((source.shape[0], layer.units), projected.dtype)
        start = (zeros, zeros) if layer.cell == "lstm" else (zeros,)
        places = jnp.arange(given.shape[1])
        _, outcome = jax.lax.scan(position, (start, given[:, 0]), (given.T, projected, places))
        fed, logits, weights = (jnp.swapaxes(values, 0, 1) for values in outcome)
        return fed, logits, weights

    def _read(
        self, source: Array, lengths: Array, fed: Int[Array, "batch target"], label_lengths: Array
    ) -> tuple[Array, Array]:
        """Returns the logits and weights where it is known which label each position is fed."""
        targets = fed.shape[1]
        source, summaries = self._prepared(source, lengths, targets)
        embedded = jax.nn.one_hot(fed, self.classes + 1, dtype=source.dtype)
        states, _ = self.recurrent(jnp.concatenate([embedded, summaries], axis=-1), label_lengths)
        visible = self.attention.visible(lengths, jnp.arange(targets), source.shape[1])
        return self._named(states, self.attention.keys(source), source, visible)

    def _prepared(self, source: Array, lengths: Array, targets: int) -> tuple[Array, Array]:
        """Returns the source with 0 in padding, and its summary for each position [batch, target, feature]."""
        source = jnp.where(_valid(lengths, source.shape[1]), source, 0)
        if self.positions is None:
            return source, source
        mean = source.sum(axis=1) / jnp.maximum(lengths, 1)[:, None]
        return source, jnp.broadcast_to(mean[:, None, :], (source.shape[0], targets, source.shape[2]))

    def _named(self, states: Array, keys: Array, source: Array, visible: Array) -> tuple[Array, Array]:
        """Returns the logits and weights of the decoder's states."""
        context, weights = self.attention.weigh(states, keys, source, visible)
        attentional = jnp.tanh(self.combined(jnp.concatenate([context, states], axis=-1)))
        return self.logits(attentional), weights


def teacher_share(
    schedule: str, progress: Float[Array, ""], *, start: Float[Array, ""], final: Float[Array, ""], epochs: int
) -> Float[Array, ""]:
    """Returns the share of true labels that a decoder is fed in a step that begins when `progress` epochs, whole and
    broken, are over.

    `constant` is `start` throughout; the others go from there to `final` when all epochs are over (scheduled sampling;
    Bengio et al. 2015, arXiv 1506.03099, section 2.4): `linear` evenly, `inverse_sigmoid` as k / (k + exp(i / k)) at
    step i, its middle at half of the epochs, stretched so that it begins and ends at the shares themselves.
    """
    if schedule == "constant":
        return start
    over = jnp.clip(progress / epochs, 0, 1)
    if schedule == "inverse_sigmoid":
        # of i / k in units of all epochs, the middle of the curve is at log k = STEEPNESS / 2
        ends = jax.nn.sigmoid(STEEPNESS / 2), jax.nn.sigmoid(-STEEPNESS / 2)
        over = (ends[0] - jax.nn.sigmoid(STEEPNESS * (0.5 - over))) / (ends[0] - ends[1])
    return start + (final - start) * over


def before_end(labels: Int[Array, "batch position"], *, end: int) -> Int[Array, " batch"]:
    """Returns how many labels stand before the first `end`: all of them where there is none."""
    ended = labels == end
    return jnp.where(ended.any(axis=1), ended.argmax(axis=1), labels.shape[1])


def with_end(labels: Int[Array, "batch position"], positions: int, *, end: int) -> Int[Array, "batch place"]:
    """Returns label sequences, -1 beyond them, with `end` behind each and room for so many positions."""
    counts = (labels >= 0).sum(axis=1)[:, None]
    room = jnp.pad(labels, ((0, 0), (0, max(positions - labels.shape[1], 0))), constant_values=-1)[:, :positions]
    return jnp.where(jnp.arange(positions)[None, :] == counts, end, room)


def surprise(
    logits: Float[Array, "batch position label"], labels: Int[Array, "batch position"]
) -> Float[Array, " batch"]:
    """Returns -log p of label sequences with their end, the sum over positions; those beyond, -1, count nothing."""
    own = labels[:, :, None] == jnp.arange(logits.shape[2])
    return -jnp.where(own, jax.nn.log_softmax(logits), 0).sum(axis=(1, 2))


def _valid(lengths: Int[Array, " batch"], steps: int) -> Bool[Array, "batch step 1"]:
    return (jnp.arange(steps)[None, :] < lengths[:, None])[:, :, None]


def _masked(logits: Array, weights: Array, lengths: Int[Array, " batch"]) -> tuple[Array, Array]:
    valid = _valid(lengths, logits.shape[1])
    return jnp.where(valid, logits, 0), jnp.where(valid, weights, 0)
