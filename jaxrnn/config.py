"""The experiment file: its keys, their meaning, and messages that name every mistake at once.

The text of each key's `description` is what `config/README.md` and the editors' schema show.
"""

import difflib
import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic import ValidationInfo as Info

from jaxrnn.errors import JaxrnnError, listed, nearest
from jaxrnn.readers import READERS, reader_class

# Keys whose values enter the compiled program as arrays: trials that differ in them alone train in one job.
TRACED_KEYS = (
    "training.learning_rate",
    "training.momentum",
    "training.weight_decay",
    "training.gradient_clip",
    "training.warmup_epochs",
    "training.final_share",
    "training.plateau_factor",
    "training.plateau_patience",
    "training.teacher_share",
    "training.final_teacher_share",
    "model.dropout",
    "model.recurrent_dropout",
    "loss.l2",
    "loss.class_weights",
    "loss.beta",
    "loss.gamma",
    "loss.label_smoothing",
    "seed",
)
GRID_SECTIONS = ("model", "loss", "augmentation", "training")
# Keys of `training` that change how a job runs but not what a trial becomes.
RUN_KEYS = ("device", "processes", "trials_per_job", "checkpoint_minutes", "segment_seconds")
# Scores of which less is better; of all others, which lie between 0 and 1, more is.
LOWER_IS_BETTER = ("loss", "log_loss", "plasticc_log_loss", "label_error_rate", "sequence_error_rate")
# Scores that label sequences have, and those of them that nothing else has.
ERROR_RATES = ("label_error_rate", "sequence_error_rate")
SEQUENCE_SCORES = ("loss", "log_loss", *ERROR_RATES)
# Scores that a key of `task` decides. It changes what predictions are worth, and what a trial becomes only where that
# score is monitored.
SCORE_KEYS = {"plasticc_log_loss": "class_importance", "figure_of_merit": "target"}
# Keys of `training` that a decoder alone has a use for.
TEACHER_KEYS = ("teacher_share", "final_teacher_share", "teacher_schedule")
# Kinds of survey that can be made: where their parameters are, and the reader of what is made.
SIMULATIONS = {
    "light_curves": ("jaxrnn.simulate:Simulation", "simulated"),
    "clips": ("jaxrnn.clips:Clips", "hdf5"),
    "waves": ("jaxrnn.waves:Waves", "dat"),
}
DEFAULT_SIMULATION = "light_curves"
PREDICTION_ENDINGS = (".parquet", ".csv", ".h5")
# Folders under results/ that belong to no experiment.
RESERVED_NAMES = ("compiled", "datasets", "surveys")
# A slip in a grid must not become a million jobs; a real grid of this size belongs in several experiments.
MOST_TRIALS = 100_000
REST = "*"
NAME = "[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
# What pydantic calls bounds, and how JSON Schema calls them.
BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def _shown(value: Any) -> str:
    """Returns a value as the file has it (`null`, `true`), cut where it is long."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _name(value: str) -> str:
    if not re.fullmatch(NAME, value):
        raise ValueError(
            f"expected a plain name of at most 64 letters, digits, '-' and '_', found {_shown(value)}; "
            "it becomes a folder under results/"
        )
    if value in RESERVED_NAMES:
        raise ValueError(f"results/{value} holds what experiments share; choose another name")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise ValueError(f"expected a number, found {_shown(value)}" + _unquoted(value))
    if isinstance(value, int) and abs(value) > 2**1000:
        raise ValueError(f"expected a number that a computer can hold, found {_shown(value)}")
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"expected a whole number, found {_shown(value)}" + _unquoted(value))
    return value


def _unquoted(value: Any) -> str:
    try:
        return f"; write it without quotes: {value}" if isinstance(value, str) and math.isfinite(float(value)) else ""
    except ValueError:
        return ""


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, found {value}")
    return value


# What a network answers for: a whole sequence, every prefix of it, every step, or the labels of a sequence in order.
Output = Literal["sequence", "prefix", "step", "label_sequence"]
Name = Annotated[str, AfterValidator(_name), Field(json_schema_extra={"pattern": f"^{NAME}$"})]
Number = Annotated[float, BeforeValidator(_number), AfterValidator(_finite)]
Whole = Annotated[int, BeforeValidator(_whole)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A part of the experiment file: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=BaseModel)


class Feature(Section):
    """One input of the network at each step. A name alone stands for `{name: ...}` without scaling."""

    name: Text = Field(
        description="`time` (as in the files), `time_since_first` and `time_difference` (to the step before), all "
        "three in the survey's unit of time; `time_since_detection` (negative before it, and measured from the last "
        "step where nothing is detected; see `detection`); `passband` "
        "(one 0/1 input a passband); or a column of the reader, in its unit, where `*` stands for any text: "
        "`region_*`. Prefer the differences where `time` is a date that tells nothing of the object."
    )
    scaling: Literal["none", "asinh", "log", "magnitude"] = Field(
        default="none",
        description="Applied before normalisation: `asinh` is asinh(x / `softening`), for fluxes that span decades and "
        "may be negative; `log` is the natural logarithm, for positive values such as errors; `magnitude` is "
        "`zero_point` - 2.5 log10(x) of a positive flux, and of its errors (`flux_error`, which take it together) "
        "the error of that. Only for "
        "columns of the reader.",
    )
    softening: Annotated[Number, Field(gt=0)] = Field(
        default=1.0,
        description="Where `asinh` turns from linear to logarithmic, in the unit of the column. Set it to about the "
        "noise.",
    )
    zero_point: Number = Field(
        default=23.9,
        description="Magnitude of a flux of 1, for `scaling: magnitude`: 23.9 for microjansky, 27.5 for SNANA's "
        "FLUXCAL.",
    )
    normalisation: Literal["feature", "survey", "sequence", "robust", "none"] = Field(
        default="feature",
        description="What is subtracted and divided by, after scaling. `feature`: mean and standard deviation over all "
        "training steps. `robust`: median and 0.7413 times the interquartile range of the same, for heavy tails. "
        "`survey`: one mean and one deviation for all columns that the name stands for (all passbands), so that "
        "colours are kept. `sequence`: each sequence's own mean and deviation (looks ahead, and forgets brightness). "
        "Changes no shard: ingest does not run again.",
    )


class Detection(Section):
    """Which observation first shows the object. Exactly one of the two keys."""

    column: Text | None = Field(
        default=None, description="A column of 0/1 marks: the first observation where it is not 0."
    )
    signal_to_noise: Annotated[Number, Field(gt=0)] | None = Field(
        default=None,
        validate_default=True,
        description="The first observation where a column with an error (`flux`) exceeds this many times that error.",
    )

    @field_validator("signal_to_noise")
    @classmethod
    def _one_of_them(cls, signal_to_noise: float | None, info: Info) -> float | None:
        if "column" in info.data and (signal_to_noise is None) == (info.data["column"] is None):
            found = "neither" if signal_to_noise is None else "both"
            raise ValueError(f"expected either `column` or `signal_to_noise`, found {found}")
        return signal_to_noise


class FlagCut(Section):
    """Leaves out observations by a column of marks, such as photometric quality flags."""

    column: Text = Field(description="A column of whole numbers.")
    reject_bits: Annotated[Whole, Field(ge=1)] | None = Field(
        default=None, description="Leave out where any of these bits is set: 1016 stands for 8 + 16 + ... + 512."
    )
    require_bits: Annotated[Whole, Field(ge=1)] | None = Field(
        default=None, description="Leave out where any of these bits is not set."
    )
    keep_values: tuple[Number, ...] = Field(default=(), description="Leave out where the value is none of these.")


class SigmaClip(Section):
    """Leaves out outliers of one column, object by object and passband by passband."""

    column: Text = Field(description="The column whose outliers are left out.")
    sigma: Annotated[Number, Field(gt=0)] = Field(
        description="Leave out what lies more than so many robust deviations (1.4826 times the median absolute "
        "deviation) from the median. Not for transients: their peak is an outlier."
    )
    iterations: Annotated[Whole, Field(ge=1, le=100)] = Field(
        default=3, description="At most so many rounds; it ends where a round leaves nothing out."
    )


class Window(Section):
    """Leaves out observations far from a time that an observer knows."""

    around: Text = Field(
        description="`detection` (see `detection`), `first` (the first observation), or a column of metadata in the "
        "survey's unit of time, such as the time of an alert."
    )
    before: Annotated[Number, Field(ge=0)] = Field(description="How long before it observations count, inclusive.")
    after: Annotated[Number, Field(ge=0)] = Field(description="How long after it observations count, inclusive.")


class Cuts(Section):
    """Observations that are left out by choice, in the order of these keys; counted in the manifest by reason."""

    flags: tuple[FlagCut, ...] = Field(default=(), description="Cuts by quality flags; a list of mappings.")
    window: Window | None = Field(default=None, description="Keep a window of time alone.")
    sigma_clip: tuple[SigmaClip, ...] = Field(default=(), description="Cuts of outliers; a list of mappings.")
    max_steps: Annotated[Whole, Field(ge=1)] | None = Field(
        default=None, description="Longest sequence, in steps (after nights are made); longer ones are cut by `keep`."
    )
    keep: Literal["first", "last", "even"] = Field(
        default="first",
        description="Which steps of a too long sequence stay: its `first`, its `last`, or `max_steps` of them spread "
        "evenly from the first to the last.",
    )


# Kinds of fault, and what each is; `data.on_error` may name them.
FAULTS = {
    "file": "a file, or a piece of one, that cannot be read",
    "row": "a row that cannot be read: wrong number of fields, text for a number",
    "value": "a value or a time that is not finite in single precision, or not positive where a logarithm is asked for",
    "error": "a stated error that is zero or negative",
    "passband": "a passband that is not declared",
    "label": "an object, or a step, without a label",
    "metadata": "an object whose chosen metadata is missing or not finite",
    "duplicate": "an object that stands twice, within a file or in two",
    "orphan": "observations whose object is not in the table of objects",
    "empty": "an object without observations, or whose every observation was rejected",
}


# The simulators' own parameters are checked by `simulation_class`; here they are only a mapping.
class Data(Section):
    """Where the survey is and what of it enters the network. Decides the dataset: change it and ingest runs again."""

    reader: Text = Field(
        description="Format of the survey: the reader that knows it, or `module:Class` for one of your own. `jaxrnn "
        "readers` lists them with an example each.",
    )
    path: Text | None = Field(
        default=None,
        description="The survey's folder or file, absolute or from the folder where the command is called. Left out "
        "with `simulation`.",
    )
    options: dict[str, Any] = Field(
        default={}, description="What the reader needs to know of the files: see its table under [Readers](#readers)."
    )
    simulation: dict[str, Any] | None = Field(
        default=None,
        validate_default=True,
        description="Parameters of a simulated survey, instead of `path`; `{}` takes every default: light curves, for "
        "the reader `simulated`. `kind: clips` makes subjects who watch film clips, for the reader `hdf5`; "
        "`kind: waves` makes sine and square waves, for the reader `dat`. The survey is made first, under "
        "`results/surveys/`.",
    )
    steps: Literal["observation", "night"] = Field(
        default="observation",
        description="`observation`: a step an observation. `night`: observations without a gap of `night_gap` between "
        "them share a step, with the columns of each passband side by side (means weighted by inverse variance where "
        "a night has several), and `passband` as presence marks: shorter sequences and faster training, for surveys "
        "that take several passbands a night.",
    )
    night_gap: Annotated[Number, Field(gt=0)] = Field(
        default=0.5,
        description="A longer gap between observations starts a new night, in the survey's unit of time (days). Only "
        "for `steps: night`; change it where visits of one night lie further apart.",
    )
    features: Annotated[tuple[Feature, ...], Field(min_length=1)] = Field(
        description="The network's inputs at each step, in this order: names, or mappings with `name`, `scaling` and "
        "so on. Each is normalised by what the training split shows."
    )
    detection: Detection | None = Field(
        default=None, description="What counts as the first detection; `time_since_detection` and `window` need it."
    )
    cuts: Cuts = Field(
        default=Cuts(),
        description="Observations to leave out by choice. An object that keeps none is left out with them, and counted "
        "as cut: that is no fault, so that `on_error` and `most_rejected` have no say in it.",
    )
    metadata: tuple[Text, ...] = Field(
        default=(),
        description="Columns known once for each object (redshift, position, ...), in the reader's units, that join "
        "the network's dense part. Add those that tell the classes apart and will be known for new objects.",
    )
    evaluation: tuple[Text, ...] = Field(
        default=(),
        description="Columns of metadata that scores are measured against (`task.early`) and that the network never "
        "sees, such as the true time of the peak in a simulated survey.",
    )
    shard_mb: Annotated[Number, Field(gt=0, le=4096)] = Field(
        default=32.0,
        description="About how many MB of the survey's files go into one HDF5 shard: what a rank reads at once, so "
        "that it needs some 10 times this memory. Less where more MPI ranks than shards should share the work.",
    )
    compression: Literal["none", "gzip"] = Field(
        default="none",
        description="`gzip` makes shards 2 to 4 times smaller and some 10 times slower to read: for archives, or where "
        "the disk is full.",
    )
    on_error: Literal["stop", "reject"] | dict[Text, Literal["stop", "reject"]] = Field(
        default="stop",
        description="What faulty input does: `stop` ends ingest with a message, `reject` leaves it out and writes it "
        "with its reason to `rejected.csv`. Or a mapping by kind of fault, `{error: reject}`; kinds not named stop. "
        f"The kinds: {'; '.join(f'`{kind}`, {what}' for kind, what in FAULTS.items())}. Choose `reject` once you have "
        "seen what is faulty.",
    )
    most_rejected: Annotated[Number, Field(ge=0, le=1)] = Field(
        default=0.1,
        description="Largest share of objects, of observations, and of files (or pieces of them) that cannot be read, "
        "by their number and by their bytes, that may be rejected; beyond it ingest ends with a message, because the "
        "survey is then not what the experiment takes it for.",
    )

    @field_validator("reader")
    @classmethod
    def _known_reader(cls, reader: str) -> str:
        try:
            reader_class(reader)
        except JaxrnnError as error:
            raise ValueError(str(error)) from None
        return reader

    @field_validator("on_error")
    @classmethod
    def _known_faults(cls, on_error: str | dict[str, str]) -> str | dict[str, str]:
        for kind in on_error if isinstance(on_error, dict) else ():
            if kind not in FAULTS:
                known = list(FAULTS)
                raise ValueError(
                    f"there is no fault '{kind}'{nearest(kind, known)} (the kinds are {listed(known, 20)})"
                )
        return on_error

    def rejects(self, kind: str) -> bool:
        """Returns whether faults of a kind, one of `FAULTS`, are left out instead of ending ingest."""
        return (self.on_error.get(kind, "stop") if isinstance(self.on_error, dict) else self.on_error) == "reject"

    @field_validator("simulation")
    @classmethod
    def _one_source(cls, simulation: dict[str, Any] | None, info: Info) -> dict[str, Any] | None:
        if "path" in info.data and (info.data["path"] is None) == (simulation is None):
            found = "neither" if simulation is None else "both"
            raise ValueError(
                f"expected either `path` (files that are there) or `simulation` (files to be made), found {found}"
            )
        kind = DEFAULT_SIMULATION if simulation is None else simulation.get("kind", DEFAULT_SIMULATION)
        if simulation is not None and isinstance(kind, str) and kind in SIMULATIONS:
            reader = SIMULATIONS[kind][1]
            if info.data.get("reader", reader) != reader:
                raise ValueError(f"`{kind}` goes with `reader: {reader}`, not with '{info.data['reader']}'")
        return simulation

    @field_validator("features", mode="before")
    @classmethod
    def _names_as_features(cls, features: Any) -> Any:
        if not isinstance(features, list | tuple):
            return features
        return [{"name": entry} if isinstance(entry, str) else entry for entry in features]

    @field_validator("features", "metadata", "evaluation")
    @classmethod
    def _different(cls, entries: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [entry.name if isinstance(entry, Feature) else entry for entry in entries]
        if len(set(names)) < len(names):
            raise ValueError(f"'{next(name for name in names if names.count(name) > 1)}' is listed twice")
        return entries


class Split(Section):
    """Which objects train the network, choose among trials, and measure the choice."""

    method: Literal["exact", "hash", "given"] = Field(
        default="exact",
        description="`exact`: stratified by class, shares exact to an object. `hash`: by object id and seed, so that "
        "data added later never moves an object; shares hold in expectation. `given`: as the survey's files say; where "
        "they give no validation split, the share `validation` of their training split becomes it.",
    )
    train: Annotated[Number, Field(gt=0, lt=1)] = Field(
        default=0.7, description="Share of the objects that train the network. Not used with `method: given`."
    )
    validation: Annotated[Number, Field(gt=0, lt=1)] = Field(
        default=0.15,
        validate_default=True,
        description="Share that stops training early and chooses among trials; the rest is the test split. More where "
        "classes are rare and the choice is noisy. Not used with `method: given`.",
    )
    by: Literal["object", "group"] = Field(
        default="object",
        description="`group` keeps all sequences of one group (one star, one subject) in one split; the reader or its "
        "options say what a group is. Choose it wherever one thing was measured more than once.",
    )
    folds: Annotated[Whole, Field(ge=2, le=50)] | None = Field(
        default=None,
        description="So many splits of the same objects, each with a trial of its own at every grid point; "
        "`fold_kind` says how they differ. For small surveys, and for means over splits.",
    )
    fold_kind: Literal["k_fold", "random"] = Field(
        default="k_fold",
        description="`k_fold`: cross-validation; what `train` and `validation` hold together is cut into `folds`, each "
        "the validation split of some trials; the test split stays as it is. `random`: every fold is another random "
        "split, its test split too, with the seeds `seed`, `seed` + 1, ...: for scores with their spread over splits, "
        "as many papers quote them. Not with `method: given`.",
    )
    balance: Flag = Field(
        default=False,
        description="Before splitting, leave out objects of the larger classes, drawn by the split's seed, until every "
        "class has as many as the smallest; those left out, the same in every fold, are counted. For comparison with "
        "results on balanced samples: `loss.class_weights: balanced` uses all objects instead. Given splits and leaks "
        "that are taken out may unbalance them again. Not with `task.kind: step` or `label_sequence`.",
    )
    leaks: Literal["refuse", "drop_from_training", "report"] = Field(
        default="refuse",
        description="What happens where a group, or a sequence equal or almost equal to another, stands in two splits, "
        "which makes test scores too good (almost: their root mean square difference is below 1 % of their spread; "
        "with fewer than 8 numbers that vary only equal ones count, and not those that could be equal by chance): "
        "`refuse` stops with the list; `drop_from_training` takes it from training "
        "(and validation, where it is also in test), counted; `report` goes on and says so.",
    )
    leave_out: tuple[Text, ...] = Field(
        default=(),
        description="Objects, by id, that stay out of every split, and are counted: faulty ones, or copies that "
        "`leaks.csv` lists.",
    )
    seed: Whole | None = Field(
        default=None,
        description="Seed of the split; the experiment's `seed` where left out. Set it to change the experiment's seed "
        "and keep the split, or to draw another split for the same networks.",
    )

    @field_validator("leave_out", mode="before")
    @classmethod
    def _ids_as_text(cls, ids: Any) -> Any:
        # YAML reads an id of digits as a number
        if not isinstance(ids, list | tuple):
            return ids
        return [str(name) if isinstance(name, int) and not isinstance(name, bool) else name for name in ids]

    @field_validator("fold_kind")
    @classmethod
    def _drawn_by_us(cls, fold_kind: str, info: Info) -> str:
        if fold_kind == "random" and info.data.get("method") == "given":
            raise ValueError("draws splits, and `method: given` takes them from the files; use `exact` or `hash`")
        return fold_kind

    @field_validator("validation")
    @classmethod
    def _leaves_a_test(cls, validation: float, info: Info) -> float:
        train = info.data.get("train", 0.0)
        if train + validation >= 1:
            raise ValueError(
                f"train + validation is {train + validation:g}; expected less than 1, the rest is the test split"
            )
        return validation


class Early(Section):
    """Times at which growing sequences are scored, measured from a time of each object."""

    around: Text = Field(
        description="A column of `data.evaluation` in the survey's unit of time, such as the true time of the peak."
    )
    at: Annotated[tuple[Number, ...], Field(min_length=1)] = Field(
        description="How long after it (negative: before it), in the survey's unit of time. The score at -2 is that of "
        "what was observed until two days before."
    )


class Task(Section):
    """What the network tells apart."""

    kind: Output = Field(
        default="sequence",
        description="What gets a label. `sequence`: each object. `prefix`: each object, predicted anew after every "
        "step from what was observed until then, for objects that are classified while they are observed; pooling runs "
        "along the sequence, and scores are those after the last step, with curves for fewer. `step`: each step, by "
        "the survey's step labels; `exclude` names labels whose steps train nothing and count nowhere. "
        "`label_sequence`: each object has several labels in an order, of which nobody says where they begin (digits "
        "of a line, phases of an outburst); needs `loss.kind: ctc`, or a `model.decoder`, and `exclude` leaves out "
        "objects with such a label whole.",
    )
    separator: str = Field(
        default=" ",
        description="For `kind: label_sequence`: what parts an object's label into its labels, `7 2 1` into three. A "
        "space stands for any white space; empty text makes every character a label.",
    )
    beam_width: Annotated[Whole, Field(ge=1, le=1024)] | None = Field(
        default=None,
        description="For `kind: label_sequence`: labels are decoded by prefix beam search that keeps so many prefixes; "
        "`null` decodes greedily, by the most probable path. 5 to 20; slower, and better where the network is unsure. "
        "Changes no trial. `best.json` has the rates of both. Of `loss.kind: ctc` alone.",
    )
    classes: dict[Text, Annotated[tuple[Text, ...], Field(min_length=1)]] | None = Field(
        default=None,
        description='Class names with the survey\'s labels that each holds: `{Ia: [Ia], other: ["*"]}`; "*" stands for '
        "every label not named elsewhere. Left out, each label is a class of its own. Group labels that are too rare, "
        "or that needn't be told apart.",
    )
    early: Early | None = Field(
        default=None,
        description="For `kind: prefix`: times at which its predictions are scored too, beside numbers of steps and "
        "time since the first one.",
    )
    exclude: tuple[Text, ...] = Field(
        default=(),
        validate_default=True,
        description='Labels whose objects stay out of every split, and are counted. For labels that mean "unknown", or '
        "that no future object can have.",
    )
    class_importance: dict[Text, Annotated[Number, Field(gt=0)]] = Field(
        default={},
        description="Weight of each class in the score `plasticc_log_loss` (Malz et al. 2019), a pure number, 1 for "
        "classes not named: the mean over classes of their objects' log loss, so weighted. It does not enter training, "
        "unless as `training.monitor`. `{KN: 2, TDE: 2}` where those matter twice as much.",
    )
    target: Text | None = Field(
        default=None,
        description="Class that the score `figure_of_merit` is of, for surveys that look for one: efficiency times "
        "TP / (TP + 3 FP), as SPCC had it for type Ia (Kessler et al. 2010).",
    )

    @field_validator("classes", "exclude", mode="before")
    @classmethod
    def _labels_as_text(cls, values: Any) -> Any:
        # YAML reads `classes: {a: [0]}` as a number; labels are text everywhere
        def text(labels: Any) -> Any:
            labels = labels if isinstance(labels, list | tuple) else [labels]
            return [str(label) if isinstance(label, int) and not isinstance(label, bool) else label for label in labels]

        if isinstance(values, dict):
            return {name: text(labels) for name, labels in values.items()}
        return values if values is None else text(values)

    @property
    def by_step(self) -> bool:
        """Returns whether the network predicts at every step."""
        return self.kind in ("prefix", "step")

    @field_validator("separator", "beam_width")
    @classmethod
    def _of_label_sequences(cls, value: Any, info: Info) -> Any:
        if value not in (" ", None) and info.data.get("kind", "label_sequence") != "label_sequence":
            raise ValueError("is of label sequences; set `kind: label_sequence`, or leave this out")
        return value

    @field_validator("classes")
    @classmethod
    def _at_least_two(cls, classes: dict[str, tuple[str, ...]] | None) -> dict[str, tuple[str, ...]] | None:
        if classes is not None and len(classes) < 2:
            raise ValueError(f"expected at least 2 classes to tell apart, found {len(classes)}")
        if classes is not None:
            _each_label_once([label for group in classes.values() for label in group])
        return classes

    @field_validator("early")
    @classmethod
    def _of_prefixes(cls, early: Early | None, info: Info) -> Early | None:
        if early is not None and info.data.get("kind", "prefix") != "prefix":
            raise ValueError("scores growing sequences, which only `kind: prefix` predicts; set it, or leave this out")
        return early

    @field_validator("exclude")
    @classmethod
    def _in_no_class(cls, exclude: tuple[str, ...], info: Info) -> tuple[str, ...]:
        if REST in exclude:
            raise ValueError(
                f"'{REST}' stands for the labels not named elsewhere, and only in a class; name the labels"
            )
        _each_label_once([*(label for group in (info.data.get("classes") or {}).values() for label in group), *exclude])
        return exclude

    @field_validator("class_importance", "target")
    @classmethod
    def _declared(cls, named: Any, info: Info) -> Any:
        declared = info.data.get("classes")
        unknown = undeclared([named] if isinstance(named, str) else named or (), declared) if declared else None
        if unknown:
            raise ValueError(unknown)
        return named

    def labels_of(self, text: str) -> list[str]:
        """Returns the labels that an object's label text of a label sequence is made of, some empty where it begins or
        ends with the separator, or has two without a label between them."""
        if self.separator == "":
            return list(text)
        return text.split() if self.separator == " " else [part.strip() for part in text.split(self.separator)]

    def importance(self, classes: Sequence[str]) -> list[float]:
        """Returns the weight of each class in `plasticc_log_loss`."""
        return [self.class_importance.get(name, 1.0) for name in classes]

    def target_index(self, classes: Sequence[str]) -> int | None:
        """Returns which of the classes `figure_of_merit` is of."""
        return None if self.target is None else list(classes).index(self.target)


def undeclared(names: Iterable[str], classes: Iterable[str]) -> str | None:
    """Returns what to say of the first of the names that is no class, None where all are."""
    known = list(classes)
    for name in names:
        if name not in known:
            return f"there is no class '{name}'{nearest(name, known)} (the classes are {listed(known, 20)})"
    return None


def _each_label_once(labels: list[str]) -> None:
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"{listed([repr(label) for label in twice])} named more than once; a label has one place")


Activation = Literal[
    "linear", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "softsign", "sigmoid", "tanh",
    "exponential",
]  # fmt: skip
Width = Annotated[Whole, Field(ge=1, le=4096)]
Rate = Annotated[Number, Field(ge=0, lt=1)]


class InputNormalisationLayer(Section):
    """First in the list: subtracts each input's mean over the batch's valid steps and divides by its deviation, in
    evaluation by the mean of these over all training batches. For inputs with `normalisation: none`."""

    layer: Literal["input_normalisation"]


class RecurrentLayer(Section):
    """A recurrent layer over the valid steps."""

    layer: Literal["simple", "gru", "lstm"]
    units: Width = Field(default=32, description="Its width, in each direction.")
    bidirectional: Flag = Field(
        default=False, description="Also read backwards, side by side with forwards; no longer causal."
    )
    output: Literal["steps", "last"] = Field(
        default="steps",
        description="`steps`: the state after each step. `last`: the state after the last one that is valid (of the "
        "backward direction, after the first), one vector a sequence.",
    )
    recurrent_dropout: Rate | None = Field(
        default=None,
        description="Share of the state that the recurrence doesn't see in training, the same at all steps of a "
        "sequence (Gal and Ghahramani 2016); `null` takes `model.recurrent_dropout`.",
    )


class ConvLayer(Section):
    """A convolution along the steps. What lies beyond the sequence's ends is 0."""

    layer: Literal["conv"]
    filters: Width = Field(default=32, description="Its width: how many patterns it looks for.")
    kernel: Annotated[Whole, Field(ge=1, le=1024)] = Field(
        default=3, description="How many steps a window has. More for slower patterns."
    )
    stride: Annotated[Whole, Field(ge=1, le=1024)] = Field(
        default=1, description="Steps from one window to the next: n steps become n / `stride`, rounded up."
    )
    padding: Literal["same", "causal"] = Field(
        default="same",
        description="`same`: windows are centred on their step and look ahead. `causal`: they end with it.",
    )
    activation: Activation = Field(default="relu", description="Applied last; `linear` is none.")


