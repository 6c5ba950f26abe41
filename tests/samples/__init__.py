"""Small surveys in every format that the readers know, with what they hold: one module a reader, of its name.

Each module has `write(folder, generator) -> Sample`: it writes a survey of some 12 objects in 3 classes into the
(empty) folder, by other means than the reader's own code, and says what is in it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Sample:
    """path, options: for `readers.open_reader`. objects: what the survey holds, by id, in any order.
    damageable: files whose damage (truncated, emptied, scribbled) must be told, not read past."""

    path: Path
    options: dict[str, Any]
    objects: dict[str, "Object"]
    damageable: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Object:
    """One object: times [row], values [row, column] in the order of `Survey.columns`, passbands [row] by name (empty
    where the survey has none), metadata by name; None where the survey says nothing of it."""

    label: str
    time: np.ndarray
    values: np.ndarray
    passbands: tuple[str, ...] = ()
    metadata: dict[str, float] = field(default_factory=dict)
    split: str | None = None
    group: str | None = None
    step_labels: tuple[str, ...] | None = None
