"""Radial flows: densities that are flexible, cheap and invertible in closed form."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretell.errors import ParameterError


class RadialFlow(nn.Module):
    """Several densities on one space, each a stack of radial layers on a standard normal.

    One layer contracts or expands around a centre ``c`` (Rezende and Mohamed 2015, eq. 14, with
    the parametrisation of their appendix A.2 that keeps it invertible)::

        f(z) = z + b h (z - c),   h = 1 / (a + r),   r = |z - c|,
        a = softplus(a'),         b = -a + softplus(b')

    With ``s = softplus(b')`` the radius goes to ``R = r (r + s) / (a + r)``, which rises in ``r``,
    so that the inverse is the positive root of a quadratic and the determinant is a product of
    positive terms: ``((r + s) / (a + r))^(D-1) (r^2 + 2 a r + a s) / (a + r)^2``.

    The layers run from the data to the normal: densities need no inversion.

    Args:
        dimension: D of the space.
        layers: radial layers a flow.
        flows: number of densities C.

    Raises:
        ParameterError: a count below 1.
    """

    def __init__(self, dimension: int, layers: int = 6, flows: int = 1) -> None:
        super().__init__()
        for name, value in (("dimension", dimension), ("layers", layers), ("flows", flows)):
            if value < 1:
                raise ParameterError(f"{name} must be at least 1, not {value}")
        self.dimension, self.layers, self.flows = dimension, layers, flows
        bound = 1 / math.sqrt(dimension)

        def start(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        self.centre = start(layers, flows, dimension)
        self.raw_scale = start(layers, flows)
        self.raw_strength = start(layers, flows)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Brings points to the normal's space.

        Args:
            z: ``(B, D)``, the same point for every flow, or ``(B, C, D)``.

        Returns:
            Images ``(B, C, D)`` and logarithms of the determinants ``(B, C)``.
        """
        if z.ndim == 2:
            z = z[:, None, :].expand(-1, self.flows, -1)
        total = z.new_zeros(z.shape[:-1])
        for layer in range(self.layers):
            a, s = self._shape(layer)
            away = z - self.centre[layer]
            r = torch.linalg.vector_norm(away, dim=-1)
            stretch = (r + s) / (a + r)
            z = self.centre[layer] + stretch[..., None] * away
            along = torch.log(r * r + 2 * a * r + a * s) - 2 * torch.log(a + r)
            total = total + (self.dimension - 1) * torch.log(stretch) + along
        return z, total

    def inverse(self, y: Tensor) -> Tensor:
        """Brings points ``(B, C, D)`` of the normal's space back."""
        for layer in reversed(range(self.layers)):
            a, s = self._shape(layer)
            away = y - self.centre[layer]
            R = torch.linalg.vector_norm(away, dim=-1)
            half = 0.5 * (R - s)
            root = torch.sqrt(half * half + R * a)
            # Of the two forms of the positive root, the one whose terms have the same sign.
            r = torch.where(half >= 0, half + root, R * a / (root - half).clamp_min(1e-30))
            y = self.centre[layer] + ((a + r) / (r + s))[..., None] * away
        return y

    def log_prob(self, z: Tensor) -> Tensor:
        """Log densities ``(B, C)`` of points ``(B, D)`` (or ``(B, C, D)``), in nats."""
        y, log_determinant = self(z)
        normal = -0.5 * (y * y).sum(-1) - 0.5 * self.dimension * math.log(2 * math.pi)
        return normal + log_determinant

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws ``(n, C, D)`` points, ``n`` of each density."""
        shape = (n, self.flows, self.dimension)
        normal = torch.randn(shape, generator=generator, dtype=self.centre.dtype)
        with torch.no_grad():
            return self.inverse(normal.to(self.centre.device))

    def _shape(self, layer: int) -> tuple[Tensor, Tensor]:
        """``a`` and ``s`` of a layer, both ``(C,)`` and positive."""
        tiny = torch.finfo(self.centre.dtype).tiny ** 0.5
        scale, strength = F.softplus(self.raw_scale[layer]), F.softplus(self.raw_strength[layer])
        return scale.clamp_min(tiny), strength.clamp_min(tiny)
