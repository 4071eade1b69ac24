"""Providers and what they hold as folders of JSON and safetensors, never a pickle."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from foretell.errors import ArtefactError
from foretell.learners.artefact import load_artefact, read_kind, readable, save_artefact
from foretell.learners.trees.boosted_trees import BoostedTrees


class SavedTrees:
    """Boosted trees that were saved, as a fitted classifier.

    Args:
        trees: splits and leaf values.
        classes: ``(2,)`` the classes.
    """

    def __init__(self, trees: BoostedTrees, classes: NDArray) -> None:
        self.trees, self.classes_ = trees, classes

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probabilities ``(n, 2)`` of ``classes_``."""
        return self.trees.predict_proba(np.asarray(X, np.float64))


def classes_to_json(classes: NDArray) -> dict[str, Any]:
    """Classes with their type, as JSON values."""
    return {"dtype": classes.dtype.str, "values": classes.tolist()}


def classes_from_json(document: dict[str, Any]) -> NDArray[Any]:
    """Takes back what :func:`classes_to_json` gave."""
    kind = str(document["dtype"])
    return np.array(document["values"], dtype=object if "O" in kind else kind)


def save_estimator(estimator: Any, folder: str | Path) -> None:
    """Writes a fitted provider or classifier.

    Raises:
        ArtefactError: it, or what it holds, cannot be written without pickle.
    """
    from foretell.estimators.uncertainty.ensemble import EnsembleUncertainty, FittedEnsemble
    from foretell.estimators.uncertainty.laplace import LaplaceUncertainty
    from foretell.estimators.uncertainty.mc_dropout import MCDropoutUncertainty

    folder = Path(folder)
    name = type(estimator).__name__
    config: dict[str, Any] = {}
    arrays: dict[str, NDArray] = {}
    if isinstance(estimator, LogisticRegression):
        arrays = {"coef": estimator.coef_, "intercept": np.atleast_1d(estimator.intercept_)}
        config = {"classes": classes_to_json(estimator.classes_)}
    elif type(estimator) is HistGradientBoostingClassifier:
        numbered = copy.copy(estimator)
        numbered.classes_ = np.array([0, 1])
        BoostedTrees.from_sklearn(numbered).save(folder / "trees")
        config = {"classes": classes_to_json(estimator.classes_)}
    elif isinstance(estimator, EnsembleUncertainty | FittedEnsemble):
        if isinstance(estimator, EnsembleUncertainty):
            members, positive = estimator.estimators_, estimator.classes_[1:]
        else:
            members, positive = estimator.members, np.asarray([estimator.positive])
        config = {
            "uncertainty": estimator.uncertainty,
            "positive": classes_to_json(positive),
            "members": len(members),
        }
        for number, member in enumerate(members):
            save_estimator(member, folder / f"member{number}")
        name = "FittedEnsemble"
    elif isinstance(estimator, MCDropoutUncertainty):
        config = {
            "n_draws": estimator.n_draws,
            "uncertainty": estimator.uncertainty,
            "seed": estimator.seed_,
        }
        save_estimator(estimator.estimator_, folder / "estimator")
    elif isinstance(estimator, LaplaceUncertainty):
        config = {
            "uncertainty": estimator.uncertainty,
            "prior_precision": estimator.prior_precision,
            "posterior_precision": estimator.posterior_.prior_precision,
        }
        arrays = {"factor": np.tril(estimator.posterior_.factor)}
        save_estimator(estimator.estimator_, folder / "estimator")
    elif hasattr(estimator, "save"):
        estimator.save(folder)
        return
    else:
        raise ArtefactError(
            f"a {name} cannot be saved without pickle. Pickle the whole classifier, or use a "
            "network, logistic regression or histogram-based gradient boosting inside"
        )
    save_artefact(folder, name, config, arrays)


def load_estimator(folder: str | Path) -> Any:
    """Reads what :func:`save_estimator` wrote.

    Raises:
        ArtefactError: the folder is damaged, newer, or holds something unknown.
    """
    from foretell.estimators.uncertainty.ensemble import FittedEnsemble
    from foretell.estimators.uncertainty.laplace import LaplaceUncertainty, LogisticPosterior
    from foretell.estimators.uncertainty.mc_dropout import MCDropoutUncertainty

    folder = Path(folder)
    kind = read_kind(folder)
    known = {
        "LogisticRegression",
        "HistGradientBoostingClassifier",
        "FittedEnsemble",
        "MCDropoutUncertainty",
        "LaplaceUncertainty",
    }
    if kind not in known:
        return _loadable(folder, kind).load(folder)
    config, arrays = load_artefact(folder, kind)
    with readable(folder, kind):
        if kind == "LogisticRegression":
            return _logistic(config, arrays)
        if kind == "HistGradientBoostingClassifier":
            classes = classes_from_json(config["classes"])
            return SavedTrees(BoostedTrees.load(folder / "trees"), classes)
        if kind == "FittedEnsemble":
            members = [load_estimator(folder / f"member{i}") for i in range(config["members"])]
            positive = classes_from_json(config["positive"])[0]
            return FittedEnsemble(members, positive, config["uncertainty"])
        inner = load_estimator(folder / "estimator")
        if kind == "MCDropoutUncertainty":
            dropout = MCDropoutUncertainty(
                inner, n_draws=config["n_draws"], uncertainty=config["uncertainty"]
            )
            dropout.seed_ = config["seed"]
            return dropout._adopt(inner)
        model = LaplaceUncertainty(
            inner, prior_precision=config["prior_precision"], uncertainty=config["uncertainty"]
        )
        model.estimator_, model.classes_ = inner, np.asarray(inner.classes_)
        model.posterior_ = LogisticPosterior(arrays["factor"], config["posterior_precision"])
    return model


def _logistic(config: dict[str, Any], arrays: dict[str, NDArray]) -> LogisticRegression:
    model = LogisticRegression()
    model.coef_, model.intercept_ = arrays["coef"], arrays["intercept"]
    model.classes_ = classes_from_json(config["classes"])
    model.n_features_in_ = model.coef_.shape[1]
    return model


def _loadable(folder: Path, kind: str) -> Any:
    from foretell.estimators.feedback import DelayedFeedbackClassifier
    from foretell.estimators.uncertainty.network import NetworkClassifier
    from foretell.estimators.uncertainty.posterior_network import PosteriorNetworkClassifier

    classes: tuple[Any, ...] = (
        NetworkClassifier,
        PosteriorNetworkClassifier,
        DelayedFeedbackClassifier,
    )
    for candidate in classes:
        if candidate.__name__ == kind:
            return candidate
    raise ArtefactError(f"{folder} holds a {kind}, which is no uncertainty provider")
