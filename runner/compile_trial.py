"""Whether a lone run's network is compiled: as the config says, else as a trial finds it."""

import hashlib
import logging
import time
import warnings
from pathlib import Path

import torch

from runner import memory
from runner.batch import Batch
from runner.compiled import compiled, lacking
from runner.fuse.alike import program, structure
from runner.fuse.verdict import Compiled, keep, known
from runner.optimizer.base import looks_again
from runner.running import Run
from runner.timing import timed
from runner.train import gradients
from runner.trying import Found, fastest, untouched

log = logging.getLogger(__name__)

# Seconds of training that must be left before compiling is tried. On the CPU it takes 20 to 30 s and gains 10 % at most
# (measured): it is even after 300 s, and pays after twice that. On a GPU nothing was measured: a guess.
LEAST = {"cpu": 600.0, "cuda": 180.0}
FEW = 100  # steps below which nobody looks how long one takes
GAIN = 1.05  # that it must be faster to be chosen
LOOKS = 3


def settle(run: Run, folder: Path | None) -> None:
    """Decides it for a run that begins; one that goes on keeps to what it was. `folder`: of its sweep, where the word
    stands for all runs of one program."""
    asked = run.config["compile"]
    if asked != "auto":
        run.chosen |= {"compile": "on (compile=true)"} if asked else {}
        return
    if run.compiled is None:
        found = _verdict(run, folder)
        run.compiled, run.compile_reason = found.compiled, found.reason
    reason = run.compile_reason
    if run.compiled and (missing := lacking(run.device)):
        log.warning("goes on uncompiled, with other last digits: %s", missing)
        reason = missing
    elif run.compiled:
        run.forward = compiled(run.model)
    run.chosen["compile"] = f"{'off' if run.forward is run.model else 'on'} ({reason})"
    log.info("compile: %s", run.chosen["compile"])


def _verdict(run: Run, folder: Path | None) -> Compiled:
    left, least = run.steps - run.progress.step, LEAST.get(run.device.type)
    if least is None:
        return Compiled(False, f"device={run.device.type}")
    if run.features is not None:
        return Compiled(False, "features are kept")
    if looks_again(run.optimizer):
        return Compiled(False, f"{type(run.optimizer).__name__} looks at the loss more than once a step")
    if missing := lacking(run.device):
        return Compiled(False, missing)
    short = Compiled(False, f"less than {least:.0f} s of training: it would not pay")
    if left < FEW:
        return short
    about = structure(run.model), program(run), run.steps, torch.get_num_threads(), torch.__version__
    key = hashlib.sha256(repr(about).encode()).hexdigest()[:16]
    if folder is not None and (verdict := known(folder, key, Compiled)) is not None:
        return verdict
    run.train_mode()
    with untouched([run]):
        batch = run.next_batch()
        # The first is slower than others: where it promises little, they do too.
        plain = timed(lambda: gradients(run, batch), run.device)[1]
        if plain * left >= least:
            plain = fastest(lambda: gradients(run, batch), run.device, LOOKS)
    if plain * left < least:
        return short
    try:
        found = _tried(run, batch, plain, left)
    except Exception as error:  # the compiler's, in its many kinds: the run goes on without
        memory.free(run.device)
        found = Compiled(False, f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}")
    return found if folder is None else keep(folder, key, found)


def _tried(run: Run, batch: Batch, plain: float, left: int) -> Compiled:
    """Both ways, each from where the run stands now; `plain`: seconds of the one."""
    forward = run.forward
    with untouched([run]):
        wanted = Found.of(gradients(run, batch), run.trained)
    try:
        began = time.perf_counter()
        run.forward = compiled(run.model)
        with untouched([run]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's, of the runner's and torch's code alike
            found = Found.of(gradients(run, batch), run.trained)
        took = time.perf_counter() - began
        if off := found.off(wanted, run.precision):
            return Compiled(False, off)
        with untouched([run]):
            quick = fastest(lambda: gradients(run, batch), run.device, LOOKS)
    finally:
        run.forward = forward
    words = f"gradients of a step take {1e3 * quick:.3g} ms, and compiling {took:.0f} s, against {1e3 * plain:.3g} ms"
    return Compiled(plain >= GAIN * quick and (plain - quick) * left >= took, words)
