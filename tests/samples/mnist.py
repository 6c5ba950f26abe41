"""Small images in idx files, packed number by number; the training files are gzipped."""

import gzip
import struct
from pathlib import Path

import numpy as np

from samples import Object, Sample

ROWS, COLUMNS = 4, 3


def write(folder: Path, generator: np.random.Generator) -> Sample:
    objects, damageable = {}, []
    for split, prefix, count in (("train", "train", 8), ("test", "t10k", 4)):
        images, labels = b"", b""
        for number in range(count):
            image = generator.integers(0, 256, (ROWS, COLUMNS))
            images += bytes(image.ravel().tolist())
            labels += bytes([number % 3])
            objects[f"{split}-{number:06d}"] = Object(
                label=str(number % 3),
                time=np.arange(ROWS, dtype=float),
                values=image.astype(float),
                split=split,
            )
        contents = {
            f"{prefix}-images-idx3-ubyte": struct.pack(">BBBBIII", 0, 0, 8, 3, count, ROWS, COLUMNS) + images,
            f"{prefix}-labels-idx1-ubyte": struct.pack(">BBBBI", 0, 0, 8, 1, count) + labels,
        }
        for name, content in contents.items():
            file = folder / (f"{name}.gz" if split == "train" else name)
            file.write_bytes(gzip.compress(content) if split == "train" else content)
            damageable.append(file)
    return Sample(folder, {}, objects, tuple(damageable))
