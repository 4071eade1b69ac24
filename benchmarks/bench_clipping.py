"""Exact private training steps against ordinary ones, a loop over examples, and Opacus.

    python benchmarks/bench_clipping.py                 # batches of 64 x 32 tokens
    python benchmarks/bench_clipping.py --batch 256 --repeats 7

CPU seconds of one whole step (forward, backward, clipping, noise, Adam), the least of the repeats
after a warm-up, all ways interleaved in one process with one thread: a mean of wall times says more
about the machine's other work than about the method.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _common import machine, save, table
from torch import Tensor, nn

from foretell.learners.contract import Batch, Learner
from foretell.training.private.clipping import ExactClipper
from foretell.training.private.clipping.per_sample import example_by_example
from foretell.training.private.noise import NoiseSource

VOCABULARY, INTENTS, TAGS = 11_420, 7, 73
BOUND, NOISE = 1.0, 1.0


class Transformer(nn.Module):
    """Two pre-norm layers of width 128, intent and tags."""

    def __init__(
        self, width: int = 128, layers: int = 2, heads: int = 4, longest: int = 64
    ) -> None:
        super().__init__()
        self.heads = heads
        self.tokens = nn.Embedding(VOCABULARY, width, padding_idx=0)
        self.places = nn.Embedding(longest, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.intent = nn.Linear(width, INTENTS)
        self.tags = nn.Linear(width, TAGS)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.arange(tokens.shape[1]).expand_as(tokens).contiguous()
        mask = tokens != 0
        x = self.tokens(tokens) + self.places(places)
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        share = mask.float() / mask.sum(1, keepdim=True)
        return self.intent((x * share.unsqueeze(-1)).sum(1)), self.tags(x)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            self.attend(self.first(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.widen(self.second(x))))


class BiLSTM(nn.Module):
    """Embedding 100, a bidirectional LSTM of 128, intent and tags."""

    def __init__(self, make_lstm: Callable[..., nn.Module] = nn.LSTM) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, 100, padding_idx=0)
        self.lstm = make_lstm(100, 128, batch_first=True, bidirectional=True)
        self.intent = nn.Linear(256, INTENTS)
        self.tags = nn.Linear(256, TAGS)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        mask = tokens != 0
        x = self.lstm(self.tokens(tokens))[0]
        share = mask.float() / mask.sum(1, keepdim=True)
        return self.intent((x * share.unsqueeze(-1)).sum(1)), self.tags(x)


def losses(output: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
    """Intent and mean tag cross-entropy of each example ``(B,)``."""
    intent, tags = output
    mask = batch["tokens"] != 0
    each = F.cross_entropy(tags.flatten(0, 1), batch["tags"].flatten(), reduction="none")
    tagged = (each.view(mask.shape) * mask).sum(1) / mask.sum(1)
    return F.cross_entropy(intent, batch["intent"], reduction="none") + tagged


class Task(Learner):
    """A network as a learner."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def encode(self, batch: Batch) -> Any:
        return self.network(batch["tokens"])

    def decode(self, encoding: Any, batch: Batch) -> Any:
        return encoding

    def score(self, output: Any, batch: Batch) -> Tensor:
        return losses(output, batch)


def ordinary(network: nn.Module, batch: Batch) -> Callable[[], None]:
    """A step without privacy."""
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses(network(batch["tokens"]), batch).mean().backward()
        optimizer.step()

    return step


def exact(network: nn.Module, batch: Batch, clipping: Any) -> Callable[[], None]:
    """Ours."""
    learner = Task(network)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
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


def looped(network: nn.Module, batch: Batch) -> Callable[[], None]:
    """One backward pass an example."""
    learner = Task(network)
    parameters = list(network.parameters())
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


def opacus(network: nn.Module, batch: Batch) -> Callable[[], None]:
    """Opacus' hooks and its optimizer."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    wrapped = GradSampleModule(network)
    optimizer = DPOptimizer(
        torch.optim.Adam(network.parameters(), 1e-3), noise_multiplier=NOISE,
        max_grad_norm=BOUND, expected_batch_size=len(batch["intent"]),
    )  # fmt: skip

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses(wrapped(batch["tokens"]), batch).mean().backward()
        optimizer.step()

    return step


def main() -> None:
    """Prints a table a network."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--skip", default="", help="ways to leave out, with commas")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    about = machine("foretell", "torch", "opacus")
    print(about)
    rows = []
    for name, make in (("transformer", Transformer), ("bilstm", BiLSTM)):
        torch.manual_seed(0)
        lengths = torch.randint(4, args.length + 1, (args.batch, 1))
        lengths[0] = args.length
        tokens = torch.randint(1, VOCABULARY, (args.batch, args.length))
        tokens = tokens * (torch.arange(args.length) < lengths)
        batch = {"tokens": tokens, "tags": torch.randint(0, TAGS, tokens.shape),
                 "intent": torch.randint(0, INTENTS, (args.batch,))}  # fmt: skip
        ways: dict[str, Callable[[], None]] = {
            "ordinary": ordinary(make(), batch),
            "book_keeping": exact(make(), batch, "book_keeping"),
            "ghost": exact(make(), batch, "ghost"),
            "loop": looped(make(), batch),
        }
        if "opacus" not in args.skip:
            from opacus.layers import DPLSTM

            ways["opacus"] = opacus(BiLSTM(DPLSTM) if name == "bilstm" else make(), batch)
        ways = {way: step for way, step in ways.items() if way not in args.skip.split(",")}
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
            rows.append({
                "network": name, "way": way, "cpu_ms": round(1e3 * least[way], 1),
                "wall_ms": round(1e3 * wall[way], 1),
                "to_ordinary": round(least[way] / least["ordinary"], 2),
                "to_ours": round(least[way] / least["book_keeping"], 2),
            })  # fmt: skip
    print(table(rows, list(rows[0])))
    print(f"peak resident {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    save(args.out, {"machine": about, "rows": rows})


if __name__ == "__main__":
    main()
