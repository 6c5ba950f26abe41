"""The experiment file: its keys, their meaning, and messages that name every mistake at once.

The text of each key's `description` is what `config/README.md` and the editors' schema show.
"""

import difflib
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from jaxrnn.errors import JaxrnnError, listed, nearest
from jaxrnn.readers import READERS

# Keys whose values enter the compiled program as arrays: trials that differ in them alone train in one job.
TRACED_KEYS = ("training.learning_rate", "model.dropout", "loss.l2", "loss.gamma", "loss.class_weights", "seed")
GRID_SECTIONS = ("model", "loss", "training")
# Keys of `training` that change how a job runs but not what a trial becomes.
RUN_KEYS = ("device", "trials_per_job", "checkpoint_minutes", "segment_seconds")


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", value):
        raise ValueError(
            "expected a plain name of at most 64 letters, digits, '-' and '_' (it becomes a folder under results/)"
        )
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool) or isinstance(value, str):
        raise ValueError("expected a number")
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("expected a whole number")
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("expected a finite number")
    return value


Name = Annotated[str, AfterValidator(_name)]
Number = Annotated[float, BeforeValidator(_number), AfterValidator(_finite)]
Whole = Annotated[int, BeforeValidator(_whole)]
Text = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A part of the experiment file: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, use_attribute_docstrings=False)


class Feature(Section):
    """One input of the network at each step."""

    name: Text = Field(
        description="`time` (as in the files), `time_since_first` and `time_difference` (to the step before; both in "
        "the survey's unit of time), `passband` (one-hot), or a column of the reader."
    )
    scaling: Literal["none", "asinh", "log"] = Field(
        "none",
        description="Applied before normalisation: `asinh` is asinh(x / softening), for fluxes that span decades and "
        "may be negative; `log` is the natural logarithm, for positive values such as errors.",
    )
    softening: Annotated[Number, Field(gt=0)] = Field(
        1.0, description="Where `asinh` turns from linear to logarithmic, in the unit of the column. About the noise."
    )


# The simulator's own parameters are checked by `jaxrnn.simulate`; here they are only a mapping.
class Data(Section):
    """Where the survey is and what of it enters the network. Decides the dataset: change it and ingest runs again."""

    reader: Text = Field(description="Format of the survey: " + ", ".join(f"`{name}`" for name in sorted(READERS)) + ".")
    path: Text | None = Field(
        None,
        description="Folder of the survey's files, absolute or from the folder where the command is called. Left out "
        "with `simulation`.",
    )
    simulation: dict[str, Any] | None = Field(
        None,
        description="Parameters of a simulated survey (reader `simulated` alone), instead of `path`. The survey is made "
        "first, under `results/surveys/`.",
    )
    steps: Literal["observation", "night"] = Field(
        "observation",
        description="`observation`: a step an observation. `night`: observations without a gap of `night_gap` between "
        "them share a step, with the columns of each passband side by side (means weighted by inverse variance where "
        "a night has several), and `passband` as presence marks. Shorter sequences, faster training.",
    )
    night_gap: Annotated[Number, Field(gt=0)] = Field(
        0.5, description="In the survey's unit of time (days): a longer gap starts a new night. Only for `steps: night`."
    )
    features: Annotated[tuple[Feature, ...], Field(min_length=1)] = Field(
        description="The network's inputs at each step, in this order: names, or mappings with `name`, `scaling`, `softening`."
    )
    metadata: tuple[Text, ...] = Field(
        (), description="Columns known once for each object (redshift, position, ...) that join the network's dense part."
    )
    sequences_per_shard: Annotated[Whole, Field(ge=1)] = Field(
        4096, description="Objects in one HDF5 shard. Smaller shards share work between more ranks."
    )
    on_error: Literal["stop", "reject"] = Field(
        "stop",
        description="What a faulty object or observation does: `stop` ends ingest with a message, `reject` leaves it out "
        "and writes it with its reason to `rejected.csv`.",
    )

    @model_validator(mode="before")
    @classmethod
    def _feature_names(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("features"), list | tuple):
            features = [{"name": entry} if isinstance(entry, str) else entry for entry in values["features"]]
            return {**values, "features": features}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> "Data":
        if self.reader not in READERS:
            raise ValueError(
                f"reader: there is no reader '{self.reader}'{nearest(self.reader, list(READERS))}; "
                f"the readers are {listed(sorted(READERS))}"
            )
        if (self.path is None) == (self.simulation is None):
            raise ValueError("expected either `path` (files that are there) or `simulation` (files to be made), not both")
        if self.simulation is not None and self.reader != "simulated":
            raise ValueError(f"`simulation` goes with `reader: simulated`, not with '{self.reader}'")
        names = [feature.name for feature in self.features]
        if len(set(names)) < len(names):
            raise ValueError(f"features: '{next(n for n in names if names.count(n) > 1)}' is listed twice")
        return self