class WindowPoolLayer(Section):
    """The largest value, or the mean, of the valid steps in each window."""

    layer: Literal["max_pool", "average_pool"]
    size: Annotated[Whole, Field(ge=1, le=1024)] = Field(default=2, description="How many steps a window has.")
    stride: Annotated[Whole, Field(ge=1, le=1024)] | None = Field(
        default=None,
        description="Steps from one window to the next: n steps become n / `stride`, rounded up. `null` is `size`.",
    )
    causal: Flag = Field(
        default=False, description="Windows end with their step; `false`: they begin with it and look ahead."
    )


class BatchNormLayer(Section):
    """Batch norm over valid steps alone (Ioffe and Szegedy 2015), with the momentum and epsilon of Keras."""

    layer: Literal["batch_norm"]


class LayerNormLayer(Section):
    """Layer norm of each step by itself (Ba et al. 2016). For small batches."""

    layer: Literal["layer_norm"]


class DropoutLayer(Section):
    """Sets values to 0 in training and scales up the others (Srivastava et al. 2014)."""

    layer: Literal["dropout"]
    rate: Rate | None = Field(
        default=None,
        description="Share of the values set to 0; `null` takes `model.dropout`, which a grid varies at no cost.",
    )


class DenseLayer(Section):
    """A dense layer, of each step by itself where there are steps."""

    layer: Literal["dense"]
    units: Width = Field(default=32, description="Its width. More learns more, and overfits sooner.")
    activation: Activation = Field(default="relu", description="Applied last; `linear` is none.")


