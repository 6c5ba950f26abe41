"""The recurrent layers' own kernel for CPUs, `recurrence.cc`, as a function of JAX.

It is compiled for the processor at hand by the system's C++ compiler, once, and kept in the user's cache. Where there
is no compiler, or JAXRNN_NATIVE=0 is set, XLA compiles the layers from `recurrence.py`, whose results it shares to
rounding.
"""

import ctypes
import functools
import os
import secrets
import shutil
import subprocess
import sysconfig
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrnn import compilation
from jaxrnn.blueprint import GATES

SOURCE = Path(__file__).with_name("recurrence.cc")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared")
COMPILERS = ("c++", "g++", "clang++")
SWITCH = "JAXRNN_NATIVE"
CELLS = tuple(GATES)
# Arrays of a unit that recurrence.cc saves for the backward pass.
SAVED = {"simple": 0, "gru": 4, "lstm": 5}


class NoKernel(Exception):
    """Why the kernel is not to be had."""


def usable(dtype: Any) -> bool:
    """Returns whether layers of these values run in the kernel: on a CPU, in float32, where it could be compiled."""
    return jax.default_backend() == "cpu" and dtype == jnp.float32 and absent() is None


@functools.cache
def absent() -> str | None:
    """Returns why there is no kernel, or None: then it is compiled, and registered with JAX."""
    try:
        library = ctypes.CDLL(str(_built()))
    except (NoKernel, OSError) as error:
        return str(error)
    for name in ("forward", "backward"):
        function = jax.ffi.pycapsule(getattr(library, f"jaxrnn_{name}"))
        jax.ffi.register_ffi_target(_target(name), function, platform="cpu")
    return None


def _target(name: str) -> str:
    # of its content: a program that JAX compiled earlier never meets another kernel
    return f"jaxrnn_{name}_{_digest()}"


@functools.cache
def _digest() -> str:
    return compilation.key([SOURCE.read_text(), FLAGS, jax.__version__])


def _compiler() -> str:
    wanted = os.environ.get("CXX", "").split()[:1]
    # conda's compilers carry the platform's name
    for name in (*wanted, *COMPILERS, f"{sysconfig.get_config_var('HOST_GNU_TYPE')}-c++"):
        if found := shutil.which(name):
            return found
    raise NoKernel("no C++ compiler on PATH")


def _built() -> Path:
    """Returns the compiled kernel, written whole or not at all: many jobs may start at once."""
    if os.environ.get(SWITCH) == "0":
        raise NoKernel(f"{SWITCH}=0")
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxrnn"
    file = folder / f"recurrence-{_digest()}.so"
    if file.is_file():
        return file
    compiler = _compiler()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{file.name}.{secrets.token_hex(8)}.part"
    command = [compiler, *FLAGS, f"-I{jax.ffi.include_dir()}", str(SOURCE), "-o", str(temporary)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoKernel(f"{compiler} could not compile {SOURCE.name}: {(done.stderr.splitlines() or ['?'])[0]}")
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    return file


def threads() -> int:
    """Returns how many cores one device has to itself: inside of a map over devices, its share."""
    chosen = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
    cores = chosen if chosen > 0 else len(os.sched_getaffinity(0))
    return max(1, cores // max(1, jax.sharding.get_abstract_mesh().size))


def layer(
    cell: str,
    inputs: Float[Array, "step feature batch"],
    kernel: Float[Array, "feature_and_unit gate_unit"],
    bias: Float[Array, " gate_unit"],
    candidate_bias: Float[Array, " unit"] | None,
    lengths: Int[Array, " batch"],
    kept: Float[Array, "unit batch"] | None = None,
    *,
    reverse: bool = False,
) -> tuple[Float[Array, "step unit batch"], Float[Array, "unit batch"]]:
    """Returns the hidden state after each step, 0 beyond the length, and the last valid one.

    kernel: of the inputs, and below it of the state. reverse: from each sequence's last valid step to its first.
    kept: as in `recurrence.recur`. Differentiable once, in reverse.
    """
    return _layer(cell, reverse, threads(), inputs, kernel, bias, candidate_bias, lengths.astype(jnp.int32), kept)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _layer(cell: str, reverse: bool, threads: int, *values: Any) -> tuple[Array, Array]:
    states, last, _ = _forward(cell, reverse, threads, *values, save=False)
    return states, last


def _call(name: str, cell: str, reverse: bool, threads: int, results: list[Any], kernel: Array, *values: Any) -> Any:
    units, kept = kernel.shape[1] // GATES[cell], values[2]
    numbers = {"cell": CELLS.index(cell), "reverse": reverse, "threads": threads, "units": units}
    numbers |= {"kept": kept is not None}
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in results]
    function = jax.ffi.ffi_call(_target(name), shapes, vmap_method="sequential")
    given = [jnp.zeros(0, jnp.float32) if value is None else value for value in (values[0], kernel, *values[1:])]
    return function(*given, **{name: jnp.int64.dtype.type(number) for name, number in numbers.items()})


def _forward(
    cell: str,
    reverse: bool,
    threads: int,
    inputs: Array,
    kernel: Array,
    bias: Array,
    candidate_bias: Array | None,
    lengths: Array,
    kept: Array | None,
    *,
    save: bool,
) -> Any:
    (steps, _, batch), units = inputs.shape, kernel.shape[1] // GATES[cell]
    results: list[Any] = [(steps, units, batch), (units, batch)]
    if save:
        results.append((steps, SAVED[cell] * units, batch))
    found = _call("forward", cell, reverse, threads, results, kernel, inputs, lengths, kept, bias, candidate_bias)
    return found if save else (*found, None)


def _remembering(cell: str, reverse: bool, threads: int, *values: Any) -> Any:
    states, last, saved = _forward(cell, reverse, threads, *values, save=True)
    return (states, last), (*values, states, saved)


def _backward(cell: str, reverse: bool, threads: int, remembered: Any, changes: tuple[Array, Array]) -> Any:
    inputs, kernel, bias, candidate_bias, lengths, kept, states, saved = remembered
    results = [inputs.shape, kernel.shape, bias.shape, () if candidate_bias is None else candidate_bias.shape]
    of_inputs, of_kernel, of_bias, of_candidate = _call(
        "backward", cell, reverse, threads, results, kernel, inputs, lengths, kept, states, saved, *changes
    )
    return of_inputs, of_kernel, of_bias, None if candidate_bias is None else of_candidate, None, None


_layer.defvjp(_remembering, _backward)
