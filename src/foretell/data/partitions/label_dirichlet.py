"""Clients whose mix of labels comes from a Dirichlet distribution, by either of two schemes."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from foretell.data.partitions.partitioner import (
    Indices,
    Partitioner,
    check_clients,
    column,
    row_count,
)
from foretell.errors import DataError, ParameterError

_ATTEMPTS = 10


class LabelDirichlet(Partitioner):
    """Skew in labels.

    Two schemes go by the same name and are not the same:

    * ``"client"`` (Hsu, Qi and Brown 2019; Lin et al. 2022, FedNLP): every client gets equally many
      examples, the last one the remainder too; its mix of classes is drawn from Dir(alpha p), where
      p are the frequencies of the classes, so that alpha is the *total* concentration. When a class
      runs out, its share goes to the rest of the mix, and when all of the mix has run out, to the
      other classes in proportion to what is left of them.
    * ``"class"`` (Yurochkin et al. 2019): the examples of each class are dealt among clients by
      Dir(alpha, ..., alpha), one component a client. Sizes differ, and all is drawn again when a
      client gets too few.

    ``alpha=1`` with 20 classes therefore means a concentration of 0.05 a class under ``"client"``
    and of 1 a client under ``"class"``.

    Args:
        num_partitions: clients.
        partition_by: column of labels, or a label for each row ``(N,)``.
        alpha: concentration; less is more skewed. One a client is allowed under ``"class"``.
        scheme: ``"client"`` or ``"class"``.
        min_partition_size: fewest examples of a client under ``"class"``.
        self_balancing: under ``"class"``, deal no more to clients that hold more than the mean.
        shuffle: whether rows of a client come in random order.
        seed: of all draws.

    Raises:
        ParameterError: alpha is not positive, or another argument is out of its range.
    """

    def __init__(
        self,
        num_partitions: int,
        partition_by: str | NDArray[Any],
        alpha: float | NDArray[np.float64] = 1.0,
        *,
        scheme: Literal["client", "class"] = "client",
        min_partition_size: int = 10,
        self_balancing: bool = False,
        shuffle: bool = True,
        seed: int = 42,
    ) -> None:
        super().__init__()
        if scheme not in ("client", "class"):
            raise ParameterError(f"scheme must be 'client' or 'class', not {scheme!r}")
        concentration = np.asarray(alpha, dtype=float)
        if not (np.isfinite(concentration).all() and (concentration > 0).all()):
            raise ParameterError(f"alpha must be positive, not {alpha}")
        if concentration.ndim and (scheme == "client" or concentration.shape != (num_partitions,)):
            raise ParameterError(
                "alpha must be one number"
                + (f" or {num_partitions} of them" if scheme == "class" else "")
            )
        self.clients_asked = num_partitions
        self.partition_by = partition_by
        self.alpha = alpha
        self.scheme = scheme
        self.min_partition_size = min_partition_size
        self.self_balancing = self_balancing
        self.shuffle = shuffle
        self.seed = seed

    def _settings(self) -> dict[str, Any]:
        return {
            "num_partitions": self.clients_asked,
            "partition_by": self.partition_by,
            "alpha": self.alpha,
            "scheme": self.scheme,
            "min_partition_size": self.min_partition_size,
            "self_balancing": self.self_balancing,
            "shuffle": self.shuffle,
            "seed": self.seed,
        }

    def _divide(self) -> list[Indices]:
        check_clients(self.clients_asked, row_count(self.dataset))
        labels = column(self.dataset, self.partition_by)
        rng = np.random.default_rng(self.seed)
        if self.scheme == "client":
            parts, notes = by_client(labels, self.clients_asked, float(self.alpha), rng)
            self.notes += notes
        else:
            parts = by_class(
                labels, np.broadcast_to(np.asarray(self.alpha, float), self.clients_asked), rng,
                self.min_partition_size, self.self_balancing,
            )  # fmt: skip
        if self.shuffle:
            for part in parts:
                rng.shuffle(part)
        return parts


def by_client(
    labels: NDArray[Any], clients: int, alpha: float, rng: np.random.Generator
) -> tuple[list[Indices], list[str]]:
    """Equal sizes, mixes from Dir(alpha p): rows of each client, and notes."""
    _, codes = np.unique(labels, return_inverse=True)
    frequencies = np.bincount(codes) / len(codes)
    pools = [rng.permutation(np.flatnonzero(codes == c)) for c in range(len(frequencies))]
    used = np.zeros(len(pools), dtype=np.int64)
    totals = np.array([len(pool) for pool in pools])
    parts: list[Indices] = []
    certain = 0
    for client in range(clients):
        size = len(labels) // clients
        if client == clients - 1:
            size = len(labels) - size * (clients - 1)
        mix, degenerate = _mix(alpha, frequencies, rng)
        certain += degenerate
        counts = _fill(mix, size, totals - used, rng)
        parts.append(
            np.concatenate(
                [pool[u : u + n] for pool, u, n in zip(pools, used, counts, strict=True)]
            )
        )
        used += counts
    notes = []
    if certain:
        notes.append(
            f"alpha {alpha:g} is so small that {certain} of {clients} mixes were one class alone"
        )
    return parts, notes


def _mix(
    alpha: float, frequencies: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], bool]:
    """A draw from Dir(alpha p); one class alone, and True, where it underflows."""
    for _ in range(_ATTEMPTS):
        mix = rng.dirichlet(alpha * frequencies)
        if np.isfinite(mix).all() and mix.sum() > 0.5:
            return mix, False
    alone = np.zeros(len(frequencies))
    alone[rng.choice(len(frequencies), p=frequencies)] = 1
    return alone, True


def _fill(
    mix: NDArray[np.float64], size: int, left: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Counts of each class that sum to ``size``, drawn from the mix as far as classes last."""
    counts = np.zeros(len(mix), dtype=np.int64)
    while (missing := size - int(counts.sum())) > 0:
        rest = left - counts
        shares = np.where(rest > 0, mix, 0.0)
        if shares.sum() < 1e-12:
            shares = rest.astype(float)
        counts += np.minimum(rng.multinomial(missing, shares / shares.sum()), rest)
    return counts


