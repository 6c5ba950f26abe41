"""Connectionist temporal classification (Graves et al. 2006): its loss, its best path, and how far that is from truth.

A path names one label or the blank for each step; it spells the labels that are left when repeats are collapsed and
blanks dropped. `decoding` has the searches that need no device.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# log 0, but finite, so that no difference of two of them is NaN
NEVER = -1e30


def ctc(
    logits: Float[Array, "batch step label"],
    lengths: Int[Array, " batch"],
    labels: Int[Array, "batch position"],
    label_lengths: Int[Array, " batch"],
    *,
    blank: int,
) -> Float[Array, " batch"]:
    """Returns -log p of each row's labels, summed over all paths that spell them (Graves et al. 2006, eqs. 5 to 8).

    Steps beyond `lengths` and positions beyond `label_lengths` may hold anything. A row of length 0 is filling: 0, with
    gradient 0. Labels that the input is too short to spell (`decoding.needed_steps`) have probability 0: infinity,
    with gradient 0.
    """
    valid = jnp.arange(logits.shape[1])[None, :] < lengths[:, None]
    log_probabilities = jax.nn.log_softmax(jnp.where(valid[:, :, None], logits, 0))
    # the states of a path: the labels, with blanks between and around them
    states = jnp.full((len(labels), 2 * labels.shape[1] + 1), blank, labels.dtype).at[:, 1::2].set(labels)
    # a product, as the gradient of a lookup adds in any order on a GPU; in full precision, as it only selects
    chosen = jax.nn.one_hot(states, logits.shape[2], dtype=logits.dtype)
    emitted = jnp.einsum("btk,bsk->tbs", log_probabilities, chosen, precision=jax.lax.Precision.HIGHEST)
    # a blank between two labels may be left out, unless they are equal
    may_skip = jnp.pad(states[:, 2:] != states[:, :-2], ((0, 0), (2, 0)))[:, : states.shape[1]]

    def later(forward: Array, by: int) -> Array:
        return jnp.pad(forward, ((0, 0), (by, 0)), constant_values=NEVER)[:, : forward.shape[1]]

    state = jnp.arange(states.shape[1])[None, :]
    last = 2 * label_lengths[:, None]

    def step(forward: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
        emission, is_valid = x
        ways = jnp.stack([forward, later(forward, 1), jnp.where(may_skip, later(forward, 2), NEVER)])
        new = jax.nn.logsumexp(ways, axis=0) + emission
        # kept near 0, where float32 is fine: over 5,000 steps log p falls to some -10,000
        peak = jax.lax.stop_gradient(jnp.where(state <= last, new, NEVER).max(axis=1))
        return jnp.where(is_valid[:, None], new - peak[:, None], forward), jnp.where(is_valid, peak, 0)

    start = jnp.broadcast_to(jnp.where(state == 0, 0, jnp.asarray(NEVER, logits.dtype)), states.shape)
    forward, peaks = jax.lax.scan(step, start, (emitted, valid.T))
    ends = jax.nn.logsumexp(jnp.where((state == last) | (state == last - 1), forward, NEVER), axis=1)
    repeats = (labels[:, 1:] == labels[:, :-1]) & (jnp.arange(1, labels.shape[1])[None, :] < label_lengths[:, None])
    possible = lengths >= label_lengths + repeats.sum(axis=1)
    loss = jnp.where(possible, -(peaks.sum(axis=0) + ends), jnp.inf)
    return jnp.where(lengths > 0, loss, 0)


def greedy(
    logits: Float[Array, "batch step label"], lengths: Int[Array, " batch"], *, blank: int
) -> tuple[Int[Array, "batch step"], Int[Array, " batch"]]:
    """Returns the labels that the most probable path spells, padded with -1, and how many there are of them.

    The most probable labels, whose probability is the sum over many paths, may be others: `decoding.prefix_beam`.
    """
    path = logits.argmax(axis=2).astype(jnp.int32)
    valid = jnp.arange(path.shape[1])[None, :] < lengths[:, None]
    begins = jnp.pad(path[:, 1:] != path[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    kept = valid & begins & (path != blank)
    # stable: those kept come first, in their order
    order = jnp.argsort(~kept, axis=1, stable=True)
    counts = kept.sum(axis=1, dtype=jnp.int32)
    spelled = jnp.take_along_axis(path, order, axis=1)
    return jnp.where(jnp.arange(path.shape[1])[None, :] < counts[:, None], spelled, -1), counts


def edit_distance(
    references: Int[Array, "batch position"],
    reference_lengths: Int[Array, " batch"],
    hypotheses: Int[Array, "batch place"],
    hypothesis_lengths: Int[Array, " batch"],
) -> Int[Array, " batch"]:
    """Returns how many substitutions, insertions and deletions turn each reference into its hypothesis, at the least.

    (Levenshtein 1966.) What lies beyond a length may be anything.
    """
    place = jnp.arange(hypotheses.shape[1] + 1, dtype=jnp.int32)[None, :]

    def advance(distances: Array, x: tuple[Array, Array]) -> tuple[Array, None]:
        label, is_valid = x
        deleted = distances + 1
        replaced = distances[:, :-1] + (hypotheses != label[:, None])
        without = deleted.at[:, 1:].min(replaced)
        # insertions, of which any number may follow one another: the least of all starts plus the way from there
        new = jax.lax.cummin(without - place, axis=1) + place
        return jnp.where(is_valid[:, None], new, distances), None

    # distances[j]: from the reference so far to the hypothesis's first j labels
    start = jnp.broadcast_to(place, (len(hypotheses), place.shape[1]))
    valid = jnp.arange(references.shape[1])[:, None] < reference_lengths[None, :]
    distances, _ = jax.lax.scan(advance, start, (references.T, valid))
    return jnp.take_along_axis(distances, hypothesis_lengths[:, None], axis=1)[:, 0]


def label_error_rate(
    distances: Int[Array, " row"], label_lengths: Int[Array, " row"], valid: Bool[Array, " row"]
) -> Float[Array, ""]:
    """Returns the sum of the valid rows' edit distances over the sum of their references' lengths (at least 1).

    It exceeds 1 where there are more insertions than labels.
    """
    return jnp.where(valid, distances, 0).sum() / jnp.maximum(jnp.where(valid, label_lengths, 0).sum(), 1)


def sequence_error_rate(distances: Int[Array, " row"], valid: Bool[Array, " row"]) -> Float[Array, ""]:
    """Returns the share of the valid rows whose labels are not all right."""
    return (valid & (distances > 0)).sum() / jnp.maximum(valid.sum(), 1)