class PoolLayer(Section):
    """Makes one vector of a sequence's valid steps, or of those of each prefix."""

    layer: Literal["pool"]
    kind: Literal["last", "mean", "max", "attention"] = Field(
        default="last",
        description="The last valid step (after a bidirectional layer take its `output: last` instead), or the mean or "
        "maximum over valid steps; `attention` is their mean by learnt weights (Yang et al. 2016, eqs. 5 to 7).",
    )
    running: Flag = Field(
        default=False, description="Give every step the value of the sequence up to there, and stay causal."
    )


class FlattenLayer(Section):
    """Puts all steps side by side into one vector."""

    layer: Literal["flatten"]
    steps: Annotated[Whole, Field(ge=1, le=65536)] = Field(
        description="How many steps it takes. Shorter sequences are filled up with 0; data with longer ones is refused."
    )


class MetadataLayer(Section):
    """Joins the metadata at this place: to the vector, or to every valid step."""

    layer: Literal["metadata"]


class ResidualLayer(Section):
    """Adds its input to what its layers make of it (He et al. 2016), through a learnt projection where their widths
    differ."""

    layer: Literal["residual"]
    layers: "Layers" = Field(description="The layers that are bridged; they must keep the steps as they are.")


Layer = (
    InputNormalisationLayer
    | RecurrentLayer
    | ConvLayer
    | WindowPoolLayer
    | BatchNormLayer
    | LayerNormLayer
    | DropoutLayer
    | DenseLayer
    | PoolLayer
    | FlattenLayer
    | MetadataLayer
    | ResidualLayer
)


def _names_as_layers(layers: Any) -> Any:
    if not isinstance(layers, list | tuple):
        return layers
    return [{"layer": entry} if isinstance(entry, str) else entry for entry in layers]


Layers = Annotated[
    tuple[Annotated[Layer, Field(discriminator="layer")], ...],
    Field(min_length=1, max_length=256),
    BeforeValidator(_names_as_layers),
]
ResidualLayer.model_rebuild()


def kinds(section: type[BaseModel]) -> tuple[str, ...]:
    """Returns what `layer` may be for a section of layers; () for any other section."""
    field = section.model_fields.get("layer")
    return () if field is None else get_args(field.annotation)


LAYER_KINDS = tuple(kind for section in get_args(Layer) for kind in kinds(section))
_THE_LAYERS = f"the layers are {listed(LAYER_KINDS, 20)}"
# Layers that a name alone may stand for.
NAMES_ALONE = tuple(kind for kind in LAYER_KINDS if kind not in ("flatten", "residual"))


def layers_in_words(layers: "Layers") -> str:
    """Returns a list of layers as one line, different for different lists: `gru 32, dropout, pool mean, dense 25`."""
    return ", ".join(f"{layer.layer} {settings_in_words(layer)}".strip() for layer in layers)


def settings_in_words(layer: "Layer") -> str:
    """Returns the settings of a layer: the first one, and the others where they aren't the default."""
    words = []
    for place, (key, field) in enumerate(list(type(layer).model_fields.items())[1:]):
        value = getattr(layer, key)
        if value is None or (place > 0 and value == field.default):
            continue
        shown = (
            f"({layers_in_words(value)})" if key == "layers" else f"{value:.12g}" if isinstance(value, float) else value
        )
        words.append(key if value is True else f"{shown}" if place == 0 or isinstance(value, str) else f"{key} {shown}")
    return " ".join(words)


class Decoder(Section):
    """A recurrent decoder with attention (Luong et al. 2015), which names one label after another: each step's or, with
    `task.kind: label_sequence`, the sequence's until it says that it ends. It reads the label that it named before and
    the encoder's state at its step (the mean of all, where labels belong to no step), and attends to all of them."""

    attention: Literal["dot", "general", "additive"] = Field(
        default="general",
        description="How well an encoder's state s fits the decoder's state h: h . s, for states of one width; h W s; "
        "or v tanh(W h + U s), which is slower (Bahdanau et al. 2015).",
    )
    cell: Literal["simple", "gru", "lstm"] = Field(default="gru", description="Its recurrent cell.")
    units: Width = Field(default=32, description="Its width. `dot` wants that of the encoder's states.")
    look_ahead: Flag = Field(
        default=True,
        description="Attend to the encoder's states at all steps of the sequence; `false`: to those up to the step "
        "that is labelled, so that a causal encoder stays causal.",
    )
    most_labels: Annotated[Whole, Field(ge=1, le=4096)] | None = Field(
        default=None,
        description="With `task.kind: label_sequence`, and there alone: how many labels a sequence has at most.",
    )


def decoder_in_words(decoder: Decoder | None) -> str | None:
    """Returns a decoder as one line, different for different ones: `general gru 32`."""
    if decoder is None:
        return None
    most = "" if decoder.most_labels is None else f" of {decoder.most_labels} labels"
    return f"{decoder.attention} {decoder.cell} {decoder.units}{'' if decoder.look_ahead else ' causal'}{most}"


