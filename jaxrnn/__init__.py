"""jaxrnn: survey time series in, trained, compared and explained recurrent classifiers out."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from jaxrnn.classifier import Classifier

__version__ = "0.1.0"


def load(path: "str | PathLike[str]") -> "Classifier":
    """Returns a finished experiment's model, to be asked in Python: `load("results/goto/best").predict(table)`.

    Loads jax when it first predicts. Raises `jaxrnn.errors.JaxrnnError` where there is no whole model in that folder.
    """
    from pathlib import Path

    from jaxrnn.classifier import Classifier

    return Classifier.load(Path(path))
