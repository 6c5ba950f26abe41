"""Padded batches, and PyTorch's layers with our parameters, which see no padding."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from numpy.random import default_rng
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

from jaxrnn import predict
from jaxrnn.blueprint import GATES

FEATURES, METADATA, CLASSES = 2, 2, 3
# The row of length 0 is filling; no row reaches the last two steps.
LENGTHS = np.array([6, 1, 4, 0, 3, 6, 2], dtype=np.int32)
PRESENT = LENGTHS > 0
STEPS = 8
# Kernels that LLVM does not optimise compute the same and compile in half the time.
QUICK = {"xla_backend_optimization_level": 0}
# the arrays here are too small to share out among threads
torch.set_num_threads(1)
# pyright does not know that a frozen pydantic model can be hashed
cached: Any = cache
TORCH_CELLS = {"simple": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}
TORCH_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "linear": torch.nn.Identity(),
    "relu": torch.relu,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "selu": functional.selu,
    "gelu": lambda values: functional.gelu(values, approximate="tanh"),
    "silu": functional.silu,
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exponential": torch.exp,
}


class Batch(NamedTuple):
    features: np.ndarray
    lengths: np.ndarray
    metadata: np.ndarray


def batch(seed: int = 0, steps: int = STEPS, lengths: np.ndarray = LENGTHS) -> Batch:
    """Returns a batch whose valid values do not depend on how far it is padded, its padding 0."""
    generator = default_rng(seed)
    features = np.zeros((len(lengths), steps, FEATURES))
    for row, length in enumerate(lengths):
        features[row, :length] = generator.normal(0, 1, (length, FEATURES))
    return Batch(features, lengths, generator.normal(0, 1, (len(lengths), METADATA)))


def with_garbage(clean: Batch) -> Batch:
    """Returns the batch with nonsense at every place that must not count."""
    generator = default_rng(99)
    padding = np.arange(clean.features.shape[1])[None, :] >= clean.lengths[:, None]
    features = np.where(padding[:, :, None], generator.normal(0, 1e6, clean.features.shape), clean.features)
    filling = (clean.lengths == 0)[:, None]
    return Batch(features, clean.lengths, np.where(filling, 1e6, clean.metadata))


def cast(values: Any, dtype: Any) -> Any:
    """Returns a tree with its floating point arrays as `dtype`, others as they are."""
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, values)


def split(make: Callable[[], nnx.Module]) -> tuple[Any, Any, Any]:
    """Returns the structure of a module and random values for all its parameters and statistics, float64."""
    structure, *states = nnx.split(nnx.eval_shape(make), nnx.Param, nnx.BatchStat)
    generator = default_rng(5)
    parameters = jax.tree.map(lambda a: generator.normal(0, 0.6, a.shape), states[0])
    statistics = jax.tree.map(lambda a: generator.uniform(0.5, 1.5, a.shape), states[1])
    return structure, parameters, statistics


def arrays(state: Any) -> dict[str, np.ndarray]:
    """Returns the arrays of parameters, statistics or gradients by their path."""
    return predict.flattened(state, nnx.State({}))


# PyTorch's layers, with the same numbers


def torch_cell(
    cell: str, units: int, inputs: torch.Tensor, parameters: dict[str, torch.Tensor], end: str
) -> dict[str, Any]:
    """Returns our parameters of a recurrent layer under PyTorch's names; it has a second bias of all gates."""
    second = inputs.new_zeros(GATES[cell] * units)
    if cell == "gru":
        second = torch.cat([second[: 2 * units], parameters["recurrent_bias"]])
    return {
        f"weight_ih_l0{end}": parameters["input_kernel"].T,
        f"weight_hh_l0{end}": parameters["recurrent_kernel"].T,
        f"bias_ih_l0{end}": parameters["bias"],
        f"bias_hh_l0{end}": second,
    }


def torch_recurrent(
    cell: str, packed: PackedSequence, directions: list[dict[str, torch.Tensor]]
) -> tuple[PackedSequence, torch.Tensor]:
    """Returns the states of all valid steps and the last ones [direction, batch, unit] of a PyTorch layer."""
    units = directions[0]["recurrent_kernel"].shape[0]
    layer = TORCH_CELLS[cell](packed.data.shape[1], units, bidirectional=len(directions) == 2, dtype=packed.data.dtype)
    named: dict[str, torch.Tensor] = {}
    for parameters, end in zip(directions, ("", "_reverse"), strict=False):
        named |= torch_cell(cell, units, packed.data, parameters, end)
    outputs, last = torch.func.functional_call(layer, named, (packed,))
    return outputs, last[0] if cell == "lstm" else last