class Model(Section):
    """The network: a family of recurrent and dense layers by its options, or a list of layers; perhaps a decoder."""

    cell: Literal["simple", "gru", "lstm"] = Field(
        default="gru",
        description="Recurrent cell. `gru` and `lstm` remember over long sequences; `simple` is the baseline to beat.",
    )
    units: Width = Field(
        default=32,
        description="Width of each recurrent layer. More for large surveys that train without overfitting; the time "
        "of a step grows with its square.",
    )
    depth: Annotated[Whole, Field(ge=1, le=16)] = Field(
        default=2, description="Number of recurrent layers. 1 for small surveys; more than 3 seldom helps."
    )
    bidirectional: Flag = Field(
        default=False,
        description="Each layer also reads backwards. More accurate on whole sequences, at twice the time; no longer "
        "causal, so not for objects that are classified while they are observed.",
    )
    dropout: Rate = Field(
        default=0.2,
        description="Share of outputs set to 0 in training, after each recurrent layer and each dense one but the "
        "last, or in each `dropout` layer of `layers` that has no rate of its own. More where the validation loss "
        "rises while the training loss falls.",
    )
    recurrent_dropout: Rate = Field(
        default=0.0,
        description="Share of each recurrent layer's state that the recurrence doesn't see in training, the same at "
        "all steps of a sequence (Gal and Ghahramani 2016). 0.1 to 0.3 where long sequences overfit in spite of "
        "`dropout`; takes some time, but at 0 none.",
    )
    input_normalisation: Flag = Field(
        default=False,
        description="Normalise inputs inside the network by the batch's valid steps. For inputs with "
        "`normalisation: none`; others are normalised already.",
    )
    normalisation: Literal["batch", "layer", "none"] = Field(
        default="batch",
        description="After each dropout: `batch` is batch norm over valid steps alone, padding never counts. `layer` "
        "or `none` where batches are very small.",
    )
    pooling: Literal["last", "mean", "max", "attention"] = Field(
        default="last",
        description="How steps become one vector: the last valid step, or the mean or maximum over valid steps, or "
        "their mean by learnt weights. `mean`, `max` or `attention` where sequences are long and what tells classes "
        "apart may come early.",
    )
    dense_units: Width = Field(default=25, description="Width of each dense layer. More with many columns of metadata.")
    dense_depth: Annotated[Whole, Field(ge=0, le=8)] = Field(
        default=2,
        description="Number of dense layers before the classes; 0 goes straight from pooling and metadata to the "
        "classes.",
    )
    dense_activation: Activation = Field(
        default="sigmoid",
        description="Of the dense layers. `sigmoid` as in the GOTO network; `relu` or `gelu` with more depth.",
    )
    layers: Layers | None = Field(
        default=None,
        description="A network of your own instead of the family: layers in their order, each a mapping with `layer` "
        "and the keys below, or a name alone for its defaults. The layer that gives the classes is added. Of the keys "
        "above, `dropout` and `recurrent_dropout` alone go with it. `jaxrnn describe` shows what it is.",
    )
    decoder: Decoder | None = Field(
        default=None,
        description="Instead of the layer that gives the classes: sequence to sequence, with the family or the list of "
        "layers as encoder. Not with `task.kind: sequence`; `{}` takes every default. Where the label of a "
        "step tells something of the next one's. `training.teacher_share` says how it is taught.",
    )

    @field_validator("layers")
    @classmethod
    def _instead_of_a_family(cls, layers: Any, info: Info) -> Any:
        fields = cls.model_fields
        beside = [key for key in FAMILY_KEYS if key in info.data and info.data[key] != fields[key].default]
        if layers is not None and beside:
            raise ValueError(_beside_layers(beside))
        return layers

    def as_layers(self, output: Output, metadata: int) -> "Layers":
        """Returns the network as a list of layers, without the one that gives the classes.

        output: `sequence` for one vector a sequence, `prefix` for a vector a step that stands for the sequence up to
        there (the family's pooling becomes its running form), `step` and `label_sequence` for a vector a step without
        pooling. A list of one's own is returned as it is. metadata: how many columns there are; a family leaves out
        what joins none.
        """
        if self.layers is not None:
            return self.layers
        norms = {"batch": BatchNormLayer(layer="batch_norm"), "layer": LayerNormLayer(layer="layer_norm")}
        dropped: list[Layer] = [DropoutLayer(layer="dropout")]
        if self.normalisation != "none":
            dropped.append(norms[self.normalisation])
        found: list[Layer] = [InputNormalisationLayer(layer="input_normalisation")] if self.input_normalisation else []
        pooled = output == "sequence"
        for ends in [False] * (self.depth - 1) + [True]:
            # not `pool`: the backward direction has read all only where its first step stands
            last: Literal["last", "steps"] = "last" if ends and pooled and self.pooling == "last" else "steps"
            found.append(
                RecurrentLayer(layer=self.cell, units=self.units, bidirectional=self.bidirectional, output=last)
            )
            if ends and output in ("sequence", "prefix") and self.pooling != "last":
                found.append(PoolLayer(layer="pool", kind=self.pooling, running=not pooled))
            found += dropped
        if metadata:
            found.append(MetadataLayer(layer="metadata"))
        for ends in [False] * (self.dense_depth - 1) + [True] * (self.dense_depth > 0):
            found.append(DenseLayer(layer="dense", units=self.dense_units, activation=self.dense_activation))
            found += [] if ends else dropped
        return tuple(found)


# What says which network of the family it is, and so can't stand beside a list of layers.
FAMILY_KEYS = tuple(
    key for key in Model.model_fields if key not in ("dropout", "recurrent_dropout", "layers", "decoder")
)


def layers_of(values: Any) -> "Layers | None":
    """Returns the list of layers in a checked file's value of `model.layers`."""
    return Model.model_validate({"layers": values}).layers


def decoder_of(values: Any) -> Decoder | None:
    """Returns the decoder in a checked file's value of `model.decoder`."""
    return Model.model_validate({"decoder": values}).decoder


def _beside_layers(keys: list[str]) -> str:
    return (
        f"the list says what the network is, and so does {listed([f'`{key}`' for key in keys], 20)}; leave one of the "
        "two out (`dropout` and `recurrent_dropout` go with both: the rates of layers that have none of their own)"
    )


class Loss(Section):
    """Weighted, focused and smoothed cross-entropy, -sum_c w_c q_c (1 - p_c)^gamma log p_c, and an L2 penalty."""

    kind: Literal["categorical", "binary", "ctc"] = Field(
        default="categorical",
        description="`categorical`: one output a class. `binary`: one output z for exactly two classes, of which the "
        "second has probability sigmoid(z); the same loss with fewer parameters, as binary networks were published. "
        "`ctc`: for `task.kind: label_sequence`, minus the logarithm of the labels' probability, summed over all ways "
        "to place them along the steps (Graves et al. 2006); one output a class and one for the blank, at each step. "
        "Of the keys below, `l2` alone goes with it, and `class_weights: none`.",
    )
    class_weights: Literal["balanced", "effective", "none"] = Field(
        default="balanced",
        description="`balanced`: w_c = N / (classes n_c), counted on the training split, so that rare classes weigh as "
        "much as common ones. `effective`: w_c in proportion to (1 - beta) / (1 - beta^n_c), with mean 1 over classes "
        "(Cui et al. 2019), milder where classes are very unequal. `none`: every object weighs the same, for accuracy "
        "over all objects and probabilities that follow the classes' shares.",
    )
    beta: Annotated[Number, Field(ge=0, lt=1)] = Field(
        default=0.999,
        description="Of `class_weights: effective` alone, a pure number: about 1 / (1 - beta) objects of a class say "
        "all that there is to say. 0 is equal weights, near 1 is `balanced`; try 0.9 to 0.9999.",
    )
    gamma: Annotated[Number, Field(ge=0, le=10)] = Field(
        default=0.0,
        description="Focusing parameter of the focal loss (Lin et al. 2017), a pure number; 0 is cross-entropy. Try 1 "
        "or 2 where many easy objects drown the hard ones.",
    )
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="Share of each label q_c that is spread evenly over all classes (Szegedy et al. 2016). 0.05 to "
        "0.1 where labels are partly wrong, or the network is too sure of itself.",
    )
    l2: Annotated[Number, Field(ge=0)] = Field(
        default=0.0,
        description="Penalty on the squared weights of the last dense layer before the classes, as in the GOTO "
        "network, a pure number. Try 1e-3 to 1e-2 against overfitting.",
    )

    def outputs(self, classes: int, output: Output = "sequence") -> int:
        """Returns how many output units the network has. output: `task.kind`; label sequences have one more, for CTC's
        blank, or for the end that a decoder names."""
        if output == "label_sequence":
            return classes + 1
        return 1 if self.kind == "binary" else classes


class Augmentation(Section):
    """Changes made to training sequences as they are used, never stored; drawn anew in every epoch from the trial's
    seed, the epoch and the object. 0 leaves a change out."""

    truncation: Annotated[Number, Field(ge=0, le=1)] = Field(
        default=0.0,
        description="Share of sequences that are cut to their first steps, at a length drawn evenly from 1 to the "
        "whole: for objects that are classified while they are observed. Not with `task.kind: label_sequence`, whose "
        "last labels would lose their steps.",
    )
    noise: Annotated[Number, Field(ge=0)] = Field(
        default=0.0,
        description="Normal noise of so many stated errors is added to each column that has its column of errors among "
        "the features; the errors grow with it. 0.5 to 1 against overfitting where training objects are brighter than "
        "others.",
    )
    drop_observations: Annotated[Number, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="Probability that a step is left out; at least one stays. A sequence that becomes too short for "
        "its labels (`task.kind: label_sequence`) trains nothing in that epoch.",
    )
    drop_passbands: Annotated[Number, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="Probability that a passband is left out of a sequence; at least one stays. Needs the feature "
        "`passband`.",
    )
    time_shift: Annotated[Number, Field(ge=0)] = Field(
        default=0.0,
        description="`time`, `time_since_first` and `time_since_detection` are shifted by one draw a sequence from -x "
        "to x, in the survey's unit of time: for dates that must not be learnt by heart.",
    )


class Training(Section):
    """How trials are trained, and how the work is cut into jobs."""

    batch_size: Annotated[Whole, Field(ge=1)] = Field(
        default=32,
        description="Sequences a training step. More is faster on large surveys; raise `learning_rate` with it.",
    )
    optimiser: Literal["adam", "adamw", "rmsprop", "sgd"] = Field(
        default="adam",
        description="`adam` seldom needs care; `adamw` with `weight_decay`; `rmsprop` and `sgd`, with `momentum`, "
        "where a published network was trained so.",
    )
    learning_rate: Annotated[Number, Field(gt=0)] = Field(
        default=1e-3,
        description="Of the optimiser, a pure number; the largest that the schedule gives. The first thing to vary: "
        "1e-4 to 1e-2, for `sgd` 1e-2 to 1. Lower where the loss jumps, higher where it still falls at the last epoch.",
    )
    momentum: Annotated[Number, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="Share of the last step that is added to the next, of `sgd` and `rmsprop` alone (Adam has its "
        "own). 0.9 is usual with `sgd`; it makes steps up to 10 times longer.",
    )
    weight_decay: Annotated[Number, Field(ge=0)] = Field(
        default=0.0,
        description="All parameters shrink at each step: for `adamw` by the learning rate times this; for the others "
        "it is added, times the parameters, to the gradient, as in PyTorch. 1e-4 to 1e-1 against overfitting.",
    )
    schedule: Literal["constant", "cosine", "plateau"] = Field(
        default="constant",
        description="Of the learning rate. `cosine` falls from step to step to `final_share` of it at the end of "
        "`epochs`, often the most accurate; `plateau` falls by `plateau_factor` whenever the `monitor` gets no better.",
    )
    warmup_epochs: Annotated[Number, Field(ge=0)] = Field(
        default=0.0,
        description="Epochs, whole or broken, in which the learning rate rises linearly from 0, whatever the schedule. "
        "1 to 5 where training jumps at its start.",
    )
    final_share: Annotated[Number, Field(ge=0, le=1)] = Field(
        default=0.0, description="Share of the learning rate that is left at the end of `schedule: cosine`."
    )
    plateau_factor: Annotated[Number, Field(gt=0, lt=1)] = Field(
        default=0.5, description="What the learning rate is multiplied by at each fall of `schedule: plateau`."
    )
    plateau_patience: Annotated[Whole, Field(ge=1, lt=2**31)] = Field(
        default=5,
        description="Epochs in a row without a better `monitor` after which `schedule: plateau` falls; they are "
        "counted anew after it. Less than `patience`, where that is set.",
    )
    teacher_share: Annotated[Number, Field(ge=0, le=1)] = Field(
        default=0.5,
        description="Of `model.decoder` alone: in training, the share of steps at which it reads the true label of the "
        "step before instead of its own (teacher forcing; Williams and Zipser 1989). In validation and prediction it "
        "never does. 1 learns fastest and knows no mistake of its own; 0 trains what predicts. `task.kind: prefix` "
        "wants 0.",
    )
    final_teacher_share: Annotated[Number, Field(ge=0, le=1)] = Field(
        default=0.0,
        description="That share at the end of `epochs`, where `teacher_schedule` is not `constant`.",
    )
    teacher_schedule: Literal["constant", "linear", "inverse_sigmoid"] = Field(
        default="constant",
        description="From `teacher_share` to `final_teacher_share`, step by step (scheduled sampling; Bengio et al. "
        "2015): `constant` stays at the first, `linear` goes evenly, `inverse_sigmoid` slowly at both ends and fast in "
        "between.",
    )
    gradient_clip: Annotated[Number, Field(gt=0)] | None = Field(
        default=1.0,
        description="Largest norm of a step's whole gradient; a longer one is shortened. `null` leaves it as it is, as "
        "in the GOTO network.",
    )
    epochs: Annotated[Whole, Field(ge=1)] = Field(
        default=50,
        description="At most so many passes over the training split. More where the best epoch is among the last ones.",
    )
    sequences: Annotated[Whole, Field(ge=2)] | None = Field(
        default=None,
        description="Train on so many sequences of the training split alone, drawn by the split's seed so that classes "
        "keep their shares and smaller draws are parts of larger ones; `null` takes all. As a grid axis it shows what "
        "more data would bring. With fewer an epoch has fewer steps too.",
    )
    monitor: Literal[
        "loss", "log_loss", "accuracy", "macro_f1", "macro_auc", "plasticc_log_loss", "figure_of_merit",
        "label_error_rate", "sequence_error_rate",
    ] = Field(
        default="loss",
        description="The validation score whose best epoch is kept and that early stopping watches. `loss` is what is "
        "minimised, with its weights, and the smoothest; `log_loss` has none. `macro_f1` where that is what counts and "
        "validation is large. `task` defines the next two; the error rates are of `task.kind: label_sequence`, which "
        "has these and the losses alone, and are watched as greedy decoding gives them. Watch one with a decoder of "
        "label sequences: its `loss` scores the truth against what it makes of its own labels, and jumps.",
    )  # fmt: skip
    patience: Annotated[Whole, Field(ge=1)] | None = Field(
        default=None,
        description="Stop a trial after so many epochs without a better `monitor`; `null` trains all epochs. 10 to 20 "
        "saves time with many epochs.",
    )
    window_mb: Annotated[Number, Field(gt=0)] = Field(
        default=2048.0,
        description="Training data of more MB than this, padded, of all folds together, is not kept on the device: it "
        "is read in windows of about this size, each of shards drawn anew in every epoch, while the device trains on "
        "the one before. Less where the device's memory is short; more mixes better.",
    )
    length_buckets: Annotated[Whole, Field(ge=1, le=16)] = Field(
        default=2,
        description="Batches hold sequences of similar length, in so many groups. More waste less on padding and "
        "compile longer: for surveys whose lengths differ much. 1 mixes all lengths.",
    )
    device: Literal["cpu", "gpu"] = Field(
        default="cpu",
        description="Where jobs train. `gpu` stops at once where JAX finds no usable GPU; nothing falls back to the "
        "CPU silently.",
    )
    processes: Annotated[Whole, Field(ge=1)] = Field(
        default=1,
        description="Processes of a job, on one node or several, that share the rows of every batch out, each with a "
        "GPU or cores of its own: for a network that takes days on one. Grids of small ones train faster with 1, where "
        "a job's devices share its trials out. `batch_size` must be a multiple of it; the profile's MPI launcher "
        "starts them (slurm/README.md). Results differ by rounding alone.",
    )
    trials_per_job: Annotated[Whole, Field(ge=1, le=4096)] = Field(
        default=16,
        description="A job holds at most so many trials; they train in one program, shared out among the job's GPUs or "
        "a CPU's cores. Fewer make more jobs for more machines; fewer also where the device's memory is short.",
    )
    checkpoint_minutes: Annotated[Number, Field(gt=0)] = Field(
        default=5.0,
        description="Minutes between checkpoints. A killed job loses at most so much work. Fewer on machines that are "
        "taken away without notice.",
    )
    segment_seconds: Annotated[Number, Field(gt=0)] = Field(
        default=10.0,
        description="Seconds of training between two looks at signals, checkpoints and progress. Seldom changed; "
        "shorter where the scheduler gives little time between its signal and the kill.",
    )


class Selection(Section):
    """How the best trial is chosen, from validation alone."""

    metric: Literal[
        "macro_auc", "macro_f1", "accuracy", "log_loss", "plasticc_log_loss", "figure_of_merit",
        "label_error_rate", "sequence_error_rate",
    ] = Field(
        default="macro_auc",
        description="The grid point with the best mean of this validation score over its seeds wins, then its best "
        "seed. `macro_auc` needs no threshold; `macro_f1` where labels are what counts, `log_loss` where "
        "probabilities are, `plasticc_log_loss` where they are and classes matter by `task.class_importance`, "
        "`figure_of_merit` where `task.target` is what is looked for. Label sequences have `label_error_rate` (edits a "
        "label), `sequence_error_rate` (the share with any mistake) and `log_loss`.",
    )  # fmt: skip


class Range(Section):
    """Values of a grid key from which `search` draws, in place of a list."""

    low: Number = Field(description="The smallest value.")
    high: Number = Field(description="The largest value, itself among those drawn.")
    scale: Literal["linear", "log"] = Field(
        description="`log` draws as many values between 1e-4 and 1e-3 as between 1e-3 and 1e-2: for learning rates, "
        "penalties and sizes. `linear` draws evenly: for shares and rates such as dropout."
    )


def _axis(values: Any) -> "tuple[Any, ...] | Range":
    """Returns the values of a grid key, a list or a range."""
    if isinstance(values, Range):
        return values
    if isinstance(values, list | tuple):
        return tuple(values)
    if not isinstance(values, dict):
        raise ValueError(f"expected a list of values, or a range of `low`, `high` and `scale`, found {_shown(values)}")
    try:
        return Range.model_validate(values)
    except ValidationError as error:
        # one mistake at a time: the place in the file is that of the whole range
        fault = error.errors()[0]
        key, said = ".".join(map(str, fault["loc"])), _explain(Range, fault)
        if (key, fault["type"]) == ("scale", "missing"):
            said = "missing; `log` for learning rates, penalties and sizes, `linear` for shares and rates"
        raise ValueError(f"{key}: {said}")


class Halving(Section):
    """Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943): all grid points train for few epochs, the
    best of them for more, and so on; only the last ones train for all `training.epochs`. A trial that goes on is the
    one that it would have been without."""

    reduction: Annotated[Whole, Field(ge=2, le=100)] = Field(
        default=3,
        description="From one rung to the next one in so many grid points goes on, with so many times the epochs. 2 is "
        "careful, 3 or 4 usual.",
    )
    rungs: Annotated[Whole, Field(ge=2, le=10)] = Field(
        default=3,
        description="Stages, the last one with all `training.epochs`. With 3, and a `reduction` of 3, the first trains "
        "for a ninth of the epochs. Fewer where the first epochs say little of the last, as with a long warm-up.",
    )


class Search(Section):
    """Which grid points are tried, and which of them are trained to the end."""

    strategy: Literal["grid", "random", "sobol"] = Field(
        default="grid",
        description="`grid` tries every combination; `random` draws `points` of them, each value for itself; `sobol` "
        "draws them so that they cover the ranges more evenly than chance (Sobol 1967), best with a power of 2.",
    )
    points: Annotated[Whole, Field(ge=1)] | None = Field(
        default=None,
        description="Grid points that `random` or `sobol` draw. More can be asked for later: the first ones stay the "
        "same, and are not trained again.",
    )
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] | None = Field(
        default=None, description="Of the draws, in place of the experiment's `seed`: another one draws other points."
    )
    halving: Halving | None = Field(
        default=None,
        description="Ends trials early that fall behind, by `selection.metric` on validation; `{}` takes the defaults. "
        "It saves most with many grid points and many epochs.",
    )


class Predict(Section):
    """A new survey, to be classified by the chosen model: `snakemake predict ...`. Changes nothing else."""

    path: Text = Field(
        description="The survey's folder or file. It is read as `data` says, but that labels, groups and splits are "
        "not asked for, `evaluation` is not read, and what is faulty is rejected."
    )
    output: Text | None = Field(
        default=None,
        description="The table of predictions; its ending says how it is written, `.parquet`, `.csv` or `.h5`. `null` "
        "is `results/<experiment>/predictions.parquet`.",
    )

    @field_validator("output")
    @classmethod
    def _known_ending(cls, output: str | None) -> str | None:
        if output is not None and Path(output).suffix not in PREDICTION_ENDINGS:
            raise ValueError(f"expected a name that ends in {', '.join(PREDICTION_ENDINGS)}, found {_shown(output)}")
        return output


AuditName = Literal[
    "copies", "groups", "metadata_alone", "length_alone", "cadence_alone", "padding_alone", "label_in_feature",
    "labels_over_sequences", "labels_over_steps", "labels_constant", "noise", "shuffled_in_time",
    "shuffled_each_in_time", "another_order", "own_labels", "later_steps",
]  # fmt: skip
AUDITS: tuple[AuditName, ...] = get_args(AuditName)
TRAINED_AUDITS: tuple[AuditName, ...] = (
    "labels_over_sequences", "labels_over_steps", "labels_constant", "noise", "shuffled_in_time",
    "shuffled_each_in_time",
)  # fmt: skip


class Audit(Section):
    """Audits of the experiment: whether its scores can be believed (docs/audit.md)."""

    permutations: Annotated[Whole, Field(ge=1, le=1000)] = Field(
        default=20,
        description="How often labels are shuffled, for each audit that shuffles them; a network like the chosen one "
        "is trained on each. Fewer are faster, and see small leaks less well.",
    )
    level: Annotated[Number, Field(ge=0.01, lt=1)] = Field(
        default=0.01,
        description="Probability that a sound experiment raises any alarm by chance, over all audits together.",
    )
    only: tuple[AuditName, ...] | None = Field(
        default=None, description="The audits to make; `null` makes all. `copies` alone needs no trained network."
    )


class Experiment(Section):
    """One experiment."""

    experiment: Name = Field(
        description="Its name: results go to `results/<experiment>/`. Letters, digits, '-' and '_', at most 64. Give a "
        "changed copy of a file another name to keep both results."
    )
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = Field(
        description="Start of every random draw: the same seed gives the same tables. Another seed is another split "
        "(see `split.seed`), other first weights and another order of batches."
    )
    data: Data
    split: Split = Split()
    task: Task = Task()
    model: Model = Model()
    loss: Loss = Loss()
    augmentation: Augmentation = Augmentation()
    training: Training = Training()
    selection: Selection = Selection()
    search: Search = Search()
    grid: dict[str, Annotated[tuple[Any, ...] | Range, BeforeValidator(_axis)]] = Field(
        default={},
        description="Dotted keys of `model`, `loss`, `augmentation` and `training` with the values to try, "
        "`model.cell: [gru, lstm]`: every combination is a grid point. `{}` is one point, the file's own values. With "
        "`search.strategy: random` or `sobol` a range may stand for the list of a number, "
        "`training.learning_rate: {low: 1e-4, high: 1e-2, scale: log}`.",
    )
    seeds: Annotated[Whole, Field(ge=1, le=1000)] = Field(
        default=1,
        description="Each grid point is trained with so many seeds: `seed`, `seed` + 1, ... Take 3 to 5 to see which "
        "differences between points are more than chance.",
    )
    predict: Predict | None = Field(
        default=None, description="A new survey that the chosen model is to classify; `null` for none."
    )
    audit: Audit | None = Field(
        default=None,
        description="Audits whether the scores can be believed, with the report; `{}` takes the defaults, `null` makes "
        "none. It changes no trial.",
    )


REQUIRED = ("experiment", "seed", "data", "task", "model", "loss", "training", "selection", "grid")
# Sections in which every key has a default.
OPTIONAL = ("split", "task", "model", "loss", "augmentation", "training", "selection", "search", "grid")


