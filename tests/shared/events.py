"""Event files read by TensorBoard's own reader."""

import warnings

with warnings.catch_warnings():  # tensorboard's vendored bleach warns about itself
    warnings.simplefilter("ignore", DeprecationWarning)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def accumulate(folder):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator
