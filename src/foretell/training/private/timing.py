"""Times of one training step in every way of clipping, beside Opacus where it is installed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from foretell.learners.contract import Batch
from foretell.learners.language import IGNORED, JointLearner, JointShape
from foretell.training.per_sample import example_by_example
from foretell.training.private.clipping import ExactClipper
from foretell.training.private.clipping.book_keeping import Ledger
from foretell.training.private.clipping.recorder import Recorder
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


def floor(learner: JointLearner, batch: Batch) -> Callable[[], None]:
    """What exact clipping cannot do without: an ordinary step, the norms, and the noise."""
    optimizer = torch.optim.Adam(learner.parameters(), 1e-3)
    noise, size = NoiseSource(), len(batch["intent"])
    with Recorder(learner).watching() as uses:
        learner.loss(batch).sum().backward()
    ledger = Ledger(uses, size)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        learner.loss(batch).mean().backward()
        ledger.squared_norms()
        sums = {p: p.grad for p in learner.parameters() if p.grad is not None}
        noise.add(sums, dict.fromkeys(sums, NOISE * BOUND), torch.device("cpu"))
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


def opacus_ghost(learner: JointLearner, batch: Batch) -> Callable[[], None]:
    """Opacus' ghost clipping: two backward passes; it has no rule for an LSTM."""
    from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
        GradSampleModuleFastGradientClipping,
    )
    from opacus.layers import DPLSTM
    from opacus.optimizers.optimizer_fast_gradient_clipping import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    if learner.shape.encoder == "bilstm":
        learner.encoder.lstm = DPLSTM(100, 128, batch_first=True, bidirectional=True)
    wrapped = GradSampleModuleFastGradientClipping(
        learner, max_grad_norm=BOUND, use_ghost_clipping=True
    )
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.Adam(learner.parameters(), 1e-3), noise_multiplier=NOISE,
        max_grad_norm=BOUND, expected_batch_size=len(batch["intent"]),
    )  # fmt: skip

    class Criterion(nn.Module):
        reduction = "mean"

        def forward(self, output: Any, target: Batch) -> Tensor:
            return learner.score(output, target)

    criterion = DPLossFastGradientClipping(wrapped, optimizer, Criterion())

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        criterion(wrapped(batch), batch).backward()
        optimizer.step()

    return step


MAKE: dict[str, Callable[[JointLearner, Batch], Callable[[], None]]] = {
    "ordinary": ordinary,
    "floor": floor,
    "book_keeping": partial(exact, clipping="book_keeping"),
    "ghost": partial(exact, clipping="ghost"),
    "microbatch": microbatched,
    "per_sample": partial(exact, clipping="per_sample"),
    "loop": looped,
    "opacus": opacus,
    "opacus_ghost": opacus_ghost,
}


def time_steps(
    batch: int = 64,
    length: int = 32,
    repeats: int = 5,
    *,
    skip: Sequence[str] = (),
    threads: int = 1,
    tell: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """CPU times of a whole step, all ways interleaved, least of the repeats after a warm-up.

    Args:
        batch: utterances a step.
        length: words of the longest.
        repeats: of which the least counts: a mean says more about the machine's other work.
        skip: ways to leave out.
        threads: of torch.
        tell: gets a line for each way that cannot be had, and why.

    Returns:
        A row a network and way: ``cpu_ms``, ``wall_ms`` and their ratios to ``ordinary`` (not
        private) and to ``book_keeping`` (ours).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    rows = []
    try:
        for name in ("transformer", "bilstm"):
            given = batch_of(batch, length)
            steps: dict[str, Callable[[], None]] = {}
            for way, make in MAKE.items():
                if way in skip:
                    continue
                try:
                    steps[way] = make(learner_of(name), given)
                    steps[way]()
                except Exception as error:  # a peer that is not there, or cannot do this network
                    steps.pop(way, None)
                    first = str(error).strip().partition("\n")[0]
                    tell(f"{name}, {way}: {type(error).__name__}: {first}")
            least = dict.fromkeys(steps, float("inf"))
            wall = dict.fromkeys(steps, float("inf"))
            for _ in range(repeats):
                for way, step in steps.items():
                    cpu, clock = time.process_time(), time.perf_counter()
                    step()
                    least[way] = min(least[way], time.process_time() - cpu)
                    wall[way] = min(wall[way], time.perf_counter() - clock)
            for way in steps:
                rows.append({
                    "network": name, "way": way, "cpu_ms": round(1e3 * least[way], 1),
                    "wall_ms": round(1e3 * wall[way], 1),
                    "to_ordinary": _ratio(least, way, "ordinary"),
                    "to_ours": _ratio(least, way, "book_keeping"),
                })  # fmt: skip
    finally:
        torch.set_num_threads(before)
    return rows


def _ratio(times: dict[str, float], way: str, other: str) -> float | None:
    return round(times[way] / times[other], 2) if other in times else None
