"""The recipe of a run about canaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from foretell.errors import RecipeError
from foretell.runs.section import BaseRecipe, Name, Section, nearest


class DataSection(Section):
    """A public set of utterances, the part to train on and the part that accuracy is judged on."""

    source: str = "nlu_atis_snips"
    options: dict[str, Any] = Field(default_factory=dict)
    train: str = "train"
    valid: str = "valid"


class SuiteSection(Section):
    """What is planted; see :class:`foretell.audits.extraction.CanarySuite`."""

    templates: list[str] = Field(min_length=1)
    vocabulary: list[str] = Field(min_length=2)
    n_tokens: int = Field(default=4, ge=1)
    labels: list[str] = Field(default_factory=list)
    slot: str | None = "secret"
    count: int | None = Field(default=None, ge=1)


class AttackSection(Section):
    """How it is looked for; see :class:`foretell.audits.extraction.ModelInversionAttack`."""

    method: Literal["gumbel", "exhaustive", "embedding"] = "gumbel"
    restarts: int = Field(default=8, ge=1)
    steps: int = Field(default=100, ge=1)
    refine: bool = True
    know_label: bool = True
    know_tags: bool = True


class PrivateSection(Section):
    """Private training: exactly one of a target, a noise and clipping alone."""

    target_epsilon: Annotated[float, Field(gt=0)] | None = None
    noise_multiplier: Annotated[float, Field(gt=0)] | None = None
    clipping_only: bool = False
    max_grad_norm: float | Literal["automatic", "quantile"] = 1.0

    @model_validator(mode="after")
    def _one_of_three(self) -> PrivateSection:
        given = (self.target_epsilon is not None) + (self.noise_multiplier is not None)
        if given + self.clipping_only != 1:
            raise ValueError("give one of target_epsilon, noise_multiplier and clipping_only")
        return self


class ModelSection(Section):
    """One training: copies of each canary, options of ``NLU``, and what defends.

    ``title`` is what tables call it. ``deduplicate`` leaves repeated utterances out first.
    """

    title: str = ""
    repetitions: int = Field(default=20, ge=0)
    options: dict[str, Any] = Field(default_factory=dict)
    private: PrivateSection | None = None
    deduplicate: bool = False


class Recipe(BaseRecipe):
    """A whole run. See the shipped ``canary`` for an example.

    ``nlu`` holds options of ``NLU`` that all models share; ``baseline`` is the model that the
    others' exposures are compared with.
    """

    closed = ("models",)

    task: Literal["canary"] = "canary"
    title: str = "What canaries a model gives away"
    data: DataSection = Field(default_factory=DataSection)
    suite: SuiteSection
    attack: AttackSection = Field(default_factory=AttackSection)
    nlu: dict[str, Any] = Field(default_factory=dict)
    models: dict[Name, ModelSection] = Field(min_length=1)
    baseline: str | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if self.baseline is not None and self.baseline not in self.models:
            raise ValueError(
                f"baseline {self.baseline!r} is no model" + nearest(self.baseline, self.models)
            )
        return self

    @classmethod
    def with_source(cls, data: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Another set of utterances; its parts are called as before."""
        return {"source": source, **{k: data[k] for k in ("train", "valid") if k in data}}

    def only(self, names: Sequence[str]) -> Recipe:
        """The recipe with the named models only."""
        for name in names:
            if name not in self.models:
                raise RecipeError(f"the recipe has no model {name!r}" + nearest(name, self.models))
        kept = {n: self.models[n] for n in self.models if n in names}
        baseline = self.baseline if self.baseline in kept else None
        return self.model_copy(update={"models": kept, "baseline": baseline})
