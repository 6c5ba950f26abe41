"""MPI ranks: who takes which share of the work, and how all of them end when one does. The only module that knows
mpi4py."""

import heapq
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from jaxrnn.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, EndedElsewhere, Interrupted, JaxrnnError

T = TypeVar("T")
# What launchers tell each process about their number: MPICH, Cray and PMI2; Open MPI; SLURM's srun (not SLURM_NTASKS,
# which a job has whether or not srun started this process in it); MVAPICH; Flux; IBM's jsrun.
LAUNCHER_SIZES = (
    "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "MV2_COMM_WORLD_SIZE", "FLUX_JOB_SIZE",
    "JSM_NAMESPACE_SIZE",
)  # fmt: skip
# What tells of some of them alone: how many there are on this node,
LAUNCHER_LOCAL_SIZES = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")
# and which one this process is, counted from 0.
LAUNCHER_RANKS = (
    "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "PALS_RANKID", "ALPS_APP_PE",
    "FLUX_TASK_RANK", "JSM_NAMESPACE_RANK",
)  # fmt: skip
LAUNCHER_VARIABLES = (*LAUNCHER_SIZES, *LAUNCHER_LOCAL_SIZES, *LAUNCHER_RANKS)
# Of an MPICH that has both, in what its library says of itself.
UCX_BEFORE_LIBFABRIC = re.compile(r"^MPICH Device:\s*ch4:ucx\b.*\bofi\b", re.MULTILINE)
# A message with this tag says that its sender ends.
ENDING, A_WORD = 1, b"x"
INTERRUPTED = "interrupted; the same command goes on"
# MPI's own waiting would keep a core busy: this is how often is looked instead.
LOOK_SECONDS = 0.02  # at most
LOOKS = 16
# A rank that does not come to its next piece of work for so long, after another one failed, is no longer waited for.
PATIENCE_SECONDS = 60.0


class _AnotherEnds(Exception):
    """Another rank failed; it has the message."""


@dataclass(frozen=True)
class _Ending:
    """Why a rank ends, and with which exit code; requeue: whether the SLURM job is meant to go on."""

    message: str
    code: int
    requeue: bool = False


class _Signals:
    """Ctrl-C, and what schedulers send before they kill: an exception while a rank works, and remembered while it talks
    to the others, who would wait forever for one that stopped in the middle of a word.

    received: the first one. requeuing: those after which the SLURM job is meant to go on.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.requeuing: tuple[int, ...] = ()
        self._works = False

    @property
    def ending(self) -> _Ending:
        """Returns how the one that was received ends a rank."""
        if self.received not in self.requeuing:
            return _Ending(INTERRUPTED, EXIT_INTERRUPTED)
        name = signal.Signals(self.received).name
        message = f"stopped by {name}; what was done is kept, and the same command goes on"
        return _Ending(message, EXIT_INTERRUPTED, requeue=True)

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Raises KeyboardInterrupt inside the block where a signal comes, or came before."""
        self._works = True
        try:
            if self.received is not None:
                raise KeyboardInterrupt
            yield
        finally:
            self._works = False

    def receive(self, number: int, frame: object) -> None:
        # a launcher may hand on what the terminal sent already: only the first one is raised
        if self.received is None:
            self.received = number
            if self._works:
                raise KeyboardInterrupt


