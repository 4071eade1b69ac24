"""One run about leakage: shadow models of every training, the attacks, and the report."""

from __future__ import annotations

import json
from typing import Any

from foretell.audits.membership import (
    RMIA,
    LiRA,
    LossThreshold,
    MembershipAttack,
    MembershipAudit,
    ShadowTrainer,
    audit_membership,
    check_bound,
    content_hashes,
    find_duplicates,
    thinned,
)
from foretell.errors import ArtefactError
from foretell.runs.folder import RunFolder
from foretell.runs.leakage.publish import draw
from foretell.runs.leakage.recipe import DataSection, Recipe
from foretell.runs.leakage.training import Texts, Training, load
from foretell.runs.memory import peak_memory_mib
from foretell.runs.sources import naming_source
from foretell.runs.tasks import Trip
from foretell.runs.threads import limited_threads
from foretell.training.private import NoisySteps, PrivacyStatement, epsilon

PROTOCOL = "membership"
_NAMES = {
    "LossThreshold": "loss",
    "LiRA online": "lira",
    "LiRA offline": "lira_offline",
    "LiRA online (nig)": "lira_nig",
    "RMIA online": "rmia",
    "RMIA offline": "rmia_offline",
}


def run(trip: Trip[Recipe]) -> dict[str, Any]:
    """Trainings, attacks, lower bounds, and the report."""
    recipe, folder, tell = trip.recipe, trip.folder, trip.tell
    with trip.stage("data"), naming_source(recipe.data.source):
        texts = load(recipe.data)
        about = _describe(recipe.data, texts)
    tell(f"data: {len(texts.train):,} texts to train on, {len(texts.test):,} to judge")
    _require_same_data(folder, about["fingerprint"])
    folder.update(data=about)
    found: dict[str, Any] = {"metrics": {}, "models": {}}
    trainings = {
        name: Training(recipe, name, folder.work.resolve() / name) for name in recipe.models
    }
    for name, training in trainings.items():
        with trip.stage(f"attacks on {name}"), limited_threads(recipe.threads):
            _attack(trip, texts, training, found)
        scores = found["metrics"][name][PROTOCOL]
        tell(f"{name}: LiRA AUC {scores['lira_auc']:.3f}, accuracy {scores['test_accuracy']:.3f}")
    if recipe.attack.canaries:
        with trip.stage("lower bounds"):
            bounds = trip.engine.map(Training.lower_bound, trainings.values())
            for name, bound in zip(trainings, bounds, strict=True):
                found["models"][name] |= bound
                found["metrics"][name][PROTOCOL]["epsilon_low"] = bound["bound"]["epsilon"]
                tell(f"{name}: epsilon is at least {bound['bound']['epsilon']:.2f}")
    ranked = sorted(recipe.models, key=lambda name: found["metrics"][name][PROTOCOL]["lira_auc"])
    found |= {
        "best": ranked[0],
        "attack": {
            "threat_model": "black_box_score",
            "n_models": recipe.attack.n_models,
            "targets": recipe.attack.targets,
            "canaries": recipe.attack.canaries,
        },
        "lesson": lesson(recipe, found["metrics"]),
        "leaderboard": {
            PROTOCOL: [{"rank": rank, "model": name} for rank, name in enumerate(ranked, start=1)]
        },
        "final": {"model": None, "kept": False, "reason": "shadow models are not kept"},
    }
    if found["lesson"]:
        tell(found["lesson"])
    record = folder.update(
        **{**found, "timings": {"stages": trip.seconds}, "peak_memory_mib": peak_memory_mib()}
    )
    with trip.stage("report"):
        draw(folder, record)
    return found


def attacks() -> list[MembershipAttack]:
    """What is tried: variances are global, as the number of shadow models asks for."""
    return [
        LossThreshold(),
        LiRA(),
        LiRA("offline"),
        LiRA(variance="nig"),
        RMIA(),
        RMIA("offline"),
    ]


def lesson(recipe: Recipe, metrics: dict[str, Any]) -> str:
    """What clipping does by itself, if the run has shown it."""
    clipped = [n for n, section in recipe.models.items() if section.clipping_only]
    plain = [n for n, section in recipe.models.items() if not section.is_private]
    if not clipped or not plain:
        return ""
    ours, theirs = (metrics[names[0]][PROTOCOL] for names in (clipped, plain))
    more = ours["lira_auc"] > theirs["lira_auc"]
    more_certain = (ours["lira_tpr"] or 0) > (theirs["lira_tpr"] or 0)
    figures = (
        f"LiRA reaches AUC {ours['lira_auc']:.3f} against {theirs['lira_auc']:.3f}, and at 0.1% "
        f"false alarms finds {100 * (ours['lira_tpr'] or 0):.1f}% of the members against "
        f"{100 * (theirs['lira_tpr'] or 0):.1f}%"
    )
    if more_certain and not more:
        return (
            "At few false alarms clipping without noise leaks more than plain SGD, though not by "
            f"AUC: {figures}."
        )
    if more:
        return f"Clipping without noise leaks more than plain SGD: {figures}."
    return f"Clipping without noise did not leak more than plain SGD here: {figures}."


