"""A training step recorded once as a CUDA graph and replayed: one launch instead of hundreds."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

EAGER_STEPS = 3  # before a recording: what libraries and optimizers set up at first use


@dataclass
class _Recording:
    graph: torch.cuda.CUDAGraph
    batch: Tensor
    result: Tensor


@dataclass
class StepGraph:
    """Runs steps that differ in nothing but their batch and the state of `generators`.

    A step may not wait for the device, and reads what changes (the learning rate) from tensors.
    """

    generators: Sequence[torch.Generator]
    _recordings: dict[Hashable, _Recording] = field(default_factory=dict)
    _eager: Counter[Hashable] = field(default_factory=Counter)

    def run(self, kind: Hashable, batch: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
        """The result of `step(batch)`; the first steps of a kind run as they are.

        Args:
            kind: what the step's work depends on; each has a recording of its own.
            batch: of the same shape for all steps of a kind.
            step: work on the device, with a result whose memory the next step takes again.
        """
        if self._eager[kind] < EAGER_STEPS:
            self._eager[kind] += 1
            return step(batch)
        if kind not in self._recordings:
            self._recordings[kind] = self._record(batch, step)
        recording = self._recordings[kind]
        recording.batch.copy_(batch)
        recording.graph.replay()
        return recording.result

    def _record(self, batch: Tensor, step: Callable[[Tensor], Tensor]) -> _Recording:
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        own = batch.clone()
        with torch.cuda.graph(graph):
            result = step(own)
        return _Recording(graph, own, result)
