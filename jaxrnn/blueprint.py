"""A network before it is one: what its layers do to shapes, how many parameters they have, and which look ahead.

Plain arithmetic on the list of layers, without jax: a list that doesn't fit is refused before anything runs.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxrnn.config import (
    BatchNormLayer,
    ConvLayer,
    Decoder,
    DenseLayer,
    DropoutLayer,
    FlattenLayer,
    InputNormalisationLayer,
    Layer,
    LayerNormLayer,
    Layers,
    MetadataLayer,
    Model,
    Output,
    PoolLayer,
    RecurrentLayer,
    ResidualLayer,
    WindowPoolLayer,
)
from jaxrnn.errors import JaxrnnError

GATES = {"simple": 1, "gru": 3, "lstm": 4}
NEED_STEPS = (RecurrentLayer, ConvLayer, WindowPoolLayer, PoolLayer, FlattenLayer)


class Misfit(JaxrnnError):
    """Layers, or a decoder, that don't fit. place: below `model`, `("layers", 3)`; ("layers",) for the whole list."""

    def __init__(self, place: tuple[Any, ...], kind: str, text: str) -> None:
        super().__init__(f"{_named(place)}{f' ({kind})' if kind else ''}: {text}")
        self.place, self.text = place, f"{kind} {text}".strip()


def _named(place: tuple[Any, ...]) -> str:
    return "model" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)


