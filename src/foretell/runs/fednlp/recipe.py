"""The recipe of a grid of federated trainings on language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from foretell.errors import RecipeError
from foretell.runs.federated.recipe import Count, LocalSection, Positive
from foretell.runs.section import BaseRecipe, Name, Section, nearest

Share = Annotated[float, Field(ge=0, lt=1)]
ALPHA_PARTITIONS = ("label_dirichlet", "feature_cluster")
PLAIN_SGD = ("scaffold",)
"""Strategies that a limit on gradients does not go with."""


class TextSource(Section):
    """What is learned from.

    ``source`` is a name of the registry; ``options`` are those of its reader. Of more than
    ``examples`` or ``tests`` texts so many are drawn by ``seed``. ``judge = "held_out"`` takes
    every tenth training text for tests, and leaves the tests alone: for choosing settings.
    """

    source: str
    options: dict[str, Any] = Field(default_factory=dict)
    examples: Count | None = None
    tests: Count | None = None
    judge: Literal["test", "held_out"] = "test"
    seed: int = 0


class PartitionSection(Section):
    """How examples are divided; each task crosses its partitions with the grid's alphas.

    ``alphas`` of ``label_dirichlet`` and ``feature_cluster`` are total concentrations, those of
    ``quantity_dirichlet`` its beta; None takes the grid's (5 for quantities). ``natural`` divides
    by the column ``by`` and has no alpha.
    """

    kind: Literal["label_dirichlet", "quantity_dirichlet", "feature_cluster", "natural"]
    alphas: list[Positive] | None = Field(default=None, min_length=1)
    by: str | None = None
    scheme: Literal["client", "class"] = "client"
    clusters: Count = 10
    seed: int = 42

    @model_validator(mode="after")
    def _natural_needs_a_column(self) -> PartitionSection:
        if (self.kind == "natural") != (self.by is not None):
            raise ValueError("the partition 'natural' needs the column 'by', others have none")
        return self


class ModelSection(Section):
    """What is trained.

    ``kind`` is ``bag_of_words`` (softmax regression on hashed words, for ``tc``), ``bilstm`` or
    ``transformer``; ``ss`` has a network of its own. ``vocabulary`` says where words come from:
    ``hashing`` reads nobody's text, ``public`` takes the words of a public corpus, and ``clients``
    pools the clients' texts, which a federation exists to avoid: the run warns of it. ``idf`` pools
    counts of texts, and warns too.
    """

    kind: Literal["bag_of_words", "bilstm", "transformer"] = "bilstm"
    vocabulary: Literal["hashing", "public", "clients"] = "hashing"
    words: Count = 8192
    corpus: str = "brown"
    idf: bool = False
    bias: bool = False
    stop_words: bool = True
    characters: bool = True
    embedding: Count = 64
    hidden: Count = 64
    layers: Count = 1
    heads: Count = 4
    dropout: Share = 0.0
    max_length: Count | None = None


class ClientSection(LocalSection):
    """What a client does in a round; ``gradient_clip`` 0 is none."""

    weight_decay: float = 0.0
    gradient_clip: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine", "warmup_cosine", "one_cycle"] = "constant"


class AlgorithmSection(Section):
    """A server algorithm: a strategy by name, its options by Flower's names, local changes."""

    strategy: str = "fedavg"
    options: dict[str, float] = Field(default_factory=dict)
    local: dict[str, Any] = Field(default_factory=dict)


class TaskSection(Section):
    """A formulation with its data, clients and rounds.

    ``formulation`` is ``tc`` (text classification), ``st`` (sequence tagging), ``qa`` (answers as
    spans) or ``ss`` (text from text). ``algorithms`` changes the recipe's for this task; only those
    named are run where ``only`` is given. ``seeds`` takes the place of the run's.
    """

    formulation: Literal["tc", "st", "qa", "ss"]
    data: TextSource
    clients: Count = 10
    per_round: Count = 5
    rounds: Count = 10
    evaluate_every: Count = 10
    partitions: list[PartitionSection] = Field(min_length=1)
    learner: ModelSection = Field(default_factory=ModelSection)
    local: ClientSection = Field(default_factory=ClientSection)
    central: ClientSection = Field(default_factory=ClientSection)
    algorithms: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    only: list[str] | None = None
    seeds: list[int] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _fits_together(self) -> TaskSection:
        bag = self.learner.kind == "bag_of_words"
        if bag and self.formulation != "tc":
            raise ValueError(f"a bag of words has no order: the task {self.formulation} needs one")
        if self.learner.vocabulary == "hashing" and self.formulation == "ss":
            raise ValueError("hashed words cannot be written: vocabulary = 'public' or 'clients'")
        if self.per_round > self.clients and all(p.kind != "natural" for p in self.partitions):
            raise ValueError(f"per_round ({self.per_round}) is more than clients ({self.clients})")
        return self


class GridSection(Section):
    """Concentrations of labels; less is more skewed."""

    alphas: list[Positive] = Field(default_factory=lambda: [0.1, 1.0, 10.0, 1e4], min_length=1)


class OptimisersSection(Section):
    """The table of client and server optimisers, on one task at some alphas of its labels.

    ``client_rates`` are those of each client optimiser (``sgd``, ``adamw``), ``server_rates`` those
    of each server optimiser: ``sgd`` is FedAvg's, for which 1 takes the mean itself; ``adam`` is
    FedAdam's eta.
    """

    task: str
    alphas: list[Positive] = Field(default_factory=lambda: [1.0], min_length=1)
    client_rates: dict[Literal["sgd", "adamw"], Positive] = Field(min_length=1)
    server_rates: dict[Literal["sgd", "adam"], Positive] = Field(min_length=1)


