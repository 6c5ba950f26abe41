"""Recordings of a few samples, PCM of 16 bits, written byte by byte; label and speaker stand in their names."""

import struct
from pathlib import Path

import numpy as np

from samples import Object, Sample

RATE = 8000


def write(folder: Path, generator: np.random.Generator) -> Sample:
    objects, files = {}, []
    for number in range(12):
        digit, speaker = number % 3, ("ann", "bob", "eve", "joe")[number // 3]
        samples = generator.integers(-(2**15), 2**15, 1 + number % 9)
        name = f"{digit}_{speaker}_{number}"
        objects[name] = Object(
            label=str(digit),
            time=np.arange(len(samples)) / RATE,
            values=samples[:, None] / 2**15,
            group=speaker,
        )
        files.append(folder / f"{name}.wav")
        files[-1].write_bytes(riff(struct.pack(f"<{len(samples)}h", *samples), RATE, kind=1, bits=16, channels=1))
    pattern = r"(?P<label>\d)_(?P<group>[a-z]+)_\d+"
    return Sample(folder, {"features": "raw", "pattern": pattern}, objects, damageable=(files[0], files[7]))


def riff(sound: bytes, rate: int, *, kind: int, bits: int, channels: int) -> bytes:
    """Returns a wav file (RIFF WAVE, as Microsoft and IBM specified it in 1991): kind 1 is PCM, 3 floating point."""
    frame = channels * bits // 8
    form = b"fmt " + struct.pack("<IHHIIHH", 16, kind, channels, rate, rate * frame, frame, bits)
    data = b"data" + struct.pack("<I", len(sound)) + sound + b"\0" * (len(sound) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(form) + len(data)) + b"WAVE" + form + data
