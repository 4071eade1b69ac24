"""Membership attacks on 20 Newsgroups, measured as the acceptance asks for them.

Softmax regression on hashed bags of words (8,192 features, tf-idf), plain SGD, 33 models on random
halves; the attacks' figures are means over four targets, with 32 and with 4 shadow models.

    python benchmarks/membership.py --out benchmarks/results/membership.json

Models are kept in ``--work``: what is interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np

from foretell.audits.membership import (
    RMIA,
    LiRA,
    LossThreshold,
    MembershipAttack,
    MembershipAudit,
    ShadowClassifier,
    ShadowTrainer,
    auc,
    audit_membership,
)
from foretell.runs import recipe as recipes
from foretell.runs.leakage.training import Training, load

MODELS, TARGETS = 33, 4


def attacks(labels: np.ndarray) -> list[MembershipAttack]:
    return [
        LossThreshold(),
        ShadowClassifier(labels),
        LiRA(variance="global"),
        LiRA("offline", "global"),
        LiRA(variance="per_example"),
        LiRA(variance="nig"),
        RMIA(),
        RMIA("offline"),
    ]


def permuted(audit: MembershipAudit) -> dict[str, float]:
    """AUC of each attack against a permuted membership of the targets, mean."""
    rng = np.random.default_rng(0)
    return {
        name: float(np.mean([auc(r.scores, rng.permutation(r.membership)) for r in results]))
        for name, results in audit.results.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/membership.json"))
    parser.add_argument("--work", type=Path, default=Path(gettempdir()) / "foretell-membership")
    given = parser.parse_args()
    recipe: Any = recipes.load("leakage-study")
    texts = load(recipe.data)
    labels = texts.train.intents
    assert labels is not None
    trainer = ShadowTrainer(Training(recipe, "plain", given.work), MODELS, 0, given.work)
    shadows = trainer.run(len(texts.train), tell=print)
    document: dict[str, Any] = {
        "test_accuracy": float(shadows.extra["test_accuracy"].mean()),
        "models": MODELS,
        "targets": TARGETS,
        "examples": len(texts.train),
        "attacks": {},
        "permuted": {},
    }
    for around in (MODELS - 1, 4):
        begun = time.process_time()
        made = attacks(labels)
        audit = audit_membership(shadows, made, targets=TARGETS, n_shadows=around)
        document["attacks"][f"{around} shadows"] = [s.to_dict() for s in audit.summaries]
        document["permuted"][f"{around} shadows"] = permuted(audit)
        print(f"{around} shadow models ({time.process_time() - begun:.1f} s)")
        for summary in audit.summaries:
            print(
                f"  {summary.attack:28s} AUC {summary.auc:.3f}  TPR at 0.1% "
                f"{summary.tpr_at(1e-3):.4f}  permuted "
                f"{document['permuted'][f'{around} shadows'][summary.attack]:.3f}"
            )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
