"""The recurrent layers' own kernel for CPUs, `recurrence.cc`, as a function of JAX.

It is compiled for the processor at hand by GNU's C++ compiler, once, and kept in the user's cache. Where there is no
compiler, or JAXRNN_NATIVE=0 is set, XLA compiles the layers from `recurrence.py`, whose results it shares to rounding.
"""

import ctypes
import functools
import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Int

from jaxrnn import compilation, results
from jaxrnn.blueprint import GATES

SOURCE = Path(__file__).with_name("recurrence.cc")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared")
COMPILERS = ("g++", "c++")
SWITCH = "JAXRNN_NATIVE"
CELLS = tuple(GATES)
# Arrays of a unit that recurrence.cc saves for the backward pass.
SAVED = {"simple": 0, "gru": 4, "lstm": 5}
# The orders of the axes in memory of what has a batch: it lies innermost. Said to XLA as a layout, and not as a
# transposition, the layers before and after take it over where they can.
INNERMOST = {0: (), 1: (0,), 2: (1, 0), 3: (1, 2, 0)}


_LEFT_OUT = ContextVar("left_out", default=False)


class _Absent(Exception):
    """Why there is no kernel."""


def usable(values: Array) -> bool:
    """Returns whether layers of these values run in the kernel: on a CPU, in float32, where it could be compiled."""
    # asked last: a program that goes elsewhere has no number of rows yet
    return values.dtype == jnp.float32 and not _LEFT_OUT.get() and _at_hand() and values.size > 0


@contextmanager
def left_out() -> Iterator[None]:
    """Within it layers are what XLA compiles, for programs that run where the kernel is not."""
    token = _LEFT_OUT.set(True)
    try:
        yield
    finally:
        _LEFT_OUT.reset(token)


def _at_hand() -> bool:
    return jax.default_backend() == "cpu" and absent() is None


@functools.cache
def absent() -> str | None:
    """Returns why there is no kernel, or None: then it is compiled, and registered with JAX."""
    try:
        library = _loaded()
    except (_Absent, OSError) as error:
        return str(error)
    for name in ("forward", "backward"):
        function = jax.ffi.pycapsule(getattr(library, f"jaxrnn_{name}"))
        jax.ffi.register_ffi_target(_target(name), function, platform="cpu")
    return None


def told() -> str:
    """Returns what recurrent layers run in, on the device in use: the last digits of results depend on it."""
    return f"kernel ({threads()} threads)" if _at_hand() else "XLA"


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Returns how many cores one device has to itself: inside of a map over devices, its share."""
    chosen = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
    devices = jax.sharding.get_abstract_mesh().size // jax.process_count()
    return max(1, (chosen if chosen > 0 else cores()) // max(1, devices))


def _target(name: str) -> str:
    # of its content: a program that JAX compiled earlier never meets another kernel
    return f"jaxrnn_{name}_{_digest()}"


@functools.cache
def _digest() -> str:
    return compilation.key([SOURCE.read_text(), FLAGS, importlib.metadata.version("jaxlib"), platform.libc_ver()])


def _loaded() -> ctypes.CDLL:
    if os.environ.get(SWITCH) == "0":
        raise _Absent(f"{SWITCH}=0")
    file = _cache()
    if file:
        # what is torn is not loaded, which would end the process
        with suppress(OSError):  # also: compiled against libraries that this node has not
            if kept := results.kept(file):
                return _opened(kept)
    content = _compiled()
    if file:
        with suppress(OSError):
            results.keep(file, content)
    return _opened(content)


def _opened(content: bytes | memoryview) -> ctypes.CDLL:
    """Returns a library from memory: nobody replaces its file while it is read, nor is that on a disk that may not
    hold programs."""
    if not hasattr(os, "memfd_create"):
        raise _Absent(f"no kernel for {platform.system()} yet")
    with os.fdopen(os.memfd_create("jaxrnn"), "wb") as opened:
        opened.write(content)
        opened.flush()
        return ctypes.CDLL(f"/proc/self/fd/{opened.fileno()}")


def _cache() -> Path | None:
    """Returns where the kernel is kept; None where there is no folder that this user alone can write to."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxrnn"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError):  # no home
        return None
    own = status.st_uid == os.getuid() and not status.st_mode & 0o022
    return folder / f"recurrence-{_digest()}.so" if own else None


