"""jaxrnn: survey time series in, trained, compared and explained recurrent classifiers out."""

__version__ = "0.1.0"
