"""Models of language trained from scratch, against what needs no training.

    python benchmarks/language.py --out benchmarks/results/language.json
    python benchmarks/language.py --parts wnut17 --steps 50       # a look

Each part trains one estimator for about two minutes of one processor and scores the public test
part once (settings were chosen on validation parts, or on a part of the training data).

    clinc150        TextClassifier("bilstm"): 150 intents of queries
    snips           SequenceTagger: slots of queries
    wnut17          SequenceTagger: names of the web, which training mostly never saw
    xquad           SpanQA: every fifth article is test
    e2e             Seq2Seq: sentences about restaurants from tables
    shakespeare     LanguageModel: characters of plays
    clients         milliseconds that a client of a federation takes for one local step and for a
                    whole round, beside the same steps in one training
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import machine, save, table

from foretell.data import registry
from foretell.data.public.texts import lm_text
from foretell.data.text import HashingVocabulary, TextSet
from foretell.estimators import LanguageModel, Seq2Seq, SequenceTagger, SpanQA, TextClassifier
from foretell.evaluation.language import (
    answer_scores,
    evaluate_language_model,
    rouge,
    slot_scores,
)
from foretell.learners.language import JointLearner, JointShape, TextExamples, TextReader
from foretell.runs.fednlp.answer import nearest_sentences, random_spans
from foretell.runs.fednlp.classify import commonest_tags

COMMON: dict[str, Any] = {"threads": 1, "random_state": 0}
Result = dict[str, Any]


def clinc150(steps: int | None) -> Result:
    """Intents of queries."""
    text = registry.load("clinc150")
    train, test = text.part("train"), text.part("test")
    model = TextClassifier(
        "bilstm", embedding=64, hidden=64, dropout=0.3, unknown_rate=0.05, epochs=8,
        learning_rate=5e-3, schedule="one_cycle", max_steps=steps, **COMMON,
    ).fit(train)  # fmt: skip
    said = model.predict(test).intents
    wrong = np.flatnonzero(said != test.intents)[:3]
    return {
        "metric": "accuracy",
        "ours": float((said == test.intents).mean()),
        "trivial": {"the commonest intent": 1 / len(train.intent_names)},
        "examples": [f"{' '.join(test.tokens[i])} -> {said[i]}" for i in [0, *wrong]],
    }


def tagger(text: TextSet, steps: int | None, **settings: Any) -> Result:
    """A tagger and the commonest tag of each word."""
    train, test = text.part("train"), text.part("test")
    model = SequenceTagger(max_steps=steps, **settings, **COMMON).fit(train)
    found = model.predict(test)
    scores = slot_scores(test.slots, found.slots or [])
    spans = [
        [f"{' '.join(words[s.begin : s.end])} ({s.kind})" for s in own]
        for words, own in zip(found.tokens, found.spans(), strict=True)
    ]
    shown = [i for i, own in enumerate(spans) if own][:4]
    return {
        "metric": "F1 of spans",
        "ours": scores.f1,
        "precision": scores.overall.precision,
        "recall": scores.overall.recall,
        "kinds": {kind: round(score.f1, 3) for kind, score in scores.kinds.items()},
        "trivial": {
            "the commonest tag of each word": slot_scores(
                test.slots, commonest_tags(train, test)
            ).f1
        },
        "examples": [f"{' '.join(test.tokens[i])[:90]} -> {'; '.join(spans[i])}" for i in shown],
    }


def snips(steps: int | None) -> Result:
    """Slots of queries."""
    return tagger(
        registry.load("snips"), steps, hidden=64, dropout=0.3, unknown_rate=0.1, epochs=4,
        learning_rate=5e-3, schedule="one_cycle",
    )  # fmt: skip


def wnut17(steps: int | None) -> Result:
    """Names of the web."""
    return tagger(registry.load("wnut17"), steps, **WNUT)


WNUT: dict[str, Any] = {
    "hidden": 64, "dropout": 0.3, "unknown_rate": 0.2, "epochs": 16, "learning_rate": 4e-3,
    "characters": True,
}  # fmt: skip


def xquad(steps: int | None) -> Result:
    """Questions on paragraphs."""
    questions = registry.load("xquad")
    train, test = questions.part("train"), questions.part("test")
    model = SpanQA(
        hidden=48, embedding=48, dropout=0.3, unknown_rate=0.1, max_length=250, epochs=8,
        learning_rate=5e-3, schedule="one_cycle", max_steps=steps, **COMMON,
    ).fit(train)  # fmt: skip
    said = model.predict(test)
    scores = answer_scores(test.answers, said.texts)
    lines = zip(test.frame["question"], said.texts, test.answers, strict=True)
    return {
        "metric": "F1 of words",
        "ours": scores["token_f1"],
        "exact": scores["exact_match"],
        "trivial": {
            "a random span": random_spans(test),
            "the sentence most like the question": nearest_sentences(test),
        },
        "examples": [f"{q} -> {a} (right: {r[0]})" for q, a, r in list(lines)[:4]],
    }


def e2e(steps: int | None) -> Result:
    """Sentences from tables."""
    pairs = registry.load("seq2seq_small", corpus="e2e")
    train, test = pairs.part("train"), pairs.part("test")
    test = test.select(np.arange(0, len(test), 6))
    model = Seq2Seq(
        embedding=64, hidden=96, epochs=6, learning_rate=3e-3, schedule="one_cycle",
        max_steps=steps, beams=4, **COMMON,
    ).fit(train)  # fmt: skip
    said = model.predict(test)
    scores = rouge(test.references, said)
    common = Counter(train.frame["target"]).most_common(1)[0][0]
    return {
        "metric": "ROUGE-L",
        "ours": scores["rougeL"],
        "rouge1": scores["rouge1"],
        "rouge2": scores["rouge2"],
        "trivial": {
            "the commonest training target": rouge(test.references, [common] * len(test))["rougeL"],
            "the source as it stands": rouge(test.references, test.sources)["rougeL"],
        },
        "examples": [f"{s} -> {t}" for s, t in list(zip(test.sources, said, strict=True))[:3]],
    }


def shakespeare(steps: int | None) -> Result:
    """Characters of plays; the trivial model is the frequency of each character."""
    text = lm_text(registry.path("lm_text"), corpus="tinyshakespeare")
    train, test = text.part("train"), text.part("test")
    test = test.select(np.arange(0, len(test), 4))
    model = LanguageModel(
        "gru", hidden=192, embedding=48, epochs=2, learning_rate=5e-3, schedule="one_cycle",
        max_steps=steps, **COMMON,
    ).fit(train)  # fmt: skip
    found = evaluate_language_model(model, test)
    counts = Counter("\n".join(train.frame["text"]))
    total = sum(counts.values())
    seen = "\n".join(test.frame["text"])
    bits = -np.mean([np.log2(counts.get(c, 1) / total) for c in seen])
    return {
        "metric": "bits per character, less is better",
        "ours": found["bits_per_character"],
        "trivial": {"frequencies of characters": float(bits)},
        "examples": model.predict(["The king "], length=120, temperature=0.7),
    }


def clients(steps: int | None) -> Result:
    """What simulating small clients costs: 20 clients of 10 to 11 queries, a round each."""
    from foretell.training import fit
    from foretell.training.federated import LocalTraining, SplitClients, run_federated

    train = registry.load("snips").part("train").select(np.arange(210))
    rows: dict[str, float] = {}
    reader = TextReader.learn(train, vocabulary=HashingVocabulary(2048), characters=True)
    for name, characters in (("words", False), ("words and letters", True)):
        own = TextReader(
            reader.words, reader.intents, reader.slots, reader.characters if characters else None
        )
        shape = JointShape(
            words=own.codes, intents=0, slots=len(own.slots), embedding=48, hidden=48,
            characters=len(own.characters) if own.characters else 0,
        )  # fmt: skip
        examples = TextExamples(train, own)

        def build(shape: JointShape = shape) -> JointLearner:
            return JointLearner(shape)

        parts = SplitClients(examples, np.array_split(np.arange(len(train)), 20))
        rounds = max(2, (steps or 200) // 40)
        begun = time.process_time()
        run_federated(
            build, parts, rounds=rounds, local=LocalTraining(batch_size=4), timeout=float("inf")
        )
        spent = time.process_time() - begun
        rows[f"{name}: ms a client and round"] = 1e3 * spent / (20 * rounds)
        begun = time.process_time()
        fit(build(), examples, max_steps=60 * rounds, batch_size=4, threads=1)
        alone = time.process_time() - begun
        rows[f"{name}: ms of its 3 steps in one training"] = 1e3 * alone / (20 * rounds)
    return {"metric": "milliseconds", "ours": rows, "trivial": {}, "examples": []}


PARTS: dict[str, Callable[[int | None], Result]] = {
    "clinc150": clinc150, "snips": snips, "wnut17": wnut17, "xquad": xquad, "e2e": e2e,
    "shakespeare": shakespeare, "clients": clients,
}  # fmt: skip


def main() -> None:
    """Trains the parts that the output file does not hold yet, and prints all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="with commas")
    parser.add_argument("--steps", type=int, help="of the optimiser, instead of whole trainings")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    content: dict[str, Any] = {"machine": machine("torch", "rouge-score"), "parts": {}}
    if given.out is not None and given.out.is_file():
        content["parts"] = json.loads(given.out.read_text())["parts"]
    for name in given.parts.split(","):
        if name not in content["parts"]:
            begun = time.process_time()
            found = PARTS[name](given.steps)
            content["parts"][name] = {**found, "cpu_seconds": time.process_time() - begun}
            save(given.out, content)
        found = content["parts"][name]
        print(f"\n{name}: {found['cpu_seconds']:.0f} s of a processor")
        for line in found["examples"]:
            print("  ", line)
    rows = [
        {"part": n, "metric": f["metric"], "ours": f["ours"],
         "without training": "; ".join(f"{k} {v:.3f}" for k, v in f["trivial"].items()),
         "seconds": f["cpu_seconds"]}
        for n, f in content["parts"].items()
        if isinstance(f["ours"], float)
    ]  # fmt: skip
    print("\n" + table(rows, ["part", "metric", "ours", "without training", "seconds"]))
    for name, value in content["parts"].get("clients", {}).get("ours", {}).items():
        print(f"{name}: {value:.1f}")


if __name__ == "__main__":
    main()
