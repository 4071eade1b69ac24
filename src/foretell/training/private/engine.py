"""Private training for people with a loop of their own, with the verbs of Opacus."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from foretell.errors import ParameterError, TrainingError
from foretell.training.private.accounting import Accountant
from foretell.training.private.bounds import MaxGradNorm
from foretell.training.private.clipping import Clipping, ExactClipper
from foretell.training.private.layers import LayerScale, NoiseAllocation
from foretell.training.private.loader import Draws, check_loader, poisson_loader
from foretell.training.private.microbatch import MicroBatchTraining
from foretell.training.private.optimizer import PrivateOptimizer
from foretell.training.private.statement import PrivacyStatement
from foretell.training.private.strategy import PrivateTraining
from foretell.training.private.wrapping import PrivateModule, Surrogate

ClippingMode = Clipping | Literal["microbatch"]
_MICRO = 16
_OWN = {"noise_decay", "smallest_noise", "noise_allocation", "fixed_groups", "adjacency",
        "sensitivity_factor"}  # fmt: skip


class PrivacyEngine:
    """Makes a module, an optimizer and a data loader private; one engine a training.

    The machinery is that of :class:`~foretell.training.private.PrivateTraining`: what the one loop
    does in one place is spread here over a module (records what layers read), an optimizer (clips,
    adds noise) and a loader (draws).

    Example:
        >>> engine = PrivacyEngine()  # doctest: +SKIP
        >>> model, optimizer, loader = engine.make_private_with_epsilon(
        ...     module=model, optimizer=optimizer, data_loader=loader, target_epsilon=8.0,
        ...     epochs=12, max_grad_norm=1.0)  # doctest: +SKIP
        >>> for x, y in loader:  # doctest: +SKIP
        ...     optimizer.step(criterion(model(x), y))  # losses (B,)
        >>> print(engine.privacy_statement())  # doctest: +SKIP

    Args:
        accountant: ``"pld"`` (tight) or ``"rdp"`` (quick).
        secure_mode: noise, draws and slots from the operating system's randomness, each number of
            noise of four Gaussians; such a training cannot be repeated.
        seed: of draws, slots and noise, for a training that must be repeated: it is a secret, and
            the statement says so. None for 128 bits of the operating system's randomness.
    """

    def __init__(
        self, accountant: Accountant = "pld", secure_mode: bool = False, seed: int | None = None
    ) -> None:
        self.accountant, self.secure_mode = accountant, secure_mode
        self.seed = secrets.randbits(128) if seed is None else seed
        self._given = seed
        self.mechanism: PrivateTraining | None = None
        self._criterion_checked = False

    def make_private(
        self,
        *,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        data_loader: DataLoader[Any],
        noise_multiplier: float,
        max_grad_norm: MaxGradNorm = 1.0,
        **options: Any,
    ) -> tuple[Any, ...]:
        """Private versions of all three, with given noise.

        Args:
            module: what is trained, called with the examples first.
            optimizer: of its parameters.
            data_loader: of a map-style data set; its batch size is what is expected of a step.
            noise_multiplier: noise over C.
            max_grad_norm: C, or ``"automatic"`` or ``"quantile"``.
            options: ``expected_batch_size`` (public L, instead of the loader's), ``clipping_mode``
                (``"auto"``, ``"book_keeping"``, ``"ghost"``, ``"per_sample"``, ``"microbatch"``),
                ``layer_scale``, ``microbatch_size``, ``noise_decay``, ``smallest_noise``,
                ``noise_allocation``, ``fixed_groups``, ``target_delta`` (``None`` for
                ``N ** -1.1``), ``poisson_sampling`` (``False``: the loader is left as it is, and
                the statement counts on no amplification), ``criterion`` (checked, and returned as
                a fourth), ``loss_reduction`` (of losses that you backpropagate: ``"sum"`` or
                ``"mean"``).

        Returns:
            Module, optimizer and loader; with ``criterion`` that too.

        Raises:
            ParameterError: values out of range.
            TrainingError: what would make a statement false, with what to do instead.
        """
        return self._make(
            module, optimizer, data_loader, max_grad_norm,
            {"noise_multiplier": noise_multiplier}, 0, **options,
        )  # fmt: skip

    def make_private_with_epsilon(
        self,
        *,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        data_loader: DataLoader[Any],
        target_epsilon: float,
        target_delta: float | None = None,
        epochs: float | None = None,
        steps: int | None = None,
        max_grad_norm: MaxGradNorm = 1.0,
        **options: Any,
    ) -> tuple[Any, ...]:
        """The same with the noise that makes a number of steps cost ``target_epsilon``.

        Args:
            module: see :meth:`make_private`.
            optimizer: see there.
            data_loader: see there.
            target_epsilon: of all steps.
            target_delta: ``None`` for ``N ** -1.1``.
            epochs: passes over the loader; give this or ``steps``.
            steps: of the optimizer.
            max_grad_norm: see there.
            options: see there.

        Raises:
            ParameterError: values out of range, or an epsilon that cannot be reached.
            TrainingError: see there.
        """
        if (epochs is None) == (steps is None):
            raise ParameterError("give epochs or steps, and not both")
        number = float(epochs) if steps is None and epochs is not None else -float(steps or 0)
        return self._make(
            module, optimizer, data_loader, max_grad_norm,
            {"target_epsilon": target_epsilon}, number, target_delta=target_delta, **options,
        )  # fmt: skip

    def _make(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        data_loader: DataLoader[Any],
        max_grad_norm: MaxGradNorm,
        noise: dict[str, float],
        length: float,
        *,
        expected_batch_size: int | None = None,
        target_delta: float | None = None,
        clipping_mode: ClippingMode = "auto",
        layer_scale: LayerScale | None = None,
        microbatch_size: int | None = None,
        noise_decay: float = 1.0,
        smallest_noise: float = 0.2,
        noise_allocation: NoiseAllocation = "equal",
        fixed_groups: bool = False,
        poisson_sampling: bool = True,
        criterion: Callable[..., Tensor] | None = None,
        loss_reduction: Literal["sum", "mean"] = "sum",
    ) -> tuple[Any, ...]:
        if self.mechanism is not None:
            raise TrainingError(
                "this engine has made a training private already, and its statement cannot speak "
                "of both: take a new one for each"
            )
        if loss_reduction not in ("sum", "mean"):
            raise ParameterError(f"loss_reduction must be 'sum' or 'mean', not {loss_reduction!r}")
        if isinstance(module, PrivateModule):
            raise TrainingError("the module is private already: give the one inside")
        check_loader(data_loader)
        examples = len(data_loader.dataset)  # type: ignore[arg-type]
        size = expected_batch_size or data_loader.batch_size
        if size is None or size < 1:
            raise ParameterError(
                "expected_batch_size is needed: the public number that sums are divided by"
            )
        shared: dict[str, Any] = dict(
            **noise, max_grad_norm=max_grad_norm, target_delta=target_delta,
            noise_decay=noise_decay, smallest_noise=smallest_noise,
            layer_scale=layer_scale, noise_allocation=noise_allocation,
            accountant=self.accountant, secure_mode=self.secure_mode,
            noise_seed=None if self.secure_mode else self._given,
        )  # fmt: skip
        mechanism: PrivateTraining
        if clipping_mode == "microbatch":
            shared |= {"microbatch_size": microbatch_size or _MICRO, "fixed_groups": fixed_groups}
            mechanism = MicroBatchTraining(**shared)
        elif clipping_mode not in get_args(Clipping):
            raise ParameterError(
                f"clipping_mode must be one of {', '.join(get_args(Clipping))}, microbatch, not "
                f"{clipping_mode!r}"
            )
        elif microbatch_size is not None or fixed_groups:
            raise ParameterError(
                "microbatch_size and fixed_groups are for clipping_mode='microbatch'; memory is "
                "bounded by BatchMemoryManager"
            )
        else:
            mechanism = PrivateTraining(clipping=clipping_mode, **shared)
        if not poisson_sampling:
            if fixed_groups or isinstance(mechanism, MicroBatchTraining):
                raise TrainingError("micro-batches are accounted for Poisson draws only")
            mechanism.poisson, mechanism.adjacency = False, "zero_out_example"
        a_pass = max(1, round(examples / size))
        planned = max(1, round(length * a_pass)) if length > 0 else int(-length)
        mechanism.noise.start(self.seed)
        mechanism.plan(examples, size, planned)
        mechanism.arrange({n: p for n, p in module.named_parameters() if p.requires_grad})
        clipper = ExactClipper(Surrogate(module), "auto" if clipping_mode == "microbatch"
                               else clipping_mode)  # fmt: skip
        self._draws = Draws(mechanism, self.seed, checked=poisson_sampling)
        private = PrivateModule(module, clipper)
        stepper = PrivateOptimizer(
            optimizer, private, mechanism, self._draws, mean=loss_reduction == "mean"
        )
        if stepper.by_slot:
            private.by_slot(stepper.slots)
        self.mechanism, self.planned = mechanism, planned
        self._stepper, self._private = stepper, private
        loader = (
            poisson_loader(data_loader, self._draws, a_pass) if poisson_sampling else data_loader
        )
        if criterion is None:
            return private, stepper, loader
        self._criterion_checked = True
        return private, stepper, loader, PrivateCriterion(criterion)

    @property
    def steps(self) -> int:
        """Steps that were made."""
        return self._draws.made if self.mechanism is not None else 0

    def get_epsilon(self, delta: float | None = None) -> float:
        """Epsilon of the steps that were made; :meth:`privacy_statement` says what it means.

        Args:
            delta: ``None`` for that of the training.
        """
        return self.privacy_statement(delta).epsilon

    def privacy_statement(self, delta: float | None = None) -> PrivacyStatement:
        """The guarantee of the steps that were made.

        Args:
            delta: ``None`` for that of the training.

        Raises:
            TrainingError: nothing was made private yet.
        """
        mechanism = self._mechanism()
        if self.planned and self.steps > self.planned:
            warnings.warn(
                f"{self.steps} steps were made where {self.planned} were planned: the target "
                "epsilon is exceeded",
                stacklevel=2,
            )
        statement = mechanism.statement(delta)
        more = []
        if self._stepper.told:
            how = "mean" if self._stepper.mean else "sum"
            more.append(
                f"the losses of {self._stepper.told} steps, which the caller backpropagated, were "
                f"the {how} of one loss for each example"
            )
        if self._stepper.several:
            more.append(
                f"the calls of the module before one step, of which {self._stepper.several} steps "
                "had several, were of the same examples in the same order"
            )
        if not self._criterion_checked:
            more.append("each example's loss is computed from its own outputs and labels alone")
        if not mechanism.poisson:
            more.append("no batch holds an example twice")
        return replace(statement, assumptions=(*statement.assumptions, *more))

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later :meth:`load_state_dict` needs for an exact resume, and to refuse.

        It holds the seed, which is a secret: keep it with the raw data, not with the weights.
        """
        mechanism = self._mechanism()
        return {
            "settings": mechanism.settings(),
            "mechanism": mechanism.state_dict(),
            "steps": self.steps,
            "told": self._stepper.told,
            "several": self._stepper.several,
            "seed": self.seed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was taken; after ``make_private`` with the same values.

        Raises:
            TrainingError: another number of examples, batch size, bound or noise, under which the
                statement would be false; or steps were made already.
        """
        mechanism = self._mechanism()
        if self.steps:
            raise TrainingError("steps were made already: load the state before the first one")
        for name, now in mechanism.settings().items():
            before = state["settings"].get(name)
            if before != now:
                raise TrainingError(
                    f"the state is of a training with {name} {before}, and this one has {now}: its "
                    "statement could not speak of both. Set it as it was"
                )
        if mechanism.noise.seed is not None:
            mechanism.noise.seed = int(state["seed"])  # as all else, it is the state's now
        mechanism.load_state_dict(state["mechanism"])
        self.seed = self._draws.seed = int(state["seed"])
        self._draws.made = self._draws.drawn = int(state["steps"])
        self._stepper.told = int(state["told"])
        self._stepper.several = int(state["several"])

    def _mechanism(self) -> PrivateTraining:
        if self.mechanism is None:
            raise TrainingError("nothing is private yet: call make_private first")
        return self.mechanism


class PrivateCriterion:
    """A criterion that is looked at: the losses of a half batch must be those of the whole.

    Args:
        criterion: outputs and labels to losses ``(B,)``.
    """

    def __init__(self, criterion: Callable[..., Tensor]) -> None:
        self.criterion, self._looked = criterion, False

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Losses ``(B,)``.

        Raises:
            TrainingError: a reduced loss, or one that couples examples.
        """
        loss = self.criterion(*args, **kwargs)
        if loss.ndim != 1:
            raise TrainingError(
                f"the criterion returned shape {tuple(loss.shape)}: one loss for each example, "
                "shape (B,), is needed (reduction='none')"
            )
        size, half = len(loss), len(loss) // 2
        if not self._looked and half:
            from torch.utils._pytree import tree_map

            def cut(value: Any) -> Any:
                rows = isinstance(value, Tensor) and value.ndim and len(value) == size
                return value[:half] if rows else value

            with torch.no_grad():
                part = self.criterion(*tree_map(cut, args), **tree_map(cut, kwargs))
            whole = loss[:half].detach()
            if not torch.allclose(part, whole, rtol=1e-3, atol=1e-5, equal_nan=True):
                raise TrainingError(
                    "the loss of an example changes with the others in its batch: a mean over all "
                    "tokens of a batch, say, couples them. Take each example's own mean"
                )
            self._looked = True
        return loss
