"""Export: a bundle's calibrated networks as one StableHLO program, for whatever runs such without jaxrnn.

The program is `jax.export`'s, with the parameters in it and for any number of rows; `<stem>.json` beside it says what
it takes and gives. docs/predictions.md shows how to call it.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import export as jax_export
from jaxtyping import Array, Float, Int

from jaxrnn import inference, losses, native, predict, results, training
from jaxrnn.bundles import Bundle
from jaxrnn.errors import JaxrnnError

ENDING = ".stablehlo"
PLATFORMS = ("cpu", "cuda")
LAYOUT_VERSION = 1


def check(path: Path) -> None:
    """Raises JaxrnnError where `path` has another ending than exports have."""
    if path.suffix != ENDING:
        raise JaxrnnError(f"{path}: expected a name that ends in {ENDING}")


def write(bundle: Bundle, path: Path, steps: int | None = None) -> Path:
    """Writes the program to `path` and what it takes and gives beside it; returns where that stands.

    steps: what sequences are padded to; left out, any number.
    """
    check(path)
    exported = export(bundle, steps)
    about = path.with_suffix(".json")
    with results.written_whole(path) as temporary:
        temporary.write_bytes(exported.serialize())
    results.write_json(about, _described(bundle, exported, steps))
    return about


def export(bundle: Bundle, steps: int | None = None) -> jax_export.Exported:
    """Returns the program: from features [batch, step, feature] and metadata [batch, column], normalised, both float32,
    and lengths [batch] int32 to what the ensemble says, see `ensembles.Together.probabilities`, [batch, class], or
    [batch, step, class] with 0 beyond the lengths where it answers at each step.

    Raises JaxrnnError where the network needs to know the number of `steps`, and for label sequences.
    """
    if bundle.task.kind == "label_sequence":
        raise JaxrnnError(
            "a model of label sequences can't be exported: a program gives probabilities, and labels of a sequence are "
            "decoded from all of them; use `jaxrnn predict`, which does that"
        )
    shape = len(bundle.features), len(bundle.metadata)
    structure = nnx.graphdef(training.network(bundle.model, *shape, bundle.outputs, bundle.task.kind))
    networks = [nnx.merge(structure, *states) for states in predict.states(bundle)]
    made = inference.network(bundle)

    def predicted(
        features: Float[Array, "batch step feature"],
        lengths: Int[Array, " batch"],
        metadata: Float[Array, "batch column"],
    ) -> Array:
        logits = [losses.class_logits(network(features, lengths, metadata)) for network in networks]
        calibrated = [
            jax.nn.softmax(found / member.temperature) for found, member in zip(logits, bundle.members, strict=True)
        ]
        mean = jnp.stack(calibrated).mean(axis=0)
        if not made.gives.has_steps:
            return mean
        return jnp.where((jnp.arange(mean.shape[1]) < made.gives.steps(lengths)[:, None])[..., None], mean, 0)

    (batch, any_steps) = jax_export.symbolic_shape("batch, step")
    padded = any_steps if steps is None else steps
    arguments = (
        jax.ShapeDtypeStruct((batch, padded, shape[0]), jnp.float32),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
        jax.ShapeDtypeStruct((batch, shape[1]), jnp.float32),
    )
    if steps is not None:
        made.check_length(steps)
    with native.left_out():
        try:
            return jax_export.export(jax.jit(predicted), platforms=PLATFORMS)(*arguments)
        except (TypeError, ValueError, NotImplementedError, jax.errors.InconclusiveDimensionOperation) as error:
            # what asks a dimension that is not known yet for its number
            if steps is not None:
                raise
            reason = str(error).strip().partition("\n")[0]
            raise JaxrnnError(
                f"this network can't be exported for any number of steps ({reason}); give what sequences will be "
                "padded to by --steps"
            )


def _described(bundle: Bundle, exported: jax_export.Exported, steps: int | None) -> dict[str, Any]:
    statistics, made = bundle.statistics, inference.network(bundle)
    by_sequence = set(statistics.sequence_features.tolist())
    features = [
        {
            "name": column["name"],
            "unit": column["unit"],
            "mean": float(statistics.feature_mean[place]),
            "deviation": float(statistics.feature_deviation[place]),
            "by_sequence": place in by_sequence,
        }
        for place, column in enumerate(bundle.features)
    ]
    metadata = [
        {
            "name": column["name"],
            "unit": column["unit"],
            "mean": float(statistics.metadata_mean[place]),
            "deviation": float(statistics.metadata_deviation[place]),
        }
        for place, column in enumerate(bundle.metadata)
    ]
    return {
        "layout_version": LAYOUT_VERSION,
        "takes": [
            {"name": "features", "shape": ["batch", steps or "step", len(features)], "dtype": "float32"},
            {"name": "lengths", "shape": ["batch"], "dtype": "int32"},
            {"name": "metadata", "shape": ["batch", len(metadata)], "dtype": "float32"},
        ],
        "gives": {"places": "step" if made.gives.has_steps else "sequence", "stride": made.gives.stride},
        "task": bundle.task.kind,
        "classes": list(statistics.classes),
        "features": features,
        "metadata": metadata,
        "data": bundle.data.model_dump(mode="json"),
        "trials": [member.trial for member in bundle.members],
        "temperatures": [member.temperature for member in bundle.members],
        "bundle": bundle.digest,
        "platforms": list(exported.platforms),
    }
