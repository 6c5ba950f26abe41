"""A batch's rows, shared out among devices: each works on its own share, and what all have in common is summed.

Inside of a program that is mapped over devices by rows (`training.make`) these functions divide and join; anywhere else
a batch is one device's own, and they give back what they are given.
"""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

AXIS = "row"


def count() -> int:
    """Returns how many devices have a share of the batch."""
    return jax.sharding.get_abstract_mesh().shape.get(AXIS, 1)


def own(values: Array) -> Array:
    """Returns this device's share of values [row, ...]; filled up with 0 where the devices don't divide the rows."""
    devices = count()
    if devices == 1:
        return values
    each = -(-len(values) // devices)
    filled = jnp.pad(values, [(0, each * devices - len(values)), *[(0, 0)] * (values.ndim - 1)])
    return jax.lax.dynamic_slice_in_dim(filled, jax.lax.axis_index(AXIS) * each, each)


def summed(values: Any) -> Any:
    """Returns the sums of arrays of one type over all shares.

    Its transpose is itself: the gradients that devices take of their own share of a sum, once they are summed too, are
    those of the whole.
    """
    if count() == 1:
        return values
    # one message a call, and not one an array
    flat, restored = ravel_pytree(values)
    return restored(jax.lax.psum(flat, AXIS))


def gathered(values: Array, rows: int, axis: int = 0) -> Array:
    """Returns the values of all shares, one share's behind another's along the axis of their rows, without filling."""
    if count() == 1:
        return values
    return jax.lax.slice_in_dim(jax.lax.all_gather(values, AXIS, axis=axis, tiled=True), 0, rows, axis=axis)


def put(values: Any, sharding: jax.sharding.Sharding | None) -> Any:
    """Returns arrays that lie as `sharding` says, on the default device where it is None. Where it is of several
    processes, each must give the same values."""
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(values, sharding)

    def placed(value: Any) -> Array:
        if isinstance(value, jax.core.Tracer):
            return jax.device_put(value, sharding)
        if isinstance(value, jax.Array) and value.sharding == sharding:
            return value
        # JAX's own way would let all processes compare the values first, each time
        array = np.asarray(value)
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(placed, values)
