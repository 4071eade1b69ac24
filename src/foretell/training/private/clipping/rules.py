"""How much each example moved each parameter, from what a layer read and what came back to it.

A layer that computes ``y = f(x, theta)`` for each example alone gets, in one backward pass of the
*sum* of the examples' losses, the gradient ``g`` of each example's own loss at its rows of ``y``.
With ``x`` and ``g`` the squared norm of each example's gradient, and any weighted sum of the
examples' gradients, follow without ever forming the gradients one by one (Goodfellow 2015; Li et
al. 2022, "ghost clipping"; Bu et al. 2023, "book-keeping").
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Use:
    """One use of parameters in a forward pass, rows of examples first.

    A subclass knows one kind of layer. Two uses of the same parameter are added before norms are
    taken: either they are of one class and are joined by :meth:`joined`, or :meth:`cross` gives
    their product.

    Attributes:
        parameters: role (``"weight"``, ``"bias"``, ...) -> parameter.
    """

    parameters: dict[str, nn.Parameter]

    @property
    def examples(self) -> int:
        """Number of examples B."""
        raise NotImplementedError

    def select(self, rows: Tensor) -> Use:
        """The same of some examples, by a mask ``(B,)``."""
        raise NotImplementedError

    def squared_norms(self, role: str) -> Tensor:
        """Squared norm of each example's gradient of one parameter ``(B,)``."""
        raise NotImplementedError

    def weighted_sum(self, role: str, coefficients: Tensor) -> Tensor:
        """``sum_i c_i grad_i`` of one parameter, for coefficients ``(B,)``."""
        raise NotImplementedError

    @property
    def half(self) -> bool:
        """Whether what came back is in half precision."""
        return False

    def widened(self) -> Use:
        """The same in single precision where it is less: norms are sums of many small squares."""
        raise NotImplementedError


def wide(values: Tensor) -> Tensor:
    """Half precision as single."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


class Rule(ABC):
    """Makes uses of one kind of module."""

    @abstractmethod
    def use(
        self,
        module: nn.Module,
        parameters: dict[str, nn.Parameter],
        inputs: tuple[Tensor, ...],
        gradient: Tensor,
    ) -> Use:
        """What a call of the module recorded.

        Args:
            module: the layer.
            parameters: its own trained parameters by role.
            inputs: what it was called with, examples first.
            gradient: of the examples' losses at its output, shaped like the output.
        """


def _rows(values: Tensor) -> Tensor:
    """``(B, ..., d)`` to ``(B, T, d)``."""
    return values.reshape(len(values), -1, values.shape[-1])


@dataclass(frozen=True)
class RowsUse(Use):
    """A layer that treats T rows an example alike.

    Attributes:
        read: ``(B, T, ...)`` what the layer read.
        gradient: ``(B, T, d)`` what came back.
    """

    read: Tensor
    gradient: Tensor

    @property
    def examples(self) -> int:
        """Number of examples B."""
        return len(self.read)

    def select(self, rows: Tensor) -> Use:
        """The same of some examples."""
        return replace(self, read=self.read[rows], gradient=self.gradient[rows])

    @property
    def half(self) -> bool:
        """Whether what came back is in half precision."""
        return wide(self.gradient) is not self.gradient

    def widened(self) -> Use:
        """The same in single precision."""
        return replace(self, read=wide(self.read), gradient=wide(self.gradient))


@dataclass(frozen=True)
class LinearUse(RowsUse):
    """``y = x W' + b``; ``read`` is x ``(B, T, p)``.

    Attributes:
        columns: role of a weight -> its columns of ``read``; roles that are not there are biases.
    """

    columns: dict[str, slice]

    def squared_norms(self, role: str) -> Tensor:
        """Ghost norm where ``2 T^2 <= p d``, the gradients themselves otherwise."""
        g = self.gradient
        if role not in self.columns:
            return g.sum(1).square().sum(-1)
        a = self.read[..., self.columns[role]]
        rows, p, d = a.shape[1], a.shape[2], g.shape[2]
        if rows == 1:
            return a.square().sum((1, 2)) * g.square().sum((1, 2))
        if 2 * rows * rows <= p * d:
            return (torch.bmm(a, a.mT) * torch.bmm(g, g.mT)).sum((1, 2))
        return torch.bmm(g.mT, a).square().sum((1, 2))

    def weighted_sum(self, role: str, coefficients: Tensor) -> Tensor:
        """One product over all examples' rows."""
        g = self.gradient * coefficients[:, None, None]
        if role not in self.columns:
            return g.sum((0, 1))
        total = g.flatten(0, 1).T @ self.read[..., self.columns[role]].flatten(0, 1)
        return total.view(self.parameters[role].shape)