class _Loader(yaml.SafeLoader):
    """Safe YAML of plain mappings, lists, text, numbers, true/false and null.

    Reads 1e-4 as a number (YAML 1.2) and keys as they are written; refuses a key that stands twice. Refuses aliases:
    what a value is stands where it is used, and a small file can't unfold into a huge one.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(None, None, "aliases (`*name`) are not read; write the value out", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, mark = key_node.value, key_node.start_mark
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(None, None, "a key must be plain text", mark)
            if key in mapping:
                raise yaml.MarkedYAMLError(None, None, f"the key '{key}' stands twice", mark)
            mapping[key] = self.construct_object(value_node, deep=deep)
        return mapping


_PLAIN = [f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")]
_Loader.yaml_constructors = {
    tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag is None or tag in _PLAIN
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _PLAIN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_FLOAT = "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
_Loader.add_implicit_resolver(*_FLOAT)


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the mapping in a YAML file; raises JaxrnnError for a file that is missing or no mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise JaxrnnError(f"{path}: no such file{_files_near(path)}") from None
    except (IsADirectoryError, NotADirectoryError):
        raise JaxrnnError(f"{path}: expected a YAML file, found a folder{_files_near(path / 'any')}") from None
    except OSError as error:
        raise JaxrnnError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise JaxrnnError(f"{path}: expected a YAML file, which is text in UTF-8; byte {error.start} is none") from None
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise JaxrnnError(_not_yaml(path, text, error)) from None
    except RecursionError:
        raise JaxrnnError(f"{path}: mappings or lists are nested too deep to be read") from None
    except ValueError as error:
        # Python reads no whole number of more than 4300 digits
        raise JaxrnnError(f"{path}: holds a number that cannot be read ({error})") from None
    if not isinstance(values, dict):
        found = "nothing" if values is None else _shown(values)
        raise JaxrnnError(f"{path}: expected a mapping of keys to values, found {found}")
    return values


def _files_near(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; the folder {path.parent} isn't there either (looked for from {Path.cwd()})"
    others = sorted(str(other) for other in path.parent.glob("*.yaml"))
    close = difflib.get_close_matches(str(path), others, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {listed(others)}" if others else ""


def _not_yaml(path: Path, text: str, error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"{path}:{line}: not valid YAML: the character #x{error.character:04x} is not allowed"
    assert isinstance(error, yaml.MarkedYAMLError)
    mark = error.problem_mark or error.context_mark
    where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
    said = ", ".join(part for part in (error.context, error.problem) if part)
    tab = "; YAML indents with spaces, not with tabs" if "'\\t'" in said else ""
    return f"{where}: not valid YAML: {said}{tab}"


def load(path: Path) -> Experiment:
    """Returns the experiment in the file at `path`; raises one JaxrnnError that names every mistake in it."""
    values = read_yaml(path)
    mistakes: dict[tuple[Any, ...], str] = {}
    for key in REQUIRED:
        if key not in values:
            remark = " (`{}` for none)" if key == "grid" else " (`{}` takes every default)" if key in OPTIONAL else ""
            mistakes[(key,)] = f"missing; every experiment file has it{remark}"
    for key in OPTIONAL:
        if key in values and values[key] is None:
            values[key] = {}
    _check_options(values, mistakes)
    _check_simulation(values, mistakes)
    experiment = _checked(Experiment, values, mistakes)
    _check_grid(values, mistakes)
    _check_between(values, mistakes)
    if experiment is not None and not mistakes:
        _check_networks(experiment, mistakes)
    if mistakes or experiment is None:
        raise JaxrnnError(_message(path, mistakes))
    return experiment


def load_simulation(path: Path) -> Any:
    """Returns the parameters, see `simulation_class`, in an experiment file's `data.simulation`, or in a file of its
    keys alone."""
    values = read_yaml(path)
    if "experiment" not in values and "data" not in values:
        return parsed(simulation_class(values), values, path)
    simulation = load(path).data.simulation
    if simulation is None:
        raise JaxrnnError(f"{path}: has no data.simulation; there is nothing to simulate")
    return simulation_class(simulation).model_validate(simulation)


def simulation_class(values: dict[str, Any]) -> Any:
    """Returns the class of the parameters of the survey that `data.simulation` asks for by its `kind`; its module has
    `simulate` and `finish`. That of light curves for a kind that there is not, which it refuses."""
    kind = values.get("kind", DEFAULT_SIMULATION)
    place, _ = SIMULATIONS[kind if isinstance(kind, str) and kind in SIMULATIONS else DEFAULT_SIMULATION]
    module, _, name = place.partition(":")
    # imported here: the simulators bring their file formats' libraries, and most files have no use for them
    return getattr(import_module(module), name)


def _simulations() -> dict[str, Any]:
    return {kind: simulation_class({"kind": kind}) for kind in SIMULATIONS}


def parsed(model: type[S], values: dict[str, Any], path: Path) -> S:
    """Returns the values of the file at `path` as a `model`; raises one JaxrnnError that names every mistake."""
    mistakes: dict[tuple[Any, ...], str] = {}
    result = _checked(model, values, mistakes)
    if result is None:
        raise JaxrnnError(_message(path, mistakes))
    return result


def parsed_data(values: dict[str, Any], source: Path | str) -> Data:
    """Returns the `data` section of these values, the defaults of the reader's options in place; raises one JaxrnnError
    that names every mistake. source: the file that has them, or what else gave them."""
    whole, mistakes = {"data": dict(values)}, dict[tuple[Any, ...], str]()
    _check_options(whole, mistakes)
    data = _checked(Data, whole["data"], mistakes, ("data",))
    if data is None or mistakes:
        raise JaxrnnError(_message(source, mistakes))
    return data


def _checked(model: type[S], values: Any, mistakes: dict[tuple[Any, ...], str], at: tuple[Any, ...] = ()) -> S | None:
    """Returns `values` as a `model`, or None with every mistake added under its place."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for fault in error.errors():
            # pydantic doesn't count faulty entries: a list of one of them is no empty list
            if fault["type"] == "too_short" and fault["input"]:
                continue
            mistakes.setdefault((*at, *_place(fault["loc"])), _explain(model, fault))
        return None


def _place(location: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns pydantic's location as the file has it: of an entry of `layers` pydantic also says which kind it is."""
    return tuple(
        part
        for index, part in enumerate(location)
        if not (index > 1 and location[index - 2] == "layers" and isinstance(location[index - 1], int))
    )


def _explain(model: type[BaseModel], fault: Any) -> str:
    kind, context, shown = fault["type"], fault.get("ctx", {}), _shown(fault.get("input"))
    if kind == "extra_forbidden":
        known = _keys_at(model, fault["loc"][:-1])
        return f"unknown key{nearest(str(fault['loc'][-1]), known)} (the keys here are {listed(known, 20)})"
    if kind == "missing":
        return "missing"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        return f"expected one of {', '.join(choices)}, found {shown}{nearest(str(fault.get('input')), choices)}"
    if kind == "string_type" and isinstance(fault["input"], bool | float):
        return f"expected text, found {shown}; put it in quotes, as it is meant to be read"
    if kind == "union_tag_invalid":
        return f"there is no layer '{context['tag']}'{nearest(context['tag'], LAYER_KINDS)} ({_THE_LAYERS})"
    if kind == "union_tag_not_found":
        return f"`layer` is missing, the kind of layer ({_THE_LAYERS})"
    if kind == "model_attributes_type":
        return f"expected a layer's name, or a mapping with `layer`, found {shown}"
    if kind == "too_long":
        return f"expected at most {context['max_length']} entries, found {context['actual_length']}"
    signs = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}
    if kind in signs:
        (bound,) = (context[name] for name in BOUNDS if name in context)
        return f"expected a value {signs[kind]} {bound}, found {shown}"
    expected = {
        "bool_type": "true or false",
        "string_type": "text",
        "dict_type": "a mapping of keys to values",
        "model_type": "a mapping of keys to values",
        "tuple_type": "a list",
        "float_type": "a number",
        "too_short": "at least one entry",
        "string_too_short": "text that is not empty",
    }.get(kind)
    return f"expected {expected}, found {shown}" if expected else f"{fault['msg']}, found {shown}"


def _keys_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Returns the keys that may stand at pydantic's `location` below `model`."""
    candidates = [model]
    for part in location:
        if not isinstance(part, int):
            of_this_kind = [section for section in candidates if part in kinds(section)]
            candidates = of_this_kind or _sections_in(candidates[0].model_fields[part].annotation)
    return list(candidates[0].model_fields)


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    """Returns the sections that values of a key, or the entries of its list, may be; [] for any other key."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in get_args(annotation) for found in _sections_in(inner)]


def grid_keys() -> list[str]:
    """Returns the dotted keys that a grid may vary."""
    return [
        f"{name}.{key}"
        for name in GRID_SECTIONS
        for key in _keys_at(Experiment, (name,))
        if not (name == "training" and key in RUN_KEYS)
    ]


def substituted(values: dict[str, Any], point: dict[str, Any]) -> dict[str, Any]:
    """Returns the experiment's values with those of one grid point in their places."""
    result = dict(values)
    for dotted, value in point.items():
        section, _, key = dotted.partition(".")
        result[section] = {**(result.get(section) or {}), key: value}
    return result


def _check_grid(values: dict[str, Any], mistakes: dict[tuple[Any, ...], str]) -> None:
    grid = values.get("grid")
    if not isinstance(grid, dict):
        return
    known = grid_keys()
    for dotted, candidates in grid.items():
        place = ("grid", dotted)
        if dotted not in known:
            mistakes[place] = _not_for_grids(dotted, known)
        elif isinstance(candidates, dict):
            if place not in mistakes:
                _check_range(dotted, candidates, mistakes)
        elif not isinstance(candidates, list):
            continue  # `_axis` has said so
        elif not candidates:
            mistakes[place] = "an empty list makes a grid of no trials; give at least one value, or leave the key out"
        else:
            _check_candidates(dotted, candidates, mistakes)
    if any(place[0] in ("grid", "seeds", "split", "search", *GRID_SECTIONS) for place in mistakes):
        return
    _check_search(values, mistakes)
    if any(place[0] in ("grid", "search") for place in mistakes):
        return
    points = values.get("search", {}).get("points") or math.prod(map(len, grid.values()))
    trials = points * values.get("seeds", 1) * (values.get("split", {}).get("folds") or 1)
    if trials > MOST_TRIALS:
        mistakes[("grid",)] = (
            f"{trials:,} trials, every grid point with every seed in every fold; expected at most {MOST_TRIALS:,}. "
            "Leave out values, or draw: `search: {strategy: random, points: 1000}`"
        )
    grid = {dotted: _ends(candidates) for dotted, candidates in grid.items()}
    model, loss = values.get("model", {}), values.get("loss", {})
    lists = [layers_of(layers) for layers in grid.get("model.layers", [model.get("layers")])]
    if any(lists):
        defaults = Model().model_dump()
        for key in FAMILY_KEYS:
            if f"model.{key}" in grid:
                mistakes[("grid", f"model.{key}")] = _beside_layers([key])
            elif "model.layers" in grid and model.get(key, defaults[key]) != defaults[key]:
                mistakes[("model", key)] = _beside_layers([key])
    for key, takes in _TAKES_RATE.items():
        if f"model.{key}" in grid and not any(layers is None or _has(layers, takes) for layers in lists):
            mistakes[("grid", f"model.{key}")] = (
                f"trials would be the same but for their names, as no layer of `model.layers` takes its rate from "
                f"`model.{key}`; leave it out, or the layer's own rate"
            )
    processes = values.get("training", {}).get("processes", 1)
    sizes = grid.get("training.batch_size", [values.get("training", {}).get("batch_size", Training().batch_size)])
    if processes > 1 and (
        isinstance(values["grid"].get("training.batch_size"), dict) or any(s % processes for s in sizes)
    ):
        mistakes[("training", "processes")] = (
            f"{processes} processes share every batch out, and a `training.batch_size` is no multiple of that; a grid "
            "must list them"
        )
    depths = grid.get("model.dense_depth", [model.get("dense_depth", Model().dense_depth)])
    if max(grid.get("loss.l2", [loss.get("l2", Loss().l2)])) > 0:
        if any(layers and not _has_dense(layers) for layers in lists):
            mistakes[("loss", "l2")] = (
                "penalises the last dense layer, and `model.layers` has none; set `loss.l2: 0` or add a `dense` layer"
            )
        elif None in lists and 0 in depths:
            mistakes[("loss", "l2")] = (
                "penalises the last dense layer, and with `model.dense_depth: 0` there is none; set `loss.l2: 0` or a "
                "depth"
            )


def _ends(candidates: Any) -> list[Any]:
    """Returns the values of a list, or the ends of a range: what lies between fits where both of them do."""
    return [candidates["low"], candidates["high"]] if isinstance(candidates, dict) else candidates


def is_whole(dotted: str) -> bool | None:
    """Returns whether a grid key's values are whole numbers; None where they are no numbers."""
    section, _, key = dotted.partition(".")
    (of,) = _sections_in(Experiment.model_fields[section].annotation)

    def within(annotation: Any) -> Iterator[Any]:
        yield annotation
        for inner in get_args(annotation):
            yield from within(inner)

    found = [entry for entry in within(of.model_fields[key].annotation) if entry in (int, float)]
    return found[0] is int if found else None


