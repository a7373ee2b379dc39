"""Muon: momentum whose matrices are made orthogonal, in float32.

torch.optim.Muon does the same in bfloat16, which a CPU without bfloat16 units works through four times
slower. Matrices of one shape go through together.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):  # type: ignore[misc]
    """For inner matrices and kernels. `lr` is comparable with AdamW's: updates are scaled to its usual size."""

    def __init__(
        self, params: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.nn.Parameter]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape.setdefault(weight.shape, []).append(weight)
            for weights in by_shape.values():
                self._step_alike(weights, group)

    def _step_alike(self, weights: list[torch.nn.Parameter], group: dict[str, float]) -> None:
        directions = []  # a convolution's kernel is a matrix of outputs by everything else
        for weight in weights:
            assert weight.grad is not None
            velocity = self.state[weight].setdefault("velocity", torch.zeros_like(weight))
            velocity.lerp_(weight.grad, 1 - group["momentum"])
            directions.append(weight.grad.lerp(velocity, group["momentum"]))
        matrices = torch.stack(directions).flatten(2)
        updates = orthogonal(matrices).view(len(weights), *weights[0].shape)
        size = group["lr"] * 0.2 * max(matrices.shape[1:]) ** 0.5
        for weight, update in zip(weights, updates, strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-size)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Each of N by R by C with its singular values brought near 1 (Newton and Schulz's iteration)."""
    a, b, c = _QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
