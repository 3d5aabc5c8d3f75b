"""CUDA kernels on a GPU: times, over PyTorch's or a copy's."""

from __future__ import annotations

from typing import Any

from .sides import kept, lacking

CASES = [
    "scores 8192×8192 d 128 float32 matmul",
    "scores 16384×16384 d 128 bfloat16 matmul",
    "attention 16×4096×4096 d 64 float32 sdpa",
    "attention 16×4096×4096 d 128 bfloat16 flash",
    "attention 16×4096×4096 d 128 bfloat16 causal flash",
    "scores 16384×16384 d 8 float32 copy",
    "attention 32×32×1×8192 d 128 float32 copy",
]
"""The problems of `numbattn._devices`, and whom they are compared with."""


class OnDevice:
    """One process; a device has no thread pools to share."""

    params = (CASES,)
    param_names = ("case",)
    timeout = 300

    def setup(self, case: str) -> None:
        """Leave it out where there is no GPU."""
        with lacking():
            from numbattn import _devices, list_backends

            why = list_backends()["cuda"]
            if why is not None:
                raise NotImplementedError(why)
            import torch
        if not torch.cuda.is_available():
            raise NotImplementedError("torch finds no GPU")
        self.devices: Any = _devices
        goals = {f"{goal.case} {goal.than}": goal for goal in _devices.GOALS}
        if case not in goals:
            raise NotImplementedError("this commit does not have the problem")
        self.goal = goals[case]

    @kept("time / their time")
    def track_ratio(self, case: str) -> float:
        """Our time over theirs."""
        return float(1.0 / self.devices.measured(self.goal)["ratio"])

    @kept("milliseconds")
    def track_milliseconds(self, case: str) -> float:
        """Our time on the device, by its own events."""
        problem = self.goal.case
        run = self.devices.ours(problem, self.devices.arrays(problem))
        return float(self.devices.seconds(run) * 1e3)
