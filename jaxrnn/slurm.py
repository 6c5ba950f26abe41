"""What SLURM says and what a job asks of it. The only module that calls SLURM's programs, each with a time-out."""

import os
import shlex
import subprocess

from jaxrnn.errors import JaxrnnError

SECONDS = 10.0  # that SLURM has for an answer


class SlurmError(JaxrnnError):
    """SLURM's programs are not here, do not answer, or refuse. `said`: SLURM's own words, "" where it said nothing."""

    def __init__(self, message: str, said: str = "") -> None:
        super().__init__(message)
        self.said = said


def call(*argv: str, seconds: float = SECONDS) -> str:
    """Returns what a program of SLURM prints; raises SlurmError where it is not here, does not answer within `seconds`,
    or fails."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as error:
        raise SlurmError(f"`{argv[0]}` cannot be started ({error.strerror or error})")
    except subprocess.TimeoutExpired:
        raise SlurmError(f"SLURM does not answer: `{shlex.join(argv)}` said nothing for {seconds:g} s")
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise SlurmError(f"`{shlex.join(argv[:3])}` failed: {said or f'exit code {done.returncode}'}", said)
    return done.stdout


def own_job() -> int | None:
    """Returns the number of the job that this process is in, None outside of SLURM."""
    number = os.environ.get("SLURM_JOB_ID", "")
    return int(number) if number.isdecimal() else None


def state(job: int) -> tuple[str, str]:
    """Returns a job's state and why it waits; ("", "") where SLURM no longer knows it."""
    try:
        shown = call("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T|%r").strip()
    except SlurmError as error:
        if "Invalid job id" in error.said:
            return "", ""
        raise
    now, _, reason = shown.partition("|")
    return now, reason


def seconds_left(job: int) -> float | None:
    """Returns how long a running job may still run, None without a limit; raises SlurmError."""
    # not the time of its end, which would be by the controller's clock
    return seconds_in(call("squeue", "--noheader", f"--jobs={job}", "--format=%L").strip())


def seconds_in(time: str) -> float | None:
    """Returns the seconds of squeue's [days-][hours:]minutes:seconds; None for no limit."""
    days, _, clock = time.rpartition("-")
    parts = clock.split(":")
    if not 2 <= len(parts) <= 3 or not all(part.isdecimal() for part in (days or "0", *parts)):
        return None
    hours, minutes, seconds = map(int, ["0", *parts][-3:])
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60.0 + seconds


def requeue(job: int) -> None:
    """Ends a running job and puts it into the queue again, under the same number; raises SlurmError."""
    call("scontrol", "requeue", str(job))
