"""Where everything lies under `results/`, and how it is written: whole or not at all.

`Results(root)` is the one place that knows the layout; ARCHITECTURE.md shows it as a tree.
"""

import glob
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxrnn import __version__
from jaxrnn.claims import Claim
from jaxrnn.errors import JaxrnnError, Unwritable

# Of the tables `history.csv`, beside `trial`, and `trials.csv`.
HISTORY_COLUMNS = (
    "epoch",
    "learning_rate",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_log_loss",
    "validation_accuracy",
    "validation_macro_f1",
    "validation_macro_auc",
    "validation_plasticc_log_loss",
    "validation_figure_of_merit",
    "validation_label_error_rate",
    "validation_sequence_error_rate",
)
# Of each split: which mistakes the chosen trial makes, and of label sequences what it decodes.
MISTAKES = {"label_sequence": ("edit_operations_{}.csv", "decoded_{}.csv")}
CONFUSIONS = tuple(f"confusion_matrix_{{}}{end}.csv" for end in ("", "_normalised", "_normalised_by_prediction"))
# What `evaluation` and others find of the chosen trial on test, and besides where a place has one class.
EVALUATION = ("calibration.csv", "calibration_scores.csv", "cadence.csv", "slices_test.csv", "mistakes_test.csv",
              "ensemble.csv", "comparisons.csv", "uncertainty.csv", "out_of_distribution.csv", "entropies.csv",
              "attributions_test.csv")  # fmt: skip
OF_CLASSES = ("roc_test.csv", "precision_recall_test.csv", "class_scores_test.csv")
SCORES, DECODERS = "scores.csv", "decoders.csv"  # the latter of label sequences
# Of the objects that the report draws, and, where prefixes are predicted, the probabilities of some as they grow.
EXAMPLES, GROWING = "examples.csv", "growing_test.csv"
# `halted`: by successive halving, in which it fell behind.
COMPLETED, EARLY_STOPPED, DIVERGED, HALTED = "completed", "early_stopped", "diverged", "halted"
ATTEMPTS, ALLOCATION = "attempts.json", "allocation.json"
TAIL_BYTES = 4096
SUM_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Results:
    """The paths of one results folder. Nothing here touches the disk."""

    root: Path

    def survey(self, key: str) -> Path:
        return self.root / "surveys" / key

    def dataset(self, key: str) -> Path:
        return self.root / "datasets" / key

    def compiled(self, key: str) -> Path:
        return self.root / "compiled" / key

    def experiment(self, name: str) -> Path:
        return self.root / name

    def job(self, experiment: str, job: str) -> Path:
        return self.root / experiment / "jobs" / job

    def trial(self, experiment: str, trial: str, epochs: int | None = None) -> Path:
        """Returns the folder of a finished trial, or of one that a rung halted after so many epochs."""
        return self.root / experiment / "trials" / (trial if epochs is None else f"{trial}.epoch-{epochs}")

    def checkpoints(self, experiment: str, job: str) -> Path:
        return self.root / experiment / "checkpoints" / job


def mistakes_tables(kind: str) -> list[str]:
    """Returns the names of the tables that `aggregate` writes of the chosen trial's predictions, for a `task.kind`."""
    names = MISTAKES.get(kind, CONFUSIONS)
    tables = [name.format(split) for name in names for split in ("validation", "test")]
    tables += [SCORES, EXAMPLES, *([GROWING] if kind == "prefix" else [])]
    return [*tables, *EVALUATION, *([DECODERS] if kind in MISTAKES else OF_CLASSES)]


