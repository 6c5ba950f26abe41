"""Export: the program says what the bundle's prediction says, for any number of rows and steps."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from commands import jaxrnn, refused
from invented import bundle, observations, saved, write_survey

from jaxrnn import bundles, ensembles, exports, native, predict
from jaxrnn.batches import Examples
from jaxrnn.bundles import Bundle

MODELS: dict[str, dict[str, Any]] = {
    "ensemble": {"cell": "lstm", "depth": 2, "normalisation": "batch", "input_normalisation": True},
    "both directions": {"bidirectional": True, "pooling": "attention", "outputs": 1},
    "strided steps": {
        "kind": "prefix",
        "layers": [
            {"layer": "conv", "filters": 4, "kernel": 3, "stride": 2, "padding": "causal"},
            {"layer": "simple", "units": 4},
        ],
    },
}
FLATTENED = [{"layer": "flatten", "steps": 9}, {"layer": "dense", "units": 3}]


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_survey(tmp_path_factory.mktemp("survey"), *observations())


def agrees(model: Bundle, path: Path, rows: int, steps: int) -> np.ndarray:
    """Asserts that the program at `path` gives what prediction gives for a batch; returns that."""
    rng = np.random.default_rng(rows)
    lengths = np.concatenate([[steps], rng.integers(1, steps + 1, rows - 1)])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    features = rng.normal(size=(offsets[-1], len(model.features))).astype(np.float32)
    metadata = rng.normal(size=(rows, len(model.metadata))).astype(np.float32)
    nothing = np.array([""] * rows)
    members = predict.by_batches(model, Examples(nothing, nothing, offsets, features, metadata))
    expected = ensembles.together(members, [member.temperature for member in model.members]).probabilities
    padded = np.full((rows, steps, features.shape[1]), 7.0, dtype=np.float32)  # padding is never looked at
    for row, length in enumerate(lengths):
        padded[row, :length] = features[offsets[row] : offsets[row + 1]]
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    found = np.asarray(program.call(padded, lengths.astype(np.int32), metadata))
    about = json.loads(path.with_suffix(".json").read_text())
    if about["gives"]["places"] == "step":
        places = -(-lengths // about["gives"]["stride"])
        assert all((row[count:] == 0).all() for row, count in zip(found, places, strict=True))
        found = np.concatenate([row[:count] for row, count in zip(found, places, strict=True)])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    return expected


@pytest.mark.parametrize("name", MODELS)
def test_the_program_says_what_prediction_says(survey: Path, tmp_path: Path, name: str) -> None:
    model = bundle(survey, members=2 if name == "ensemble" else 1, **MODELS[name])
    path = tmp_path / "model.stablehlo"
    exports.write(model, path)
    assert b"jaxrnn_forward" not in path.read_bytes(), "the kernel of this machine is no part of it"
    for rows, steps in ((3, 5), (1, 1), (4, 9)):
        agrees(model, path, rows, steps)


def test_networks_that_are_too_sure_of_themselves_are_calibrated_alike(survey: Path, tmp_path: Path) -> None:
    model = bundle(survey, members=1)
    (member,) = model.members
    sure = {name: 20 * values if name == "logits/kernel" else values for name, values in member.arrays.items()}
    model = replace(model, members=(replace(member, arrays=sure, temperature=3.0),))
    path = tmp_path / "model.stablehlo"
    exports.write(model, path)
    least = agrees(model, path, 40, 5).min()
    # softmax(ln p / 3) with p rounded up to 1e-7 would be 0.005 at least
    assert least < 1e-4


def test_the_command_exports_what_needs_a_number_of_steps_with_it(survey: Path, tmp_path: Path) -> None:
    best = saved(tmp_path / "best", bundle(survey, members=1, layers=FLATTENED))
    path = tmp_path / "model.stablehlo"
    assert "--steps" in refused("export", "--model", best, "--output", path)
    assert "at most 9 steps" in refused("export", "--model", best, "--output", path, "--steps", 10)
    assert "ends in .stablehlo" in refused("export", "--model", best, "--output", tmp_path / "model.onnx")
    assert not path.exists()
    code, _, messages = jaxrnn("export", "--model", best, "--output", path, "--steps", 6)
    assert code == 0, messages
    model = bundles.load(best)
    agrees(model, path, 3, 6)
    about = json.loads(path.with_suffix(".json").read_text())
    assert [column["name"] for column in about["features"]] == [column["name"] for column in model.features]
    np.testing.assert_array_equal([c["mean"] for c in about["features"]], model.statistics.feature_mean)
    assert about["classes"] == list(model.statistics.classes)


def test_label_sequences_which_no_program_decodes_are_refused(survey: Path, tmp_path: Path) -> None:
    best = saved(tmp_path / "best", bundle(survey, members=1, kind="label_sequence", outputs=4))
    path = tmp_path / "model.stablehlo"
    assert "can't be exported: a program gives probabilities" in refused("export", "--model", best, "--output", path)
    assert not path.exists()


def test_a_decoder_is_exported_for_a_number_of_steps(survey: Path, tmp_path: Path) -> None:
    model = bundle(survey, members=1, kind="step", decoder={"units": 5, "attention": "general"})
    exports.write(model, tmp_path / "model.stablehlo", steps=5)
    agrees(model, tmp_path / "model.stablehlo", 3, 5)


def test_the_kernel_is_back_afterwards() -> None:
    before = native.usable(jax.numpy.ones((1, 1)))
    with native.left_out():
        assert not native.usable(jax.numpy.ones((1, 1)))
    assert native.usable(jax.numpy.ones((1, 1))) == before