def _compiled() -> bytes:
    """Returns what the first compiler that can makes of the kernel."""
    wanted = shlex.split(os.environ.get("CXX", ""))
    # conda's compilers carry the platform's name
    others = [[name] for name in (*COMPILERS, f"{sysconfig.get_config_var('HOST_GNU_TYPE')}-c++")]
    reasons = []
    for command in [*([wanted] if wanted else []), *others]:
        if not shutil.which(command[0]):
            continue
        with tempfile.TemporaryDirectory(prefix="jaxrnn-") as folder:
            made = Path(folder) / "recurrence.so"
            words = [*command, *FLAGS, f"-I{jax.ffi.include_dir()}", str(SOURCE), "-o", str(made)]
            environment = {**os.environ, "LC_ALL": "C"}
            done = subprocess.run(words, capture_output=True, text=True, errors="replace", env=environment)
            if not done.returncode:
                return made.read_bytes()
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower() or "undefined" in line]
        reasons.append(f"{shlex.join(command)} could not compile {SOURCE.name}: {(lines or ['no reason given'])[0]}")
    raise _Absent(reasons[0] if reasons else "no C++ compiler on PATH (on Debian: apt-get install g++)")


def layer(
    cell: str,
    inputs: Float[Array, "batch step feature"],
    kernel: Float[Array, "feature_and_unit gate_unit"],
    bias: Float[Array, " gate_unit"],
    candidate_bias: Float[Array, " unit"] | None,
    lengths: Int[Array, " batch"],
    kept: Float[Array, "batch unit"] | None = None,
    *,
    reverse: bool = False,
) -> tuple[Float[Array, "batch step unit"], Float[Array, "batch unit"]]:
    """Returns the hidden state after each step, 0 beyond the length, and the last valid one.

    kernel: of the inputs, and below it of the state. reverse: from each sequence's last valid step to its first.
    kept: as in `recurrence.recur`. Differentiable once, in reverse.
    """
    return _layer(cell, reverse, threads(), inputs, kernel, bias, candidate_bias, lengths.astype(jnp.int32), kept)


def kept_in_place(values: Float[Array, "batch *rest"]) -> Float[Array, "batch *rest"]:
    """Returns the values as they are; XLA, which would turn them where they are joined, is told to leave them as the
    kernel gives and takes them."""
    return with_layout_constraint(values, Layout(INNERMOST[values.ndim])) if usable(values) else values


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _layer(cell: str, reverse: bool, threads: int, *values: Any) -> tuple[Array, Array]:
    states, last, _ = _forward(cell, reverse, threads, *values, save=False)
    return states, last


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
    (batch, steps, _), units = inputs.shape, kernel.shape[1] // GATES[cell]
    results: list[Any] = [(batch, steps, units), (batch, units)]
    if save:
        results.append((batch, steps, SAVED[cell] * units))
    given = inputs, kernel, lengths, kept, bias, candidate_bias
    found = _call("forward", cell, reverse, threads, *given, results=results)
    return found if save else (*found, None)


def _remembering(cell: str, reverse: bool, threads: int, *values: Any) -> Any:
    states, last, saved = _forward(cell, reverse, threads, *values, save=True)
    return (states, last), (*values, states, saved)


def _backward(cell: str, reverse: bool, threads: int, remembered: Any, changes: tuple[Array, Array]) -> Any:
    inputs, kernel, bias, candidate_bias, lengths, kept, states, saved = remembered
    # one result too many where there is no such bias
    results = [inputs.shape, kernel.shape, bias.shape, () if candidate_bias is None else candidate_bias.shape]
    given = inputs, kernel, lengths, kept, states, saved, *changes
    *found, of_candidate = _call("backward", cell, reverse, threads, *given, results=results, of_kernel=1)
    return *found, None if candidate_bias is None else of_candidate, None, None


def _call(
    name: str,
    cell: str,
    reverse: bool,
    threads: int,
    inputs: Array,
    kernel: Array,
    *given: Array | None,
    results: list[tuple[int, ...]],
    of_kernel: int | None = None,
) -> Any:
    """Returns what recurrence.cc's function returns: arrays of these shapes. of_kernel: which of them is the kernel's
    gradient, which lies as the kernel does."""
    lengths, kept, *others = given
    units = kernel.shape[1] // GATES[cell]
    numbers = {"cell": CELLS.index(cell), "reverse": reverse, "threads": threads, "units": units}
    numbers |= {"kept": kept is not None}
    arrays = [jnp.zeros(0, jnp.float32) if value is None else value for value in (inputs, lengths, kept, *others)]
    layouts = [INNERMOST[len(shape)] for shape in results]
    if of_kernel is not None:
        layouts[of_kernel] = (0, 1)
    function = jax.ffi.ffi_call(
        _target(name),
        [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in results],
        vmap_method="sequential",
        input_layouts=[(0, 1), *(INNERMOST[array.ndim] for array in arrays)],
        output_layouts=layouts,
    )
    return function(kernel, *arrays, **{name: np.int64(number) for name, number in numbers.items()})


_layer.defvjp(_remembering, _backward)