class Split(Section):
    """Which objects train the network, choose among trials, and measure the choice."""

    method: Literal["exact", "hash", "given"] = Field(
        "exact",
        description="`exact`: stratified by class, shares exact to an object. `hash`: by object id and seed, so that new "
        "data never moves an object; shares hold in expectation. `given`: as the survey's files say (GOTO).",
    )
    train: Annotated[Number, Field(gt=0, lt=1)] = Field(0.7, description="Share of the objects that train the network.")
    validation: Annotated[Number, Field(gt=0, lt=1)] = Field(
        0.15, description="Share that stops training early and chooses among trials. The rest is the test split."
    )
    seed: Whole | None = Field(None, description="Seed of the split; the experiment's `seed` where left out.")

    @model_validator(mode="after")
    def _leaves_a_test(self) -> "Split":
        if self.train + self.validation >= 1:
            raise ValueError(
                f"train + validation is {self.train + self.validation:g}; expected less than 1, the rest is the test split"
            )
        return self


class Task(Section):
    """What the network tells apart."""

    classes: dict[Text, tuple[Text, ...]] | None = Field(
        None,
        description='Class names with the survey\'s labels that each holds: `{Ia: [Ia], other: ["*"]}`; "*" stands for '
        "every label not named elsewhere. Left out: each label is a class of its own.",
    )
    exclude: tuple[Text, ...] = Field((), description="Labels whose objects stay out of every split. They are counted.")

    @model_validator(mode="before")
    @classmethod
    def _labels_as_text(cls, values: Any) -> Any:
        # YAML reads `classes: {a: [0]}` as a number; labels are text everywhere
        def text(labels: Any) -> Any:
            labels = labels if isinstance(labels, list | tuple) else [labels]
            return [str(label) if isinstance(label, int) and not isinstance(label, bool) else label for label in labels]

        if not isinstance(values, dict):
            return values
        values = dict(values)
        if isinstance(values.get("classes"), dict):
            values["classes"] = {str(name): text(labels) for name, labels in values["classes"].items()}
        if "exclude" in values and values["exclude"] is not None:
            values["exclude"] = text(values["exclude"])
        return values

    @model_validator(mode="after")
    def _disjoint(self) -> "Task":
        if self.classes is None:
            return self
        if len(self.classes) < 2:
            raise ValueError(f"classes: {len(self.classes)} class given; expected at least 2")
        labels = [label for group in self.classes.values() for label in group]
        labels += list(self.exclude)
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"classes: {listed(twice)} named more than once; each label belongs to one class")
        return self


class Model(Section):
    """The network: recurrent layers, then dense layers that the metadata joins."""

    cell: Literal["simple", "gru", "lstm"] = Field("gru", description="Recurrent cell.")
    units: Annotated[Whole, Field(ge=1, le=4096)] = Field(32, description="Width of each recurrent layer.")
    depth: Annotated[Whole, Field(ge=1, le=16)] = Field(2, description="Number of recurrent layers.")
    bidirectional: bool = Field(
        False, description="Each layer also reads backwards. More accurate on whole sequences; no longer causal."
    )
    dropout: Annotated[Number, Field(ge=0, lt=1)] = Field(
        0.2, description="Share of outputs set to 0 in training, after each recurrent layer and the first dense one."
    )
    normalisation: Literal["batch", "none"] = Field(
        "batch", description="After each dropout: `batch` is batch norm over valid steps alone, padding never counts."
    )
    pooling: Literal["last", "mean", "max"] = Field(
        "last", description="How steps become one vector: the last valid step, or the mean or maximum over valid steps."
    )
    dense_units: Annotated[Whole, Field(ge=1, le=4096)] = Field(25, description="Width of each dense layer.")
    dense_depth: Annotated[Whole, Field(ge=0, le=8)] = Field(2, description="Number of dense layers before the classes.")
    dense_activation: Literal["sigmoid", "relu", "tanh", "gelu"] = Field("sigmoid", description="Of the dense layers.")