def torch_inputs(of: Batch, dtype: torch.dtype = torch.float64) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Returns the present rows' valid steps, row by row, and their metadata."""
    rows = np.flatnonzero(of.lengths)
    sequences = [torch.tensor(of.features[row, : of.lengths[row]], dtype=dtype, requires_grad=True) for row in rows]
    return sequences, torch.tensor(of.metadata[rows], dtype=dtype)


Tensors = list[torch.Tensor]


class TorchLayers:
    """Lists of layers, of PyTorch's functions. Sequences are tensors [step, width] of their own length, or [width].

    leaves: our arrays under our paths, as tensors; in training those of batch norm are replaced.
    """

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.leaves = {path: torch.tensor(values) for path, values in arrays.items()}
        for path, leaf in self.leaves.items():
            leaf.requires_grad_(not path.endswith(("/mean", "/var", "/batches")))

    def under(self, path: str) -> dict[str, torch.Tensor]:
        return {name.rpartition("/")[2]: leaf for name, leaf in self.leaves.items() if name.rpartition("/")[0] == path}

    def __call__(
        self, listed: Any, values: Tensors, metadata: torch.Tensor, learning: bool, path: str = "layers"
    ) -> Tensors:
        for index, layer in enumerate(listed):
            values = self.layer(layer, values, metadata, learning, f"{path}/{index}")
        return values

    def layer(self, layer: Any, values: Tensors, metadata: torch.Tensor, learning: bool, path: str) -> Tensors:
        own = self.under(path)
        match layer.layer:
            case "simple" | "gru" | "lstm":
                directions = [self.under(f"{path}/directions/{place}") for place in range(1 + layer.bidirectional)]
                packed = pack_sequence(values, enforce_sorted=False)
                states, last = torch_recurrent(layer.layer, packed, directions)
                return list(torch.cat(list(last), dim=1)) if layer.output == "last" else unpack_sequence(states)
            case "conv":
                return [torch_conv(layer, each, own) for each in values]
            case "max_pool" | "average_pool":
                return [torch_window_pool(layer, each) for each in values]
            case "batch_norm" | "input_normalisation":
                return self.normalised(values, path, learning)
            case "layer_norm":
                return [functional.layer_norm(each, each.shape[-1:], own["scale"], own["bias"]) for each in values]
            case "dropout":
                return values
            case "dense":
                dense = self.under(f"{path}/dense")
                activation = TORCH_ACTIVATIONS[layer.activation]
                return [activation(functional.linear(each, dense["kernel"].T, dense["bias"])) for each in values]
            case "pool" if layer.running:
                return [
                    torch.stack([torch_pool(layer.kind, each[: end + 1], own) for end in range(len(each))])
                    for each in values
                ]
            case "pool":
                return [torch_pool(layer.kind, each, own) for each in values]
            case "flatten":
                return [functional.pad(each, (0, 0, 0, layer.steps - len(each))).flatten() for each in values]
            case "metadata":
                rows = [row.expand(*each.shape[:-1], -1) for each, row in zip(values, metadata, strict=True)]
                return [torch.cat([each, row], dim=-1) for each, row in zip(values, rows, strict=True)]
            case "residual":
                inner = self(layer.layers, values, metadata, learning, f"{path}/layers")
                shortcuts = [each @ own["projection"] for each in values] if "projection" in own else values
                return [a + b for a, b in zip(shortcuts, inner, strict=True)]
        raise AssertionError(layer)

    def normalised(self, values: Tensors, path: str, learning: bool) -> Tensors:
        norm = self.under(path)
        rows = torch.cat([each.reshape(-1, each.shape[-1]) for each in values])
        mean, variance = norm["mean"].clone(), norm["var"].clone()
        momentum, epsilon = (1 / (norm["batches"].item() + 1), 1e-5) if "batches" in norm else (0.01, 1e-3)
        found = functional.batch_norm(
            rows, mean, variance, norm.get("scale"), norm.get("bias"), learning, momentum, epsilon
        )
        if learning:
            # PyTorch keeps n / (n - 1) of the variance that it normalises by; Keras and we keep that itself
            kept = (1 - momentum) * norm["var"]
            variance = kept + (variance - kept) * (len(rows) - 1) / len(rows)
            self.leaves |= {f"{path}/mean": mean, f"{path}/var": variance}
            if "batches" in norm:
                self.leaves[f"{path}/batches"] = norm["batches"] + 1
        parts = found.split([each.numel() // each.shape[-1] for each in values])
        return [part.reshape(each.shape) for part, each in zip(parts, values, strict=True)]


def torch_conv(layer: Any, values: torch.Tensor, own: dict[str, torch.Tensor]) -> torch.Tensor:
    before = layer.kernel - 1 if layer.padding == "causal" else (layer.kernel - 1) // 2
    # enough behind the end for every window; those that stand beyond it are cut
    padded = functional.pad(values.T[None], (before, layer.kernel))
    found = functional.conv1d(padded, own["kernel"].permute(2, 1, 0), own["bias"], layer.stride)[0].T
    return TORCH_ACTIVATIONS[layer.activation](found[: -(-len(values) // layer.stride)])


def torch_window_pool(layer: Any, values: torch.Tensor) -> torch.Tensor:
    windows = []
    for at in range(0, len(values), layer.stride or layer.size):
        window = values[max(at + 1 - layer.size, 0) : at + 1] if layer.causal else values[at : at + layer.size]
        windows.append(window.amax(0) if layer.layer == "max_pool" else window.mean(0))
    return torch.stack(windows)


def torch_pool(kind: str, values: torch.Tensor, own: dict[str, torch.Tensor]) -> torch.Tensor:
    if kind == "attention":
        scores = torch.tanh(values @ own["kernel"] + own["bias"]) @ own["query"]
        return torch.softmax(scores, dim=0) @ values
    return {"last": lambda: values[-1], "mean": lambda: values.mean(0), "max": lambda: values.amax(0)}[kind]()


def torch_attention(
    kind: str, of: dict[str, torch.Tensor], queries: torch.Tensor, source: torch.Tensor, visible: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns context and weights of one row without padding: queries [target, unit], source [source, feature]."""
    if kind == "additive":
        compared = queries[:, None, :] @ of["query_kernel"] + source[None, :, :] @ of["source_kernel"]
        scores = (torch.tanh(compared) @ of["score_kernel"])[:, :, 0]
        weights = torch.softmax(scores.masked_fill(~visible, -torch.inf), dim=1)
        return weights @ source, weights
    projected = queries if kind == "dot" else queries @ of["query_kernel"]
    # with the identity as values, PyTorch's own gives the weights
    both = torch.cat([source, torch.eye(len(source), dtype=source.dtype)], dim=1)
    found = functional.scaled_dot_product_attention(projected, source, both, attn_mask=visible, scale=1)
    return found[:, : source.shape[1]], found[:, source.shape[1] :]


def torch_decoded(
    cell: str,
    kind: str,
    of: dict[str, torch.Tensor],
    source: torch.Tensor,
    true: list[int | None],
    *,
    aligned: bool = True,
    look_ahead: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns logits and weights of one row without padding, position by position.

    of: the decoder's parameters by path. true: the label that the next position is fed, None where it is fed the
    decoder's own. aligned: whether there is a position for each step.
    """
    cells = {"simple": torch.nn.RNNCell, "gru": torch.nn.GRUCell, "lstm": torch.nn.LSTMCell}
    units, classes = of["logits/kernel"].shape
    layer = cells[cell](classes + 1 + source.shape[1], units, dtype=source.dtype)
    second = source.new_zeros(GATES[cell] * units)
    if cell == "gru":
        second = torch.cat([second[: 2 * units], of["recurrent/recurrent_bias"]])
    weights = {
        "weight_ih": of["recurrent/input_kernel"].T,
        "weight_hh": of["recurrent/recurrent_kernel"].T,
        "bias_ih": of["recurrent/bias"],
        "bias_hh": second,
    }
    scoring = {path.removeprefix("attention/"): leaf for path, leaf in of.items() if path.startswith("attention/")}
    state: Any = source.new_zeros(1, units)
    state = (state, state) if cell == "lstm" else state
    fed, logits, attended = classes, [], []
    for position, next_label in enumerate(true):
        summary = source[position] if aligned else source.mean(dim=0)
        one_hot = torch.eye(classes + 1, dtype=source.dtype)[fed]
        state = torch.func.functional_call(layer, weights, (torch.cat([one_hot, summary])[None, :], state))
        hidden = state[0] if cell == "lstm" else state
        until = len(source) if look_ahead else position + 1
        visible = (torch.arange(len(source)) < until)[None, :]
        context, weight = torch_attention(kind, scoring, hidden, source, visible)
        combined = torch.tanh(torch.cat([context, hidden], dim=1) @ of["combined/kernel"])
        logits.append((combined @ of["logits/kernel"] + of["logits/bias"])[0])
        attended.append(weight[0])
        fed = int(logits[-1].argmax()) if next_label is None else next_label
    return torch.stack(logits), torch.stack(attended)
