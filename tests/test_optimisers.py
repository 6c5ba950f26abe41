"""Optimisers and schedules take PyTorch's steps; the learning rate follows from where training is, and nothing else."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng

from jaxrnn import optimisers
from jaxrnn.optimisers import Plateau

STEPS = 12
RATE = 0.03
TORCH: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": lambda leaves, **numbers: torch.optim.RMSprop(leaves, alpha=0.9, **numbers),
    "sgd": torch.optim.SGD,
}
WITH_MOMENTUM = ("rmsprop", "sgd")


def start() -> dict[str, np.ndarray]:
    generator = default_rng(0)
    return {"kernel": generator.normal(0, 1, (4, 3)), "bias": generator.normal(0, 1, 3)}


def value(kernel: Any, bias: Any, library: Any) -> Any:
    """A loss with gradients of both signs, of any size, and some that are 0."""
    return library.tanh(kernel[:3] @ kernel[:3]).sum() * 2 + (bias**4).sum() + (kernel[0] * bias).sum()


def stepped(kind: str, **numbers: float) -> list[dict[str, np.ndarray]]:
    """Returns the parameters after each step; all numbers are traced."""
    with jax.enable_x64(True):

        @jax.jit
        def step(parameters: Any, memory: Any, numbers: Any) -> Any:
            gradient = jax.grad(lambda p: value(p["kernel"], p["bias"], jnp))(parameters)
            updates, memory = optimisers.make(kind, **numbers).update(gradient, memory, parameters)
            return optax.apply_updates(parameters, updates), memory

        values = {name: np.float64(number) for name, number in numbers.items()}
        parameters: Any = start()
        memory = optimisers.make(kind, **values).init(parameters)
        found = []
        for _ in range(STEPS):
            parameters, memory = step(parameters, memory, values)
            found.append({name: np.asarray(leaf) for name, leaf in parameters.items()})
        return found


def torch_stepped(kind: str, clip: float | None = None, **numbers: float) -> list[dict[str, np.ndarray]]:
    leaves = {name: torch.tensor(leaf, requires_grad=True) for name, leaf in start().items()}
    optimiser = TORCH[kind](leaves.values(), **numbers)
    found = []
    for _ in range(STEPS):
        optimiser.zero_grad()
        value(leaves["kernel"], leaves["bias"], torch).backward()
        if clip is not None:
            # not PyTorch's own, which adds 1e-6 to the norm
            norm = torch.sqrt(sum((leaf.grad**2).sum() for leaf in leaves.values()))  # pyright: ignore
            for leaf in leaves.values():
                leaf.grad *= min(1.0, clip / float(norm))  # pyright: ignore
        optimiser.step()
        found.append({name: leaf.detach().numpy().copy() for name, leaf in leaves.items()})
    return found


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("kind", list(TORCH))
def test_every_step_is_pytorchs(kind: str, momentum: float, weight_decay: float) -> None:
    found = stepped(kind, learning_rate=RATE, momentum=momentum, weight_decay=weight_decay, gradient_clip=np.inf)
    own = {"momentum": momentum} if kind in WITH_MOMENTUM else {}
    expected = torch_stepped(kind, lr=RATE, weight_decay=weight_decay, **own)
    for step, other in zip(found, expected, strict=True):
        for name, leaf in step.items():
            np.testing.assert_allclose(leaf, other[name], rtol=1e-9, atol=1e-9)
    assert np.abs(found[-1]["kernel"] - start()["kernel"]).max() > 1e-3


@pytest.mark.parametrize("kind", list(TORCH))
def test_the_gradient_is_clipped_before_it_decays(kind: str) -> None:
    numbers = {"learning_rate": RATE, "momentum": 0.0, "weight_decay": 0.1}
    found = stepped(kind, **numbers, gradient_clip=0.5)
    for step, other in zip(found, torch_stepped(kind, 0.5, lr=RATE, weight_decay=0.1), strict=True):
        for name, leaf in step.items():
            np.testing.assert_allclose(leaf, other[name], rtol=1e-9, atol=1e-9)
    free = stepped(kind, **numbers, gradient_clip=np.inf)
    if kind == "sgd":
        assert np.abs(free[0]["bias"] - found[0]["bias"]).max() > 1e-3


def test_decay_of_adamw_alone_is_of_the_step() -> None:
    """With a gradient of 0, decoupled decay takes rate x decay off each parameter, and Adam's coupled one a whole
    step."""
    numbers = {"momentum": 0.0, "weight_decay": 0.1, "gradient_clip": np.inf, "learning_rate": RATE}
    taken = {}
    for kind in TORCH:
        optimiser, parameters = optimisers.make(kind, **numbers), {"kernel": np.full(3, 2.0)}
        nothing = {"kernel": np.zeros(3)}
        with jax.enable_x64(True):
            updates, _ = optimiser.update(nothing, optimiser.init(parameters), parameters)
        taken[kind] = -np.asarray(updates["kernel"])[0]  # pyright: ignore
    assert taken["adamw"] == pytest.approx(RATE * 0.1 * 2, rel=1e-9)
    assert taken["sgd"] == pytest.approx(RATE * 0.1 * 2, rel=1e-9)
    assert taken["adam"] == pytest.approx(RATE, rel=1e-6)
    assert taken["rmsprop"] == pytest.approx(RATE / np.sqrt(0.1), rel=1e-6)


# Schedules

EPOCHS, EPOCH_STEPS = 7, 9


def rates(
    schedule: str, epochs: int = EPOCHS, steps: int = EPOCH_STEPS, scale: float = 1.0, **numbers: Any
) -> np.ndarray:
    """Returns the learning rate of each step of each epoch [epoch, step]."""
    numbers = {"warmup_epochs": 0.0, "final_share": 0.0, **numbers}
    with jax.enable_x64(True):
        plateau = Plateau(jnp.float64(scale), jnp.int32(0))

        def at(progress: Any) -> Any:
            traced = {name: jnp.float64(number) for name, number in numbers.items()}
            return optimisers.learning_rate(
                schedule, progress, peak=jnp.float64(RATE), epochs=epochs, plateau=plateau, **traced
            )

        progress = np.arange(epochs)[:, None] + np.arange(steps) / steps
        return np.asarray(jax.vmap(jax.vmap(at))(progress))


@pytest.mark.parametrize("warmup", [0, 1, 3])
@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_cosine_after_a_warm_up_is_optaxs_and_pytorchs(warmup: int, final: float) -> None:
    found = rates("cosine", warmup_epochs=warmup, final_share=final).ravel()
    with jax.enable_x64(True):
        steps = warmup * EPOCH_STEPS, EPOCHS * EPOCH_STEPS
        reference = optax.warmup_cosine_decay_schedule(0.0, RATE, *steps, end_value=final * RATE)
        expected = [np.asarray(reference(step)) for step in range(EPOCHS * EPOCH_STEPS)]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    if warmup == 0:
        optimiser = torch.optim.SGD([torch.zeros(1)], lr=RATE)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS * EPOCH_STEPS, eta_min=final * RATE)
        walked = []
        for _ in range(EPOCHS * EPOCH_STEPS):
            walked.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            scheduler.step()
        np.testing.assert_allclose(found, walked, rtol=1e-9)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "plateau"])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 2.0])
def test_every_schedule_rises_in_a_line_and_never_passes_its_peak(schedule: str, warmup: float) -> None:
    found = rates(schedule, warmup_epochs=warmup, scale=0.25)
    progress = np.arange(EPOCHS)[:, None] + np.arange(EPOCH_STEPS) / EPOCH_STEPS
    peak = RATE * (0.25 if schedule == "plateau" else 1.0)
    rising = progress < warmup
    np.testing.assert_allclose(found[rising], peak * progress[rising] / (warmup or 1), rtol=1e-12)
    assert (found <= peak * (1 + 1e-12)).all()
    if schedule == "cosine":
        assert (np.diff(found[~rising]) < 0).all()
        assert found[~rising][0] == pytest.approx(peak, rel=0.02)
    else:
        np.testing.assert_allclose(found[~rising], peak, rtol=1e-12)


def test_constant_is_the_peak_to_the_bit() -> None:
    rate = jnp.float32(0.0012345)
    found = optimisers.learning_rate(
        "constant", jnp.float32(3.7), peak=rate, epochs=9, warmup_epochs=jnp.float32(0), final_share=jnp.float32(0),
        plateau=Plateau.begun(),
    )  # fmt: skip
    assert float(found) == float(rate)


@given(
    scores=st.lists(st.integers(0, 6).map(float), min_size=1, max_size=40),
    patience=st.integers(1, 5),
    factor=st.sampled_from([0.1, 0.5, 0.9]),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_falls_on_plateaus_are_pytorchs(scores: list[float], patience: int, factor: float) -> None:
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    # PyTorch's patience counts the epochs that it lets pass
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, mode="max", factor=factor, patience=patience - 1, threshold=0.0, eps=0.0
    )
    plateau, best = Plateau.begun(), -np.inf
    for score in scores:
        better = score > best
        best = max(best, score)
        plateau = plateau.after(jnp.bool(better), factor=jnp.float32(factor), patience=jnp.int32(patience))
        scheduler.step(score)
        assert float(plateau.scale) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-5)
