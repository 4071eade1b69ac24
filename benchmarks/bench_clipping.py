"""Exact private training steps against ordinary ones, a loop over examples, and Opacus.

    python benchmarks/bench_clipping.py                 # batches of 64 x 32 tokens
    python benchmarks/bench_clipping.py --batch 256 --repeats 7

CPU seconds of one whole step (forward, backward, clipping, noise, Adam), the least of the repeats
after a warm-up, all ways interleaved in one process with one thread: a mean of wall times says more
about the machine's other work than about the method. Memory is what three steps add at their peak
to a process of their own that holds model and batch already.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _common import machine, report, resident_mib, run_alone, save, table
from torch import Tensor

from foretell.learners.contract import Batch
from foretell.learners.language import IGNORED, JointLearner, JointShape
from foretell.training.private.clipping import ExactClipper
from foretell.training.private.clipping.per_sample import example_by_example
from foretell.training.private.noise import NoiseSource

VOCABULARY, INTENTS, TAGS = 11_420, 7, 73
BOUND, NOISE, MICRO = 1.0, 1.0, 16


def learner_of(name: str) -> JointLearner:
    """The two models of the tables: 2 layers of width 128, or words 100 and an LSTM of 128."""
    torch.manual_seed(0)
    if name == "transformer":
        shape = JointShape(VOCABULARY, INTENTS, TAGS, name, embedding=128, hidden=128, layers=2)
    else:
        shape = JointShape(VOCABULARY, INTENTS, TAGS, name, embedding=100, hidden=128)
    return JointLearner(shape)


def batch_of(size: int, length: int) -> dict[str, Tensor]:
    """Random utterances of 4 words or more, the first of full length."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, length + 1, (size, 1), generator=generator)
    lengths[0] = length
    mask = torch.arange(length) < lengths
    tokens = torch.randint(2, VOCABULARY, (size, length), generator=generator) * mask
    tags = torch.randint(0, TAGS, tokens.shape, generator=generator)
    intent = torch.randint(0, INTENTS, (size,), generator=generator)
    return {"tokens": tokens, "mask": mask, "slots": tags.masked_fill(~mask, IGNORED),
            "intent": intent}  # fmt: skip


