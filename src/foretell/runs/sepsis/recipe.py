"""The recipe of a run about early warning: sites in sequence, gate, alarms, what is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from foretell.errors import RecipeError
from foretell.runs.section import BaseRecipe, Name, Section, nearest

Share = Annotated[float, Field(gt=0, lt=1)]


class DataSection(Section):
    """Where the stays come from, and how they are parted.

    ``source`` is a public data set of stays (``"physionet2019"``), the simulator ``"hospitals"``
    (its arguments are ``options``), a folder of ``.psv`` files, a folder that ``write_stays`` made,
    or a table with the columns of the 2019 challenge. ``sites`` are the values of the category
    ``site`` in the order of training; all of them by name if left out. Patients, never hours, are
    parted by hash. ``well_hours`` are the hours without onset of a site that are trained on at
    most, ``judged_hours`` those that its AUROC is measured on. ``repair`` finds units that were not
    stated, by ``hospital``, against the first site.
    """

    source: str = "physionet2019"
    options: dict[str, Any] = Field(default_factory=dict)
    sites: list[str] = Field(default_factory=list)
    test_size: Share = 0.2
    validation_size: Share = 0.2
    split_seed: int = 0
    well_hours: int = Field(default=40_000, ge=100)
    judged_hours: int = Field(default=25_000, ge=100)
    repair: bool = True

    @model_validator(mode="after")
    def _leaves_something(self) -> DataSection:
        if self.test_size + self.validation_size >= 1:
            raise ValueError("test_size and validation_size leave nothing to train on")
        if len(set(self.sites)) != len(self.sites):
            raise ValueError("sites: a site is named twice")
        return self


class MethodSection(Section):
    """How a model goes from site to site.

    ``kind`` is ``"wuperr"`` (weight-uncertainty propagation and replay of representations),
    ``"naive"``, ``"joint"``, ``"ewc"``, ``"online_ewc"``, ``"si"``, ``"replay"``, ``"agem"``,
    ``"gem"``, ``"derpp"`` or ``"lwf"``; ``options`` are those of its class
    (:class:`foretell.estimators.continual.WUPERR` and the methods of
    :mod:`foretell.training.continual`). ``release`` is the noise that ``wuperr`` adds once to what
    it keeps, in standard deviations of each unit. The noise, and the order of what is kept, follow
    from the operating system's randomness; with ``noise_seed``, to which the run's seed is added,
    a run can be repeated to the byte, and its bundles are for judging only.
    """

    kind: Literal[
        "wuperr",
        "naive",
        "joint",
        "ewc",
        "online_ewc",
        "si",
        "replay",
        "agem",
        "gem",
        "derpp",
        "lwf",
    ] = "wuperr"
    release: float = Field(default=0.0, ge=0)
    noise_seed: int | None = Field(default=None, ge=0)
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self) -> MethodSection:
        if self.release and self.kind != "wuperr":
            raise ValueError(f"release is noise on representations, and {self.kind!r} keeps none")
        if self.noise_seed is not None and self.kind != "wuperr":
            raise ValueError(f"noise_seed is of what wuperr keeps, and {self.kind!r} keeps none")
        return self


class GateSection(Section):
    """When no score is given; see :class:`foretell.decisions.abstention.Gate`.

    ``alpha`` bounds the share of rejected hours in each class, ``ambiguity`` (0 for no such status)
    the misses of the prediction sets, ``alarm_level`` (0 for none) the share of true alarms that is
    lost because their hours are unlike those before an onset.
    """

    score: Literal["mahalanobis", "max_abs_z", "knn", "pca_residual"] = "mahalanobis"
    alpha: Share = 0.05
    ambiguity: float = Field(default=0.1, ge=0, lt=1)
    alarm_level: float = Field(default=0.0, ge=0, lt=1)
    max_rows: int = Field(default=50_000, ge=100)


class AlarmSection(Section):
    """The policy and what it is tuned to; ``constraint`` is never relaxed silently.

    ``by_site`` gives each site the threshold that is the same risk there, after its own intercept;
    otherwise one threshold of the score holds everywhere.
    """

    target_sensitivity: Annotated[float, Field(gt=0, le=1)] = 0.6
    constraint: dict[
        Literal["ppv", "patient_ppv", "faph", "alarms_per_bed_day", "alarms_per_true_alarm"], float
    ] = Field(default_factory=dict)
    horizon: float = Field(default=48, gt=0)
    snooze: int = Field(default=6, ge=0)
    persistence: tuple[int, int] = (1, 1)
    rise: float | None = Field(default=None, gt=0)
    candidates: int = Field(default=100, ge=2)
    by_site: bool = False


class EvaluationSection(Section):
    """What is measured and shown."""

    resamples: int = Field(default=300, ge=20)
    clock_hour: float = Field(default=48, gt=0)
    thresholds: list[Share] = Field(
        default_factory=lambda: [0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15],
        min_length=1,
    )
    bins: int = Field(default=10, ge=2)
    examples: int = Field(default=6, ge=0)
    audit: bool = True
    max_r2: Share = 0.65
    max_linkage: float = Field(default=0.05, gt=0, le=1)


class ChecksSection(Section):
    """What boosted trees, trained on the run's own patients, say of what can be learned from them.

    ``time_blind`` trains them once more without anything that tells the hour, or how often and how
    lately somebody looked, and wants an AUROC of ``bar`` at every hospital. ``leave_hospital_out``
    trains at all hospitals but one and judges at that one, beside the clock. ``options`` are those
    of :class:`foretell.learners.risk.BoostedRisk`; 150 trees where they do not say.
    """

    time_blind: bool = True
    leave_hospital_out: bool = True
    bar: Annotated[float, Field(ge=0.5, lt=1)] = 0.72
    options: dict[str, Any] = Field(default_factory=dict)


class SensingSection(Section):
    """What the deployment carries to say which measurement would tell most.

    ``sampler`` is what a panel may show is drawn from: ``"mixture"`` of Gaussians, one
    ``"gaussian"``, a partial ``"vae"``, or ``""`` for nothing: then the service propagates
    uncertainty through the risk model. ``hours`` without onset are trained on at most.
    """

    sampler: Literal["", "gaussian", "mixture", "vae"] = "mixture"
    hours: int = Field(default=20_000, ge=100)


class Recipe(BaseRecipe):
    """A whole run. See the shipped ``sepsis`` for an example."""

    closed = ("methods",)

    task: Literal["sepsis"] = "sepsis"
    title: str = "Early warning of sepsis"
    data: DataSection = Field(default_factory=DataSection)
    model: dict[str, Any] = Field(default_factory=dict)
    """Arguments of :class:`foretell.estimators.FeedForwardRisk`, of all methods."""
    methods: dict[Name, MethodSection] = Field(
        default_factory=lambda: {"wuperr": MethodSection()}, min_length=1
    )
    deploy: str = ""
    """The method whose model goes behind the gate; the first one if left out."""
    gate: GateSection = Field(default_factory=GateSection)
    alarms: AlarmSection = Field(default_factory=AlarmSection)
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
    sensing: SensingSection = Field(default_factory=SensingSection)
    checks: ChecksSection = Field(default_factory=ChecksSection)

    @model_validator(mode="after")
    def _knows_what_it_deploys(self) -> Recipe:
        if self.deploy and self.deploy not in self.methods:
            raise ValueError(
                f"deploy: the recipe has no method {self.deploy!r}"
                + nearest(self.deploy, self.methods)
            )
        return self

    @property
    def deployed(self) -> str:
        """Name of the method whose model goes behind the gate."""
        return self.deploy or next(iter(self.methods))

    @classmethod
    def with_source(cls, data: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Another source, parted alike."""
        kept = ("test_size", "validation_size", "well_hours", "judged_hours", "repair")
        return {"source": source, **{k: data[k] for k in kept if k in data}}

    def only(self, names: Sequence[str]) -> Recipe:
        """The recipe with the named methods only."""
        for name in names:
            if name not in self.methods:
                raise RecipeError(
                    f"the recipe has no method {name!r}" + nearest(name, self.methods)
                )
        kept = {n: self.methods[n] for n in self.methods if n in names}
        deploy = self.deploy if self.deploy in kept else ""
        return self.model_copy(update={"methods": kept, "deploy": deploy})