def _whole(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers next to shares that sum to ``total``, by largest remainder."""
    counts = np.floor(shares).astype(np.int64)
    missing = total - int(counts.sum())
    if missing > 0:
        order = np.argsort(counts - shares, kind="stable")
        counts[order[:missing]] += 1
    return counts


def by_class(
    labels: NDArray[Any],
    alpha: NDArray[np.float64],
    rng: np.random.Generator,
    smallest: int,
    balancing: bool,
) -> list[Indices]:
    """Each class dealt among clients by Dir(alpha): rows of each client."""
    clients, mean = len(alpha), len(labels) / len(alpha)
    rows_of = [np.flatnonzero(labels == value) for value in np.unique(labels)]
    for attempt in range(_ATTEMPTS + 1):
        pieces: list[list[Indices]] = [[] for _ in range(clients)]
        sizes = np.zeros(clients, dtype=np.int64)
        for rows in rows_of:
            shares = rng.dirichlet(alpha)
            if balancing:
                shares = np.where(sizes > mean, 0.0, shares)
                # Summed one after the other, as the package of reference does.
                shares = shares / sum(shares.tolist())
            ends = (np.cumsum(shares) * len(rows)).astype(int)[:-1]
            for client, piece in enumerate(np.split(rows, ends)):
                pieces[client].append(piece)
                sizes[client] += len(piece)
        if sizes.min() >= smallest:
            return [np.concatenate(own) for own in pieces]
        if attempt < _ATTEMPTS:
            warnings.warn(
                f"the smallest client would have {sizes.min()} examples, fewer than "
                f"min_partition_size {smallest}: drawing again",
                stacklevel=2,
            )
    raise DataError(
        f"{_ATTEMPTS + 1} draws gave no division with at least {smallest} examples a client",
        hint="Raise alpha, lower min_partition_size, or take fewer clients",
    )