def ordinary(learner: JointLearner, batch: Batch) -> Callable[[], None]:
    """A step without privacy."""
    optimizer = torch.optim.Adam(learner.parameters(), 1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        learner.loss(batch).mean().backward()
        optimizer.step()

    return step


def exact(learner: JointLearner, batch: Batch, clipping: Any) -> Callable[[], None]:
    """Ours."""
    optimizer = torch.optim.Adam(learner.parameters(), 1e-3)
    clipper, noise = ExactClipper(learner, clipping), NoiseSource()
    size = len(batch["intent"])

    def factors(norms: Tensor) -> Tensor:
        return (BOUND / norms.clamp(min=1e-12)).clamp(max=1)

    def evaluate(given: Batch) -> tuple[Tensor, Tensor]:
        return learner.loss(given), torch.ones(size)

    def step() -> None:
        sums = clipper(batch, evaluate, factors).gradients
        noise.add(sums, dict.fromkeys(sums, NOISE * BOUND), torch.device("cpu"))
        for parameter, total in sums.items():
            parameter.grad = total.div_(size)
        optimizer.step()

    return step


def looped(learner: JointLearner, batch: Batch) -> Callable[[], None]:
    """One backward pass an example."""
    parameters = list(learner.parameters())
    optimizer = torch.optim.Adam(parameters, 1e-3)
    noise, size = NoiseSource(), len(batch["intent"])

    def step() -> None:
        sums = {p: torch.zeros_like(p) for p in parameters}
        for i in range(size):
            one = {key: value[i : i + 1] for key, value in batch.items()}
            found = example_by_example(learner, one, parameters)
            norm = torch.stack([g.square().sum() for g in found.values()]).sum().sqrt()
            for p, g in found.items():
                sums[p] += g[0] * (BOUND / norm.clamp(min=1e-12)).clamp(max=1)
        noise.add(sums, dict.fromkeys(sums, NOISE * BOUND), torch.device("cpu"))
        for parameter, total in sums.items():
            parameter.grad = total / size
        optimizer.step()

    return step


def microbatched(learner: JointLearner, batch: Batch) -> Callable[[], None]:
    """One backward pass for each 16 examples: another guarantee, see the module it comes from."""
    parameters = list(learner.parameters())
    optimizer = torch.optim.Adam(parameters, 1e-3)
    noise, size = NoiseSource(), len(batch["intent"])

    def step() -> None:
        sums = {p: torch.zeros_like(p) for p in parameters}
        for rows in torch.randperm(size).split(MICRO):
            part = {key: value[rows] for key, value in batch.items()}
            found = torch.autograd.grad(learner.loss(part).mean(), parameters)
            norm = torch.stack([g.norm() for g in found]).norm()
            for p, g in zip(parameters, found, strict=True):
                sums[p] += g * (BOUND / norm.clamp(min=1e-12)).clamp(max=1)
        noise.add(sums, dict.fromkeys(sums, NOISE * BOUND), torch.device("cpu"))
        for parameter, total in sums.items():
            parameter.grad = total.div_(-(-size // MICRO))
        optimizer.step()

    return step


def opacus(learner: JointLearner, batch: Batch) -> Callable[[], None]:
    """Opacus' hooks and its optimizer, with its LSTM where there is one."""
    from opacus import GradSampleModule
    from opacus.layers import DPLSTM
    from opacus.optimizers import DPOptimizer

    if learner.shape.encoder == "bilstm":
        learner.encoder.lstm = DPLSTM(100, 128, batch_first=True, bidirectional=True)
    wrapped = GradSampleModule(learner)
    optimizer = DPOptimizer(
        torch.optim.Adam(learner.parameters(), 1e-3), noise_multiplier=NOISE,
        max_grad_norm=BOUND, expected_batch_size=len(batch["intent"]),
    )  # fmt: skip

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        learner.score(wrapped(batch), batch).mean().backward()
        optimizer.step()

    return step


MAKE: dict[str, Callable[[JointLearner, Batch], Callable[[], None]]] = {
    "ordinary": ordinary,
    "book_keeping": partial(exact, clipping="book_keeping"),
    "ghost": partial(exact, clipping="ghost"),
    "microbatch": microbatched,
    "loop": looped,
    "opacus": opacus,
}


def measure_memory(name: str, way: str, size: int, length: int) -> None:
    """Reports what three steps add to the resident memory of this process."""
    learner, batch = learner_of(name), batch_of(size, length)
    step = MAKE[way](learner, batch)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of importing is not the step's
    before = resident_mib()
    for _ in range(3):
        step()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            peak = int(line.split()[1]) / 2**10
    report({"added_mib": peak - before})


def main() -> None:
    """Prints a table a network."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--skip", default="", help="ways to leave out, with commas")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        measure_memory(*args.memory.split(","), args.batch, args.length)
        return
    about = machine("foretell", "torch", "opacus")
    print(about)
    chosen = [way for way in MAKE if way not in args.skip.split(",")]
    rows = []
    for name in ("transformer", "bilstm"):
        batch = batch_of(args.batch, args.length)
        ways = {way: MAKE[way](learner_of(name), batch) for way in chosen}
        least = dict.fromkeys(ways, float("inf"))
        wall = dict.fromkeys(ways, float("inf"))
        for repeat in range(args.repeats + 1):
            for way, step in ways.items():
                cpu, clock = time.process_time(), time.perf_counter()
                step()
                if repeat:
                    least[way] = min(least[way], time.process_time() - cpu)
                    wall[way] = min(wall[way], time.perf_counter() - clock)
        for way in ways:
            same = ["--memory", f"{name},{way}", "--batch", str(args.batch), "--length",
                    str(args.length), "--threads", str(args.threads)]  # fmt: skip
            rows.append({
                "network": name, "way": way, "cpu_ms": round(1e3 * least[way], 1),
                "wall_ms": round(1e3 * wall[way], 1),
                "to_ordinary": round(least[way] / least["ordinary"], 2),
                "to_ours": round(least[way] / least["book_keeping"], 2),
                "added_mib": run_alone(__file__, same, args.threads).get("added_mib"),
            })  # fmt: skip
    print(table(rows, list(rows[0])))
    save(args.out, {"machine": about, "batch": args.batch, "length": args.length, "rows": rows})


if __name__ == "__main__":
    main()