class Loss(Section):
    """w_c (1 - p_t)^gamma times cross-entropy, and an L2 penalty."""

    class_weights: Literal["balanced", "none"] = Field(
        "balanced",
        description="`balanced`: N / (classes n_c), counted on the training split, so that rare classes weigh as much "
        "as common ones. `none`: every object weighs the same.",
    )
    gamma: Annotated[Number, Field(ge=0, le=10)] = Field(
        0.0, description="Focusing parameter of the focal loss (Lin et al. 2017); 0 is cross-entropy."
    )
    l2: Annotated[Number, Field(ge=0)] = Field(
        0.0, description="Penalty on the squared weights of the last dense layer before the classes, as in the GOTO network."
    )


class Training(Section):
    """How trials are trained, and how the work is cut into jobs."""

    batch_size: Annotated[Whole, Field(ge=1)] = Field(32, description="Sequences a training step.")
    learning_rate: Annotated[Number, Field(gt=0)] = Field(1e-3, description="Of Adam.")
    gradient_clip: Annotated[Number, Field(gt=0)] | None = Field(
        1.0, description="Largest norm of a step's whole gradient; `null` leaves it as it is."
    )
    epochs: Annotated[Whole, Field(ge=1)] = Field(50, description="At most so many passes over the training split.")
    monitor: Literal["loss", "accuracy", "macro_f1", "macro_auc"] = Field(
        "loss", description="The validation score whose best epoch is kept and that early stopping watches."
    )
    patience: Annotated[Whole, Field(ge=1)] | None = Field(
        None, description="Stop a trial after so many epochs without a better `monitor`; `null` trains all epochs."
    )
    length_buckets: Annotated[Whole, Field(ge=1, le=16)] = Field(
        2,
        description="Batches hold sequences of similar length, in so many groups. More waste less on padding and compile longer.",
    )
    device: Literal["cpu", "gpu"] = Field(
        "cpu", description="`gpu` stops at once where JAX finds no usable GPU; nothing falls back to the CPU silently."
    )
    trials_per_job: Annotated[Whole, Field(ge=1, le=4096)] = Field(
        16, description="A job holds at most so many trials; they train at once, in one program on one device."
    )
    checkpoint_minutes: Annotated[Number, Field(gt=0)] = Field(
        5.0, description="Minutes between checkpoints. A killed job loses at most so much work."
    )
    segment_seconds: Annotated[Number, Field(gt=0)] = Field(
        10.0, description="Seconds of training between two looks at signals, checkpoints and progress."
    )


class Selection(Section):
    """How the best trial is chosen, from validation alone."""

    metric: Literal["macro_auc", "macro_f1", "accuracy", "log_loss"] = Field(
        "macro_auc",
        description="The grid point with the best mean of this validation score over its seeds wins, then its best seed.",
    )


class Experiment(Section):
    """One experiment file."""

    experiment: Name = Field(description="Its name: results go to `results/<experiment>/`.")
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = Field(description="Start of every random draw; the same seed gives the same tables.")
    data: Data
    split: Split = Split()
    task: Task = Task()
    model: Model = Model()
    loss: Loss = Loss()
    training: Training = Training()
    selection: Selection = Selection()
    grid: dict[str, tuple[Any, ...]] = Field(
        {},
        description="Dotted keys of `model`, `loss` and `training` with the values to try: every combination is a grid point.",
    )
    seeds: Annotated[Whole, Field(ge=1, le=1000)] = Field(
        1, description="Each grid point is trained with so many seeds: `seed`, `seed` + 1, ..."
    )


REQUIRED = ("experiment", "seed", "data", "task", "model", "loss", "training", "selection", "grid")


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-4 as a number (YAML 1.2) and refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the mapping in a YAML file; raises JaxrnnError for a file that is missing or no mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        others = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        close = difflib.get_close_matches(str(path), others, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; there are {listed(others)}" if others else ""
        raise JaxrnnError(f"{path}: no such file{hint}")
    except (OSError, UnicodeDecodeError) as error:
        raise JaxrnnError(f"{path}: cannot be read as text ({error})")
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise JaxrnnError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}")
    if not isinstance(values, dict):
        raise JaxrnnError(f"{path}: expected a mapping of keys to values, found {type(values).__name__}")
    return values


