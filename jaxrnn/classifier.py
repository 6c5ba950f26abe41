"""A finished experiment's model in Python: `jaxrnn.load("results/<experiment>/best")`.

What `predict` and `update` do is what `jaxrnn predict` does of survey files: the same checks, features and networks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jaxrnn import bundles, cuts, ensembles, inference, ingest
from jaxrnn.bundles import Bundle
from jaxrnn.config import Data
from jaxrnn.errors import JaxrnnError, listed, nearest
from jaxrnn.features import DETECTION
from jaxrnn.readers import Part, SequenceReader, Sequences, Survey

if TYPE_CHECKING:
    from jaxrnn.stepping import Stepper

ID, TIME, PASSBAND = "id", "time", "passband"
WHERE = "observations"  # what messages call the table


@dataclass
class _Stream:
    """An object that is observed: the first and the last of its observations that are no step cut, as rows of a table;
    how many steps there were; what each network carries; the last answer."""

    rows: list[dict[str, Any]]
    steps: int
    states: list[Any]
    answer: dict[str, Any] | None


class Classifier:
    """A model, ready to be asked. Observations come as tables of pandas with the columns `columns`."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self._network = bundle, inference.network(bundle)
        # faults are told, and not left out: whoever calls can mend them
        settings = bundle.data.model_copy(update={"on_error": "stop", "evaluation": ()})
        self._data, self._survey = settings, _asked(settings, bundle)
        self._streams: dict[str, _Stream] = {}
        self._stepper: Stepper | None = None

    @classmethod
    def load(cls, path: Path) -> "Classifier":
        """Returns the model in a folder; raises JaxrnnError for a broken one."""
        return cls(bundles.load(path))

    @property
    def classes(self) -> tuple[str, ...]:
        return self.bundle.statistics.classes

    @property
    def columns(self) -> dict[str, str]:
        """Returns the columns of a table of observations, with their units: the object's id, the time, the survey's
        columns that the model needs, the passband where it has some, and metadata, the same in all rows of an
        object."""
        found = {ID: "", TIME: self._survey.time_unit}
        found |= {column.name: column.unit for column in self._survey.columns}
        if self._survey.passbands:
            found[PASSBAND] = f"one of {', '.join(self._survey.passbands)}"
        return found | {column.name: column.unit for column in self._survey.metadata}

    def predict(self, observations: pd.DataFrame) -> pd.DataFrame:
        """Returns the predictions for the objects in a table of observations, in the order of their first rows, as
        `jaxrnn predict` writes them: see docs/predictions.md.

        An object's rows may stand anywhere. One whose every observation `data.cuts` leaves out has no prediction.
        Raises JaxrnnError for missing columns, faulty values and sequences that are too long for the network.
        """
        raw = self._sequences(observations)
        found = inference.answers(self.bundle, self._shard(self._data, raw))
        if found.too_long:
            longest = self._network.longest
            raise JaxrnnError(
                f"{WHERE}: {listed(found.too_long)}: more steps than the network takes, which are {longest}; leave "
                "some out"
            )
        return found.table

    def update(self, name: str, observation: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the prediction for an object after one more observation, as the last row of `predict` has it for all
        of its observations so far; None as long as `data.cuts` left none of them.

        It costs one step of the network, whose state is kept here. observation: a value for each of `columns` but
        `id`; metadata may be left out after the first. Raises JaxrnnError where the model isn't causal, with the
        reason, and for observations that are faulty, or before the last one; what was known of the object is kept.
        """
        if self._stepper is None:
            self._stepper = self._made_stepper()
        name = str(name)
        known = self._streams.get(name) or _Stream([], 0, self._stepper.begin(), None)
        once = {column.name: known.rows[0][column.name] for column in self._survey.metadata if known.rows}
        row = {**once, **observation, ID: name}
        raw = self._sequences(pd.DataFrame([*known.rows, row]))
        if known.rows and raw.time[-1] < raw.time[-2]:
            raise JaxrnnError(
                f"{name}: an observation at {raw.time[-1]} came after the one at {raw.time[-2]}; expected them in "
                "order of time: give all of them to `predict`"
            )
        limits = self._data.cuts
        endless = self._data.model_copy(update={"cuts": limits.model_copy(update={"max_steps": None})})
        shard = self._shard(endless, raw)
        is_beyond = limits.max_steps is not None and known.steps >= limits.max_steps
        if is_beyond or len(shard.time) == len(known.rows):
            return known.answer
        features, metadata = self.bundle.statistics.normalised(shard.features[-1:], shard.metadata, np.array([0, 1]))
        states, members = self._stepper.step(known.states, features, metadata)
        together = ensembles.together(members, [member.temperature for member in self.bundle.members])
        answer, steps = inference.described(self.bundle, np.array([name]), together, np.array([1])), known.steps + 1
        if self._network.gives.has_steps:
            answer = inference.placed(answer, np.array([steps]), shard.time[-1:])
        told: dict[str, Any] = answer.to_dict("records")[0]  # pyright: ignore[reportAssignmentType]
        self._streams[name] = _Stream([*known.rows[:1], row], steps, states, told)
        return told

    def forget(self, name: str) -> None:
        """Drops what is kept of an object for `update`."""
        self._streams.pop(str(name), None)

    def _made_stepper(self) -> "Stepper":
        from jaxrnn import stepping

        reasons = [*_obstacles(self.bundle), *stepping.obstacles(self._network)]
        if reasons:
            raise JaxrnnError(
                f"this model can't be updated by single observations: {'; '.join(reasons)}. Give all of an object's "
                "observations to `predict`"
            )
        return stepping.Stepper(self.bundle)

    def _shard(self, data: Data, raw: Sequences) -> Any:
        return ingest.shard_of(data, self._survey, _Table(), raw)

    def _sequences(self, table: pd.DataFrame) -> Sequences:
        """Returns a table of observations as a reader would give it."""
        if not isinstance(table, pd.DataFrame):
            raise JaxrnnError(f"{WHERE}: expected a table of pandas, found {type(table).__name__}")
        for name in self.columns:
            if name not in table:
                raise JaxrnnError(
                    f"{WHERE}: no column '{name}'{nearest(name, list(map(str, table)))}; expected "
                    f"{listed(list(self.columns), 20)}"
                )
        unnamed = table[ID].isna().to_numpy(dtype=bool)
        if unnamed.any():
            raise JaxrnnError(f"{WHERE}: row {int(unnamed.argmax())} has no id; expected one a row")
        codes, ids = pd.factorize(table[ID].astype(str))
        order = np.argsort(codes, kind="stable")
        rows = np.arange(len(table))[order]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(ids)))]).astype(np.int64)
        survey, first = self._survey, order[offsets[:-1]]
        values = np.column_stack([np.zeros((len(table), 0)), *(_numbers(table, c.name) for c in survey.columns)])
        metadata = np.column_stack([np.zeros((len(table), 0)), *(_numbers(table, c.name) for c in survey.metadata)])
        varies = (metadata[order] != metadata[first][codes[order]]) & ~np.isnan(metadata[order])
        if varies.any():
            row, column = np.argwhere(varies)[0]
            raise JaxrnnError(
                f"{WHERE}: object {ids[codes[order][row]]} has several values of '{survey.metadata[column].name}'; "
                "expected one an object, the same in all of its rows"
            )
        passband = np.zeros(len(table), dtype=np.int64)
        if survey.passbands:
            passband = pd.Index(survey.passbands).get_indexer(pd.Index(table[PASSBAND].astype(str))).astype(np.int64)
        return Sequences(
            ids=np.array(ids, dtype=str),
            labels=np.full(len(ids), ""),
            offsets=offsets,
            time=_numbers(table, TIME)[order],
            values=values[order],
            passband=passband[order],
            metadata=metadata[first],
            row_numbers=rows,
            files=(WHERE,),
        )


class _Table(SequenceReader):
    """A table in memory: what messages ask a reader for is its rows."""

    EXAMPLE = ""

    def __init__(self) -> None: ...

    def describe(self) -> Survey:
        raise NotImplementedError

    def files(self) -> list[Path]:
        return []

    def parts(self, budget: int) -> list[Part]:
        return []

    def read(self, part: Part) -> Sequences:
        raise NotImplementedError


def _numbers(table: pd.DataFrame, name: str) -> np.ndarray:
    try:
        return table[name].to_numpy(dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise JaxrnnError(f"{WHERE}: the column '{name}' holds what is no number ({error})")


def _asked(data: Data, bundle: Bundle) -> Survey:
    """Returns the survey with those of its columns that the model needs."""
    survey = bundle.survey
    errors = cuts.errors_of(survey)
    wanted = {column["column"] for column in bundle.features}
    wanted |= {cut.column for cut in (*data.cuts.flags, *data.cuts.sigma_clip)}
    if data.detection is not None:
        wanted |= {data.detection.column} if data.detection.column else {*errors, *errors.values()}
    # a column and its errors go together: nights are weighted by them, and magnitudes need both
    wanted |= {name for pair in errors.items() if wanted & set(pair) for name in pair}
    around = data.cuts.window.around if data.cuts.window else ""
    return replace(
        survey,
        columns=tuple(column for column in survey.columns if column.name in wanted),
        error_columns=tuple(name for name in survey.error_columns if name in wanted),
        flag_columns=tuple(name for name in survey.flag_columns if name in wanted),
        metadata=tuple(column for column in survey.metadata if column.name in (*data.metadata, around)),
        labelled=False,
        gives_splits=False,
        gives_groups=False,
        gives_step_labels=False,
    )


def _obstacles(bundle: Bundle) -> Sequence[str]:
    """Returns why inputs at a step can't be known when it is observed; nothing where they can."""
    data, found = bundle.data, []
    if bundle.task.kind == "label_sequence":
        found.append("labels of a sequence are decoded from all of its steps")
    if data.steps == "night":
        found.append("a night's step changes with each of its observations (`data.steps`)")
    if any(column["kind"] == DETECTION for column in bundle.features):
        found.append(f"`{DETECTION}` is known once there was a detection")
    if bundle.statistics.sequence_features.size:
        found.append("inputs are normalised by the whole sequence (`data.features`)")
    if data.cuts.sigma_clip:
        found.append("outliers are told by the whole sequence (`data.cuts.sigma_clip`)")
    if data.cuts.max_steps is not None and data.cuts.keep != "first":
        found.append(f"which steps stay follows from the whole sequence (`data.cuts.keep: {data.cuts.keep}`)")
    if data.cuts.window is not None and data.cuts.window.around == "detection":
        found.append("what lies around a detection is known once there was one (`data.cuts.window`)")
    return found
