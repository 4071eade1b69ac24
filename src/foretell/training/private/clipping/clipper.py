"""Clipped sums of gradients of a learner, in whichever way is exact for it and quick."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from foretell.errors import ParameterError, TrainingError
from foretell.learners.contract import Batch, Learner
from foretell.training.per_sample import per_sample_gradients
from foretell.training.private.clipping.book_keeping import Ledger
from foretell.training.private.clipping.recorder import Recorder
from foretell.training.private.clipping.rules import Use, wide
from foretell.training.private.layers import Layers

Clipping = Literal["auto", "book_keeping", "ghost", "per_sample"]
Factors = Callable[[Tensor], Tensor]
"""Norms ``(B,)`` -> clipping factors ``(B,)``."""

Evaluate = Callable[[Batch], tuple[Tensor, Tensor]]
"""Scores ``(B,)`` with their graph and weights ``(B,)`` without: the losses are their products."""

_MOST_LOOKS = 10


class ClippedSum(NamedTuple):
    """``sum_i c_i grad_i`` and what was seen on the way.

    Attributes:
        gradients: parameter -> sum.
        norms: ``(B,)`` norms before clipping.
        losses: ``(B,)`` losses.
        dropped: examples whose gradient is not finite; they count as 0.
    """

    gradients: dict[nn.Parameter, Tensor]
    norms: Tensor
    losses: Tensor
    dropped: int


class ExactClipper:
    """Clips the gradient of every example by itself.

    ``book_keeping`` needs one forward and one backward pass, and keeps what layers read and what
    came back to them until the sum is formed. ``ghost`` keeps less: norms first, then an ordinary
    second backward pass of the weighted losses. ``per_sample`` forms every gradient. ``auto`` is
    ``book_keeping``.

    On the first batch (and, while gradients are 0, on the next ones) the way is proven: with random
    coefficients, its sum must be what automatic differentiation gives. Parameters where it is not
    (used outside of their layer, or in a layer that does not put examples first) are treated as
    ``per_sample``.

    Args:
        learner: what is trained.
        clipping: the way.

    Raises:
        ParameterError: an unknown way.
        TrainingError: a layer that mixes examples.
    """

    def __init__(self, learner: Learner, clipping: Clipping = "auto") -> None:
        if clipping not in get_args(Clipping):
            raise ParameterError(
                f"clipping must be one of {', '.join(get_args(Clipping))}, not {clipping!r}"
            )
        self.learner = learner
        self.clipping = "book_keeping" if clipping == "auto" else clipping
        self.trained = [p for p in learner.parameters() if p.requires_grad]
        self.formed: frozenset[nn.Parameter] = frozenset()
        if clipping == "per_sample":
            self.formed = frozenset(self.trained)
        self.recorder = Recorder(learner, self.formed)
        self._proven, self._looks = clipping == "per_sample", 0
        self._apart = clipping == "per_sample"

    def names(self) -> list[str]:
        """Parameters whose gradients are formed one by one."""
        return [n for n, p in self.learner.named_parameters() if p in self.formed]

    @property
    def proven(self) -> bool:
        """Whether nothing is left to look at in :meth:`prove`."""
        return self._apart and self._proven

    def prove(self, batch: Batch, evaluate: Evaluate) -> None:
        """Checks that no example sees another, and that the way gives what it should.

        Args:
            batch: tensors, examples first.
            evaluate: the forward pass, through the learner's own modules.

        Raises:
            TrainingError: losses that are not one for each example, or that mix examples.
        """
        if not self._apart:
            self._look_apart(batch, evaluate)
        if not self._proven:
            self._prove(batch, evaluate)

    def __call__(self, batch: Batch, evaluate: Evaluate, factors: Factors | Layers) -> ClippedSum:
        """One clipped sum.

        Args:
            batch: tensors, examples first.
            evaluate: the forward pass, through the learner's own modules.
            factors: clipping factors from norms, or how layers are clipped.

        Raises:
            TrainingError: losses that are not one for each example, or that mix examples.
        """
        self.prove(batch, evaluate)
        if self.clipping == "ghost":
            return self._ghost(batch, evaluate, factors)
        with self.recorder.watching() as uses:
            losses, weights = _losses(evaluate, batch)
            if losses.requires_grad:
                losses.sum().backward()
        ledger = Ledger(uses, len(losses))
        formed = self.form(batch, weights)
        return clipped_sum(ledger, formed, losses.detach(), factors)

    def _ghost(self, batch: Batch, evaluate: Evaluate, factors: Factors | Layers) -> ClippedSum:
        with self.recorder.watching(hold=False) as uses:
            losses, weights = _losses(evaluate, batch)

            def pull(coefficients: Tensor | None) -> Sequence[Tensor | None]:
                total = losses.sum() if coefficients is None else (losses * coefficients).sum()
                return torch.autograd.grad(
                    total, self.direct, retain_graph=coefficients is None, allow_unused=True
                )

            return self.ghost_sum(
                pull, uses, losses.detach(), lambda: self.form(batch, weights), factors
            )

    @property
    def direct(self) -> list[nn.Parameter]:
        """Parameters whose sums a second, ordinary backward pass gives under ghost clipping."""
        recurrent = self.recorder.recurrent
        return [p for p in self.trained if p not in self.formed and p not in recurrent]

    def ghost_sum(
        self,
        pull: Callable[[Tensor | None], Sequence[Tensor | None]],
        uses: list[Use],
        losses: Tensor,
        form: Callable[[], dict[nn.Parameter, Tensor]],
        factors: Factors | Layers,
    ) -> ClippedSum:
        """Norms from one backward pass, the sum from a second one.

        Args:
            pull: a backward pass of the losses, weighted if coefficients are given: gradients of
                :attr:`direct`.
            uses: where the recorder writes.
            losses: ``(B,)``, handed on.
            form: forms the gradients that must be formed.
            factors: clipping factors from norms.
        """
        pull(None)  # for the recorder's eyes only
        ledger, formed = Ledger(list(uses), len(losses)), form()
        norms = _norms(ledger, formed, losses)
        coefficients, dropped = _coefficients(norms, factors)
        if dropped:  # 0 times what is not finite is no number: the ledger leaves rows out
            sums = ledger.weighted_sums(coefficients)
        else:
            found = pull(coefficients)
            sums = {p: g for p, g in zip(self.direct, found, strict=True) if g is not None}
            sums |= ledger.only(self.recorder.recurrent).weighted_sums(coefficients)
        sums |= _formed_sums(formed, coefficients)
        return ClippedSum(sums, norms, losses, dropped)

    def form(self, batch: Batch, weights: Tensor) -> dict[nn.Parameter, Tensor]:
        """Gradients ``(B, ...)`` of the weighted losses, of the parameters that must be formed."""
        if not self.formed:
            return {}
        found = per_sample_gradients(self.learner, batch, self.formed)
        return {p: torch.einsum("b,b...->b...", weights.to(g.dtype), g) for p, g in found.items()}

    def _look_apart(self, batch: Batch, evaluate: Evaluate) -> None:
        """Compares the losses of a batch with those of its first half: no example sees another.

        Without dropout, so in evaluation mode; a gradient of its own says nothing of this, since
        what a layer reads may come from other examples.
        """
        half = len(next(iter(batch.values()))) // 2
        if not half:
            return
        training = self.learner.training
        self.learner.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng(self._devices()):
                whole, _ = evaluate(batch)
                part, _ = evaluate({k: v[:half] for k, v in batch.items()})
        finally:
            self.learner.train(training)
        if whole.ndim != 1:  # said when it is used
            return
        whole = whole[:half].double()
        differs = (part.double() - whole).abs() > 1e-3 * (0.1 + whole.abs())
        # Half precision may round a few otherwise in a smaller batch.
        if differs.double().mean() > 0.25:
            raise TrainingError(
                "the loss of an example depends on which others are in its batch: something in "
                f"{type(self.learner).__name__} mixes examples (means or ranks over the batch, "
                "negatives from it), so no gradient belongs to one example alone. Use "
                "clipping='per_sample', which computes each example by itself"
            )
        self._apart = True

    def _saved_buffers(self) -> dict[str, Tensor]:
        saved = self.learner.state_dict()
        return {name: value for name, value in self.learner.named_buffers() if name in saved}

    def _refuse_moving(self, before: Mapping[str, Tensor]) -> None:
        """Refuses buffers that a forward pass has changed: averages, codebooks, centres."""
        for name, value in self._saved_buffers().items():
            old = before.get(name)
            if old is None or not torch.equal(torch.nan_to_num(old), torch.nan_to_num(value)):
                raise TrainingError(
                    f"the forward pass changes {name}, which is saved with the weights and which "
                    "no noise protects: hold it still during training, or do not save it"
                )

    def _devices(self) -> list[torch.device]:
        """Whose random numbers are set back, besides the CPU's."""
        return list({p.device for p in self.trained if p.device.type == "cuda"})

    def _prove(self, batch: Batch, evaluate: Evaluate) -> None:
        """Compares the way with automatic differentiation for random coefficients."""
        devices = self._devices()
        before = {name: value.clone() for name, value in self._saved_buffers().items()}
        with torch.random.fork_rng(devices):
            losses, _ = _losses(evaluate, batch)
            self._refuse_moving(before)
            random = torch.Generator().manual_seed(0)
            coefficients = (0.5 + torch.rand(len(losses), generator=random)).to(losses)
            truth = torch.autograd.grad(
                (losses * coefficients).sum(), self.trained, allow_unused=True
            )
        # The same dropout again, or nothing would agree.
        with torch.random.fork_rng(devices), self.recorder.watching() as uses:
            losses, _ = _losses(evaluate, batch)
            if losses.requires_grad:
                losses.sum().backward()
        for parameter in self.trained:
            parameter.grad = None
        used = {p: g for p, g in zip(self.trained, truth, strict=True) if g is not None}
        odd = {p for u in uses if u.examples != len(losses) for p in u.parameters.values()}
        good = [use for use in uses if use.examples == len(losses)]
        sums = Ledger(good, len(losses)).weighted_sums(coefficients.detach())
        scale = torch.stack([g.norm() for g in used.values()]).norm().clamp(min=1e-12)
        half = any(use.half for use in good) or any(wide(g) is not g for g in used.values())
        tolerance = 3e-2 if half else 1e-3
        for parameter, gradient in used.items():
            mine = sums.get(parameter)
            if mine is None or not (mine - gradient).norm() <= tolerance * scale:
                odd.add(parameter)
        if odd & set(used) - self.formed:
            self.formed |= odd & set(used)
            warnings.warn(
                f"no rule explains the gradients of {', '.join(self.names()[:5])} (used outside of "
                "their layer, or in one that does not put examples first): they are formed for "
                "each example, which takes time and memory",
                stacklevel=2,
            )
            self.recorder = Recorder(self.learner, self.formed)
        # Behind a layer that starts at 0 all gradients are 0, whatever the way: look again.
        self._looks += 1
        self._proven = self._looks == _MOST_LOOKS or all(bool(g.any()) for g in used.values())


