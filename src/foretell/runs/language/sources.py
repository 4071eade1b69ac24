"""Texts to train on and to judge on, and the models of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foretell.data import registry
from foretell.data.readers import read_table
from foretell.data.text import TextSet
from foretell.errors import DataError, RecipeError
from foretell.runs.building import check_keys, make, parameters_of
from foretell.runs.language.recipe import DataSection, ModelSection, PrivacySection, Recipe
from foretell.runs.section import nearest
from foretell.runs.sources import is_public, loader_options
from foretell.training import Strategy
from foretell.training.private import MicroBatchTraining, PrivateTraining

_OWN = ("noise_multiplier", "target_epsilon", "target_delta")


class NaivelyAccounted(MicroBatchTraining):
    """For comparison only: micro-batches with the noise that exact clipping would need.

    Its statement says what that really guarantees.
    """

    def plan(self, examples: int, size: int, steps: int) -> None:
        """The noise as if one example could move a slot by the bound only."""
        super().plan(examples, size, steps)
        if self.target_epsilon is not None:
            self.first_noise /= self.sensitivity


def load_text(data: DataSection, seed: int) -> tuple[TextSet, TextSet]:
    """Utterances to train on and to judge on.

    Raises:
        RecipeError: an option does not fit the source.
        DataError: the data cannot be found, read or used.
    """
    text = _read(data.source, data.options)
    if not text.splits:
        return text.divide(data.hold_out, seed)
    return text.part(data.train), text.part(data.test)


def read_new(source: str) -> TextSet:
    """Utterances of a file or a public data set, labelled or not.

    Raises:
        DataError: they cannot be found or read.
    """
    if Path(source).suffix == ".txt":
        lines = Path(source).read_text(encoding="utf-8").splitlines()
        return TextSet.from_texts([line for line in lines if line.strip()])
    return _read(source, {})


def _read(source: str, options: dict[str, Any]) -> TextSet:
    if not Path(source).suffix and not Path(source).exists():
        if not is_public(source):
            raise DataError(
                f"{source!r} is no public data set and no file" + nearest(source, registry.known())
            )
        check_keys("data.options", options, loader_options(source))
        found = registry.load(source, form="text", **options)
        assert isinstance(found, TextSet)
        return found
    if options:
        raise RecipeError(f"data.options {list(options)} are for public data sets")
    return TextSet.from_frame(read_table(source), file=source)


def build(recipe: Recipe, name: str, seed: int) -> tuple[Any, list[Strategy]]:
    """A model of the recipe, untrained, and the strategies of its training.

    Raises:
        RecipeError: a class or key is not known, or a value is refused.
    """
    section = recipe.models[name]
    kind = kind_of(name, section)
    known = parameters_of(kind)
    shared = {key: value for key, value in recipe.defaults.items() if key in known}
    model = make(
        f"models.{name}.options", kind, {**shared, **section.options},
        random_state=seed, seed=seed, threads=recipe.threads,
    )  # fmt: skip
    privacy = section.privacy
    return model, [] if privacy is None else [_strategy(name, privacy)]


def kind_of(name: str, section: ModelSection) -> Any:
    """A class of ``foretell.estimators``.

    Raises:
        RecipeError: there is none of that name.
    """
    from foretell import estimators

    kind = getattr(estimators, section.kind, None)
    if not isinstance(kind, type) or section.kind not in estimators.__all__:
        raise RecipeError(
            f"models.{name}.kind: foretell.estimators has no {section.kind!r}"
            + nearest(section.kind, estimators.__all__)
        )
    return kind


def _strategy(name: str, privacy: PrivacySection) -> PrivateTraining:
    where = f"models.{name}.privacy.options"
    own: dict[str, Any] = {"noise_multiplier": privacy.noise_multiplier}
    own |= {"target_epsilon": privacy.epsilon, "target_delta": privacy.delta}
    kind: type[PrivateTraining] = PrivateTraining
    if privacy.way == "clip_only":
        own["noise_multiplier"] = 0.0
    elif privacy.way == "microbatch":
        kind = NaivelyAccounted if privacy.accounting == "naive" else MicroBatchTraining
        known = [*parameters_of(kind, ("options",)), *parameters_of(PrivateTraining)]
        check_keys(where, privacy.options, [k for k in known if k not in (*_OWN, "clipping")])
        try:
            return kind(**own, **privacy.options)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"{where}: {error}") from error
    found = make(where, kind, privacy.options, **own)
    assert isinstance(found, PrivateTraining)
    return found
