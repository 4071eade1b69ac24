"""What an attacker reads off a model about one example: the signals of membership attacks.

All signals point the same way: higher says that the example was trained on.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from torch import Tensor

from foretell.errors import DataError, ParameterError
from foretell.learners.contract import Learner

FloatArray = NDArray[np.float64]
Kind = Literal["logit", "log_likelihood"]
"""``"logit"``: phi = log p - log(1 - p) of the true label; ``"log_likelihood"``: minus a loss."""

Reduction = Literal["mean", "sum", "min"]

LIMIT = 1e3
"""Signals that are not finite are held at this size."""

IGNORED = -100


def check_kind(kind: str) -> None:
    """Refuses another kind of signal.

    Raises:
        ParameterError: it is not known.
    """
    if kind not in get_args(Kind):
        raise ParameterError(f"signal must be one of {', '.join(get_args(Kind))}, not {kind!r}")


def clamp(signals: ArrayLike, what: str = "signals") -> tuple[FloatArray, int]:
    """Signals in double precision, held within +-1000.

    Args:
        signals: any shape; a NaN becomes 0, which speaks for nothing.
        what: how a warning calls them.

    Returns:
        The signals, and how many were not finite; a warning says so too.
    """
    values = np.array(signals, np.float64)
    bad = ~np.isfinite(values)
    count = int(bad.sum())
    if count:
        warnings.warn(
            f"{count} of {values.size} {what} are not finite: held at +-{LIMIT:g}, NaN at 0",
            stacklevel=2,
        )
    np.nan_to_num(values, copy=False, nan=0.0, posinf=LIMIT, neginf=-LIMIT)
    return np.clip(values, -LIMIT, LIMIT, out=values), count


def logit_confidence(logits: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> FloatArray:
    """Phi = log p - log(1 - p) of the true label (Carlini et al. 2022, section V-B).

    Computed as ``z_y - logsumexp_{j != y} z_j`` in double precision: a probability that was
    rounded to 1 has lost what attacks live on.

    Args:
        logits: ``(..., C)`` before any softmax.
        labels: ``(...)`` codes of the true classes.

    Raises:
        DataError: shapes do not fit, fewer than two classes, or a label is out of range.
    """
    z, y = _array(logits), np.asarray(_plain(labels))
    if z.ndim < 1 or z.shape[:-1] != y.shape:
        raise DataError(f"logits {z.shape} and labels {y.shape} do not go together")
    classes = z.shape[-1]
    if classes < 2:
        raise DataError("a signal needs the logits of two classes or more")
    if y.size and not (0 <= int(y.min()) and int(y.max()) < classes):
        raise DataError(f"a label is not a class: they go from 0 to {classes - 1}")
    y = y.astype(np.int64)[..., None]
    own = np.take_along_axis(z, y, -1)[..., 0]
    others = z.copy()
    np.put_along_axis(others, y, -np.inf, -1)
    with np.errstate(invalid="ignore"):
        return np.asarray(own - logsumexp(others, axis=-1))


def probability_confidence(probabilities: ArrayLike, labels: ArrayLike) -> FloatArray:
    """Phi of models that hand out probabilities only; what was rounded to 0 or 1 is infinite.

    Args:
        probabilities: ``(N, C)``.
        labels: ``(N,)`` codes.
    """
    p = np.asarray(probabilities, np.float64)
    own = np.take_along_axis(p, np.asarray(labels, np.int64)[:, None], 1)[:, 0]
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(own) - np.log(np.maximum(p.sum(1) - own, 0.0)))


def loss_confidence(losses: ArrayLike) -> FloatArray:
    """Phi of a loss that is ``-log p``: ``-log(exp(loss) - 1)``.

    Raises:
        DataError: a loss is negative, so that it is no ``-log p``.
    """
    loss = np.asarray(losses, np.float64)
    if (loss < 0).any():
        raise DataError(
            "a loss is negative, so it is not minus the log of a probability",
            hint="Use minus the loss as the signal, with signal='log_likelihood'",
        )
    with np.errstate(divide="ignore", over="ignore"):
        large = loss > 30  # there exp(loss) - 1 is exp(loss)
        return np.asarray(np.where(large, -loss, -np.log(np.expm1(np.where(large, 1.0, loss)))))


def sequence_confidence(
    token_logits: ArrayLike | Tensor,
    tags: ArrayLike | Tensor,
    intent_logits: ArrayLike | Tensor | None = None,
    intents: ArrayLike | Tensor | None = None,
    *,
    reduction: Reduction = "mean",
) -> FloatArray:
    """One signal for a tagged sequence: phi of its tokens reduced, plus phi of its intent.

    Args:
        token_logits: ``(B, T, K)``.
        tags: ``(B, T)``; -100 is left out.
        intent_logits: ``(B, C)``, if there is one label of the whole.
        intents: ``(B,)``.
        reduction: of the tokens' phi.

    Returns:
        ``(B,)``; a sequence without any tag that counts has the intent's phi only.

    Raises:
        ParameterError: another reduction.
        DataError: see :func:`logit_confidence`.
    """
    if reduction not in get_args(Reduction):
        raise ParameterError(
            f"reduction must be one of {', '.join(get_args(Reduction))}, not {reduction!r}"
        )
    y = np.asarray(_plain(tags))
    valid = y != IGNORED
    phi = logit_confidence(token_logits, np.where(valid, y, 0))
    counts = valid.sum(-1)
    if reduction == "min":
        value = np.where(valid, phi, np.inf).min(-1, initial=np.inf)
    else:
        value = np.where(valid, phi, 0.0).sum(-1)
        if reduction == "mean":
            value = value / np.maximum(counts, 1)
    value = np.where(counts > 0, value, 0.0)
    if intent_logits is not None:
        if intents is None:
            raise DataError("intent logits need the intents")
        value = value + logit_confidence(intent_logits, intents)
    return np.asarray(value)


def token_log_likelihoods(
    logits: ArrayLike | Tensor, tokens: ArrayLike | Tensor, *, ignore: int = IGNORED
) -> FloatArray:
    """``log p`` of each token ``(B, T)``; NaN where ``tokens`` is ``ignore``.

    Args:
        logits: ``(B, T, V)``, where position t is the prediction *of* token t.
        tokens: ``(B, T)``.
        ignore: code of padding.
    """
    z, y = _array(logits), np.asarray(_plain(tokens))
    valid = y != ignore
    if z.shape[:-1] != y.shape:
        raise DataError(f"logits {z.shape} and tokens {y.shape} do not go together")
    own = np.take_along_axis(z, np.where(valid, y, 0).astype(np.int64)[..., None], -1)[..., 0]
    return np.asarray(np.where(valid, own - logsumexp(z, axis=-1), np.nan))


def language_signal(log_likelihoods: ArrayLike, *, share: float = 1.0) -> FloatArray:
    """Mean log-likelihood of a text's tokens ``(B,)``, or of the least likely of them.

    Args:
        log_likelihoods: ``(B, T)``, NaN where there is no token.
        share: the part of the tokens that counts, the least likely ones: 1 is minus the mean
            loss a token, 0.2 is Min-20% (Shi et al. 2024).

    Raises:
        ParameterError: a share outside of (0, 1].
        DataError: a text has no token.
    """
    if not 0 < share <= 1:
        raise ParameterError(f"share must lie in (0, 1], not {share}")
    values = np.sort(np.asarray(log_likelihoods, np.float64), axis=-1)  # NaN last
    counts = (~np.isnan(values)).sum(-1)
    if (counts == 0).any():
        raise DataError("a text has no token", row=int(np.argmin(counts)))
    kept = np.maximum(1, np.ceil(share * counts)).astype(np.int64)
    inside = np.arange(values.shape[-1]) < kept[..., None]
    return np.asarray(np.where(inside, values, 0.0).sum(-1) / kept)


def learner_losses(
    learner: Learner, examples: Any, *, batch_size: int = 512, seed: int = 0
) -> FloatArray:
    """Score of each example ``(N,)`` of any learner; minus it is a signal.

    Args:
        learner: put into evaluation mode, and back.
        examples: a :class:`foretell.training.Examples`; what is random in its batches is the same
            at every call.
        batch_size: examples at once.
        seed: of what is random in batches.
    """
    parts = []
    training = learner.training
    device = next((p.device for p in learner.parameters()), torch.device("cpu"))
    learner.eval()
    try:
        with torch.inference_mode():
            for begin in range(0, len(examples), batch_size):
                rows = np.arange(begin, min(begin + batch_size, len(examples)))
                rng = np.random.default_rng([seed, begin])
                batch = {k: v.to(device) for k, v in examples.batch(rows, rng).items()}
                parts.append(learner.loss(batch).double().cpu().numpy())
    finally:
        learner.train(training)
    return np.concatenate([np.zeros(0), *parts])


def log_likelihood(signals: FloatArray, kind: Kind) -> FloatArray:
    """``log p`` of signals of either kind."""
    return -np.logaddexp(0.0, -signals) if kind == "logit" else signals


def _plain(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values


def _array(values: Any) -> FloatArray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, np.float64)
