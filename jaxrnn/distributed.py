"""The processes of a job that train its networks together, each with devices of its own, as one JAX."""

import os
import socket
from collections.abc import Sequence
from typing import NamedTuple

import jax

from jaxrnn import native
from jaxrnn.errors import JaxrnnError
from jaxrnn.ranks import Ranks

# A process is lost that the others hear nothing of for so long, and all of them end.
LOST_SECONDS = 60
# All start within this time of each other.
START_SECONDS = 120


class Node(NamedTuple):
    """What a process finds where it is: the host's name, its cores, and the GPUs that it is told to see, None where it
    is told nothing."""

    host: str
    cores: frozenset[int]
    gpus: str | None

    @classmethod
    def here(cls) -> "Node":
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(native.cores())
        return cls(socket.gethostname(), frozenset(cores), os.environ.get("CUDA_VISIBLE_DEVICES"))


def join(ranks: Ranks, device: str) -> None:
    """Makes one JAX of these processes, whose devices are then those of all; before any device is used.

    Raises JaxrnnError where they don't reach each other.
    """
    if ranks.size == 1:
        return
    jax.config.update("jax_enable_preemption_service", False)  # it would take TERM for itself
    nodes = ranks.each(Node.here)
    if device == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        if jax.config.jax_num_cpu_devices < 0:  # pyright: ignore[reportAttributeAccessIssue]
            jax.config.update("jax_num_cpu_devices", own_cores(nodes, ranks.rank))
    address = ranks.first(lambda: _address(nodes))

    def begin() -> None:
        try:
            jax.distributed.initialize(
                address,
                ranks.size,
                ranks.rank,
                local_device_ids=None if device == "cpu" else own_gpus(nodes, ranks.rank),
                cluster_detection_method="deactivate",  # all is said
                initialization_timeout=START_SECONDS,
                heartbeat_timeout_seconds=LOST_SECONDS,
            )
        except (RuntimeError, ValueError) as error:
            raise JaxrnnError(
                f"process {ranks.rank} on {nodes[ranks.rank].host} could not join process 0 at {address} "
                f"({str(error).strip().partition(chr(10))[0]}); the nodes must reach each other by these names, at any "
                "port, and not through a proxy (unset http_proxy where it is set)"
            )

    ranks.here(begin)


def own_cores(nodes: Sequence[Node], rank: int) -> int:
    """Returns how many cores are a process's own: those that it may use, shared with others that may use the same."""
    sharing = sum((node.host, node.cores) == (nodes[rank].host, nodes[rank].cores) for node in nodes)
    return max(1, len(nodes[rank].cores) // sharing)


def own_gpus(nodes: Sequence[Node], rank: int) -> list[int] | None:
    """Returns which of the GPUs that a process sees are its own, None for all of them.

    Where a scheduler shows all processes of a node the same ones, they are dealt out in the order of their ranks. A
    single one is no one else's: schedulers that give each process its own call each of them the first one.
    """
    here = nodes[rank]
    there = [other for other, node in enumerate(nodes) if (node.host, node.gpus) == (here.host, here.gpus)]
    if here.gpus is None:
        return [there.index(rank)] if len(there) > 1 else None
    count = len(here.gpus.split(","))
    if len(there) == 1 or count == 1:
        return None
    if count < len(there):
        raise JaxrnnError(
            f"{len(there)} processes on {here.host} see {count} GPUs ({here.gpus}); ask for one GPU a process, or set "
            "`training.processes` to the number of GPUs"
        )
    each, place = count // len(there), there.index(rank)
    return [*range(place * each, (place + 1) * each)]


def _address(nodes: Sequence[Node]) -> str:
    """Returns where the other processes find this one: its host, and a port that is free now."""
    with socket.socket() as opened:
        opened.bind(("", 0))
        port = opened.getsockname()[1]
    # a host need not know its own name
    alone = len({node.host for node in nodes}) == 1
    return f"{'127.0.0.1' if alone else nodes[0].host}:{port}"
