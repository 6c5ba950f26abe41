"""The one error that users see, and the exit codes of the `jaxrnn` command."""

import errno
from collections.abc import Sequence
from pathlib import Path

EXIT_USER_ERROR = 2  # the input, the configuration or the machine is not as it must be
EXIT_INTERRUPTED = 130  # stopped by a signal; what was done is kept, the same command goes on
LONGEST_WORD = 300  # in lists of what files hold: a damaged file's column may have a name of any length


class JaxrnnError(Exception):
    """A fault that the user can mend: what is wrong, where, what was expected, and what to do.

    The command line prints the message alone, without a traceback, and exits with `EXIT_USER_ERROR`.
    """

    def __init__(self, message: str) -> None:
        # what a file holds may be quoted in it, and must not steer the terminal
        super().__init__("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in message))


class Unwritable(JaxrnnError):
    """That the file system refused what was to be written at `path`; nothing was left half-written.

    full: whether it may take it later.
    """

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"{path}: cannot be written ({error.strerror or error}); nothing was left half-written")
        self.full = error.errno in (errno.ENOSPC, errno.EDQUOT)


class Interrupted(Exception):
    """A signal, or the end of its time, stopped the work; what was done is kept.

    requeue: whether the SLURM job is meant to go on.
    """

    def __init__(self, message: str, *, requeue: bool = False) -> None:
        super().__init__(message)
        self.requeue = requeue


class EndedElsewhere(SystemExit):
    """This process ends with the code that it holds, and without a word: another rank tells the user why."""


def nearest(word: str, known: Sequence[str]) -> str:
    """Returns "; did you mean 'x'?" for the known word closest to `word`, or "" if none is close."""
    import difflib

    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.55)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def listed(words: Sequence[object], limit: int = 8) -> str:
    """Returns the words as one readable list, cut after `limit` of them with the count of the rest."""
    texts = [" ".join(str(word).split()) for word in words[:limit]]
    shown = ", ".join(text if len(text) <= LONGEST_WORD else f"{text[:LONGEST_WORD]}..." for text in texts)
    return shown if len(words) <= limit else f"{shown} and {len(words) - limit} more"


def plural(count: float, noun: str) -> str:
    """Returns a count with its noun: 1 trial, 1,200 trials."""
    many = {"class": "classes", "loss": "losses", "process": "processes"}.get(noun, f"{noun}s")
    return f"{int(count):,} {noun if count == 1 else many}"
