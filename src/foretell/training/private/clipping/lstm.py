"""An LSTM whose backward pass hands out what came back to its gates, step by step.

An LSTM is a linear layer that reads ``[x_t, h_{t-1}]`` and gets ``delta_t``, the gradient at the
gates' inputs, back: with ``delta`` of all steps in hand, the rules of linear layers apply. What
does not depend on the step before (the products with x, the slopes of the gates) is done for all
steps at once, and both directions share each step of the scans.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from foretell.errors import TrainingError

Listener = Callable[[int, Tensor, Tensor], None]
"""Told a direction, its ``[x, h_prev]`` ``(B, T, p + H)`` and its ``delta`` ``(B, T, 4 H)``."""


class _Layer(torch.autograd.Function):
    """One layer, all D directions at once, each left to right over ``(D, T, B, p)``."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        h0: Tensor,
        c0: Tensor,
        w_in: Tensor,
        w_state: Tensor,
        bias: Tensor,
        listener: Listener,
    ) -> tuple[Tensor, Tensor]:
        directions, steps, batch, _ = x.shape
        size = h0.shape[-1]
        gates = torch.baddbmm(bias.unsqueeze(1), x.flatten(1, 2), w_in.mT)
        gates = gates.view(directions, steps, batch, 4 * size)
        states = x.new_empty(directions, steps + 1, batch, size)
        cells, bounded = torch.empty_like(states), torch.empty_like(states[:, 1:])
        states[:, 0], cells[:, 0] = h0, c0
        back = w_state.mT.contiguous()
        for t in range(steps):
            gate = gates[:, t]
            gate.baddbmm_(states[:, t], back)
            gate[..., : 2 * size].sigmoid_()
            gate[..., 2 * size : 3 * size].tanh_()
            gate[..., 3 * size :].sigmoid_()
            i, f, g, o = gate.split(size, -1)
            torch.addcmul(i * g, f, cells[:, t], out=cells[:, t + 1])
            torch.tanh(cells[:, t + 1], out=bounded[:, t])
            torch.mul(o, bounded[:, t], out=states[:, t + 1])
        ctx.save_for_backward(x, gates, states, cells, bounded, w_in, w_state)
        ctx.listener = listener
        return states[:, 1:].clone(), cells[:, 1:].clone()

    @staticmethod
    def backward(ctx: Any, to_output: Tensor, to_cells: Tensor) -> Any:  # type: ignore[override]
        x, gates, states, cells, bounded, w_in, w_state = ctx.saved_tensors
        size = w_state.shape[-1]
        i, f, g, o = gates.split(size, -1)
        into_cell = torch.addcmul(o, o, bounded.square(), value=-1)
        # What a change of the cell, or of the output, is at each gate's input.
        slopes = torch.empty_like(gates)
        torch.mul(g * i, 1 - i, out=slopes[..., :size])
        torch.mul(cells[:, :-1] * f, 1 - f, out=slopes[..., size : 2 * size])
        torch.addcmul(i, i, g.square(), value=-1, out=slopes[..., 2 * size : 3 * size])
        torch.mul(bounded * o, 1 - o, out=slopes[..., 3 * size :])
        delta = slopes.unflatten(-1, (4, size))  # overwritten step by step
        dh, dc = torch.zeros_like(states[:, 0]), torch.zeros_like(states[:, 0])
        for t in range(x.shape[1] - 1, -1, -1):
            dh = dh + to_output[:, t]
            dc = torch.addcmul(dc + to_cells[:, t], dh, into_cell[:, t])
            delta[:, t, :, :3] *= dc.unsqueeze(-2)
            delta[:, t, :, 3] *= dh
            dh = torch.bmm(slopes[:, t], w_state)
            dc = dc * f[:, t]
        # Steps that no output depends on have delta 0, so padding needs no mask of its own.
        for direction in range(len(x)):
            read = torch.cat([x[direction], states[direction, :-1]], -1)
            ctx.listener(direction, read.transpose(0, 1), slopes[direction].transpose(0, 1))
        dx = torch.bmm(slopes.flatten(1, 2), w_in).view_as(x)
        return dx, dh, dc, None, None, None, None


def run_lstm(
    module: nn.LSTM,
    inputs: Tensor | PackedSequence,
    state: tuple[Tensor, Tensor] | None,
    listener: Callable[[int], Listener],
) -> tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]:
    """What ``module(inputs, state)`` returns.

    Args:
        module: without projections.
        inputs: ``(B, T, p)``, or ``(T, B, p)`` without ``batch_first``, or packed.
        state: initial state, or None.
        listener: gives the listener of a layer, counted from 0.

    Raises:
        TrainingError: a sequence without examples.
    """
    packed = inputs if isinstance(inputs, PackedSequence) else None
    lengths = None
    if packed is not None:
        x, lengths = pad_packed_sequence(packed)
    elif isinstance(inputs, Tensor) and inputs.dim() == 3:
        x = inputs.transpose(0, 1) if module.batch_first else inputs
    else:
        raise TrainingError(
            "an LSTM reads one sequence without a batch axis: call it with the examples as an "
            "axis, (B, T, p) or (T, B, p)"
        )
    steps, batch = x.shape[:2]
    if not x.requires_grad:  # the first layer of a network whose parameters are held
        x = x.detach().requires_grad_()
    lengths = torch.full((batch,), steps) if lengths is None else lengths
    last = (lengths - 1).to(x.device)
    directions = 2 if module.bidirectional else 1
    zeros = x.new_zeros(module.num_layers * directions, batch, module.hidden_size)
    h0, c0 = (zeros, zeros) if state is None else state
    everyone = torch.arange(batch, device=x.device)
    hs, cs = [], []
    for layer in range(module.num_layers):
        at = slice(layer * directions, (layer + 1) * directions)
        parts = [
            [p.detach() for p in lstm_parameters(module, layer, d).values()]
            for d in range(directions)
        ]
        w_in, w_state, *biases = (torch.stack(part) for part in zip(*parts, strict=True))
        bias = sum(biases) if biases else x.new_zeros(directions, 4 * module.hidden_size)
        both = torch.stack([x, _turned(x, lengths)][:directions])
        output, cells = _Layer.apply(both, h0[at], c0[at], w_in, w_state, bias, listener(layer))
        hs += [direction[last, everyone] for direction in output]
        cs += [direction[last, everyone] for direction in cells]
        x = output[0]
        if directions == 2:
            x = torch.cat([x, _turned(output[1], lengths)], -1)
        if module.dropout and module.training and layer + 1 < module.num_layers:
            x = nn.functional.dropout(x, module.dropout)
    final = torch.stack(hs), torch.stack(cs)
    if packed is not None:
        return pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False), final
    return (x.transpose(0, 1) if module.batch_first else x), final


def lstm_parameters(module: nn.LSTM, layer: int, direction: int) -> dict[str, nn.Parameter]:
    """Parameters of one layer and direction by role."""
    roles = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if module.bias else 2]
    suffix = f"_l{layer}" + "_reverse" * direction
    return {role: getattr(module, role + suffix) for role in roles}


def _turned(values: Tensor, lengths: Tensor) -> Tensor:
    """Each example's own steps in reverse order; padding stays where it is."""
    steps = torch.arange(len(values), device=values.device)[:, None]
    own = lengths.to(values.device)[None]
    order = torch.where(steps < own, own - 1 - steps, steps)
    return values.gather(0, order.unsqueeze(-1).expand_as(values))
