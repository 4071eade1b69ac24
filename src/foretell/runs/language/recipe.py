"""The recipe of a run about language models and what privacy costs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from foretell.errors import RecipeError
from foretell.runs.section import BaseRecipe, Name, Section, nearest

Share = Annotated[float, Field(gt=0, lt=1)]


class DataSection(Section):
    """Where the texts come from.

    ``source`` is a public data set of texts, or the path of a table with the columns ``tokens``
    and ``intent``, ``slots`` or both. Where it has no column ``split``, a random share of
    ``hold_out`` is judged on.
    """

    source: str = "nlu_atis_snips"
    options: dict[str, Any] = Field(default_factory=dict)
    train: str = "train"
    test: str = "test"
    hold_out: Share = 0.2


class PrivacySection(Section):
    """How a model is trained.

    ``way`` is ``"exact"`` (each example clipped alone), ``"microbatch"`` or ``"clip_only"``
    (clipped, no noise). ``accounting = "naive"`` gives micro-batches the noise that would be enough
    if one example could move a slot by the bound only; the true epsilon is stated beside the claim.
    Other keys are options of ``PrivateTraining`` or ``MicroBatchTraining``.
    """

    way: Literal["exact", "microbatch", "clip_only"] = "exact"
    epsilon: float | None = Field(default=None, gt=0)
    noise_multiplier: float | None = Field(default=None, gt=0)
    delta: float | None = Field(default=None, gt=0, lt=1)
    accounting: Literal["true", "naive"] = "true"
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self) -> PrivacySection:
        given = (self.epsilon is None) + (self.noise_multiplier is None)
        if self.way == "clip_only":
            if given != 2:
                raise ValueError("way 'clip_only' has no noise: drop epsilon and noise_multiplier")
        elif given != 1:
            raise ValueError("give epsilon or noise_multiplier, and not both")
        if self.accounting == "naive" and (self.way != "microbatch" or self.epsilon is None):
            raise ValueError("accounting 'naive' is a claim about micro-batches: it needs epsilon")
        return self


class ModelSection(Section):
    """A class of ``foretell.estimators`` and its arguments; without ``privacy`` not private."""

    kind: str = "NLU"
    options: dict[str, Any] = Field(default_factory=dict)
    privacy: PrivacySection | None = None


class FinalSection(Section):
    """What is kept: a model by name, or the best of those whose claim is true; or nothing."""

    model: str = "best"
    keep: bool = True


class Recipe(BaseRecipe):
    """A whole run. See the shipped ``private-nlu`` for an example."""

    closed = ("models",)

    task: Literal["language"] = "language"
    title: str = "Language models and what privacy costs them"
    data: DataSection = Field(default_factory=DataSection)
    defaults: dict[str, Any] = Field(default_factory=dict)
    """Arguments that all models share, where their classes have them."""
    models: dict[Name, ModelSection] = Field(min_length=1)
    final: FinalSection = Field(default_factory=FinalSection)

    @model_validator(mode="after")
    def _knows_its_final_model(self) -> Recipe:
        if self.final.model != "best" and self.final.model not in self.models:
            raise ValueError(
                f"final.model: the recipe has no model {self.final.model!r}"
                + nearest(self.final.model, self.models)
            )
        return self

    @classmethod
    def with_source(cls, data: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Another source with the same names of parts."""
        kept = ("train", "test", "hold_out")
        return {"source": source, **{k: data[k] for k in kept if k in data}}

    def only(self, names: Sequence[str]) -> Recipe:
        """The recipe with the named models only."""
        for name in names:
            if name not in self.models:
                raise RecipeError(f"the recipe has no model {name!r}" + nearest(name, self.models))
        kept = {n: self.models[n] for n in self.models if n in names}
        final = self.final
        if final.model not in ("best", *kept):
            final = final.model_copy(update={"model": "best"})
        return self.model_copy(update={"models": kept, "final": final})