@dataclass(frozen=True)
class Shape:
    """What is known of a sequence between two layers: [step, width], a step for every `stride` steps of the input, or
    a vector [width] where `stride` is None. positions: how many steps there are whatever the input has, in a decoder
    that names label sequences."""

    width: int
    stride: int | None = 1
    positions: int | None = None

    @property
    def has_steps(self) -> bool:
        return self.stride is not None

    def steps(self, inputs: Any) -> Any:
        """Returns how many steps sequences of `inputs` steps (a number, or an array of lengths) have here; none where
        they have none."""
        if self.positions is not None:
            return (inputs > 0) * self.positions
        assert self.stride is not None
        return -(-inputs // self.stride)


@dataclass(frozen=True)
class Placed:
    """A layer at its place in a network.

    name: kind and number, `gru 2` for the second GRU. takes, gives: the shapes before and after it. parameters: how
    many there are. looks_ahead: why its output at a step depends on later ones; None where it doesn't. within: a
    residual's layers. A decoder is placed too, behind all layers.
    """

    layer: Layer | Decoder
    name: str
    takes: Shape
    gives: Shape
    parameters: int
    looks_ahead: str | None
    within: tuple["Placed", ...] = ()

    @property
    def kind(self) -> str:
        """Returns what it is, `gru` or `decoder`."""
        return "decoder" if isinstance(self.layer, Decoder) else self.layer.layer

    @property
    def shortens(self) -> bool:
        """Returns whether it leaves fewer steps, but some."""
        return self.gives.has_steps and self.takes.stride != self.gives.stride

    def draws(self, batch: int, steps: int, recurrent: bool) -> int:
        """Returns how many random numbers a training step of the layer takes; see `Blueprint.draws`."""
        rows = batch * (self.takes.steps(steps) if self.takes.has_steps else 1)
        match self.layer:
            case DropoutLayer(rate=rate):
                return 0 if rate == 0 else rows * self.takes.width
            case RecurrentLayer(recurrent_dropout=rate):
                return batch * self.gives.width if rate or (rate is None and recurrent) else 0
            case ResidualLayer():
                return sum(placed.draws(batch, steps, recurrent) for placed in self.within)
        return 0


@dataclass(frozen=True)
class Blueprint:
    """A whole network: its layers in their order, the widths of its inputs, and its classes.

    takes: the shape of the input. gives: what the layer of the classes is handed, which is a part of the decoder where
    there is one. decoder: with `takes`, what it attends to, and its parameters but for the classes' layer.
    """

    layers: tuple[Placed, ...]
    takes: Shape
    gives: Shape
    metadata: int
    classes: int
    decoder: Placed | None = None

    @property
    def placed(self) -> tuple[Placed, ...]:
        """Returns the layers and, behind them, the decoder where there is one."""
        return self.layers if self.decoder is None else (*self.layers, self.decoder)

    @property
    def parameters(self) -> int:
        return sum(placed.parameters for placed in self.placed) + (self.gives.width + 1) * self.classes

    @property
    def looks_ahead(self) -> tuple[str, ...]:
        """Returns why the network is not causal, a reason a layer; () for a causal one, whose output at a step never
        changes when later steps do."""
        return tuple(placed.looks_ahead for placed in every(self.placed) if placed.looks_ahead)

    @property
    def longest(self) -> int | None:
        """Returns how many steps a sequence may have at most; None for any number."""
        fits = [
            placed.layer.steps * placed.takes.stride
            for placed in self.layers
            if isinstance(placed.layer, FlattenLayer) and placed.takes.stride
        ]
        return min(fits, default=None)

    def places(self, lengths: Any) -> Any:
        """Returns how many answers it gives for sequences of so many steps: one, or one an output step."""
        return self.gives.steps(lengths) if self.gives.has_steps else lengths * 0 + 1

    def check_length(self, steps: int) -> None:
        """Raises JaxrnnError where sequences of so many steps are too long for the network."""
        if self.longest is not None and steps > self.longest:
            raise JaxrnnError(
                f"model.layers: `flatten` takes sequences of at most {self.longest} steps, and the data has some of "
                f"{steps}; raise its `steps`, cut the data by `data.cuts.max_steps`, or use `pool`, which takes any "
                "number"
            )

    def draws(self, batch: int, steps: int, recurrent: bool) -> int:
        """Returns how many random numbers dropout takes in a training step of a padded batch: one for each value that
        it may drop. recurrent: whether layers without a rate of their own have recurrent dropout."""
        return sum(placed.draws(batch, steps, recurrent) for placed in self.layers)

    def drops(self, dropout: float, recurrent_dropout: float) -> bool:
        """Returns whether anything is dropped out; the rates are of layers that have none of their own."""
        for placed in every(self.layers):
            match placed.layer:
                case DropoutLayer(rate=rate):
                    rate = dropout if rate is None else rate
                case RecurrentLayer(recurrent_dropout=rate):
                    rate = recurrent_dropout if rate is None else rate
                case _:
                    continue
            if rate > 0:
                return True
        return False


def every(layers: tuple[Placed, ...]) -> Iterator[Placed]:
    """Yields the layers and what is within them."""
    for placed in layers:
        yield placed
        yield from every(placed.within)


def of(model: Model, output: Output, features: int, metadata: int, classes: int) -> Blueprint:
    """Returns the blueprint of a network for so many features a step, columns of metadata and classes; raises Misfit
    where the layers don't fit each other, the decoder or the wanted output."""
    takes = Shape(features)
    if model.decoder is not None and output == "sequence":
        raise Misfit(
            ("decoder",),
            "",
            "names a label for each step, and `task.kind: sequence` wants one for the whole; leave it out, or set "
            "`task.kind: step`",
        )
    layers = _placed(model.as_layers(output, metadata), takes, metadata, Counter(), ("layers",))
    gives = layers[-1].gives if layers else takes
    if output == "sequence" and gives.has_steps:
        raise Misfit(
            ("layers",),
            "",
            "the list ends with steps, and the task wants one answer a sequence; add `pool` or `flatten`, or end the "
            "recurrent layers with `output: last`",
        )
    if output != "sequence" and not gives.has_steps:
        index = next(index for index, placed in enumerate(layers) if not placed.gives.has_steps)
        raise Misfit(
            ("layers", index),
            layers[index].kind,
            "makes one vector of the steps, and the task wants an answer for each step; leave it out, or use `pool` "
            "with `running: true`",
        )
    if model.decoder is None:
        return Blueprint(layers, takes, gives, metadata, classes)
    decoder = _decoder(model.decoder, layers, gives, classes, spells=output == "label_sequence")
    return Blueprint(layers, takes, decoder.gives, metadata, classes, decoder)


def _decoder(decoder: Decoder, layers: tuple[Placed, ...], takes: Shape, classes: int, *, spells: bool) -> Placed:
    """Returns the decoder at its place; the layers end with steps of `takes`. spells: whether it names label
    sequences."""
    if classes < 2:
        raise Misfit(("decoder",), "", "reads the class that it named before, and there is one output; use two classes")
    if decoder.attention == "dot" and decoder.units != takes.width:
        encoder = layers[-1].name if layers else "the input"
        raise Misfit(
            ("decoder", "units"),
            "",
            f"dot attention compares the decoder's state of {decoder.units} units with what {encoder} gives, "
            f"{takes.width} wide, and they must be equally wide; set {takes.width} here, or choose general or additive "
            "attention",
        )
    attention = {
        "dot": 0,
        "general": decoder.units * takes.width,
        "additive": (decoder.units + takes.width + 1) * decoder.units,
    }
    # it reads the label before, or the start, and the source's state at the step
    inputs = classes + 1 + takes.width
    parameters = (
        _recurrent_parameters(decoder.cell, inputs, decoder.units)
        + attention[decoder.attention]
        + (takes.width + decoder.units) * decoder.units
    )
    ahead = "decoder attends to later steps" if decoder.look_ahead else None
    gives = Shape(decoder.units, takes.stride)
    if spells:
        if not decoder.look_ahead:
            raise Misfit(
                ("decoder", "look_ahead"),
                "",
                "the labels of a sequence belong to no step, and each summarises the whole input; set `true`",
            )
        if decoder.most_labels is None:
            said = "how many labels a sequence has at most is not set, and `task.kind: label_sequence` needs it"
            raise Misfit(("decoder", "most_labels"), "", said)
        # one more, for the end
        gives = Shape(decoder.units, positions=decoder.most_labels + 1)
    return Placed(decoder, "decoder", takes, gives, parameters, ahead)


def _placed(
    layers: Layers, takes: Shape, metadata: int, numbers: Counter[str], above: tuple[Any, ...]
) -> tuple[Placed, ...]:
    """Returns the layers at their places. numbers: of layers of each kind before; above: the place of the list."""
    found: list[Placed] = []
    for index, layer in enumerate(layers):
        place = (*above, index)
        numbers[layer.layer] += 1
        name = f"{layer.layer} {numbers[layer.layer]}"
        before = found[-1].gives if found else takes
        if isinstance(layer, NEED_STEPS) and not before.has_steps:
            at = next((at for at, it in enumerate(found) if it.takes.has_steps and not it.gives.has_steps), None)
            maker = "a layer before it" if at is None else f"{_named((*above, at))} ({found[at].kind})"
            raise Misfit(place, layer.layer, f"takes steps, and {maker} makes one vector of them; put it before that")
        _check(layer, place, metadata)
        within: tuple[Placed, ...] = ()
        if isinstance(layer, ResidualLayer):
            within = _placed(layer.layers, before, metadata, numbers, (*place, "layers"))
            _check_residual(place, before, within[-1].gives)
        gives = within[-1].gives if within else _given(layer, before, metadata)
        parameters = _parameters(layer, before, gives) + sum(inner.parameters for inner in within)
        ahead = _looks_ahead(layer)
        found.append(Placed(layer, name, before, gives, parameters, f"{name} {ahead}" if ahead else None, within))
    return tuple(found)


def _check(layer: Layer, place: tuple[Any, ...], metadata: int) -> None:
    if isinstance(layer, InputNormalisationLayer) and place != ("layers", 0):
        raise Misfit(place, layer.layer, "stands first, where the inputs are; use `batch_norm` here")
    if isinstance(layer, MetadataLayer) and not metadata:
        raise Misfit(
            place, layer.layer, "joins the metadata, and `data.metadata` names no column; name some, or leave it out"
        )


def _check_residual(place: tuple[Any, ...], takes: Shape, gives: Shape) -> None:
    if takes.stride != gives.stride:
        made = "make one vector of the steps" if not gives.has_steps else "shorten the sequence by their stride"
        raise Misfit(place, "residual", f"adds its input to what its layers give, and they {made}; move that behind it")


def _given(layer: Layer, takes: Shape, metadata: int) -> Shape:
    match layer:
        case RecurrentLayer(units=units, bidirectional=bidirectional, output=output):
            return Shape(units * (1 + bidirectional), takes.stride if output == "steps" else None)
        case ConvLayer(filters=filters, stride=stride):
            return Shape(filters, (takes.stride or 1) * stride)
        case WindowPoolLayer(size=size, stride=stride):
            return Shape(takes.width, (takes.stride or 1) * (stride or size))
        case DenseLayer(units=units):
            return Shape(units, takes.stride)
        case PoolLayer(running=running):
            return Shape(takes.width, takes.stride if running else None)
        case FlattenLayer(steps=steps):
            return Shape(takes.width * steps, None)
        case MetadataLayer():
            return Shape(takes.width + metadata, takes.stride)
    return takes


def _parameters(layer: Layer, takes: Shape, gives: Shape) -> int:
    match layer:
        case RecurrentLayer(layer=cell, units=units, bidirectional=bidirectional):
            return (1 + bidirectional) * _recurrent_parameters(cell, takes.width, units)
        case ConvLayer(kernel=kernel, filters=filters):
            return (takes.width * kernel + 1) * filters
        case BatchNormLayer() | LayerNormLayer():
            return 2 * takes.width
        case DenseLayer(units=units):
            return (takes.width + 1) * units
        case PoolLayer(kind="attention"):
            return takes.width * (takes.width + 2)
        case ResidualLayer() if takes.width != gives.width:
            return takes.width * gives.width
    return 0


def _recurrent_parameters(cell: str, inputs: int, units: int) -> int:
    candidate_bias = units if cell == "gru" else 0
    return (inputs + units + 1) * GATES[cell] * units + candidate_bias


def _looks_ahead(layer: Layer) -> str | None:
    match layer:
        case RecurrentLayer(bidirectional=True):
            return "reads backwards"
        case ConvLayer(kernel=kernel, padding="same") if kernel > 1:
            return "is centred"
        case WindowPoolLayer(size=size, causal=False) if size > 1:
            return "begins its windows at their step"
    return None