def clipped_sum(
    ledger: Ledger,
    formed: Mapping[nn.Parameter, Tensor],
    losses: Tensor,
    factors: Factors | Layers,
) -> ClippedSum:
    """The clipped sum of what one forward and backward pass left behind.

    Args:
        ledger: of the parameters with rules.
        formed: gradients ``(B, ...)`` of the others.
        losses: ``(B,)``, handed on.
        factors: clipping factors from norms, or how layers are clipped.
    """
    if not isinstance(factors, Layers) or len(factors.groups) == 1:
        norms = _norms(ledger, formed, losses)
        coefficients, dropped = _coefficients(norms, factors)
        sums = ledger.weighted_sums(coefficients) | _formed_sums(formed, coefficients)
        return ClippedSum(sums, norms, losses, dropped)
    parts = {}
    for name, members in factors.groups.items():
        group = {p: g for p, g in formed.items() if p in set(members)}
        part = ledger.only(set(members))
        parts[name] = part, group, _norms(part, group, losses)
    norms = torch.stack([own for _, _, own in parts.values()]).square().sum(0).sqrt()
    finite = torch.isfinite(norms)
    bounds, sums = factors.bounds(), {}
    for name, (part, group, own) in parts.items():
        found = factors.factors(name, bounds[name], torch.where(finite, own, 0))
        coefficients = torch.where(finite, found, 0)
        sums |= part.weighted_sums(coefficients) | _formed_sums(group, coefficients)
    return ClippedSum(sums, norms, losses, int((~finite).sum()))