def load(path: Path) -> Experiment:
    """Returns the experiment in the file at `path`; raises one JaxrnnError that names every mistake in it."""
    values = read_yaml(path)
    lines = _lines(path)
    mistakes: dict[tuple[Any, ...], str] = {}
    for key in REQUIRED:
        if key not in values:
            mistakes[(key,)] = "missing; every experiment file has it" + (" (`{}` for none)" if key == "grid" else "")
    for key in ("task", "model", "loss", "training", "selection", "grid", "split"):
        if key in values and values[key] is None:
            values[key] = {}
    experiment = _checked(Experiment, values, mistakes)
    _check_simulation(values, mistakes)
    points = _check_grid(values, mistakes)
    if not mistakes:
        assert experiment is not None
        _check_combinations(values, points, mistakes)
    if mistakes or experiment is None:
        raise JaxrnnError(_message(path, mistakes, lines))
    return experiment


def load_simulation(path: Path) -> Any:
    """Returns the `jaxrnn.simulate.Simulation` in an experiment file's `data.simulation`, or in a file of its keys alone."""
    from jaxrnn.simulate import Simulation

    values = read_yaml(path)
    place: tuple[Any, ...] = ()
    if "experiment" in values:
        place = ("data", "simulation")
        values = load(path).data.simulation
        if values is None:
            raise JaxrnnError(f"{path}: has no data.simulation; there is nothing to simulate")
    mistakes: dict[tuple[Any, ...], str] = {}
    simulation = _checked(Simulation, values, mistakes, place)
    if simulation is None:
        raise JaxrnnError(_message(path, mistakes, _lines(path)))
    return simulation


def _checked(model: type[Section], values: Any, mistakes: dict[tuple[Any, ...], str], at: tuple[Any, ...] = ()) -> Any:
    """Returns `values` as a `model`, or None with every mistake added under its place."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for fault in error.errors():
            place = at + tuple(part for part in fault["loc"])
            # what a section as a whole says comes second to what is said of its keys
            mistakes.setdefault(place, _explain(model, fault))
        return None


def _explain(model: type[Section], fault: Any) -> str:
    kind, context, given = fault["type"], fault.get("ctx", {}), fault.get("input")
    if kind == "extra_forbidden":
        known = _keys_at(model, fault["loc"][:-1])
        return f"unknown key{nearest(str(fault['loc'][-1]), known)} (the keys here are {listed(known, 20)})"
    if kind == "missing":
        return "missing"
    shown = repr(given) if len(repr(given)) <= 60 else repr(given)[:57] + "..."
    if kind == "value_error":
        text = str(context["error"])
        return text if isinstance(given, dict) else f"{text}, found {shown}"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        return f"expected one of {', '.join(choices)}, found {shown}{nearest(str(given), choices)}"
    bounds = {"greater_than": ("gt", ">"), "greater_than_equal": ("ge", ">="), "less_than": ("lt", "<"), "less_than_equal": ("le", "<=")}
    if kind in bounds:
        name, sign = bounds[kind]
        return f"expected a value {sign} {context[name]}, found {shown}"
    expected = {
        "bool_type": "true or false", "bool_parsing": "true or false", "string_type": "text",
        "dict_type": "a mapping of keys to values", "model_type": "a mapping of keys to values",
        "tuple_type": "a list", "float_type": "a number", "float_parsing": "a number", "int_type": "a whole number",
        "too_short": "at least one entry", "string_too_short": "text that is not empty",
    }.get(kind)
    return f"expected {expected}, found {shown}" if expected else f"{fault['msg']}, found {shown}"


def _keys_at(model: type[Section], place: tuple[Any, ...]) -> list[str]:
    """Returns the keys that may stand at `place` below `model`."""
    current: Any = model
    for part in place:
        if isinstance(part, int):
            continue
        annotation = current.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        candidates += [inner for entry in candidates for inner in getattr(entry, "__args__", ())]
        current = next(c for c in candidates if isinstance(c, type) and issubclass(c, Section))
    return list(current.model_fields)


def grid_keys() -> list[str]:
    """Returns the dotted keys that a grid may vary."""
    sections = {name: Experiment.model_fields[name].annotation for name in GRID_SECTIONS}
    return [
        f"{name}.{key}"
        for name, section in sections.items()
        for key in section.model_fields  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        if not (name == "training" and key in RUN_KEYS)
    ]


def substituted(values: dict[str, Any], point: dict[str, Any]) -> dict[str, Any]:
    """Returns the experiment's values with those of one grid point in their places."""
    result = dict(values)
    for dotted, value in point.items():
        section, _, key = dotted.partition(".")
        result[section] = {**(result.get(section) or {}), key: value}
    return result


