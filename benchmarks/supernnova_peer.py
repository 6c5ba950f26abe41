"""SuperNNova's side of `supernnova.py`, run by the Python of its environment: its own training, with the times between
its own calls, and its own prediction. Arguments are those of its `train_rnn`. Prints JSON.

SuperNNova takes two workers fewer than there are processors; its installation stays as it is.
"""

import itertools
import json
import multiprocessing
import sys
import time


def main() -> None:
    if "--help" in sys.argv:
        print(__doc__)
        return
    multiprocessing.cpu_count = lambda: 4  # type: ignore[assignment]
    import numpy as np
    import torch
    from supernnova import conf
    from supernnova.data import make_dataset
    from supernnova.training import train_rnn
    from supernnova.utils import training_utils as tu
    from supernnova.validation.validate_rnn import get_batch_predictions

    settings = conf.get_settings("train_rnn")
    make_dataset.resolve_sntypes(settings)
    events: list[tuple[str, float]] = []
    kept = {}

    def noted(name: str, when: str) -> None:
        function = getattr(tu, name)

        def wrapped(*values, **options):
            if when == "before":
                events.append((name, time.perf_counter()))
            kept[name] = function(*values, **options)
            if when == "after":
                events.append((name, time.perf_counter()))
            return kept[name]

        setattr(tu, name, wrapped)

    # an epoch begins behind the first, or behind the third, and its training ends before the second, of training data
    for name, when in (("StopOnPlateau", "after"), ("get_evaluation_metrics", "before"), ("plot_loss", "after")):
        noted(name, when)
    for name in ("get_model", "load_HDF5"):
        noted(name, "")
    train_rnn.train(settings)
    begun = [at for name, at in events if name in ("StopOnPlateau", "plot_loss")]
    trained = [at for name, at in events if name == "get_evaluation_metrics"][::2]
    rnn, data = kept["get_model"], kept["load_HDF5"][0]
    settings.random_length = False
    rnn.eval()
    speeds = []
    for _ in range(settings.nb_epoch):
        began = time.perf_counter()
        # as in its `get_predictions_for_speed_benchmark`
        for rows in np.array_split(np.arange(len(data)), len(data) // settings.batch_size):
            with torch.no_grad():
                packed, _, target, _ = tu.get_data_batch(data, rows, settings)
                get_batch_predictions(rnn, packed, target)
        speeds.append(len(data) / (time.perf_counter() - began))
    found = {
        "epoch_seconds": [end - start for start, end in zip(begun, trained, strict=False)],
        "whole_epoch_seconds": [end - start for start, end in itertools.pairwise(begun)],
        "objects_per_second": speeds,
        "objects": len(data),
        "parameters": sum(values.numel() for values in rnn.parameters()),
    }
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