def _losses(evaluate: Evaluate, batch: Batch) -> tuple[Tensor, Tensor]:
    scores, weights = evaluate(batch)
    if scores.ndim != 1:
        raise TrainingError(
            "private training needs one loss for each example, shape (B,), not "
            f"{tuple(scores.shape)}: do not reduce it"
        )
    return scores * weights, weights


def _norms(ledger: Ledger, formed: Mapping[nn.Parameter, Tensor], losses: Tensor) -> Tensor:
    squares = ledger.squared_norms().to(losses.device)
    for gradient in formed.values():
        squares = squares + wide(gradient).flatten(1).square().sum(1)
    return squares.sqrt()


def _coefficients(norms: Tensor, factors: Factors | Layers) -> tuple[Tensor, int]:
    finite = torch.isfinite(norms)
    kept = torch.where(finite, norms, 0)
    if isinstance(factors, Layers):
        ((name, bound),) = factors.bounds().items()
        found = factors.factors(name, bound, kept)
    else:
        found = factors(kept)
    coefficients = torch.where(finite, found, 0)
    return coefficients, int((~finite).sum())


def _formed_sums(
    formed: Mapping[nn.Parameter, Tensor], coefficients: Tensor
) -> dict[nn.Parameter, Tensor]:
    keep = coefficients != 0
    return {
        parameter: torch.tensordot(coefficients[keep].to(gradient.dtype), gradient[keep], dims=1)
        for parameter, gradient in formed.items()
    }