def _attack(trip: Trip[Recipe], texts: Texts, training: Training, found: dict[str, Any]) -> None:
    """Trains the shadow models of one section and attacks them."""
    recipe, name = trip.recipe, training.model
    section = recipe.models[name]
    about = recipe.model_dump(mode="json", include={"data", "plain", "private"})
    trainer = ShadowTrainer(
        training,
        recipe.attack.n_models,
        recipe.seeds[0],
        training.folder,
        about={**about, "model": section.model_dump(mode="json", exclude={"title"})},
    )

    def tell(line: str) -> None:
        trip.tell(f"{name}: {line}")

    shadows = trainer.run(len(texts.train), engine=trip.engine, tell=tell)
    statement = None
    if section.target_epsilon is not None:
        statement = json.loads(training.statement_file.read_text(encoding="utf-8"))
    audit = audit_membership(shadows, attacks(), targets=recipe.attack.targets, statement=statement)
    metrics: dict[str, Any] = {"test_accuracy": float(shadows.extra["test_accuracy"].mean())}
    for summary in audit.summaries:
        short = _NAMES[summary.attack]
        metrics[f"{short}_auc"] = summary.auc
        metrics[f"{short}_tpr"] = summary.tpr_at(1e-3)
    tight = None if statement is None else _tight(statement)
    if tight is not None:
        metrics |= {"epsilon": section.target_epsilon, "epsilon_pld": tight}
    document = audit.to_dict()
    document["curves"] = _curves(audit)
    document["dp_bound"] = _bound(audit, statement, tight)
    found["metrics"][name] = {PROTOCOL: metrics}
    found["models"][name] = {
        "title": section.title or name,
        "private": section.is_private,
        "noise": statement["noise_multipliers"][0]
        if statement
        else (0.0 if section.is_private else None),
        "statement": None if statement is None else str(PrivacyStatement.from_dict(statement)),
        "audit": document,
    }


def _tight(statement: dict[str, Any]) -> float:
    """The epsilon of the tight accountant, which attacks are held against."""
    rate = float(statement["sampling"].removeprefix("poisson(").removesuffix(")"))
    pairs = zip(statement["noise_multipliers"], statement["steps"], strict=True)
    return epsilon([NoisySteps(rate, noise, steps) for noise, steps in pairs], statement["delta"])


def _bound(
    audit: MembershipAudit, statement: dict[str, Any] | None, tight: float | None
) -> dict[str, Any] | None:
    """All points of all curves against ``TPR <= exp(epsilon) FPR + delta``."""
    if statement is None or tight is None:
        return None
    checks = [
        check_bound(result.scores, result.membership, tight, statement["delta"])
        for results in audit.results.values()
        for result in results
    ]
    return {
        "epsilon": tight,
        "delta": statement["delta"],
        "points": sum(check.points for check in checks),
        "violations": sum(check.violations for check in checks),
        "closest": max(check.closest for check in checks),
    }


def _curves(audit: MembershipAudit) -> dict[str, Any]:
    """Curves of the first target, thinned, for the report."""
    drawn = {}
    for name in ("LiRA online", "RMIA online", "LossThreshold"):
        fpr, tpr = thinned(audit.results[name][0].curve, 120)
        drawn[name] = {"fpr": fpr.tolist(), "tpr": tpr.tolist()}
    return drawn


def _describe(section: DataSection, texts: Texts) -> dict[str, Any]:
    twins = find_duplicates(content_hashes([" ".join(t) for t in texts.text.tokens]))
    notes = [{"kind": n.kind, "message": n.message, "count": n.count} for n in texts.text.notes]
    if twins.groups:
        count = int(sum(map(len, twins.groups)))
        message = (
            f"{count} texts have a twin with the same words: where it lies on the other side, an "
            "attack that knows them counts as wrong"
        )
        notes.append({"kind": "duplicates", "message": message, "count": count})
    return {
        "source": section.source,
        "options": section.options,
        "fingerprint": texts.train.fingerprint,
        "train_texts": len(texts.train),
        "test_texts": len(texts.test),
        "labels": len(texts.train.reader.intents),
        "features": section.features,
        "notes": notes,
    }


def _require_same_data(folder: RunFolder, fingerprint: str) -> None:
    before = (folder.read().get("data") or {}).get("fingerprint")
    if before is not None and before != fingerprint:
        raise ArtefactError(
            f"the data of the run in {folder.path} are not what they were when it was started: "
            "start anew in another folder"
        )


def _noise(statement: dict[str, Any] | None, private: bool) -> float | None:
    """Noise over the clipping bound; 0 of clipping alone, None of plain training."""
    if statement is not None:
        return float(statement["noise_multipliers"][0])
    return 0.0 if private else None
