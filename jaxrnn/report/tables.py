"""The page's tables, and how numbers are written in it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxrnn.metrics import FEWEST_OBJECTS

TOO_FEW = "too few"
ENDS = ("low", "high", "log_loss_low", "log_loss_high")  # of intervals, in rows
NOT_A_NUMBER = "\N{EN DASH}"
NOTHING = "(nothing)"  # of labels, where a sequence has none


@dataclass(frozen=True)
class Cell:
    """A table's cell. value: the number as the file has it, unrounded; None for text."""

    text: str
    value: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the page. The first column heads its row. marked: the chosen row. tall: may scroll in its own box."""

    name: str
    caption: str
    columns: list[str]
    rows: list[list[Cell]]
    marked: tuple[int, ...] = ()
    numeric: frozenset[int] = frozenset()

    @classmethod
    def of(
        cls, name: str, caption: str, columns: list[str], rows: list[list[Cell]], marked: Sequence[int] = ()
    ) -> "Table":
        numeric = {i for i in range(len(columns)) if any(row[i].value is not None for row in rows)}
        return cls(name, caption, columns, rows, tuple(marked), frozenset(numeric))


def text_cell(value: object) -> Cell:
    return Cell(str(value))


def count_cell(value: float) -> Cell:
    return Cell(f"{int(value):,}" if math.isfinite(value) else NOT_A_NUMBER, float(value))


def score_cell(value: float, low: float = math.nan, high: float = math.nan) -> Cell:
    """Returns a score as 0.972 [0.961, 0.981]; with a fourth decimal where it or its interval is that small."""
    value, low, high = (math.nan if number is None else float(number) for number in (value, low, high))
    if not math.isfinite(value):
        return Cell(NOT_A_NUMBER, math.nan)
    known = math.isfinite(low) and math.isfinite(high)
    places = 4 if 0 < value < 0.01 or (known and 0 < high - low < 0.004) else 3
    return Cell(f"{value:.{places}f}", value, f"[{low:.{places}f}, {high:.{places}f}]" if known else "")


def measured_cell(score: dict[str, Any]) -> Cell:
    """Returns a score with its interval, or "too few" where that rests on too few objects to be believed."""
    if score.get("objects", FEWEST_OBJECTS) < FEWEST_OBJECTS:
        return replace(score_cell(score["value"]), note=TOO_FEW)
    return score_cell(score["value"], score.get("low", math.nan), score.get("high", math.nan))


def p_cell(value: float) -> Cell:
    """Returns a p-value; what four decimals can't tell from 0 as "< 0.0001"."""
    return Cell("< 0.0001", float(value)) if 0 <= value < 5e-5 else score_cell(value)


def believed(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row with the ends of its intervals left out where they rest on too few objects."""
    if row.get("objects", FEWEST_OBJECTS) >= FEWEST_OBJECTS:
        return row
    return {name: math.nan if name in ENDS else value for name, value in row.items()}


def percent(part: float, whole: float) -> str:
    share = 100 * part / whole if whole else 0.0
    if 0 < share < 0.1:
        return "under 0.1\N{NO-BREAK SPACE}%"
    return f"{share:.{0 if share >= 10 or share == round(share) else 1}f}\N{NO-BREAK SPACE}%"


def value_text(value: object) -> str:
    """Returns a grid value as YAML writes it, the same whether it comes from JSON or a CSV."""
    text = {"": "null", "None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
    try:
        return f"{float(text):.12g}"
    except ValueError:
        return text


def sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def number_or_text(value: object) -> Cell:
    text = value_text(value)
    number = as_number(text)
    return Cell(text, number) if math.isfinite(number) else Cell(text)


def as_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
