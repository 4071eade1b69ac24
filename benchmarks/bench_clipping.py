"""Exact private training steps against ordinary ones, a loop over examples, and Opacus.

    python benchmarks/bench_clipping.py                 # batches of 64 x 32 tokens
    python benchmarks/bench_clipping.py --batch 256 --repeats 7

CPU seconds of one whole step (forward, backward, clipping, noise, Adam), the least of the repeats
after a warm-up, all ways interleaved in one process with one thread: a mean of wall times says more
about the machine's other work than about the method. Memory is what three steps add at their peak
to a process of their own that holds model and batch already.

    ordinary      not private
    floor         an ordinary step, the products that norms need, and the noise: what exact clipping
                  cannot do without
    book_keeping  ours, one forward and one backward pass
    ghost         ours, two backward passes
    microbatch    one backward pass for each 16 examples: another guarantee
    per_sample    every example's gradient formed, vectorised
    loop          a backward pass an example
    opacus        Opacus' hooks, with its DPLSTM
    opacus_ghost  Opacus' ghost clipping, where it can read the network

``foretell dp bench-clipping`` prints the same times without the memory.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from _common import machine, report, resident_mib, run_alone, save, table

from foretell.training.private.timing import MAKE, batch_of, learner_of, time_steps


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
    """Prints a table of both networks."""
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
    missing: list[str] = []
    rows = time_steps(
        args.batch, args.length, args.repeats, skip=args.skip.split(","), threads=args.threads,
        tell=missing.append,
    )  # fmt: skip
    for row in rows:
        same = ["--memory", f"{row['network']},{row['way']}", "--batch", str(args.batch),
                "--length", str(args.length), "--threads", str(args.threads)]  # fmt: skip
        row["added_mib"] = run_alone(__file__, same, args.threads).get("added_mib")
    print(table(rows, list(rows[0])))
    print("\n".join(missing))
    save(args.out, {"machine": about, "batch": args.batch, "length": args.length, "rows": rows,
                    "not_possible": missing})  # fmt: skip


if __name__ == "__main__":
    main()