@contextmanager
def written_whole(path: Path, *, durable: bool = True, claim: Claim | None = None) -> Iterator[Path]:
    """Yields a temporary name beside `path` for a file or folder; renames it to `path` when the block ends well.

    After a failure nothing is left; Unwritable says why. A kill leaves at most the temporary name, which the next write
    of `path` clears.
    durable: False doesn't wait for the disk: for what a power cut may take, because it is made again.
    claim: of the writer, where several may be at work; one that lost it writes nothing and touches no other's.
    """
    token = f".{claim.token}" if claim else ""
    temporary, aside = (path.with_name(f".{path.name}{token}.{end}") for end in ("part", "old"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(path, "part", claim)
        yield temporary
        if durable:
            for file in [*temporary.rglob("*")] if temporary.is_dir() else [temporary]:
                _flush(file)
        if claim:
            claim.check()
        if path.is_dir():
            # a folder can't be replaced in one step: the old one steps aside, and is whole until the new one stands
            remove(aside)
            os.replace(path, aside)
        os.replace(temporary, path)
        if durable:
            _flush(path.parent)
        _remove_left(path, "old", claim)
    except OSError as error:
        if claim:
            claim.check()  # who has it now has cleared what was being written here
        raise Unwritable(path, error)
    finally:
        with suppress(OSError):
            if aside.is_dir() and not path.exists():
                os.replace(aside, path)
            remove(temporary)


def _remove_left(path: Path, end: str, claim: Claim | None) -> None:
    """Removes the temporary names that earlier writes of `path` left, under earlier claims too."""
    remove(path.with_name(f".{path.name}.{end}"))
    if claim:
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.{end}"):
            if left.name.split(".")[-2] <= claim.token:
                with suppress(OSError):  # who wrote it may still be at work in it
                    remove(left)


def keep(file: Path, *parts: bytes | memoryview, durable: bool = False, claim: Claim | None = None) -> None:
    """Writes a file of these parts and their sum, whole or not at all, whatever other processes do: no two have the
    same temporary name. Raises OSError where it can't.

    durable: waits for the disk. Else the sum alone tells what a power cut left.
    claim: of the writer, where several may be at work; one that lost it writes nothing.
    """
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}.part")
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    try:
        with temporary.open("wb") as opened:
            opened.write(total.digest())
            for part in parts:
                opened.write(part)
        if durable:
            _flush(temporary)
        if claim:
            claim.check()
        os.replace(temporary, file)
        if durable:
            _flush(file.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def kept(file: Path) -> memoryview | None:
    """Returns what `keep` was given; None where the file is not there, or damaged."""
    try:
        content = memoryview(file.read_bytes())
    except FileNotFoundError:
        return None
    total, content = content[:SUM_BYTES], content[SUM_BYTES:]
    return content if hashlib.sha256(content).digest() == total else None


def _flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk: a power cut must not leave an empty file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def note_attempt(job_folder: Path, attempt: int, say: Callable[[str], None]) -> None:
    """Notes beside a job's outputs how often it was started, where the one before ended by an error."""
    path = job_folder / ATTEMPTS
    if attempt == 1:
        path.unlink(missing_ok=True)
        return
    say(f"attempt {attempt}: the one before failed, or had too little memory or time")
    try:
        write_json(path, {"attempts": attempt})
    except Unwritable as error:
        say(str(error))


def tail(path: Path) -> list[str]:
    """Returns the last lines of a log; nothing of it is read but its end."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in (lines if size <= TAIL_BYTES else lines[1:]) if line.strip()]


def write_text(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes plain values with the version of jaxrnn that made them."""
    write_text(path, json.dumps({"jaxrnn_version": __version__, **values}, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, made_by: str) -> dict[str, Any]:
    """Returns what `write_json` wrote; raises JaxrnnError where it is missing, broken or of another version.

    made_by: the command that writes the file, for the message.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise JaxrnnError(f"{path}: not there yet; run `{made_by}` first")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise JaxrnnError(f"{path}: cannot be read ({error}); remove it and run `{made_by}` again")
    if not isinstance(values, dict):
        raise JaxrnnError(f"{path}: expected a JSON object; remove it and run `{made_by}` again")
    check_version(values.get("jaxrnn_version"), path)
    return values


def check_version(found: object, path: Path) -> None:
    """Raises JaxrnnError where `path` was made by a version whose results this one can't continue."""
    if str(found).split(".")[:2] != __version__.split(".")[:2]:
        raise JaxrnnError(
            f"{path}: made by jaxrnn {found}, and this is {__version__}; results of different versions are never "
            f"mixed. Use that version, or another `experiment:` name, or remove the folder {path.parent}"
        )