@dataclass(frozen=True)
class Ranks:
    """This process's place among `size` ranks. `communicator` is None where it works alone."""

    rank: int = 0
    size: int = 1
    communicator: Any = None
    signals: _Signals = field(default_factory=_Signals)

    def each(self, work: Callable[[], T]) -> list[T]:
        """Returns what `work` returned on every rank, in rank order, on every rank.

        A JaxrnnError, or an interruption, on any rank ends all of them, at the latest when they next `heed` it: the
        first one's message is shown once. Any other failure aborts the job, so that no rank waits for a dead one.
        """
        if self.communicator is None:
            return [work()]
        ending, result = None, None
        try:
            with self.signals.raised():
                self.heed()
                result = work()
        except _AnotherEnds:
            pass
        except JaxrnnError as error:
            ending = _Ending(str(error), EXIT_USER_ERROR)
        except OSError as error:
            ending = _Ending(f"{error.filename or 'ingest'}: {error.strerror or error}", EXIT_USER_ERROR)
        except KeyboardInterrupt:
            ending = self.signals.ending
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            self.communicator.Abort(1)
        ending, told = self._all_here(ending)
        gathered: list[tuple[_Ending | None, bool, T]] = self.communicator.allgather((ending, told, result))
        # MPI may not be finalised while there is a message that nobody received: the launcher would kill the ranks
        for rank, (_, has_told, _) in enumerate(gathered):
            if has_told and rank != self.rank:
                self.communicator.Recv(bytearray(len(A_WORD)), rank, ENDING)
        endings = [entry for entry, *_ in gathered if entry is not None]
        if endings:
            self._end(endings[0])
        return [value for *_, value in gathered]

    def listening(self) -> "Ranks":
        """Returns itself, after seeing to it that Ctrl-C and what schedulers send before they kill end it in order."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if self.communicator is None else self.signals.receive)
        return self

    @contextmanager
    def requeuing(self, *numbers: int) -> Iterator[None]:
        """Makes of these signals, inside the block, an Interrupted on every rank that asks for the SLURM job to be
        requeued."""
        signals, before = self.signals, {number: signal.getsignal(number) for number in numbers}
        signals.requeuing = numbers
        try:
            for number in numbers:
                signal.signal(number, signals.receive)
            with signals.raised() if self.communicator is None else nullcontext():
                yield
        except KeyboardInterrupt:
            if signals.received is None:  # Ctrl-C
                raise
            self._end(signals.ending)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signals.received, signals.requeuing = None, ()

    def heed(self) -> None:
        """Ends the work of `each` where another rank failed meanwhile: to be called between two pieces of work."""
        # MPI moves messages on while it is asked, and seldom has one ready at the first time
        if self.communicator is not None and any(self.communicator.Iprobe(tag=ENDING) for _ in range(LOOKS)):
            raise _AnotherEnds

    def _all_here(self, ending: _Ending | None) -> tuple[_Ending | None, bool]:
        """Waits, without work for the processor, until every rank has ended its work; returns why this one ends, and
        whether it told the others."""
        arrival, told, since, pause = self.communicator.Ibarrier(), False, time.monotonic(), LOOK_SECONDS / 64
        while not arrival.Test():
            if ending is None and self.signals.received is not None:
                ending = self.signals.ending
            if ending is not None and not told:
                told, since = True, time.monotonic()
                for rank in range(self.size):
                    if rank != self.rank:
                        # so short a message is sent whether or not anyone waits for it
                        self.communicator.Isend(A_WORD, rank, ENDING)
            if ending is not None and time.monotonic() - since > PATIENCE_SECONDS:
                print(f"jaxrnn: {ending.message}", file=sys.stderr, flush=True)
                self.communicator.Abort(ending.code)
            time.sleep(pause)
            pause = min(2 * pause, LOOK_SECONDS)
        return ending, told

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

    @contextmanager
    def holding(self, resource: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
        """Holds what rank 0 enters, for all ranks: a lock that they share."""
        with ExitStack() as stack:

            def enter() -> None:
                stack.enter_context(resource())

            self.first(enter)
            yield

    @contextmanager
    def as_one(self) -> Iterator[None]:
        """Lets all ranks end as one: what every one of them raises in the block the first one tells alone; where one
        fails in a way that nobody foresaw, the others don't wait for it."""
        try:
            yield
        except (JaxrnnError, Interrupted) as error:
            if self.rank > 0:
                raise EndedElsewhere(EXIT_INTERRUPTED if isinstance(error, Interrupted) else EXIT_USER_ERROR)
            raise
        except Exception:
            if self.communicator is None:
                raise
            traceback.print_exc()
            sys.stderr.flush()
            self.communicator.Abort(1)

    def _end(self, ending: _Ending) -> NoReturn:
        if ending.requeue:
            raise Interrupted(ending.message, requeue=True)  # on every rank: they wait for SLURM together
        if self.rank != 0:
            raise EndedElsewhere(ending.code)
        if ending.code == EXIT_INTERRUPTED:
            raise Interrupted(ending.message)
        raise JaxrnnError(ending.message)


def _started_mpi() -> Any:
    """Returns mpi4py's MPI, started; raises ImportError or RuntimeError where there is none.

    By UCX, MPICH 5 tells the other nodes 4 KiB of memory from its address on (MPIDI_UCX_comm_addr_exchange), in as many
    lines as it takes. SLURM's PMI reads lines of 1,024 bytes; whether these are longer depends on what lies behind the
    address: one start in seventy failed, or waited for ever. By libfabric it tells 16 bytes. So ranks that srun
    starts reach each other by that, where the library has both and would take UCX, as PyPI's mpich does.
    """
    import mpi4py

    mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
    from mpi4py import MPI

    if not MPI.Is_initialized():
        of_step = "PMI_FD" in os.environ and os.environ.get("PMI_SIZE") == os.environ.get("SLURM_STEP_NUM_TASKS")
        if of_step and UCX_BEFORE_LIBFABRIC.search(MPI.Get_library_version()):
            os.environ.setdefault("MPIR_CVAR_CH4_NETMOD", "ofi")
        MPI.Init_thread()
    return MPI


def join(expected: int | None) -> Ranks:
    """Returns this process's place; alone where no MPI launcher started it.

    expected: the number of ranks asked for. Raises JaxrnnError where the launcher made another number of them:
    with an MPI library that does not fit the launcher every rank thinks that it is alone, and does all the work.
    """
    told = {name: int(os.environ[name]) for name in LAUNCHER_VARIABLES if os.environ.get(name, "").isdigit()}
    sizes = [told[name] for name in LAUNCHER_SIZES if name in told]
    # a process that is told less than the size at least isn't the only one
    least = max(
        [*sizes, *(told.get(n, 1) for n in LAUNCHER_LOCAL_SIZES), *(told.get(n, 0) + 1 for n in LAUNCHER_RANKS)]
    )
    wanted = expected or least
    if wanted == 1 == least:
        return Ranks().listening()
    try:
        MPI = _started_mpi()
    except (ImportError, RuntimeError) as error:
        raise JaxrnnError(
            f"{wanted} MPI ranks were asked for, and mpi4py finds no MPI library ({error}); load your site's MPI "
            "module, or install one with `pip install jaxrnn[mpi]`, or run on one rank with --ranks 1"
        )
    found = MPI.COMM_WORLD.Get_size()
    if found != expected if expected else found < least or (found > 1 and sizes and found not in sizes):
        message = (
            f"{wanted} MPI ranks were asked for, and this process sees {found}"
            + (f" (the launcher says {', '.join(f'{k}={v}' for k, v in told.items())})" if told else "")
            + "; the MPI library of mpi4py does not fit the launcher. Start with that library's own mpirun, or choose "
            "srun's --mpi=pmi2 (MPICH) or --mpi=pmix (Open MPI), and give --ranks the launcher's number"
        )
        if MPI.COMM_WORLD.Get_rank() == 0:
            raise JaxrnnError(message)
        raise EndedElsewhere(EXIT_USER_ERROR)
    return Ranks(MPI.COMM_WORLD.Get_rank(), found, MPI.COMM_WORLD).listening() if found > 1 else Ranks().listening()