def _check_range(dotted: str, values: dict[str, Any], mistakes: dict[tuple[Any, ...], str]) -> None:
    place = "grid", dotted
    low, high = values["low"], values["high"]
    whole = is_whole(dotted)
    if whole is None:
        mistakes[place] = "takes no numbers, and a range is of numbers; give a list of values"
    elif dotted == "training.sequences":
        mistakes[place] = "every number of sequences has statistics of its own; give a list of values"
    elif whole and not (float(low).is_integer() and float(high).is_integer()):
        mistakes[place] = f"takes whole numbers; found a range from {low:g} to {high:g}"
    elif low >= high:
        mistakes[place] = f"`low` must be less than `high`, found {low:g} and {high:g}"
    elif values["scale"] == "log" and low <= 0:
        mistakes[place] = f"`scale: log` wants a `low` above 0, found {low:g}; take `linear`, or a small number"
    else:
        found: dict[tuple[Any, ...], str] = {}
        _check_candidates(dotted, [int(end) if whole else end for end in (low, high)], found)
        if found:
            mistakes[place] = f"{'low' if (*place, 0) in found else 'high'}: {next(iter(found.values()))}"


def _check_search(values: dict[str, Any], mistakes: dict[tuple[Any, ...], str]) -> None:
    grid, search = values["grid"], values.get("search", {})
    drawn, points = search.get("strategy", "grid") != "grid", search.get("points")
    ranges = [dotted for dotted, candidates in grid.items() if isinstance(candidates, dict)]
    combinations = math.inf if ranges else math.prod(map(len, grid.values()))
    if not drawn:
        for dotted in ranges:
            mistakes["grid", dotted] = (
                "a range has no combinations; set `search: {strategy: random, points: 30}`, or give a list of values"
            )
        if points is not None:
            mistakes["search", "points"] = "is of `strategy: random` and `sobol`; `grid` tries every combination"
    elif points is None:
        mistakes["search", "points"] = f"missing; how many grid points `{search['strategy']}` draws"
    elif not grid:
        mistakes["search", "strategy"] = "draws from `grid`, which is empty; give it lists or ranges of values"
    elif points > combinations:
        mistakes["search", "points"] = (
            f"{points:,} grid points, and the lists of `grid` have {combinations:,} combinations; ask for fewer, give "
            "ranges, or take `strategy: grid`"
        )
    halving = search.get("halving")
    if halving is None or mistakes:
        return
    reduction, rungs = (halving.get(key, getattr(Halving(), key)) for key in ("reduction", "rungs"))
    epochs, least = values["training"].get("epochs", Training().epochs), reduction ** (rungs - 1)
    metric = values["selection"].get("metric", Selection().metric)
    monitor = values["training"].get("monitor", Training().monitor)
    if "training.epochs" in grid:
        mistakes["grid", "training.epochs"] = "`search.halving` gives grid points their epochs; leave it out of one"
    elif epochs < least:
        mistakes["search", "halving"] = (
            f"{rungs} rungs with a `reduction` of {reduction} need at least {least} `training.epochs`, found {epochs}; "
            "take fewer rungs"
        )
    elif (points or combinations) < 2:
        mistakes["search", "halving"] = "there is one grid point, and nothing to choose among; leave it out"
    elif metric in SCORE_KEYS and set(grid.get("training.monitor", [monitor])) != {metric}:
        mistakes["search", "halving"] = (
            f"chooses by `selection.metric: {metric}`, which training computes only where it watches it; set "
            f"`training.monitor: {metric}` as well"
        )


def _has(layers: "Layers", wanted: Callable[["Layer"], bool]) -> bool:
    return any(_has(layer.layers, wanted) if isinstance(layer, ResidualLayer) else wanted(layer) for layer in layers)


def _has_dense(layers: "Layers") -> bool:
    return _has(layers, lambda layer: isinstance(layer, DenseLayer))


# Of each rate in `model`, which layers take it.
_TAKES_RATE: dict[str, Callable[["Layer"], bool]] = {
    "dropout": lambda layer: isinstance(layer, DropoutLayer) and layer.rate is None,
    "recurrent_dropout": lambda layer: isinstance(layer, RecurrentLayer) and layer.recurrent_dropout is None,
}


# The keys of `model` that say how wide what the decoder attends to is, beside its own.
_WIDTH_KEYS: tuple[str, ...] = ("layers", "decoder", "units", "bidirectional", "dense_depth", "dense_units")


def _check_networks(experiment: Experiment, mistakes: dict[tuple[Any, ...], str]) -> None:
    """Checks that the shapes of the layers in each list fit, and those of each decoder and what it attends to."""
    from jaxrnn import blueprint

    base, kind = experiment.model.model_dump(mode="json"), experiment.task.kind
    choices = []
    for key in _WIDTH_KEYS:
        values = experiment.grid.get(f"model.{key}", (base[key],))
        # all keys that a range can be of here are whole numbers
        choices.append(list(enumerate((int(values.low), int(values.high)) if isinstance(values, Range) else values)))
    for combination in itertools.product(*choices):
        chosen = dict(zip(_WIDTH_KEYS, combination, strict=True))
        model = Model.model_validate(base | {key: value for key, (_, value) in chosen.items()})
        if model.layers is None and model.decoder is None:
            continue  # families fit
        # of how many features and classes decides no more than how many parameters there are
        found, other = (_found(model, kind, features, experiment) for features in (1, 2))
        if isinstance(found, blueprint.Misfit):
            # what the inputs themselves don't fit is known once the survey says how wide they are
            mistake = (found.place, found.text) if str(found) == str(other) else None
        elif kind in ("prefix", "step") and found.gives.stride != 1:
            said = f"gives an answer for every {found.gives.stride} steps, and `task.kind: {kind}` wants one for each; "
            mistake = ("layers",), f"{said}leave out strides and window pools"
        elif kind == "prefix" and found.looks_ahead:
            alone = found.decoder is not None and found.looks_ahead == (found.decoder.looks_ahead,)
            place = ("decoder", "look_ahead") if alone else ("layers",)
            mistake = place, _knows_the_future(listed(found.looks_ahead))
        else:
            mistake = None
        if mistake is not None:
            (key, *within), said = mistake
            whole = ("model", key)
            if f"model.{key}" in experiment.grid:
                in_range = isinstance(experiment.grid[f"model.{key}"], Range)
                whole = "grid", f"model.{key}", *(() if in_range else (chosen[key][0],))
            mistakes.setdefault((*whole, *within), said)


def _found(model: Model, kind: Output, features: int, experiment: Experiment) -> Any:
    """Returns the blueprint of a network, or the Misfit that there is none."""
    from jaxrnn import blueprint

    try:
        return blueprint.of(model, kind, features, len(experiment.data.metadata), 2)
    except blueprint.Misfit as misfit:
        return misfit


def _check_between(values: dict[str, Any], mistakes: dict[tuple[Any, ...], str]) -> None:
    """Adds mistakes that lie between keys of which each is right by itself, whatever combination of a grid's values."""
    grid = values.get("grid", {})
    if not isinstance(grid, dict) or any(place[0] in ("grid", *GRID_SECTIONS) for place in mistakes):
        return

    def tried(section: str, key: str) -> list[Any]:
        given = values.get(section, {})
        default = getattr(Experiment.model_fields[section].default, key)
        own = [given.get(key, default) if isinstance(given, dict) else default]
        return _ends(grid.get(f"{section}.{key}", own))

    def add(section: str, key: str, mistake: str) -> None:
        mistakes.setdefault(("grid", f"{section}.{key}") if f"{section}.{key}" in grid else (section, key), mistake)

    if tried("task", "kind") == ["prefix"]:
        if True in tried("model", "bidirectional"):
            add("model", "bidirectional", _knows_the_future("a layer reads backwards"))
        _check_past_alone(values.get("data"), mistakes)
    if not any(place[0] in ("task", "data") for place in mistakes):
        early = values.get("task", {}).get("early")
        if early is not None and early["around"] not in values["data"].get("evaluation", ()):
            mistakes["task", "early", "around"] = (
                f"{_shown(early['around'])} is not among `data.evaluation`; name the column there too"
            )
    if tried("task", "kind")[0] in ("step", "label_sequence") and set(tried("model", "pooling")) != {"last"}:
        add("model", "pooling", "makes one vector of the steps, and `task.kind` wants an answer for each; leave it out")
    if tried("task", "kind") == ["step"] and True in tried("split", "balance"):
        add("split", "balance", "an object's steps are of several classes; leave it out with `task.kind: step`")
    decoders = [decoder_of(values) for values in tried("model", "decoder")]
    taught = [key for key in TEACHER_KEYS if tried("training", key) != [getattr(Training(), key)]]
    if not any(decoders):
        for key in taught:
            add("training", key, "teaches a decoder, and there is no `model.decoder`; leave it out, or give one")
    elif tried("task", "kind") == ["prefix"]:
        constant = tried("training", "teacher_schedule") == ["constant"]
        for key in ("teacher_share", "final_teacher_share")[: 1 if constant else 2]:
            if max(tried("training", key)) > 0:
                add(
                    "training",
                    key,
                    "with `task.kind: prefix` every step has the label of the whole, so that a decoder that reads the "
                    "true label before would learn to copy it and nothing else; set it to 0",
                )
    if any(decoders) and "binary" in tried("loss", "kind"):
        add("loss", "kind", "`binary` has one output, and a decoder reads the class that it named; use `categorical`")
    if tried("task", "kind") == ["label_sequence"]:
        _check_label_sequences(values, tried, add)
    else:
        if any(decoder and decoder.most_labels for decoder in decoders):
            add("model", "decoder", "`most_labels` is of `task.kind: label_sequence`; other tasks have a label a step")
        if "ctc" in tried("loss", "kind"):
            add("loss", "kind", "`ctc` spells label sequences; set `task.kind: label_sequence`, or another loss")
        for section, key in (("training", "monitor"), ("selection", "metric")):
            for rate in ERROR_RATES:
                if rate in tried(section, key):
                    add(section, key, f"`{rate}` is of label sequences (`task.kind: label_sequence`)")
    classes = tried("task", "classes")[0]
    if "binary" in tried("loss", "kind") and isinstance(classes, dict) and len(classes) > 2:
        add("loss", "kind", not_binary(list(classes)))
    if tried("task", "target") == [None]:
        for section, key in (("training", "monitor"), ("selection", "metric")):
            if "figure_of_merit" in tried(section, key):
                add(section, key, "`figure_of_merit` is of one class; name it as `task.target`")
    if max(tried("training", "momentum")) > 0 and not {"sgd", "rmsprop"} & set(tried("training", "optimiser")):
        add("training", "momentum", "is of `optimiser: sgd` and `rmsprop`; Adam has its own, which is fixed")
    warmup, epochs = max(tried("training", "warmup_epochs")), min(tried("training", "epochs"))
    if warmup >= epochs:
        add(
            "training",
            "warmup_epochs",
            f"{warmup:g} epochs of warm-up leave none of {epochs} at the full learning rate",
        )


