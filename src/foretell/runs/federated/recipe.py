"""The recipe of a federated run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from foretell.errors import RecipeError
from foretell.runs.section import BaseRecipe, Name, Section, nearest

if TYPE_CHECKING:
    from foretell.training.federated.accounting import ClientPrivacy

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Draw = Literal["systematic_pps", "plackett_luce", "poisson", "multinomial"]
Aggregation = Literal["consistent", "equal", "num_examples", "horvitz_thompson"]


class DataSection(Section):
    """What is learned from.

    ``source`` is ``"newsgroups20"`` (posts of 1993 and their groups; ``options`` are those of its
    reader) or the simulator ``"device_topics"`` (activity that goes with rare topics or not;
    ``options`` are its arguments). ``stop_words`` leaves out function words, a list that is
    public.
    """

    source: Literal["newsgroups20", "device_topics"] = "device_topics"
    options: dict[str, Any] = Field(default_factory=dict)
    stop_words: bool = True


class ClientsSection(Section):
    """How examples belong to clients.

    ``partition`` is ``"natural"`` (by a column, ``by``), ``"label_dirichlet"``,
    ``"quantity_dirichlet"`` or ``"feature_cluster"``; the others take ``count`` and ``alpha`` (or
    beta).
    """

    partition: Literal["natural", "label_dirichlet", "quantity_dirichlet", "feature_cluster"] = (
        "natural"
    )
    by: str = "author"
    count: Count = 100
    alpha: Positive = 1.0
    scheme: Literal["client", "class"] = "client"
    clusters: Count = 10
    seed: int = 42


class LearnerSection(Section):
    """What is trained: softmax regression on hashed words (or on what the simulator gives)."""

    kind: Literal["bag_of_words"] = "bag_of_words"
    features: Count = 8192
    bias: bool = False


class LocalSection(Section):
    """What a client does in a round."""

    epochs: Count = 1
    batch_size: Count = 8
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: Positive = 1.0
    momentum: float = 0.0


class RoundsSection(Section):
    """Rounds, clients in each, and where the curves are read off."""

    count: Count = 100
    clients: Count = 50
    read_at: list[Count] = Field(default_factory=lambda: [10, 25, 50, 100], min_length=1)
    evaluate_every: Count = 1


class MethodSection(Section):
    """One way to train: an algorithm, who is chosen, and how updates count.

    ``rates`` are server learning rates to try (``eta``); each method is shown at its best.
    """

    strategy: str = "fedadam"
    options: dict[str, float] = Field(default_factory=dict)
    rates: list[Positive] | None = None
    selection: str = "uniform"
    aggregation: Aggregation = "consistent"
    draw: Draw = "systematic_pps"
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    q_max: float | None = None
    private: bool = False
    local: dict[str, Any] = Field(default_factory=dict)


class TuningSection(Section):
    """Server learning rates to try for every method, and the seeds to try them with."""

    rates: list[Positive] = Field(default_factory=lambda: [0.03, 0.1, 0.3], min_length=1)
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)


class ContinualSection(Section):
    """The same methods while data arrive in periods and old ones are deleted."""

    periods: Count = 5
    rounds: Count = 20
    buffers: list[str] = Field(default_factory=lambda: ["window:1", "keep_all"], min_length=1)
    methods: list[str] = Field(min_length=1)
    rate: Positive | None = None


class PrivacySection(Section):
    """Privacy of clients: the mechanism of methods that are ``private``, and the table.

    The table says what each rule's chances cost clients of different activity, with and without
    the bound ``q_max`` (4 times the mean chance when None). Noise and draws of private methods are
    the operating system's, unless ``noise_seed`` is given, for runs that must be repeated: to it
    the run's own seed is added.
    """

    noise_multiplier: Positive = 1.0
    clip: Positive = 1.0
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    rules: list[str] = Field(default_factory=lambda: ["uniform", "log", "sqrt", "proportional"])
    q_max: float | None = None
    noise_seed: int | None = Field(default=None, ge=0)

    def mechanism(self, seed: int, noise_multiplier: float | None = None) -> ClientPrivacy:
        """Clipping and noise of a run as the server needs them; with other noise than stated."""
        from foretell.training.federated.accounting import ClientPrivacy

        noise = self.noise_multiplier if noise_multiplier is None else noise_multiplier
        own = None if self.noise_seed is None else self.noise_seed + seed
        return ClientPrivacy(noise, self.clip, self.delta, noise_seed=own)


class AuditSection(Section):
    """A private method put to the test by canary clients, each in by the flip of a coin.

    ``activity`` is the number of examples of a canary client; as many as the most active client has
    when None, whose chance and cost are the largest. ``without_noise`` trains once more without the
    noise: the audit must find that.
    """

    method: str
    canaries: Annotated[int, Field(ge=20)] = 400
    activity: Count | None = None
    without_noise: bool = True


class Recipe(BaseRecipe):
    """A whole run. See the shipped ``federated-activity`` for an example."""

    task: Literal["federated"] = "federated"
    title: str = "Training on data that stays with its clients"
    data: DataSection = Field(default_factory=DataSection)
    clients: ClientsSection = Field(default_factory=ClientsSection)
    learner: LearnerSection = Field(default_factory=LearnerSection)
    local: LocalSection = Field(default_factory=LocalSection)
    rounds: RoundsSection = Field(default_factory=RoundsSection)
    methods: dict[Name, MethodSection] = Field(min_length=1)
    baseline: str | None = None
    tuning: TuningSection = Field(default_factory=TuningSection)
    continual: ContinualSection | None = None
    privacy: PrivacySection | None = None
    audit: AuditSection | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        from foretell.training.federated.rules import make_rule

        for name, method in self.methods.items():
            make_rule(method.selection)
            if method.private and self.privacy is None:
                raise ValueError(f"methods.{name} is private: add a section [privacy]")
            try:
                LocalSection.model_validate({**self.local.model_dump(), **method.local})
            except ValueError as error:
                raise ValueError(f"methods.{name}.local: {error}") from None
        if self.baseline not in (None, *self.methods):
            raise ValueError(
                f"baseline {self.baseline!r} is no method" + nearest(self.baseline, self.methods)
            )
        if self.audit is not None:
            audited = self.methods.get(self.audit.method)
            if audited is None:
                raise ValueError(
                    f"audit.method {self.audit.method!r} is no method"
                    + nearest(self.audit.method, self.methods)
                )
            if not audited.private:
                raise ValueError(
                    f"audit.method {self.audit.method!r} is not private: it claims nothing that "
                    "could be audited"
                )
        if self.continual is not None:
            from foretell.training.federated.continual import make_buffer

            for buffer in self.continual.buffers:
                make_buffer(buffer)
            for name in self.continual.methods:
                if name not in self.methods:
                    raise ValueError(
                        f"continual.methods {name!r} is no method" + nearest(name, self.methods)
                    )
        if max(self.rounds.read_at) > self.rounds.count:
            raise ValueError("rounds.read_at goes beyond rounds.count")
        return self

    @classmethod
    def with_source(cls, data: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Another source."""
        return {"source": source}

    def only(self, names: Sequence[str]) -> Recipe:
        """The recipe with the named methods only."""
        for name in names:
            if name not in self.methods:
                raise RecipeError(
                    f"the recipe has no method {name!r}" + nearest(name, self.methods)
                )
        kept = {n: self.methods[n] for n in self.methods if n in names}
        changes: dict[str, Any] = {"methods": kept}
        if self.audit is not None and self.audit.method not in kept:
            changes["audit"] = None
        if self.baseline not in kept:
            changes["baseline"] = None
        if self.continual is not None:
            left = [n for n in self.continual.methods if n in kept]
            changes["continual"] = (
                self.continual.model_copy(update={"methods": left}) if left else None
            )
        return self.model_copy(update=changes)

    def rates_of(self, name: str) -> list[float | None]:
        """Server learning rates to try for a method; None for an algorithm that has none."""
        method = self.methods[name]
        if method.rates is not None:
            return list(method.rates)
        adaptive = method.strategy in ("fedadam", "fedyogi", "fedadagrad")
        return list(self.tuning.rates) if adaptive else [None]

    def local_of(self, name: str) -> dict[str, Any]:
        """Local training of a method."""
        return {**self.local.model_dump(), **self.methods[name].local}