@dataclass(frozen=True)
class EmbeddingUse(RowsUse):
    """``y = W[read]``: tokens ``(B, T)``; ``gradient`` is 0 where one is padding."""

    def squared_norms(self, role: str) -> Tensor:
        """Products of the gradients of equal tokens."""
        g = self.gradient
        if g.shape[1] == 1:
            return g.square().sum((1, 2))
        same = self.read[:, :, None] == self.read[:, None, :]
        return (torch.bmm(g, g.mT) * same).sum((1, 2))

    def weighted_sum(self, role: str, coefficients: Tensor) -> Tensor:
        """Gradients are added to their tokens' rows."""
        g = (self.gradient * coefficients[:, None, None]).flatten(0, 1)
        total = g.new_zeros(self.parameters[role].shape)
        return total.index_add_(0, self.read.flatten(), g)


@dataclass(frozen=True)
class FormedUse(Use):
    """Parameters so small that each example's gradient is formed.

    Attributes:
        gradients: role -> ``(B, ...)`` gradients.
    """

    gradients: dict[str, Tensor]

    @property
    def examples(self) -> int:
        """Number of examples B."""
        return len(next(iter(self.gradients.values())))

    def select(self, rows: Tensor) -> Use:
        """The same of some examples."""
        return replace(self, gradients={role: g[rows] for role, g in self.gradients.items()})

    def widened(self) -> Use:
        """The same in single precision."""
        return replace(self, gradients={role: wide(g) for role, g in self.gradients.items()})

    def squared_norms(self, role: str) -> Tensor:
        """By definition."""
        return self.gradients[role].flatten(1).square().sum(1)

    def weighted_sum(self, role: str, coefficients: Tensor) -> Tensor:
        """By definition."""
        return torch.tensordot(coefficients, self.gradients[role], dims=1)


def joined(uses: list[Use], role: str) -> Use | None:
    """One use for several of the same parameter in the same role; None where there is no such."""
    first = uses[0]
    parameters = {role: first.parameters[role]}
    if all(isinstance(use, LinearUse) for use in uses):
        linear = [use for use in uses if isinstance(use, LinearUse)]
        weight = role in linear[0].columns
        read = [use.read[..., use.columns[role]] if weight else use.read[..., :0] for use in linear]
        columns = {role: slice(None)} if weight else {}
        gradient = torch.cat([use.gradient for use in linear], 1)
        return LinearUse(parameters, torch.cat(read, 1), gradient, columns)
    if all(isinstance(use, EmbeddingUse) for use in uses):
        tables = [use for use in uses if isinstance(use, EmbeddingUse)]
        tokens = torch.cat([use.read for use in tables], 1)
        return EmbeddingUse(parameters, tokens, torch.cat([use.gradient for use in tables], 1))
    if all(isinstance(use, FormedUse) for use in uses):
        formed = [use.gradients[role] for use in uses if isinstance(use, FormedUse)]
        return FormedUse(parameters, {role: torch.stack(formed).sum(0)})
    return None


def cross(first: EmbeddingUse, second: LinearUse, role: str) -> Tensor:
    """Inner products ``(B,)`` of both gradients of a table that is also an output layer."""
    read = second.read[..., second.columns[role]]
    picked = second.gradient.gather(2, first.read[:, None, :].expand(-1, read.shape[1], -1))
    return (picked * torch.bmm(read, first.gradient.mT)).sum((1, 2))


class LinearRule(Rule):
    """:class:`torch.nn.Linear`."""

    def use(
        self,
        module: nn.Module,
        parameters: dict[str, nn.Parameter],
        inputs: tuple[Tensor, ...],
        gradient: Tensor,
    ) -> Use:
        """Rows of all middle axes are rows of the example."""
        return LinearUse(parameters, _rows(inputs[0]), _rows(gradient), {"weight": slice(None)})


