"""Two .ts files, multivariate and of unequal lengths, written line by line."""

from pathlib import Path

import numpy as np

from samples import Object, Sample

LABELS = ("walking", "running", "standing")


def write(folder: Path, generator: np.random.Generator) -> Sample:
    objects, damageable = {}, []
    for split, count in (("TRAIN", 8), ("TEST", 4)):
        lines = [
            "# Small movements",
            "@problemName Small",
            "@timeStamps false",
            "@missing false",
            "@univariate false",
            "@dimensions 2",
            "@equalLength false",
            f"@classLabel true {' '.join(LABELS)}",
            "@data",
        ]
        for number in range(count):
            values = generator.normal(size=(int(generator.integers(1, 10)), 2))
            label = LABELS[number % 3]
            lines.append(":".join([*(",".join(str(value) for value in column) for column in values.T), label]))
            objects[f"Small_{split}-{len(lines)}"] = Object(
                label=label, time=np.arange(len(values), dtype=float), values=values, split=split.lower()
            )
        file = folder / f"Small_{split}.ts"
        file.write_text("\n".join(lines) + "\n")
        damageable.append(file)
    return Sample(folder, {}, objects, tuple(damageable))
