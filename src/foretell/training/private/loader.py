"""Data loaders whose batches are Poisson draws, and virtual batches."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from foretell.errors import TrainingError
from foretell.training.private.strategy import PrivateTraining
from foretell.training.sampling import DRAW, generator

if TYPE_CHECKING:
    from foretell.training.private.optimizer import PrivateOptimizer


class Draws:
    """How many steps were drawn and made: a step on anything else would not be what is accounted.

    Args:
        mechanism: says who is drawn.
        seed: of the draws.
        checked: whether every step must have a draw of its own.
    """

    def __init__(self, mechanism: PrivateTraining, seed: int, checked: bool) -> None:
        self.mechanism, self.seed, self.checked = mechanism, seed, checked
        self.drawn = self.made = 0
        self._sizes: list[tuple[int, int]] = []

    def draw(self) -> list[int]:
        """The next step's examples, a function of seed and step, or of nothing in secure mode."""
        if self.mechanism.noise.secure:
            rng = np.random.default_rng(secrets.randbits(128))
        else:
            rng = generator(self.seed, DRAW, self.drawn)
        self.drawn += 1
        rows = [int(row) for row in self.mechanism.rows(rng)]
        self.note(len(rows))
        return rows

    def note(self, size: int) -> None:
        """Notes the size of the batch drawn last, or of a part of it."""
        self._sizes.append((self.drawn, size))

    @property
    def sizes(self) -> set[int]:
        """Sizes of batches, and of parts of them, that no step was made on yet."""
        return {size for _, size in self._sizes}

    def make(self) -> None:
        """Enters a step.

        Raises:
            TrainingError: there was no draw for it.
        """
        if self.checked and self.made >= self.drawn:
            raise TrainingError(
                "a step needs a batch of its own from the private data loader: with another "
                "one, or the same one twice, the stated epsilon would be false"
            )
        self.made += 1
        self._sizes = [(number, size) for number, size in self._sizes if number > self.made]


class PoissonBatches(Sampler[list[int]]):
    """Batches of a pass over the data: every example with chance q by itself, even none.

    Args:
        draws: what is drawn.
        length: steps a pass.
    """

    def __init__(self, draws: Draws, length: int) -> None:
        self.draws, self.length = draws, length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[list[int]]:
        self.draws.drawn = self.draws.made  # what was drawn ahead and not used is drawn again
        for _ in range(self.length):
            yield self.draws.draw()


class EmptyAware:
    """A collating function that knows what a batch without examples looks like.

    Args:
        collate: makes a batch of examples.
        dataset: whose first example shows names, shapes and types.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], dataset: Any) -> None:
        self.collate, self.dataset = collate, dataset

    def __call__(self, examples: list[Any]) -> Any:
        """A batch; without examples, one of the same names, shapes and types without rows."""
        if examples:
            return self.collate(examples)
        one = self.collate([self.dataset[0]])
        return tree_map(lambda v: v[:0] if isinstance(v, Tensor) and v.ndim else v, one)


def check_loader(loader: DataLoader[Any]) -> None:
    """Refuses loaders whose draws no statement covers.

    Raises:
        TrainingError: names the sampler or data set and what to do.
    """
    if isinstance(loader.dataset, IterableDataset):
        raise TrainingError(
            "a stream of examples cannot be drawn from with equal chances: give a data set with "
            "a length and places"
        )
    sampler = loader.sampler
    known = isinstance(sampler, RandomSampler | SequentialSampler | PoissonBatches)
    if isinstance(sampler, RandomSampler) and sampler.replacement:
        known = False
    batches = loader.batch_sampler
    if not known or type(batches) not in (BatchSampler, PoissonBatches):
        name = type(sampler if not known else batches).__name__
        raise TrainingError(
            f"the data loader draws by {name}: private training draws every example with the same "
            "chance, once at most, by itself, and under other draws (weighted, distributed, with "
            "replacement) no stated epsilon would be true. Give a loader with shuffle=True, or a "
            "data set"
        )


def poisson_loader(loader: DataLoader[Any], draws: Draws, length: int) -> DataLoader[Any]:
    """A loader of Poisson draws with the data, collation and workers of another one."""
    collate = loader.collate_fn
    if not isinstance(collate, EmptyAware):
        collate = EmptyAware(collate, loader.dataset)
    return DataLoader(
        loader.dataset,
        batch_sampler=PoissonBatches(draws, length),
        collate_fn=collate,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )


class _Parts(Sampler[list[int]]):
    def __init__(self, batches: Any, most: int, optimizer: PrivateOptimizer) -> None:
        self.batches, self.most, self.optimizer = batches, most, optimizer

    def __iter__(self) -> Iterator[list[int]]:
        self.optimizer.forget_parts()
        for batch in self.batches:
            count = max(1, -(-len(batch) // self.most))
            for number, part in enumerate(np.array_split(np.array(batch, dtype=np.int64), count)):
                self.optimizer.signal_skip_step(number + 1 < count)
                self.optimizer.draws.note(len(part))
                yield [int(row) for row in part]


class BatchMemoryManager:
    """Steps in parts that fit into memory, as Opacus' manager of that name.

    The optimizer's ``step`` gathers clipped sums, and moves the weights after a batch's last part:

    >>> with BatchMemoryManager(data_loader=loader, max_physical_batch_size=64,
    ...                         optimizer=optimizer) as parts:  # doctest: +SKIP
    ...     for x, y in parts:
    ...         optimizer.step(criterion(model(x), y))

    Args:
        data_loader: the private one.
        max_physical_batch_size: examples a part.
        optimizer: the private one.

    Raises:
        TrainingError: micro-batches are clipped, whose slots a part would deal out anew.
    """

    def __init__(
        self,
        *,
        data_loader: DataLoader[Any],
        max_physical_batch_size: int,
        optimizer: PrivateOptimizer,
    ) -> None:
        if max_physical_batch_size < 1:
            raise TrainingError(
                f"max_physical_batch_size must be at least 1, not {max_physical_batch_size}"
            )
        if optimizer.by_slot:
            raise TrainingError(
                "BatchMemoryManager: slots are the parts already: lower microbatch_size instead"
            )
        self.loader, self.most = data_loader, max_physical_batch_size
        self.optimizer = optimizer

    def __enter__(self) -> DataLoader[Any]:
        loader = self.loader
        return DataLoader(
            loader.dataset,
            batch_sampler=_Parts(loader.batch_sampler, self.most, self.optimizer),
            collate_fn=loader.collate_fn,
            num_workers=loader.num_workers,
            pin_memory=loader.pin_memory,
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.optimizer.forget_parts()
