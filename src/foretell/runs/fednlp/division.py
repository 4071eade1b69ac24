"""A task's texts divided among clients, training and tests apart."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foretell.data.partitions import (
    FeatureCluster,
    LabelDirichlet,
    Natural,
    Partitioner,
    QuantityDirichlet,
)
from foretell.errors import RecipeError
from foretell.runs.fednlp.formulation import FederatedTask, Rows
from foretell.runs.fednlp.recipe import PartitionSection

RAREST = 0.01
OTHER = "other"


@dataclass(frozen=True, eq=False)
class Division:
    """What each client has.

    Args:
        parts: training examples of each client.
        tests: test examples of each client.
        classes: mean number of classes a client holds; None where there are none.
        summary: what became of the data, in words.
    """

    parts: list[Rows]
    tests: list[Rows]
    classes: float | None
    summary: str


def divide(
    task: FederatedTask, section: PartitionSection, alpha: float | None, clients: int
) -> Division:
    """Divides a task by a partition with a concentration.

    The test part is divided by the same scheme, separately, as FedNLP does: clients' own tests are
    as skewed as their training data, though not with the same labels. Natural clients keep theirs.

    Raises:
        RecipeError: a partition that the task's texts do not allow.
        DataError: more clients than examples.
    """
    labels, test_labels = task.labels, task.test_labels
    if section.kind == "label_dirichlet" and labels is None:
        raise RecipeError(
            f"{task.code} has no labels to divide by: take 'feature_cluster', which makes some"
        )
    if section.kind == "label_dirichlet" and task.code == "st":
        labels, test_labels = _common(labels, labels), _common(test_labels, labels)
    train, test = _partitioners(task, section, alpha, clients, labels, test_labels)
    shown = labels if section.kind in ("label_dirichlet", "quantity_dirichlet") else None
    if section.kind == "feature_cluster":
        shown = train.partition_by  # type: ignore[attr-defined]
    held = None if shown is None else train.classes_per_client(shown)
    parts, tests = train.parts, test.parts
    if isinstance(train, Natural) and isinstance(test, Natural):
        own = dict(zip(test.names.tolist(), tests, strict=True))
        tests = [own.get(name, np.zeros(0, np.int64)) for name in train.names.tolist()]
    return Division(
        parts=_examples(parts, task.rows),
        tests=_examples(tests, task.test_rows),
        classes=None if held is None else float(held.mean()),
        summary=train.summary(shown),
    )


def _partitioners(
    task: FederatedTask,
    section: PartitionSection,
    alpha: float | None,
    clients: int,
    labels: NDArray[np.str_] | None,
    test_labels: NDArray[np.str_] | None,
) -> tuple[Partitioner, Partitioner]:
    number = min(clients, len(task.test))
    made: list[Partitioner]
    if section.kind == "natural":
        assert section.by is not None
        made = [Natural(section.by), Natural(section.by)]
    elif section.kind == "quantity_dirichlet":
        made = [
            QuantityDirichlet(n, alpha or 5.0, seed=section.seed + i)
            for i, n in enumerate((clients, number))
        ]
    elif section.kind == "label_dirichlet":
        made = [
            LabelDirichlet(n, given, alpha or 1.0, scheme=section.scheme, seed=section.seed + i)
            for i, (n, given) in enumerate(((clients, labels), (number, test_labels)))
            if given is not None
        ]
    else:
        return _clusters(task, section, alpha or 1.0, clients, number)
    made[0].dataset, made[1].dataset = task.train, task.test
    return made[0], made[1]


def _clusters(
    task: FederatedTask, section: PartitionSection, alpha: float, clients: int, number: int
) -> tuple[Partitioner, Partitioner]:
    """Clusters fitted on the training texts; tests go to the nearest of them."""
    train = FeatureCluster(clients, task.text, alpha, clusters=section.clusters, seed=section.seed)
    train.dataset = task.train
    _ = train.partition_by
    test = FeatureCluster(
        number, task.test_text, alpha, clusters=section.clusters, seed=section.seed + 1,
        _fitted=train._fitted,
    )  # fmt: skip
    test.dataset = task.test
    return train, test


def _common(labels: NDArray[np.str_] | None, known: NDArray[np.str_] | None) -> NDArray[np.str_]:
    """Labels as they are where one text in a hundred has them; sets of entities are countless."""
    assert labels is not None and known is not None
    counts = Counter(known.tolist())
    kept = {label for label, count in counts.items() if count >= RAREST * len(known)}
    return np.array([label if label in kept else OTHER for label in labels.tolist()])


def _examples(parts: list[Rows], rows: Rows) -> list[Rows]:
    """Numbers of the examples that come from rows; rows that were left out have none."""
    most = max([int(rows.max()), *(int(part.max(initial=-1)) for part in parts)])
    where = np.full(most + 1, -1)
    where[rows] = np.arange(len(rows))
    return [where[part][where[part] >= 0] for part in parts]
