"""Label sequences named by a decoder with attention: what is taught, scored and told."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import torch
from experiments import prepared, read_predictions
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from padded import FEATURES, METADATA, arrays, batch, split, torch_decoded, with_garbage
from test_label_sequences import RATES, TASK, check_edits, check_resumed, noise, ready

from jaxrnn import aggregate, attention, decoding, jobs, plan, predict, report, training, transcripts
from jaxrnn.config import Model
from jaxrnn.errors import JaxrnnError
from jaxrnn.layers import Call
from jaxrnn.transcripts import Transcripts

CLASSES, MOST = 4, 3
DECODER = {"most_labels": MOST, "units": 16}
NAMED: dict[str, Any] = {
    **TASK,
    "model": {"layers": [{"layer": "gru", "units": 12, "bidirectional": True}], "decoder": DECODER},
    "loss": {"class_weights": "none"},
}


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("sequence_decoder")
    of, at, made = ready(folder, **NAMED, training__epochs=45, training__length_buckets=2)
    (job,) = made.jobs
    jobs.train(plan.load_job(at.job("tiny", job.name) / "config.yaml"), at, at.job("tiny", job.name), lambda text: None)
    return of, at, made, aggregate.aggregate(of, at)


def test_a_decoder_learns_to_name_sequences(learnt: Any) -> None:
    _, at, made, best = learnt
    content, classes = read_predictions(at.job("tiny", made.jobs[0].name) / "predictions.h5")
    assert best["test"]["label_error_rate"]["value"] < 0.1
    for split_name, entry in content.items():
        # its labels and the end, whatever the input's length
        assert entry.by_decoder and set(entry.places.tolist()) == {MOST + 1}
        assert entry.probabilities[best["trial"]].shape == (len(entry.ids) * (MOST + 1), len(classes) + 1)
        found = Transcripts.of(entry, best["trial"])
        for rate in RATES:
            assert best[split_name][rate]["value"] == getattr(decoding, rate)(found.truth, found.decoded)
        counts = pd.read_csv(at.experiment("tiny") / f"edit_operations_{split_name}.csv").set_index("truth")
        check_edits(counts.to_numpy(), found, len(classes))
    assert best["decoder"] == "named" and [*best["decoders"]] == ["named"]


def test_what_training_watched_is_what_the_tables_score(learnt: Any) -> None:
    _, at, _, _ = learnt
    history = pd.read_csv(at.experiment("tiny") / "history.csv").set_index(["trial", "epoch"])
    table = pd.read_csv(at.experiment("tiny") / "training_results.csv")
    for row in table.to_dict("records"):
        watched = history.loc[(row["trial"], row["best_epoch"])]
        for name in ("log_loss", *RATES):
            assert row[name] == pytest.approx(watched[f"validation_{name}"], rel=1e-3, abs=1e-6), name


def test_attention_ends_with_the_sequence(learnt: Any) -> None:
    _, at, made, best = learnt
    content, _ = read_predictions(at.job("tiny", made.jobs[0].name) / "predictions.h5")
    test = content["test"]
    decoded = dict(zip(test.ids.tolist(), Transcripts.of(test, best["trial"]).decoded, strict=True))
    lengths = dict(zip(test.ids.tolist(), test.lengths.tolist(), strict=True))
    table = pd.read_csv(at.experiment("tiny") / "attention.csv", dtype={"id": str})
    names = table["id"].unique().tolist()
    assert len(names) == min(predict.ATTENDED, len(test.ids))
    for name in names:
        rows = table.query("id == @name")
        assert len(rows) == (MOST + 1) * lengths[name]
        sums = np.array(rows["weight"]).reshape(MOST + 1, -1).sum(axis=1)
        until = min(len(decoded[name]) + 1, MOST + 1)
        np.testing.assert_allclose(sums, np.arange(MOST + 1) < until, atol=1e-4)


def test_the_report_tells_who_named(learnt: Any) -> None:
    _, at, made, _ = learnt
    page = report.write(at.experiment("tiny"), at.dataset(made.dataset_key)).read_text()
    assert "decoder: its most probable label, one after another" in page and "What the decoder attends to" in page
    for left_out in ("Prefix beam", "Greedy", "temporal", "both decoders", "Confusion matrix"):
        assert left_out not in page


def test_a_killed_job_resumes_to_the_same_bits(learnt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher's draws follow from the step, wherever training was cut."""
    _, at, made, _ = learnt
    check_resumed(at, made, tmp_path, monkeypatch)


# The network, its loss, and what is read of it


