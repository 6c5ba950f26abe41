"""wav: every sample format is the same sound, and the coefficients follow their definition."""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from samples.wav import riff

from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import Sequences, joined, open_reader

RATE = 8000


def read(path: Path, **options: Any) -> Sequences:
    reader = open_reader("wav", path, options)
    return joined([reader.read(part) for part in reader.parts(1)])  # pyright: ignore


def write_sound(file: Path, sound: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(riff(struct.pack(f"<{len(sound)}f", *sound), RATE, kind=3, bits=32, channels=1))


def test_every_sample_format_is_the_same_sound(tmp_path: Path) -> None:
    # whole multiples of 1/128, which every format holds exactly
    sound = np.array([-128, -64, 0, 1, 63, 127]) / 128
    packed = {
        "8": bytes(int(128 + x * 128) for x in sound),
        "16": struct.pack("<6h", *(int(x * 2**15) for x in sound)),
        "24": b"".join(struct.pack("<i", int(x * 2**23))[:3] for x in sound),
        "32": struct.pack("<6i", *(int(x * 2**31) for x in sound)),
        "f32": struct.pack("<6f", *sound),
        "f64": struct.pack("<6d", *sound),
    }
    for name, content in packed.items():
        kind, bits = (3, int(name[1:])) if name[0] == "f" else (1, int(name))
        (tmp_path / f"{name}_mono.wav").write_bytes(riff(content, RATE, kind=kind, bits=bits, channels=1))
    stereo = np.column_stack([sound + 1 / 128, sound - 1 / 128]).clip(-1, 1)
    (tmp_path / "stereo_.wav").write_bytes(
        riff(struct.pack("<12f", *stereo.ravel()), RATE, kind=3, bits=32, channels=2)
    )
    found = read(tmp_path, features="raw")
    assert len(found.ids) == 7
    for number, identity in enumerate(found.ids):
        rows = slice(int(found.offsets[number]), int(found.offsets[number + 1]))
        expected = stereo.mean(axis=1) if identity == "stereo_" else sound
        np.testing.assert_array_equal(found.values[rows, 0], expected, err_msg=identity)
        np.testing.assert_array_equal(found.time[rows], np.arange(6) / RATE)


def plain_mfcc(
    sound: list[float], length: int, hop: int, filters: int, coefficients: int, low: float, high: float
) -> Any:
    """Davis and Mermelstein's coefficients by their sums, one number after another."""
    points = 1
    while points < length:
        points *= 2

    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    step = (mel(high) - mel(low)) / (filters + 1)
    edges = [700 * (10 ** ((mel(low) + i * step) / 2595) - 1) for i in range(filters + 2)]
    rows = []
    for start in range(0, len(sound) - length + 1, hop):
        window = [sound[start + n] * (0.54 - 0.46 * math.cos(2 * math.pi * n / (length - 1))) for n in range(length)]
        logarithms = []
        power = []
        for k in range(points // 2 + 1):
            real = sum(x * math.cos(2 * math.pi * k * n / points) for n, x in enumerate(window))
            imaginary = sum(x * math.sin(2 * math.pi * k * n / points) for n, x in enumerate(window))
            power.append((real**2 + imaginary**2) / points)
        for i in range(filters):
            energy = 0.0
            for k, value in enumerate(power):
                frequency = k * RATE / points
                if edges[i] < frequency <= edges[i + 1]:
                    energy += value * (frequency - edges[i]) / (edges[i + 1] - edges[i])
                elif edges[i + 1] < frequency < edges[i + 2]:
                    energy += value * (edges[i + 2] - frequency) / (edges[i + 2] - edges[i + 1])
            logarithms.append(math.log(max(energy, 1e-10)))
        rows.append(
            [
                math.sqrt((1 if k == 0 else 2) / filters)
                * sum(x * math.cos(math.pi * k * (i + 0.5) / filters) for i, x in enumerate(logarithms))
                for k in range(coefficients)
            ]
        )
    return np.array(rows)


def test_coefficients_follow_their_definition(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    time = np.arange(500) / RATE
    sound = (0.5 * np.sin(2 * np.pi * 440 * time) + 0.1 * generator.normal(size=500)).astype(np.float32)
    sound[300:420] = 0  # silence has coefficients too
    write_sound(tmp_path / "a_1.wav", sound)
    options = {"coefficients": 6, "filters": 10, "window_seconds": 0.0125, "hop_seconds": 0.005}
    found = read(tmp_path, **options, lowest_hz=100, highest_hz=3500)
    expected = plain_mfcc(sound.astype(float).tolist(), 100, 40, 10, 6, 100, 3500)
    assert found.values.shape == (11, 6)
    np.testing.assert_allclose(found.values, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.time, (np.arange(11) * 40 + 50) / RATE, rtol=1e-12)
    # twice as loud adds log(4) to every filter, and so sqrt(filters) log(4) to the first coefficient alone
    sound[300:420] = 0.01 * generator.normal(size=120)
    write_sound(tmp_path / "a_1.wav", sound)
    write_sound(tmp_path / "b_1.wav", 2 * sound)
    one, two = np.split(read(tmp_path, **options).values, 2)
    np.testing.assert_allclose(two[:, 0] - one[:, 0], math.sqrt(10) * math.log(4), rtol=1e-5)
    np.testing.assert_allclose(two[:, 1:], one[:, 1:], atol=1e-4)


def test_a_long_recording_is_the_sum_of_its_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sound(tmp_path / "a_1.wav", np.random.default_rng(0).normal(size=RATE))
    whole = read(tmp_path)
    monkeypatch.setattr("jaxrnn.readers.wav.FRAMES_AT_ONCE", 7)
    np.testing.assert_allclose(read(tmp_path).values, whole.values, rtol=1e-9, atol=1e-9)
    assert np.isfinite(whole.values).all()


def test_where_labels_come_from(tmp_path: Path) -> None:
    for name in ("fold1/7_jackson_32.wav", "fold2/9_nicolas_1.WAV", "fold2/.hidden_1.wav"):
        write_sound(tmp_path / name, np.zeros(400))
    (tmp_path / "notes.txt").write_text("no sound")
    by_name = read(tmp_path)
    assert (by_name.ids.tolist(), by_name.labels.tolist()) == (["fold1/7_jackson_32", "fold2/9_nicolas_1"], ["7", "9"])
    assert by_name.groups is None
    named = read(tmp_path, pattern=r"(?P<label>\d)_(?P<group>[a-z]+)_(?P<id>\d+)")
    assert (named.ids.tolist(), named.groups.tolist()) == (["32", "1"], ["jackson", "nicolas"])  # pyright: ignore
    assert read(tmp_path, labels="folder").labels.tolist() == ["fold1", "fold2"]
    assert read(tmp_path, labels="none").labels.tolist() == ["", ""]
    table = "file,label,group\nfold1/7_jackson_32.wav,seven,j\nfold3/gone.wav,nine,g\n"
    (tmp_path / "labels.csv").write_text(table)
    tabled = read(tmp_path, labels="table", table="labels.csv")
    assert tabled.ids.tolist() == ["fold1/7_jackson_32", "fold2/9_nicolas_1", "fold3/gone"]
    # a recording without a row has no label, and a row without a recording no steps: ingest accounts for both
    assert tabled.labels.tolist() == ["seven", "", "nine"]
    assert np.diff(tabled.offsets).tolist()[2] == 0 and tabled.object_faults[2]  # pyright: ignore
    (tmp_path / "labels.csv").write_text(table.replace("label,", "labels,"))
    with pytest.raises(JaxrnnError, match="no column 'label'; did you mean 'labels'"):
        read(tmp_path, labels="table", table="labels.csv")
    odd = read(tmp_path, pattern=r"(?P<label>7)_.*")
    assert [bool(fault) for fault in odd.object_faults] == [False, True]  # pyright: ignore


def test_what_cannot_be_a_window_is_told(tmp_path: Path) -> None:
    write_sound(tmp_path / "a_1.wav", np.zeros(400))
    for options, reason in (
        ({"highest_hz": 5000}, "sampled at 8000 Hz"),
        ({"window_seconds": 1e-5}, "a window has 0 samples"),
        ({"filters": 400}, "too many"),
    ):
        with pytest.raises(JaxrnnError, match=reason) as caught:
            read(tmp_path, **options)
        assert "a_1.wav" in str(caught.value)
    assert len(read(tmp_path, window_seconds=0.06).time) == 0  # shorter than a window: no steps, an empty object
    for options in (
        {"filters": 5},
        {"pattern": "("},
        {"pattern": "x"},
        {"labels": "table"},
        {"lowest_hz": 9, "highest_hz": 9},
    ):
        with pytest.raises(ValidationError):
            read(tmp_path, **options)


def test_folders_that_lead_in_circles_or_may_not_be_read(tmp_path: Path) -> None:
    write_sound(tmp_path / "in" / "a_1.wav", np.zeros(400))
    (tmp_path / "in" / "loop").symlink_to(tmp_path)
    with pytest.raises(JaxrnnError, match="loop: a link to a folder that it lies in"):
        read(tmp_path)
    (tmp_path / "in" / "loop").unlink()
    (tmp_path / "beside").symlink_to(tmp_path / "in")  # twice the same files is no circle
    assert read(tmp_path, features="raw").ids.tolist() == ["beside/a_1", "in/a_1"]
    (tmp_path / "beside").unlink()
    (tmp_path / "b_1.wav").symlink_to(tmp_path / "nowhere.wav")
    with pytest.raises(JaxrnnError, match=r"b_1\.wav: a link that cannot be followed"):
        read(tmp_path)
    (tmp_path / "b_1.wav").unlink()
    (tmp_path / "in" / "a_1.wav").unlink()
    with pytest.raises(JaxrnnError, match=r"no file in it or below it ends in \.wav"):
        read(tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_a_broken_header_is_told_or_read_right(tmp_path: Path, seed: int) -> None:
    """Any byte of the header may be wrong: one message, or some sound, but no other exception."""
    generator = np.random.default_rng(seed)
    file = tmp_path / "a_1.wav"
    whole = riff(struct.pack("<50h", *range(50)), RATE, kind=1, bits=16, channels=1)
    messages = []
    for place in range(44):
        damaged = bytearray(whole)
        damaged[place] = generator.integers(0, 256)
        file.write_bytes(bytes(damaged))
        try:
            found = read(tmp_path, features="raw")
        except JaxrnnError as error:
            messages.append(str(error))
        else:
            assert np.isfinite(found.values).all()
    assert len(messages) > 10 and all("a_1.wav" in message for message in messages)