class EmbeddingRule(Rule):
    """:class:`torch.nn.Embedding`; the padding row never moves."""

    def use(
        self,
        module: nn.Module,
        parameters: dict[str, nn.Parameter],
        inputs: tuple[Tensor, ...],
        gradient: Tensor,
    ) -> Use:
        """Gradients at padding are set to 0, as the layer's own backward pass does."""
        assert isinstance(module, nn.Embedding)
        tokens = inputs[0].reshape(len(inputs[0]), -1)
        gradient = gradient.reshape(*tokens.shape, -1)
        if module.padding_idx is not None:
            gradient = gradient * (tokens != module.padding_idx).unsqueeze(-1)
        return EmbeddingUse(parameters, tokens, gradient)


class ConvolutionRule(Rule):
    """:class:`torch.nn.Conv1d`: a linear layer over unfolded windows."""

    def use(
        self,
        module: nn.Module,
        parameters: dict[str, nn.Parameter],
        inputs: tuple[Tensor, ...],
        gradient: Tensor,
    ) -> Use:
        """Windows ``(B, L, C k)`` are read, gradients ``(B, L, d)`` come back."""
        assert isinstance(module, nn.Conv1d)
        (kernel,), (stride,), (dilation,) = module.kernel_size, module.stride, module.dilation
        values = inputs[0]
        if module.padding == "same":
            total = dilation * (kernel - 1)
            values = F.pad(values, (total // 2, total - total // 2))
        elif module.padding != "valid":
            values = F.pad(values, (int(module.padding[0]),) * 2)
        reach = dilation * (kernel - 1) + 1
        windows = values.unfold(2, reach, stride)[..., ::dilation]  # (B, C, L, k)
        if module.groups == 1:
            read = windows.permute(0, 2, 1, 3).flatten(2)
            return LinearUse(parameters, read, gradient.mT, {"weight": slice(None)})
        groups = module.groups
        read = windows.unflatten(1, (groups, -1))
        back = gradient.unflatten(1, (groups, -1))
        formed = {"weight": torch.einsum("bgclk,bgdl->bgdck", read, back).flatten(1, 2)}
        if "bias" in parameters:
            formed["bias"] = gradient.sum(2)
        return FormedUse(parameters, formed)


class NormRule(Rule):
    """:class:`torch.nn.LayerNorm`, :class:`~torch.nn.RMSNorm` and :class:`~torch.nn.GroupNorm`."""

    def use(
        self,
        module: nn.Module,
        parameters: dict[str, nn.Parameter],
        inputs: tuple[Tensor, ...],
        gradient: Tensor,
    ) -> Use:
        """The normalised input is computed again."""
        values = inputs[0]
        if isinstance(module, nn.GroupNorm):
            normal = F.group_norm(values, module.num_groups, eps=module.eps)
            keep = (0, 1)
        else:
            assert isinstance(module, nn.LayerNorm | nn.RMSNorm)
            shape = list(module.normalized_shape)
            if isinstance(module, nn.RMSNorm):
                normal = F.rms_norm(values, shape, eps=module.eps)
            else:
                normal = F.layer_norm(values, shape, eps=module.eps)
            keep = (0, *range(values.ndim - len(shape), values.ndim))
        rest = [axis for axis in range(values.ndim) if axis not in keep]
        formed = {"weight": gradient * normal, "bias": gradient}
        return FormedUse(
            parameters,
            {role: formed[role].sum(rest) if rest else formed[role] for role in parameters},
        )


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: LinearRule(),
    nn.Embedding: EmbeddingRule(),
    nn.Conv1d: ConvolutionRule(),
    nn.LayerNorm: NormRule(),
    nn.RMSNorm: NormRule(),
    nn.GroupNorm: NormRule(),
}
"""Kind of module -> how its examples' gradients are read."""


def register_norm_rule(kind: type[nn.Module], rule: Rule) -> None:
    """Teaches exact clipping a further kind of module.

    Args:
        kind: the class; its instances must treat each example alone, examples first.
        rule: makes a :class:`Use` of each call.
    """
    RULES[kind] = rule