@pytest.mark.parametrize("kind", ["dot", "general", "additive"])
def test_a_network_is_pytorchs_whatever_lies_in_the_padding(kind: str) -> None:
    """Behind an encoder that shortens its input, as many positions as the config says."""
    listed = [{"layer": "conv", "filters": 6, "kernel": 3, "stride": 2}, {"layer": "lstm", "units": 5}]
    model = Model.model_validate({"layers": listed, "decoder": {"most_labels": 4, "units": 5, "attention": kind}})
    shape = FEATURES, METADATA, CLASSES + 1
    structure, parameters, statistics = split(lambda: training.network(model, *shape, "label_sequence"))

    def run(of: Any) -> Any:
        net = nnx.merge(structure, parameters, statistics)
        call = net._encoded(jnp.asarray(of.features), Call(jnp.asarray(of.lengths), jnp.asarray(of.metadata)))
        return tuple(map(np.asarray, (net(*map(jnp.asarray, of)), net.attended(*map(jnp.asarray, of)), call)))

    with jax.enable_x64(True):
        clean = batch()
        logits, weights, encoded = run(clean)
        np.testing.assert_array_equal(logits, run(with_garbage(clean))[0])
        order = default_rng(1).permutation(len(clean.lengths))
        np.testing.assert_allclose(run(type(clean)(*(values[order] for values in clean)))[0], logits[order], atol=1e-12)
    assert logits.shape == (len(clean.lengths), 5, CLASSES + 1)
    own = {
        path.removeprefix("decoder/"): torch.tensor(leaf)
        for path, leaf in arrays(parameters).items()
        if path.startswith("decoder/")
    }
    for row, length in enumerate(-(-clean.lengths // 2)):
        if length == 0:
            assert (logits[row] == 0).all() and (weights[row] == 0).all()
            continue
        source = torch.tensor(encoded[row, :length])
        expected, attended = torch_decoded("gru", kind, own, source, [None] * 5, aligned=False)
        np.testing.assert_allclose(logits[row], expected.detach().numpy(), rtol=1e-9, atol=1e-9)
        shown = decoding.named(logits[row], end=CLASSES)
        np.testing.assert_allclose(
            weights[row, : len(shown) + 1, :length], attended.detach().numpy()[: len(shown) + 1], atol=1e-9
        )
        assert (weights[row, len(shown) + 1 :] == 0).all() and (weights[row, :, length:] == 0).all()


label_rows = st.lists(st.lists(st.integers(0, CLASSES - 1), max_size=MOST), min_size=5, max_size=5)


def padded(rows: list[list[int]], width: int) -> np.ndarray:
    return np.array([row + [-1] * (width - len(row)) for row in rows], dtype=np.int32)


@settings(deadline=None, max_examples=30)
@given(rows=label_rows, spare=st.integers(0, 3), seed=st.integers(0, 99))
def test_the_loss_is_pytorchs_cross_entropy_of_the_labels_and_the_end(
    rows: list[list[int]], spare: int, seed: int
) -> None:
    """Values and gradients, whatever the width of the array that the labels come in."""
    logits = default_rng(seed).normal(size=(len(rows), MOST + 1, CLASSES + 1))
    with jax.enable_x64(True):
        ended = attention.with_end(jnp.asarray(padded(rows, MOST + spare)), MOST + 1, end=CLASSES)
        found, pull = jax.vjp(lambda logits: attention.surprise(logits, ended), jnp.asarray(logits))
        (gradient,) = pull(jnp.ones(len(rows)))
    wanted = padded([[*row, CLASSES] for row in rows], MOST + 1)
    np.testing.assert_array_equal(ended, wanted)
    there = torch.tensor(logits, requires_grad=True)
    target = torch.tensor(wanted, dtype=torch.long)
    losses = torch.nn.functional.cross_entropy(there.swapaxes(1, 2), target, ignore_index=-1, reduction="none").sum(1)
    losses.sum().backward()
    np.testing.assert_allclose(found, losses.detach().numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradient, there.grad.numpy(), rtol=1e-9, atol=1e-12)  # pyright: ignore
    probabilities = np.asarray(jax.nn.softmax(logits)).astype(np.float64)
    for row, one, loss in zip(rows, probabilities, losses.detach().numpy(), strict=True):
        assert decoding.named_surprise(one, row, CLASSES) == pytest.approx(loss, rel=1e-5)


@given(path=st.lists(st.integers(0, CLASSES), min_size=1, max_size=6))
def test_what_is_named_ends_before_the_first_end(path: list[int]) -> None:
    logits = np.eye(CLASSES + 1)[path]
    expected = path[: path.index(CLASSES)] if CLASSES in path else path
    assert list(decoding.named(logits, end=CLASSES)) == expected
    assert int(attention.before_end(jnp.asarray([path]), end=CLASSES)[0]) == len(expected)


def test_edits_of_what_a_decoder_made_of_noise_add_up() -> None:
    entry = noise()
    # as if the steps of the output were positions
    entry = replace(entry, by_decoder=True)
    found = Transcripts.of(entry, "one", 5)
    check_edits(found.edit_counts(4), found, 4)
    assert np.isfinite(found.log_losses).all() and set(found.scores()) == set(transcripts.SCORES)


def test_labels_that_take_all_positions_need_no_end_and_more_have_no_chance() -> None:
    probabilities = default_rng(3).dirichlet(np.ones(4), 3)
    for labels in product(range(3), repeat=3):
        own = -np.log(probabilities[np.arange(3), labels]).sum()
        assert decoding.named_surprise(probabilities, labels, 3) == pytest.approx(own)
    assert decoding.named_surprise(probabilities, (0, 1, 2, 0), 3) == np.inf
    # of all that can be named, one is
    every = [labels for count in range(4) for labels in product(range(3), repeat=count)]
    assert sum(np.exp(-decoding.named_surprise(probabilities, labels, 3)) for labels in every) == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"decoder": {}}}, r"model\.decoder\.most_labels: how many labels a sequence has at most is not set"),
        (
            {"model": {"decoder": {**DECODER, "look_ahead": False}}},
            r"model\.decoder\.look_ahead: the labels of a sequence belong to no step",
        ),
        (
            {"model": {"decoder": DECODER}, "loss": {"kind": "ctc", "class_weights": "none"}},
            r"model\.decoder: names one label after another, and `ctc` spells.*`loss.kind: categorical`",
        ),
        ({"model": {}}, r"loss\.kind: `task\.kind: label_sequence` is trained by `ctc`.*give a `model\.decoder`"),
        (
            {"grid": {"model.decoder": [None, {"most_labels": 2}]}},
            r"grid\.model\.decoder: label sequences need one at every point of the grid",
        ),
        ({"task": {**TASK["task"], "beam_width": 3}}, r"task\.beam_width: is of `loss\.kind: ctc`"),
        ({"loss": {}}, r"loss\.class_weights: label sequences have one loss each.*set `class_weights: none`"),
        (
            {"task": {"kind": "step"}, "selection": {}},
            r"model\.decoder: `most_labels` is of `task\.kind: label_sequence`",
        ),
    ],
)
def test_what_means_nothing_for_a_decoder_of_sequences_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(JaxrnnError, match=said):
        prepared(tmp_path, **{**NAMED, **changes})


