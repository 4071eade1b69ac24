"""What is kept of earlier tasks: whole examples, or only their representations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from foretell.errors import DataError, ParameterError
from foretell.learners.contract import Learner
from foretell.training.examples import Examples, TensorExamples

_AT_ONCE = 1024


class Subset:
    """Some of the examples, drawn without weights.

    Args:
        examples: all of them.
        indices: which.
    """

    def __init__(self, examples: Examples, indices: ArrayLike) -> None:
        self.examples = examples
        self.indices = np.asarray(indices, np.int64)
        if len(self.indices) == 0:
            raise DataError("a memory needs at least one example")

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.indices)

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator) -> dict[str, Tensor]:
        """Examples by their place in the subset."""
        return self.examples.batch(self.indices[np.asarray(indices)], rng)


class Concatenation:
    """Examples of several tasks as one; sampling weights are kept task by task.

    Each task is drawn in proportion to its number of examples, and within it by its own weights.

    Args:
        parts: of every task.
    """

    def __init__(self, parts: Sequence[Examples]) -> None:
        if not parts:
            raise DataError("there is no task to put together")
        self.parts = tuple(parts)
        self._offsets = np.concatenate([[0], np.cumsum([len(p) for p in parts])])
        weights = [getattr(part, "sampling_weights", None) for part in parts]
        self.sampling_weights: NDArray[np.float64] | None = None
        if any(w is not None for w in weights):
            self.sampling_weights = np.concatenate(
                [
                    np.ones(len(p)) if w is None else np.asarray(w) / np.sum(w) * len(p)
                    for p, w in zip(parts, weights, strict=True)
                ]
            )

    def __len__(self) -> int:
        """Number of examples of all tasks."""
        return int(self._offsets[-1])

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator) -> dict[str, Tensor]:
        """Examples by their number over all tasks, in that order; keys must be the same in each."""
        chosen = np.asarray(indices, np.int64)
        task = np.searchsorted(self._offsets, chosen, side="right") - 1
        batches = [
            self.parts[k].batch(chosen[task == k] - self._offsets[k], rng) for k in np.unique(task)
        ]
        back = torch.from_numpy(np.argsort(np.argsort(task, kind="stable")))
        return {key: torch.cat([batch[key] for batch in batches])[back] for key in batches[0]}


def exemplars(
    size: int,
    rng: np.random.Generator,
    *,
    of: int | None = None,
    labels: ArrayLike | None = None,
    positives: int | None = None,
) -> NDArray[np.int64]:
    """Which examples to keep: drawn evenly, or so many of the rare class.

    Args:
        size: number to keep at most.
        rng: for the draw.
        of: number of examples, where there are no labels.
        labels: (n,) 0 or 1.
        positives: of the positive examples at most; the rest are negative. Needs ``labels``.

    Raises:
        ParameterError: sizes that make no sense.
    """
    if size < 1 or (of is None) == (labels is None):
        raise ParameterError("give a positive size, and either `of` or `labels`")
    if labels is None:
        assert of is not None
        return np.sort(rng.choice(of, min(size, of), replace=False))
    y = np.asarray(labels)
    most = size // 2 if positives is None else min(positives, size)
    kept = []
    for label, limit in ((1, most), (0, size - most)):
        mine = np.flatnonzero(y == label)
        kept.append(rng.choice(mine, min(limit, len(mine)), replace=False))
    return np.sort(np.concatenate(kept))


def all_batches(examples: Examples, seed: int = 0) -> list[dict[str, Tensor]]:
    """All examples in order, in batches of at most 1,024."""
    rng = np.random.default_rng(seed)
    return [
        examples.batch(np.arange(at, min(at + _AT_ONCE, len(examples))), rng)
        for at in range(0, len(examples), _AT_ONCE)
    ]


def representations(
    learner: Learner,
    examples: Examples,
    keys: Sequence[str] = ("label",),
    *,
    release: Callable[[Tensor], Tensor] | None = None,
) -> TensorExamples:
    """Encodings ``h`` of examples, and of the batch only the keys that decoding and scoring need.

    Args:
        learner: in evaluation mode while it encodes.
        examples: all are encoded; choose with :class:`Subset`.
        keys: kept beside ``h``; raw inputs are not among them.
        release: changes the encodings once before they are stored, such as by noise.

    Raises:
        DataError: the examples have no such key.
    """
    was_training = learner.training
    learner.eval()
    parts: dict[str, list[Tensor]] = {"h": [], **{key: [] for key in keys}}
    with torch.inference_mode():
        for batch in all_batches(examples):
            missing = [key for key in keys if key not in batch]
            if missing:
                raise DataError(f"the examples have no {missing[0]!r}; they have {sorted(batch)}")
            hidden = learner.encode(batch)
            parts["h"].append(hidden if release is None else release(hidden))
            for key in keys:
                parts[key].append(batch[key])
    learner.train(was_training)
    return TensorExamples({key: torch.cat(values) for key, values in parts.items()})


def outputs(learner: Learner, examples: Examples) -> list[Tensor]:
    """What a learner predicts for all examples: the floating-point tensors of its output, in order.

    Each is ``(n, ...)``.
    """
    was_training = learner.training
    learner.eval()
    with torch.no_grad():
        rows = [floats(learner(batch)) for batch in all_batches(examples)]
    learner.train(was_training)
    return [torch.cat(parts) for parts in zip(*rows, strict=True)]


def floats(output: Any) -> list[Tensor]:
    """The floating-point tensors of an output, in order.

    Raises:
        ParameterError: there is none.
    """
    values = output.values() if isinstance(output, Mapping) else output
    if isinstance(output, Tensor):
        values = [output]
    found = [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]
    if not found:
        raise ParameterError("the learner's output holds no floating-point tensor to distil")
    return found
