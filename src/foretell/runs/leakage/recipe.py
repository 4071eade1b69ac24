"""The recipe of a run about leakage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from foretell.errors import RecipeError
from foretell.runs.section import BaseRecipe, Name, Section, nearest


class DataSection(Section):
    """A public set of texts with labels, hashed into ``features`` buckets.

    Shadow models are trained on halves of the part ``train``; the part ``test`` judges accuracy.
    ``limit`` takes so many texts of each part, the same at every run.
    """

    source: str = "newsgroups20"
    options: dict[str, Any] = Field(default_factory=dict)
    train: str = "train"
    test: str = "test"
    features: int = Field(default=8_192, ge=2)
    idf: bool = True
    limit: int | None = Field(default=None, ge=20)


class PlainSection(Section):
    """Ordinary training: plain SGD over ``epochs`` permutations of the data."""

    learning_rate: float = Field(default=2.0, gt=0)
    batch_size: int = Field(default=32, ge=1)
    epochs: float = Field(default=10, gt=0)


class PrivateSection(Section):
    """What all private trainings share; ``accountant`` chooses their noise."""

    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    sample_rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    steps: int = Field(default=200, ge=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    learning_rate: float = Field(default=40.0, gt=0)
    accountant: Literal["rdp", "pld"] = "rdp"


class AttackSection(Section):
    """Models a training, and how many of them are attacked, each by all others.

    ``canaries`` is the number of made-up texts of one word each by which one more model, trained on
    all texts, is audited for a lower bound on epsilon; 0 for no audit.
    """

    n_models: int = Field(default=17, ge=2)
    targets: int = Field(default=4, ge=1)
    canaries: int = Field(default=1_000, ge=0)


class ModelSection(Section):
    """One training: private with a target, clipped without noise, or plain."""

    title: str = ""
    target_epsilon: Annotated[float, Field(gt=0)] | None = None
    clipping_only: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> ModelSection:
        if self.target_epsilon is not None and self.clipping_only:
            raise ValueError("clipping_only is clipping without noise: drop target_epsilon")
        return self

    @property
    def is_private(self) -> bool:
        """Whether gradients are clipped."""
        return self.target_epsilon is not None or self.clipping_only


class Recipe(BaseRecipe):
    """A whole run. See the shipped ``leakage-study`` for an example."""

    closed = ("models",)

    task: Literal["leakage"] = "leakage"
    title: str = "What training gives away"
    data: DataSection = Field(default_factory=DataSection)
    plain: PlainSection = Field(default_factory=PlainSection)
    private: PrivateSection = Field(default_factory=PrivateSection)
    attack: AttackSection = Field(default_factory=AttackSection)
    models: dict[Name, ModelSection] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if self.attack.targets > self.attack.n_models:
            raise ValueError(
                f"attack.targets ({self.attack.targets}) cannot be more than attack.n_models "
                f"({self.attack.n_models})"
            )
        if len(self.seeds) != 1:
            raise ValueError("seeds must hold one seed: every model of a run is a repetition")
        return self

    @classmethod
    def with_source(cls, data: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Another set of texts; its parts and features are called as before."""
        kept = ("train", "test", "features", "idf", "limit")
        return {"source": source, **{k: data[k] for k in kept if k in data}}

    def only(self, names: Sequence[str]) -> Recipe:
        """The recipe with the named models only."""
        for name in names:
            if name not in self.models:
                raise RecipeError(f"the recipe has no model {name!r}" + nearest(name, self.models))
        kept = {n: self.models[n] for n in self.models if n in names}
        return self.model_copy(update={"models": kept})