def _check_label_sequences(
    values: dict[str, Any], tried: Callable[[str, str], list[Any]], add: Callable[[str, str, str], None]
) -> None:
    """Adds what means nothing for label sequences: what is of one class a place, or weighs and cuts it."""
    decoders = [decoder_of(values) for values in tried("model", "decoder")]
    kinds = set(tried("loss", "kind"))
    if "ctc" in kinds and any(decoders):
        told = "names one label after another, and `ctc` spells label sequences without; leave it out, or set "
        add("model", "decoder", f"{told}`loss.kind: categorical`")
        return
    if kinds != ({"categorical"} if any(decoders) else {"ctc"}):
        told = (
            f"`task.kind: label_sequence` is trained by `ctc`, and not by `{min(kinds - {'ctc'})}`; set it, or give a "
        )
        add("loss", "kind", f"{told}`model.decoder`, which is trained by `categorical`")
        return
    if any(decoders) and None in decoders:
        add(
            "model",
            "decoder",
            "label sequences need one at every point of the grid, where `loss.kind` is `categorical`",
        )
    if any(decoders) and tried("task", "beam_width") != [None]:
        add("task", "beam_width", "is of `loss.kind: ctc`; a decoder names its most probable label; leave it out")
    for key, only in (("class_weights", "none"), ("gamma", 0), ("label_smoothing", 0)):
        if any(value != only for value in tried("loss", key)):
            add(
                "loss", key, f"label sequences have one loss each, and no class to weigh or smooth; set `{key}: {only}`"
            )
    for key in ("target", "class_importance"):
        if tried("task", key)[0]:
            add("task", key, "is of one class an object, which label sequences have not; leave it out")
    if True in tried("split", "balance"):
        add("split", "balance", "a sequence has labels of several classes; leave it out")
    if max(tried("augmentation", "truncation")) > 0:
        add("augmentation", "truncation", "the last labels would lose their steps; set it to 0")
    for section, key in (("training", "monitor"), ("selection", "metric")):
        for score in tried(section, key):
            if score not in SEQUENCE_SCORES:
                known = [name for name in SEQUENCE_SCORES if name != "loss" or key == "monitor"]
                add(section, key, f"`{score}` is of one class an object; label sequences have {listed(known)}")


def _check_past_alone(data: Any, mistakes: dict[tuple[Any, ...], str]) -> None:
    """Adds what in `data` makes an early step depend on later ones."""
    if not isinstance(data, dict):
        return
    features, cuts = data.get("features"), data.get("cuts")
    for index, feature in enumerate(features if isinstance(features, list) else []):
        settings = feature if isinstance(feature, dict) else {"name": feature}
        if settings.get("normalisation") == "sequence":
            mistakes["data", "features", index, "normalisation"] = _knows_the_future(
                "it is taken of the whole sequence"
            )
        if settings.get("name") == "time_since_detection":
            mistakes["data", "features", index] = _knows_the_future("steps before it are measured from the detection")
    if not isinstance(cuts, dict):
        return
    window = cuts.get("window")
    if cuts.get("max_steps") is not None and cuts.get("keep", "first") != "first":
        mistakes["data", "cuts", "keep"] = _knows_the_future("which steps stay depends on how many there are")
    if isinstance(window, dict) and window.get("around") == "detection":
        mistakes["data", "cuts", "window", "around"] = _knows_the_future("where a sequence begins depends on it")
    if cuts.get("sigma_clip"):
        mistakes["data", "cuts", "sigma_clip"] = _knows_the_future("outliers are found in the whole sequence")


def _knows_the_future(why: str) -> str:
    return f"{why}, so that what `task.kind: prefix` predicts after a step would know of later ones"


def not_binary(classes: Sequence[str]) -> str:
    """Returns what to say of `loss.kind: binary` with classes that are not two."""
    return (
        f"`binary` tells two classes apart, and there are {len(classes)} ({listed(classes, 20)}); use `categorical`, "
        "or join classes in `task.classes`"
    )


def _not_for_grids(dotted: str, known: list[str]) -> str:
    section, _, key = dotted.partition(".")
    if dotted in ("seed", "seeds"):
        return "seeds are no grid key; write `seeds: 3` beside `grid`"
    if section == "training" and key in RUN_KEYS:
        return "changes how a job runs, not what comes out; set it under `training`"
    if section in ("data", "task", "split", "selection"):
        return f"a grid can't vary `{section}`, it is the same for all trials; write one experiment for each value"
    return f"unknown key{nearest(dotted, known)} (a grid may vary {listed(known, 40)})"


def _check_candidates(dotted: str, candidates: list[Any], mistakes: dict[tuple[Any, ...], str]) -> None:
    section, _, key = dotted.partition(".")
    (annotation,) = _sections_in(Experiment.model_fields[section].annotation)
    seen: set[Any] = set()
    for index, candidate in enumerate(candidates):
        place, found = ("grid", dotted, index), {}
        checked = _checked(annotation, {key: candidate}, found)
        if checked is None:
            (_, *within), text = next(iter(found.items()))
            mistakes[(*place, *within)] = text
        elif getattr(checked, key) in seen:
            mistakes[place] = f"{_shown(candidate)} stands twice; `seeds` repeats trials"
        else:
            seen.add(getattr(checked, key))


def _check_options(values: dict[str, Any], mistakes: dict[tuple[Any, ...], str]) -> None:
    """Puts the defaults of the reader's options in place, so that they are part of what names the dataset."""
    data = values.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("options", {}), dict):
        return
    try:
        reader = reader_class(str(data.get("reader")))
    except JaxrnnError:
        return  # said by `Data`
    options = _checked(reader.Options, data.get("options", {}), mistakes, ("data", "options"))
    if options is not None:
        data["options"] = options.model_dump(mode="json")


def _check_simulation(values: dict[str, Any], mistakes: dict[tuple[Any, ...], str]) -> None:
    """Puts the simulation's defaults in place, so that what is planned is what is simulated."""
    data = values.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("simulation"), dict):
        return
    kind = data["simulation"].get("kind", DEFAULT_SIMULATION)
    if not isinstance(kind, str) or kind not in SIMULATIONS:
        choices = list(SIMULATIONS)
        said = f"expected one of {', '.join(choices)}, found {_shown(kind)}{nearest(str(kind), choices)}"
        mistakes["data", "simulation", "kind"] = said
        return
    simulation = _checked(simulation_class(data["simulation"]), data["simulation"], mistakes, ("data", "simulation"))
    if simulation is not None:
        data["simulation"] = simulation.model_dump(mode="json")


def _lines(path: Path) -> dict[tuple[Any, ...], int]:
    """Returns the line on which each key and list entry of a YAML file stands."""
    lines: dict[tuple[Any, ...], int] = {}

    def visit(node: yaml.Node, place: tuple[Any, ...]) -> None:
        lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                lines[(*place, key.value)] = key.start_mark.line + 1
                visit(value, (*place, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                visit(value, (*place, index))

    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
    if node is not None:
        visit(node, ())
    return lines


def _message(source: Path | str, mistakes: dict[tuple[Any, ...], str]) -> str:
    lines = _lines(source) if isinstance(source, Path) else {}

    def line(place: tuple[Any, ...]) -> int | None:
        return next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), None)

    def dotted(place: tuple[Any, ...]) -> str:
        return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".") or "file"

    ordered = sorted(mistakes.items(), key=lambda item: (line(item[0]) or 0, str(item[0])))
    count = "1 mistake" if len(ordered) == 1 else f"{len(ordered)} mistakes"
    rows = [f"  line {line(place) or '-'}: {dotted(place)}: {text}" for place, text in ordered]
    return "\n".join([f"{source}: {count}; every key is explained in config/README.md", *rows])


# libyaml's where it is there: Python's takes most of the time that a plan of many trials takes
_SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_SafeDumper):
    """Writes every value where it stands, and quotes text that `_Loader` would read as a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver(*_FLOAT)


def to_yaml(values: dict[str, Any]) -> str:
    """Returns plain values as YAML, keys in their order; `read_yaml` gives the same values back."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def digest(values: Any) -> str:
    """Returns 12 hexadecimal digits that stand for plain values: equal values, equal digits, on every machine."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def schema() -> dict[str, Any]:
    """Returns the JSON Schema of the experiment file, for editors."""
    result = Experiment.model_json_schema()
    result["required"] = list(REQUIRED)
    data = result["$defs"]["Data"]["properties"]
    data["reader"] |= {"anyOf": [{"enum": list(READERS)}, {"type": "string", "pattern": ":"}]}
    data["features"]["items"] = {"anyOf": [{"type": "string"}, data["features"]["items"]]}
    of_layers = result["$defs"]["Model"]["properties"]["layers"]["anyOf"][0]
    for layers in (of_layers, result["$defs"]["ResidualLayer"]["properties"]["layers"]):
        layers["items"] = {"anyOf": [{"enum": list(NAMES_ALONE)}, *layers["items"]["oneOf"]]}
    label = {"anyOf": [{"type": "string"}, {"type": "integer"}]}
    labels = {"anyOf": [label, {"type": "array", "items": label}]}
    task = result["$defs"]["Task"]["properties"]
    for entry in task["classes"]["anyOf"]:
        if entry["type"] == "object":
            entry["additionalProperties"] = labels
    task["exclude"] |= {"type": ["array", "string", "integer"], "items": label}
    simulations = [section.model_json_schema() for section in _simulations().values()]
    for simulation in simulations:
        result["$defs"] |= {**simulation.pop("$defs", {}), simulation["title"]: simulation}
    refs = [{"$ref": f"#/$defs/{simulation['title']}"} for simulation in simulations]
    data["simulation"]["anyOf"][:1] = refs
    places = {key: f"#/$defs/{key.split('.')[0].title()}/properties/{key.split('.')[1]}" for key in grid_keys()}
    result["properties"]["grid"] |= {
        "properties": {
            key: {
                "anyOf": [
                    {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"$ref": place}},
                    *([] if is_whole(key) is None else [{"$ref": "#/$defs/Range"}]),
                ]
            }
            for key, place in places.items()
        },
        "additionalProperties": False,
    }
    return _with_bounds(result)


def _with_bounds(entry: Any) -> Any:
    if isinstance(entry, list):
        return [_with_bounds(inner) for inner in entry]
    if not isinstance(entry, dict):
        return entry
    return {
        BOUNDS.get(key, key): _with_bounds(inner)
        for key, inner in entry.items()
        if key != "title" or isinstance(inner, dict)
    }


def tables() -> str:
    """Returns the tables of config/README.md, in Markdown: every key with its values, default and meaning."""
    whole = schema()
    simulations = {section: kind for kind, section in _simulations().items()}

    def sections(place: str, model: type[BaseModel]) -> Iterator[str]:
        described = whole if model is Experiment else whole["$defs"][model.__name__]
        required = described.get("required", ())
        entries = {
            key: entry for key, entry in described["properties"].items() if not (kinds(model) and key == "layer")
        }
        rows = [_row(key, entry, whole["$defs"], key in required) for key, entry in entries.items()]
        title = f"`{place}`" if place else "The file"
        if kinds(model):
            title += ": " + ", ".join(f"`{kind}`" for kind in kinds(model))
        if model in simulations:
            title += f": `{simulations[model]}`"
        head = ["", "| key | values | default | meaning |", "| --- | --- | --- | --- |"] if rows else []
        yield "\n".join([f"### {title}", "", " ".join(str(model.__doc__).split()), *head, *rows])
        for key, field in model.model_fields.items():
            made = (model, key) == (Data, "simulation")
            inner = list(simulations) if made else _sections_in(field.annotation)
            for section in inner if model is not ResidualLayer else ():
                yield from sections(f"{place}.{key}".lstrip("."), section)

    return "\n\n".join(sections("", Experiment)) + "\n"


def _row(key: str, entry: dict[str, Any], definitions: dict[str, Any], required: bool) -> str:
    section = definitions[entry["$ref"].rpartition("/")[2]] if "$ref" in entry else {}
    meaning = (section | entry)["description"].partition("\n")[0]
    default = entry.get("default")
    shown = default if isinstance(default, str) else json.dumps(default)
    shown = "(required)" if required else "see below" if section else f"`{shown}`"
    cells = (f"`{key}`", in_words(entry), shown, meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def in_words(entry: dict[str, Any]) -> str:
    """Returns in words which values a JSON Schema allows."""
    if "anyOf" in entry:
        return " or ".join(dict.fromkeys(in_words(option) for option in entry["anyOf"]))
    if "enum" in entry or "const" in entry:
        return ", ".join(f"`{choice}`" for choice in entry.get("enum", [entry.get("const")]))
    kind = entry.get("type")
    if kind == "array":
        inner = entry.get("items") or {"anyOf": entry.get("prefixItems", [{}])}
        return f"list of {in_words(inner)}"
    if kind == "object" and isinstance(entry.get("additionalProperties"), dict):
        return f"mapping of names to {in_words(entry['additionalProperties'])}"
    words = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "`true`, `false`",
        "null": "`null`",
    }
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {entry[name]:.15g}" for name, sign in signs.items() if name in entry]
    word = words.get(str(kind), "mapping" if kind == "object" or "$ref" in entry else "anything")
    return " ".join([word, " and ".join(bounds)]).strip()