def _check_grid(values: dict[str, Any], mistakes: dict[tuple[Any, ...], str]) -> dict[str, list[Any]]:
    grid = values.get("grid")
    if not isinstance(grid, dict):
        return {}
    known = grid_keys()
    for dotted, candidates in grid.items():
        place = ("grid", dotted)
        if dotted not in known:
            section = str(dotted).partition(".")[0]
            if dotted == "seed":
                mistakes[place] = "seeds are no grid key; write `seeds: 3` beside `grid`"
            elif section in ("data", "task", "split", "selection"):
                mistakes[place] = (
                    f"a grid can't vary `{section}`: it changes what is learned from, not how; write one experiment for each"
                )
            else:
                mistakes[place] = f"unknown key{nearest(str(dotted), known)} (a grid may vary {listed(known, 40)})"
            continue
        if not isinstance(candidates, list) or not candidates:
            mistakes[place] = f"expected a list of at least one value, found {candidates!r}"
            continue
        if len({json.dumps(c, sort_keys=True, default=str) for c in candidates}) < len(candidates):
            mistakes[place] = "a value stands twice; every value is trained once for each seed"
        section, _, key = dotted.partition(".")
        annotation: Any = Experiment.model_fields[section].annotation
        for index, candidate in enumerate(candidates):
            found: dict[tuple[Any, ...], str] = {}
            _checked(annotation, {key: candidate}, found)
            if (key,) in found:
                mistakes[(*place, index)] = found[(key,)]
    return {key: list(entries) for key, entries in grid.items() if isinstance(entries, list)}


def _check_combinations(values: dict[str, Any], points: dict[str, list[Any]], mistakes: dict[tuple[Any, ...], str]) -> None:
    model = values.get("model") or {}
    depths = points.get("model.dense_depth", [model.get("dense_depth", Model().dense_depth)])
    penalties = points.get("loss.l2", [(values.get("loss") or {}).get("l2", 0.0)])
    if 0 in depths and any(penalty > 0 for penalty in penalties):
        mistakes[("loss", "l2")] = "penalises the last dense layer, and `model.dense_depth: 0` has none; set one of them"


def _check_simulation(values: dict[str, Any], mistakes: dict[tuple[Any, ...], str]) -> None:
    data = values.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("simulation"), dict):
        return
    from jaxrnn.simulate import Simulation

    _checked(Simulation, data["simulation"], mistakes, ("data", "simulation"))


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


def _message(path: Path, mistakes: dict[tuple[Any, ...], str], lines: dict[tuple[Any, ...], int]) -> str:
    def line(place: tuple[Any, ...]) -> int | None:
        return next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), None)

    def dotted(place: tuple[Any, ...]) -> str:
        return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".") or "file"

    ordered = sorted(mistakes.items(), key=lambda item: (line(item[0]) or 0, str(item[0])))
    count = "1 mistake" if len(ordered) == 1 else f"{len(ordered)} mistakes"
    rows = [f"  line {line(place) or '-'}: {dotted(place)}: {text}" for place, text in ordered]
    return "\n".join([f"{path}: {count}; every key is explained in config/README.md", *rows])


def to_yaml(values: dict[str, Any]) -> str:
    """Returns plain values as YAML, keys in their order."""

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def digest(values: Any) -> str:
    """Returns 12 hexadecimal digits that stand for plain values: equal values, equal digits, on every machine."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def schema() -> dict[str, Any]:
    """Returns the JSON Schema of the experiment file, for editors."""
    from jaxrnn.simulate import Simulation

    result = Experiment.model_json_schema()
    result["required"] = list(REQUIRED)
    result["title"] = "jaxrnn experiment"
    feature = result["$defs"]["Data"]["properties"]["features"]
    feature["items"] = {"anyOf": [{"type": "string"}, feature["items"]]}
    label = {"anyOf": [{"type": "string"}, {"type": "integer"}]}
    for entry in result["$defs"]["Task"]["properties"]["classes"]["anyOf"]:
        if entry.get("type") == "object":
            entry["additionalProperties"] = {"anyOf": [label, {"type": "array", "items": label}]}
    result["$defs"]["Task"]["properties"]["exclude"] = {"type": "array", "items": label, "default": []}
    simulation = Simulation.model_json_schema()
    result["$defs"] |= simulation.pop("$defs", {})
    result["$defs"]["Simulation"] = simulation
    result["$defs"]["Data"]["properties"]["simulation"] = {"anyOf": [{"$ref": "#/$defs/Simulation"}, {"type": "null"}]}
    result["properties"]["grid"] = {
        "type": "object",
        "properties": {key: {"type": "array", "minItems": 1} for key in grid_keys()},
        "additionalProperties": False,
    }
    return result
