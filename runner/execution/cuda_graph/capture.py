"""CUDA graphs: kernels that are launched again, all with one call, by no code of the host."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from runner.optimizer.base import needs_closure
from runner.train.protocols import Replay


class CudaGraphs:
    """Graphs of one device. They share the memory of what they do not keep, for one is replayed at a time."""

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
                # Puts the current stream back where a capture fails, as `torch.cuda.graph` itself does not.
                torch.cuda.stream(torch.cuda.current_stream(self._device)),
                # Other threads (that load data) may go on meanwhile.
                torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
            ):
                work()
        except Exception:
            for noise, state in before:  # in some releases of torch it would believe itself captured for ever
                noise.graphsafe_set_state(state)
            raise
        return graph.replay


@contextlib.contextmanager
def beside(device: torch.device) -> Iterator[None]:
    """On a stream of its own, where torch's notes on CUDA graphs want the steps before a capture."""
    if device.type != "cuda":
        yield
        return
    stream, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


def unfit(optimizer: torch.optim.Optimizer, config: dict[str, Any]) -> str:
    """What of a config cannot be replayed; empty where all can."""
    if needs_closure(optimizer):
        return f"optimizer: {type(optimizer).__name__} looks at the loss more than once a step"
    if config["precision"] == "fp16":
        return "precision=fp16: the loss is scaled step by step"
    return ""
