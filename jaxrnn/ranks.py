"""MPI ranks: who takes which share of the work. The only module that knows mpi4py."""

import heapq
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from jaxrnn.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, JaxrnnError

T = TypeVar("T")
# What launchers tell each process about their number: MPICH and PMI2, Open MPI, PMIx, SLURM's srun.
LAUNCHER_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")


@dataclass(frozen=True)
class Ranks:
    """This process's place among `size` ranks. `communicator` is None where it works alone."""

    rank: int = 0
    size: int = 1
    communicator: Any = None

    def each(self, work: Callable[[], T]) -> list[T]:
        """Returns what `work` returned on every rank, in rank order, on every rank.

        A JaxrnnError on any rank ends all of them: the first one's message is shown once. Any other failure aborts the
        job, so that no rank waits for a dead one.
        """
        if self.communicator is None:
            return [work()]
        fault, result = None, None
        try:
            result = work()
        except JaxrnnError as error:
            fault = str(error)
        except OSError as error:
            fault = f"{error.filename or 'ingest'}: {error.strerror or error}"
        except KeyboardInterrupt:
            self.communicator.Abort(EXIT_INTERRUPTED)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            self.communicator.Abort(1)
        gathered: list[tuple[str | None, T]] = self.communicator.allgather((fault, result))
        faults = [message for message, _ in gathered if message is not None]
        if faults:
            self._end(faults[0])
        return [value for _, value in gathered]

    def here(self, work: Callable[[], T]) -> T:
        """Returns what `work` returned on this rank, when it ended well on every one; it is not sent to the others."""
        kept: list[T] = []
        self.each(lambda: kept.append(work()))
        return kept[0]

    def first(self, work: Callable[[], T]) -> T:
        """Returns what `work` returned on rank 0, on every rank; the others wait for it."""
        return self.each(lambda: work() if self.rank == 0 else None)[0]  # type: ignore[return-value]

    def share(self, weights: Sequence[float]) -> list[int]:
        """Returns which pieces of work are this rank's: the heaviest first, each to the rank with the least so far."""
        loads = [(0.0, rank) for rank in range(self.size)]
        own = []
        for piece in sorted(range(len(weights)), key=lambda piece: (-weights[piece], piece)):
            load, rank = heapq.heappop(loads)
            heapq.heappush(loads, (load + weights[piece], rank))
            if rank == self.rank:
                own.append(piece)
        return sorted(own)

    def _end(self, message: str) -> NoReturn:
        if self.rank == 0:
            raise JaxrnnError(message)
        sys.exit(EXIT_USER_ERROR)


def join(expected: int | None) -> Ranks:
    """Returns this process's place; alone where no MPI launcher started it.

    expected: the number of ranks asked for. Raises JaxrnnError where the launcher made another number of them:
    with an MPI library that does not fit the launcher every rank thinks that it is alone, and does all the work.
    """
    told = {name: int(os.environ[name]) for name in LAUNCHER_SIZES if os.environ.get(name, "").isdigit()}
    wanted = expected or max(told.values(), default=1)
    if wanted == 1 and max(told.values(), default=1) == 1:
        return Ranks()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise JaxrnnError(
            f"{wanted} MPI ranks were asked for, and mpi4py finds no MPI library ({error}); load your site's MPI "
            "module, or install one with `pip install jaxrnn[mpi]`, or run on one rank with --ranks 1"
        )
    found = MPI.COMM_WORLD.Get_size()
    if found != wanted:
        message = (
            f"{wanted} MPI ranks were asked for, and this process sees {found}"
            + (f" (the launcher says {', '.join(f'{k}={v}' for k, v in told.items())})" if told else "")
            + "; the MPI library of mpi4py does not fit the launcher. Start with that library's own mpirun, or choose "
            "srun's --mpi=pmi2 (MPICH) or --mpi=pmix (Open MPI), and give --ranks the launcher's number"
        )
        if MPI.COMM_WORLD.Get_rank() == 0:
            raise JaxrnnError(message)
        sys.exit(EXIT_USER_ERROR)
    return Ranks(MPI.COMM_WORLD.Get_rank(), found, MPI.COMM_WORLD)
