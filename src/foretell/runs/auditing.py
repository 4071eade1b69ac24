"""``foretell audit``: what the training of a finished run gives away about its data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foretell.audits.membership import (
    Kind,
    MembershipAudit,
    ShadowTrainer,
    audit_membership,
    blind_baseline,
    find_duplicates,
)
from foretell.errors import ArtefactError, ParameterError
from foretell.evaluation.report.membership import mia_report
from foretell.runs.engine import make_engine
from foretell.runs.folder import RunFolder
from foretell.runs.runner import read_recipe, task_of
from foretell.runs.tasks import find, names

FOLDER = "audit"


@dataclass(frozen=True, eq=False)
class AuditSubject:
    """A run's training, as an audit repeats it on halves of the data.

    Attributes:
        model: which of the run's models.
        train: ``(members (N,), seed) -> {"signals": (N,), ...}``; can be pickled.
        examples: N.
        unit: what one example is, in the singular.
        signal: what the signals are.
        about: what makes two trainings the same, as JSON values.
        labels: ``(N,)`` classes, if there are such.
        features: what can be known of the examples without the model, ``(N, d)`` or texts.
        hashes: of the examples' contents.
        names: of the examples.
        notes: what must be known about this audit.
        statement_file: where the trainings tell their guarantee, as JSON; None without one.
    """

    model: str
    train: Callable[..., Any]
    examples: int
    unit: str = "example"
    signal: Kind = "logit"
    about: Mapping[str, Any] = field(default_factory=dict)
    labels: Any = None
    features: Any = None
    hashes: Sequence[str] | None = None
    names: Sequence[str] | None = None
    notes: tuple[str, ...] = ()
    statement_file: Path | None = None


def audit_run(
    run: str | Path,
    *,
    shadows: int = 8,
    targets: int | None = None,
    model: str | None = None,
    seed: int = 0,
    engine: str | None = None,
    anew: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[MembershipAudit, Path]:
    """Audits the training of a finished run, and writes ``audit.json`` and ``audit.html`` there.

    ``shadows + 1`` models are trained by the run's own recipe, each on a random half of its data,
    and each is attacked with the others as its shadow models. The models' signals are kept in the
    run's folder ``audit``: an interrupted audit goes on behind what is done, and a later one with
    more shadow models adds to them.

    Args:
        run: folder of a complete run.
        shadows: shadow models an attack; with 0 only the attack on losses is possible.
        targets: how many of the models are attacked; all when None.
        model: which of the run's models; the one that the run kept, or its best, when None.
        seed: of halves and trainings.
        engine: ``"local"`` or ``"ray"``; the run's own when None.
        anew: forget an earlier audit of the run.
        tell: gets a line after each model.

    Returns:
        What was found, and the page.

    Raises:
        ArtefactError: the run is not complete, has no trained model, or its data have changed.
        ParameterError: negative numbers, or a model that the run does not have.
    """
    if shadows < 0:
        raise ParameterError(f"shadows must not be negative, not {shadows}")
    folder = RunFolder(run)
    record = folder.require_complete()
    task = task_of(record)
    if task.audit is None:
        raise ArtefactError(
            f"runs of the task {record.get('task')!r} leave no trained model to audit this way; "
            f"those of {', '.join(name for name in names() if find(name).audit)} do"
        )
    recipe = read_recipe(folder, record)
    subject = task.audit(folder, record, recipe, model)
    home = folder.path.resolve() / FOLDER / subject.model
    if anew:
        shutil.rmtree(home, ignore_errors=True)
        if subject.statement_file is not None:
            subject.statement_file.unlink(missing_ok=True)
    tell(
        f"{subject.model}: {shadows + 1} trainings on halves of {subject.examples:,} "
        f"{subject.unit}s"
    )
    trainer = ShadowTrainer(subject.train, shadows + 1, seed, home, about=subject.about)
    with make_engine(engine or str(record.get("engine", "local"))) as workers:
        trained = trainer.run(subject.examples, engine=workers, tell=tell)
    notes = list(subject.notes)
    first = trained.membership[0]
    if subject.hashes is not None:
        twins = find_duplicates(subject.hashes, first)
        if twins.across:
            notes.append(
                f"{twins.across:,} examples have a twin of equal content on the other side: an "
                "attack that knows them counts as wrong"
            )
    blind = None
    if subject.features is not None and min(first.sum(), (~first).sum()) >= 5:
        blind = blind_baseline(subject.features, first, seed=seed)
    statement = None
    if subject.statement_file is not None and subject.statement_file.is_file():
        statement = json.loads(subject.statement_file.read_text(encoding="utf-8"))
    if shadows == 0:
        notes.append("Without shadow models only the losses are attacked, the weakest attack.")
    audit = audit_membership(
        trained,
        targets=targets,
        signal=subject.signal,
        labels=subject.labels,
        statement=statement,
        blind=blind,
        notes=notes,
    )
    title = f"What {subject.model} gives away: {record.get('title') or folder.path.name}"
    _, page = mia_report(
        audit, folder.path, title=title, record=record, names=subject.names, unit=subject.unit
    )
    return audit, page


def named_model(record: Mapping[str, Any], models: Sequence[str], model: str | None) -> str:
    """The model to audit: the one asked for, the one that the run kept, or its best.

    Raises:
        ParameterError: the run has no such model.
    """
    kept = (record.get("final") or {}).get("model") or record.get("best")
    name = model or kept
    if name not in models:
        raise ParameterError(f"the run has no model {name!r}; it has {', '.join(models)}")
    return str(name)


def require_same_data(folder: RunFolder, record: Mapping[str, Any], fingerprint: str) -> None:
    """Refuses data that are not those of the run.

    Raises:
        ArtefactError: they have changed.
    """
    before = (record.get("data") or {}).get("fingerprint")
    if before is not None and before != fingerprint:
        raise ArtefactError(
            f"the data of the run in {folder.path} have changed since: an audit would speak of "
            "another training"
        )
