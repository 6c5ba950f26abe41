"""Devices that share each batch's rows out come to what one device comes to, whatever the network."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_training import Setting, member, same

from jaxrnn import shares

# What has something in common with other rows, or draws for each of them: batch norm, input normalisation, dropout of
# sequences, vectors and states, a teacher. Both directions, and a pool over the steps, to keep them company.
LAYERS: list[Any] = [
    "input_normalisation",
    "batch_norm",
    {"layer": "dropout"},
    {"layer": "lstm", "units": 4, "bidirectional": True},
    {"layer": "pool", "kind": "attention"},
    "metadata",
    "batch_norm",
    {"layer": "dropout", "rate": 0.2},
]
NETWORKS: dict[str, dict[str, Any]] = {
    "layers": {"layers": LAYERS, "recurrent_dropout": True},
    "decoder": {"decoder": {"units": 4}, "teacher_share": 0.5, "length_buckets": 1},
}
DEVICES = 2


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_shared_out_are_those_of_one_device(name: str) -> None:
    assert len(jax.devices()) >= DEVICES
    setting = Setting(**NETWORKS[name])
    pack = [setting.hyper(1, recurrent=0.3 * (name == "layers")), setting.hyper(2, gamma=1.0)]
    hypers, begun = setting.begin(pack)
    alone = setting.advance(begun, hypers, 0, setting.steps)
    scored = setting.program.evaluate(alone, hypers, setting.validation.buckets)
    ended, report = setting.finish_epoch(alone, hypers)

    setting.program = setting.make(row_devices=DEVICES)
    hypers, states = setting.begin(pack)
    assert same(jax.tree.leaves(states), jax.tree.leaves(begun))
    states = setting.advance(states, hypers, 0, setting.steps)
    for one, other in zip(jax.tree.leaves(states), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
        # no device has drifted from the other
        (first, second) = (np.asarray(shard.data) for shard in one.addressable_shards)
        np.testing.assert_array_equal(first, second)
    # 40 rows of validation in two buckets, which two devices need not divide
    logits = setting.program.evaluate(jax.device_put(alone, setting.program.own), hypers, setting.validation.buckets)
    np.testing.assert_allclose(logits, scored, rtol=1e-5, atol=1e-5)
    after, reported = setting.finish_epoch(states, hypers)
    for one, other in zip(jax.tree.leaves((after, reported)), jax.tree.leaves((ended, report)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    # and it is the trials' rows that are shared out, not the trials
    assert not same(member(states.parameters, 0), member(states.parameters, 1))


def test_gradients_of_shares_are_those_of_the_whole() -> None:
    """Through a sum over all rows, as batch norm has one, and where the devices don't divide the rows."""
    mesh = jax.make_mesh((DEVICES,), (shares.AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    values = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3)))

    def loss(weights: jax.Array, values: jax.Array) -> jax.Array:
        made = values * weights
        centred = made - shares.summed(made.sum(axis=0)) / 7
        return jnp.where(values != 0, centred**3, 0).sum()

    def shared(weights: jax.Array, values: jax.Array) -> Any:
        assert shares.count() == DEVICES
        found = shares.summed(jax.value_and_grad(loss)(weights, shares.own(values)))
        return found, shares.gathered(shares.own(values), len(values))

    weights = jnp.arange(1.0, 4.0)
    specs = {"in_specs": jax.P(), "out_specs": jax.P(), "check_vma": False}
    (total, gradient), rows = jax.jit(jax.shard_map(shared, mesh=mesh, **specs))(weights, values)
    assert shares.count() == 1
    expected, wanted = jax.value_and_grad(loss)(weights, values)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-5)
    np.testing.assert_array_equal(rows, values)