def test_networks_of_a_grid_are_checked_as_they_will_be_trained(tmp_path: Path) -> None:
    """Every list with every decoder: a stride too long for CTC is none for a decoder."""
    short = ["gru"], [{"layer": "conv", "stride": 8}, "gru"]
    decoders = {"most_labels": 3}, {"most_labels": 4}
    base = {**NAMED, "model": {}}
    _, at, _ = ready(tmp_path, **base, grid={"model.layers": list(short), "model.decoder": list(decoders)})
    assert (at.experiment("tiny") / "splits.csv").exists()
    few = {**NAMED, "model": {"decoder": {"most_labels": 2}}}
    with pytest.raises(JaxrnnError, match=r"^model\.decoder\.most_labels: object s\d+ .* at most 2 are named"):
        ready(tmp_path, **few, grid={"model.layers": list(short)})


def test_dot_attention_to_the_inputs_themselves_is_split_like_any_other(tmp_path: Path) -> None:
    """How wide they are, says the survey."""
    straight = {"layers": ["layer_norm"], "decoder": {"most_labels": 3, "units": 2, "attention": "dot"}}
    _, at, _ = ready(tmp_path, **{**NAMED, "model": straight})
    assert (at.experiment("tiny") / "splits.csv").exists()


def test_more_labels_than_are_named_are_told_before_training(tmp_path: Path) -> None:
    few = {**NAMED["model"], "decoder": {**DECODER, "most_labels": 2}}
    said = (
        r"model\.decoder\.most_labels: object s\d+ \(and \d+ others\) has 3 labels, and at most 2 are named; set 3 or"
    )
    with pytest.raises(JaxrnnError, match=said):
        ready(tmp_path, **{**NAMED, "model": few})
    with pytest.raises(JaxrnnError, match=r"grid\." + said.replace("decoder", r"decoder\[1\]")):
        ready(tmp_path, **NAMED, grid={"model.decoder": [{"most_labels": 3}, {"most_labels": 2}]})
