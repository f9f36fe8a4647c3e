"""Capture of CUDA graphs."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from runner.optimizer.base import needs_closure
from runner.train.protocols import Replay


class CudaGraphs:
    """Captures CUDA graphs on one device; they share a memory pool, because only one is replayed at a time."""

    def __init__(self, device: torch.device):
        self._device, self._pool = device, torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], None], generators: Sequence[torch.Generator]) -> Replay:
        graph = torch.cuda.CUDAGraph()
        before = [(noise, noise.clone_state()) for noise in generators]
        for noise in generators:
            graph.register_generator_state(noise)
        try:
            with (
                torch.cuda.device(self._device),
                # restores the current stream if a capture fails; `torch.cuda.graph` does not
                torch.cuda.stream(torch.cuda.current_stream(self._device)),
                # other threads, such as data loaders, may use CUDA during the capture
                torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
            ):
                work()
        except Exception:
            for noise, state in before:  # because in some torch releases it stays marked as captured
                noise.graphsafe_set_state(state)
            raise
        return graph.replay


@contextlib.contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """Run on a side stream, as torch's notes on CUDA graphs demand for the steps before a capture."""
    if device.type != "cuda":
        yield
        return
    stream, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


def unfit(optimizer: torch.optim.Optimizer, config: dict[str, Any]) -> str:
    """Return why a config's steps cannot be captured; empty if they can."""
    if needs_closure(optimizer):
        return f"optimizer: {type(optimizer).__name__} looks at the loss more than once a step"
    if config["precision"] == "fp16":
        return "precision=fp16: the loss is scaled step by step"
    return ""