class FreezingSection(Section):
    """Sets of layers that neither move nor travel, on one task with one algorithm."""

    task: str
    algorithm: str = "fedavg"
    alpha: Positive = 1.0
    sets: dict[Name, list[str | int]] = Field(min_length=1)


class Recipe(BaseRecipe):
    """A whole run. See the shipped ``fednlp`` for an example."""

    task: Literal["fednlp"] = "fednlp"
    title: str = "Language on data that stays with its clients"
    grid: GridSection = Field(default_factory=GridSection)
    algorithms: dict[Name, AlgorithmSection] = Field(min_length=1)
    baseline: str | None = None
    tasks: dict[Name, TaskSection] = Field(min_length=1)
    optimisers: OptimisersSection | None = None
    freezing: FreezingSection | None = None

    @model_validator(mode="after")
    def _names_exist(self) -> Recipe:
        from foretell.training.federated.strategies import STRATEGIES

        if self.baseline not in (None, *self.algorithms):
            raise ValueError(
                f"baseline {self.baseline!r} is no algorithm"
                + nearest(self.baseline, self.algorithms)
            )
        for task, section in self.tasks.items():
            for name in [*section.algorithms, *(section.only or [])]:
                if name not in self.algorithms:
                    raise ValueError(
                        f"tasks.{task}: {name!r} is no algorithm" + nearest(name, self.algorithms)
                    )
            for name in self.algorithms_of(task):
                method = self.algorithm(task, name)
                if method.strategy not in STRATEGIES:
                    raise ValueError(
                        f"algorithms.{name}: {method.strategy!r} is no strategy"
                        + nearest(method.strategy, STRATEGIES)
                    )
                self.local_of(task, name)
        for where, part in (("optimisers", self.optimisers), ("freezing", self.freezing)):
            if part is not None and part.task not in self.tasks:
                raise ValueError(
                    f"{where}.task {part.task!r} is no task" + nearest(part.task, self.tasks)
                )
        if self.freezing is not None and self.freezing.algorithm not in self.algorithms:
            raise ValueError(
                f"freezing.algorithm {self.freezing.algorithm!r} is no algorithm"
                + nearest(self.freezing.algorithm, self.algorithms)
            )
        return self

    def only(self, names: Sequence[str]) -> Recipe:
        """The recipe with the named tasks or algorithms only."""
        for name in names:
            if name not in self.tasks and name not in self.algorithms:
                raise RecipeError(
                    f"the recipe has neither a task nor an algorithm {name!r}"
                    + nearest(name, [*self.tasks, *self.algorithms])
                )
        tasks = {n: s for n, s in self.tasks.items() if n in names} or dict(self.tasks)
        kept = {n: s for n, s in self.algorithms.items() if n in names} or dict(self.algorithms)
        fewer = {
            name: section.model_copy(
                update={
                    "algorithms": {n: c for n, c in section.algorithms.items() if n in kept},
                    "only": None
                    if section.only is None
                    else [n for n in section.only if n in kept] or None,
                }
            )
            for name, section in tasks.items()
        }
        changes: dict[str, Any] = {"tasks": fewer, "algorithms": kept}
        if self.baseline not in kept:
            changes["baseline"] = None
        if self.optimisers is not None and self.optimisers.task not in tasks:
            changes["optimisers"] = None
        part = self.freezing
        if part is not None and (part.task not in tasks or part.algorithm not in kept):
            changes["freezing"] = None
        return self.model_copy(update=changes)

    def algorithms_of(self, task: str) -> list[str]:
        """Names of the algorithms of a task."""
        only = self.tasks[task].only
        return [name for name in self.algorithms if only is None or name in only]

    def algorithm(self, task: str, name: str) -> AlgorithmSection:
        """An algorithm as a task changes it.

        Raises:
            ValueError: a key that an algorithm has not.
        """
        own = self.tasks[task].algorithms.get(name, {})
        shared = self.algorithms[name].model_dump()
        merged = {
            **shared,
            **own,
            "options": {**shared["options"], **own.get("options", {})},
            "local": {**shared["local"], **own.get("local", {})},
        }
        try:
            return AlgorithmSection.model_validate(merged)
        except ValueError as error:
            raise ValueError(f"tasks.{task}.algorithms.{name}: {error}") from None

    def local_of(self, task: str, name: str, **changes: Any) -> ClientSection:
        """What a client does in a round of an algorithm.

        Raises:
            ValueError: a key that local training has not.
        """
        method = self.algorithm(task, name)
        given = {**self.tasks[task].local.model_dump(), **method.local, **changes}
        if method.strategy in PLAIN_SGD and "gradient_clip" not in method.local:
            given["gradient_clip"] = 0.0
        try:
            return ClientSection.model_validate(given)
        except ValueError as error:
            raise ValueError(f"algorithms.{name}.local: {error}") from None

    def seeds_of(self, task: str) -> list[int]:
        """Seeds of a task."""
        return self.tasks[task].seeds or self.seeds

    def alphas_of(self, part: PartitionSection) -> list[float | None]:
        """Concentrations of a partition; None for one that has none."""
        if part.kind == "natural":
            return [None]
        if part.alphas is not None:
            return list(part.alphas)
        return [5.0] if part.kind == "quantity_dirichlet" else list(self.grid.alphas)
