"""Defects of public code for private training, and what is refused: each stays away from ours."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foretell.errors import ForetellError, ParameterError, TrainingError
from foretell.learners.contract import Learner
from foretell.training import TensorExamples, fit
from foretell.training.per_sample import example_by_example
from foretell.training.private import ExactClipper, MicroBatchTraining, PrivateTraining

pytest.importorskip("dp_accounting", reason="needs the extra 'private'")

B, T, WORDS, WIDTH = 6, 5, 12, 4


class Reader(Learner):
    """Tokens to a class a token."""

    def __init__(self, table=None, body=None):
        super().__init__()
        self.table = nn.Embedding(WORDS, WIDTH, padding_idx=0) if table is None else table
        self.body = nn.Identity() if body is None else body
        self.out = nn.Linear(WIDTH, 3)

    def encode(self, batch):
        return self.body(self.table(batch["x"]))

    def decode(self, encoding, batch):
        return self.out(encoding)

    def score(self, output, batch):
        return F.cross_entropy(output.mT, batch["y"], reduction="none").mean(1)


def batch(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, WORDS, (B, T), generator=generator)
    return {"x": x, "y": torch.randint(0, 3, (B, T), generator=generator)}


def norms_by_hand(learner, given):
    found = example_by_example(learner, given, list(learner.parameters()))
    return torch.stack([g.flatten(1).square().sum(1) for g in found.values()]).sum(0).sqrt()


def clipped(learner, given, clipping="book_keeping"):
    return ExactClipper(learner, clipping)(
        given, lambda b: (learner.loss(b), torch.ones(len(b["x"]))), torch.ones_like
    )


@pytest.mark.parametrize("clipping", ["book_keeping", "ghost"])
def test_padding_is_not_in_the_norm(clipping):
    """Opacus 1.6.0 counts the padding row, which never moves."""
    torch.manual_seed(0)
    learner, given = Reader(), batch()
    given["x"][:, 3:] = 0
    torch.testing.assert_close(
        clipped(learner, given, clipping).norms, norms_by_hand(learner, given)
    )


@pytest.mark.parametrize("clipping", ["book_keeping", "ghost"])
def test_expanded_indices_are_read(clipping):
    """Position ids of stride 0 crash Opacus' ghost clipping."""

    class Placed(Reader):
        def __init__(self):
            super().__init__()
            self.places = nn.Embedding(T, WIDTH)

        def encode(self, batch):
            places = torch.arange(T).expand(len(batch["x"]), T)
            return self.table(batch["x"]) + self.places(places)

    torch.manual_seed(0)
    learner, given = Placed(), batch()
    torch.testing.assert_close(
        clipped(learner, given, clipping).norms, norms_by_hand(learner, given)
    )


def test_a_mean_over_the_tokens_of_a_batch_is_refused():
    class TokenMean(Reader):
        def score(self, output, batch):
            losses = F.cross_entropy(output.mT, batch["y"], reduction="none")
            return losses.sum(1) / (batch["x"] != 0).sum()

    with pytest.raises(TrainingError, match="depends on which others"):
        clipped(TokenMean(), batch())


@pytest.mark.parametrize(
    "learner, message",
    [
        (Reader(nn.Embedding(WORDS, WIDTH, max_norm=1.0)), "table has max_norm=1.0.*max_norm=None"),
        (Reader(nn.Embedding(WORDS, WIDTH, scale_grad_by_freq=True)), "scale_grad_by_freq.*False"),
        (
            Reader(body=nn.Conv1d(T, T, 3, padding=1, padding_mode="circular")),
            "body has padding_mode='circular'.*per_sample",
        ),
        (Reader(body=nn.LSTM(WIDTH, 8, proj_size=4)), r"proj_size=4.*torch\.nn\.Linear"),
        (Reader(body=nn.BatchNorm1d(T)), "BatchNorm1d.*GroupNorm"),
        (Reader(body=nn.SyncBatchNorm(T)), "SyncBatchNorm.*GroupNorm"),
    ],
    ids=["max_norm", "freq", "circular", "projection", "batch_norm", "sync_norm"],
)
def test_layers_without_a_guarantee_or_a_rule_are_refused_by_name(learner, message):
    with pytest.raises(TrainingError, match=message):
        ExactClipper(learner)


def test_what_has_no_rule_is_formed_on_request():
    torch.manual_seed(0)
    learner = Reader(body=nn.Conv1d(T, T, 3, padding=1, padding_mode="circular"))
    found = clipped(learner, batch(), "per_sample")
    torch.testing.assert_close(found.norms, norms_by_hand(learner, batch()))


def test_a_parameter_outside_of_a_layer_is_formed_with_one_warning():
    class Scaled(Reader):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(WIDTH))

        def decode(self, encoding, batch):
            return self.out(encoding * self.scale)

    torch.manual_seed(0)
    learner = Scaled()
    clipper = ExactClipper(learner)

    def run():
        return clipper(
            batch(), lambda b: (learner.loss(b), torch.ones(len(b["x"]))), torch.ones_like
        )

    with pytest.warns(UserWarning, match="no rule explains the gradients of scale") as seen:
        found = run()
        run()
    assert len([w for w in seen if "no rule explains" in str(w.message)]) == 1
    torch.testing.assert_close(found.norms, norms_by_hand(learner, batch()))


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
@pytest.mark.filterwarnings("error:no rule explains")
def test_norms_of_half_precision_are_sums_in_single(precision):
    """Sums of squares in bfloat16 stop growing after a few hundred terms."""
    learner, strategy = Reader(), PrivateTraining(1.0, accountant="rdp")
    x = torch.randint(1, WORDS, (200, T))
    fit(learner, TensorExamples({"x": x, "y": x % 3}), strategies=[strategy], max_steps=3,
        batch_size=40, precision=precision, device="cpu", progress=False)  # fmt: skip
    assert strategy.statement().steps == (3,) and strategy.dropped == 0
    torch.manual_seed(0)
    half = Reader().bfloat16()
    found = clipped(half, batch())
    assert found.norms.dtype == torch.float32
    torch.testing.assert_close(found.norms, norms_by_hand(half.float(), batch()), rtol=0.05, atol=0)


def test_the_bound_that_follows_a_quantile_counts_over_the_public_size():
    """Opacus divides by the realised size, which is data; an empty draw moves ours all the same."""
    strategy = PrivateTraining(1.0, max_grad_norm="quantile", accountant="rdp")
    strategy.plan(1000, 100, 10)
    strategy.arrange({"w": nn.Parameter(torch.zeros(2))})
    layers = strategy.layers
    for size in (50, 200):
        layers.own[""] = 1.0
        layers.factors("", 1.0, torch.cat([torch.zeros(20), torch.full((size - 20,), 5.0)]))
        (count,) = layers.counts(None, 1.0, torch.device("cpu"))
        assert count == 20 - size / 2
        layers.follow([count])
        assert layers.own[""] == pytest.approx(np.exp(-0.2 * (count / 100)))


@pytest.mark.parametrize(
    "options",
    [
        {"sensitivity_factor": 1.0},
        {"sensitivity_factor": 1.0, "adjacency": "add_remove_microbatch"},
        {"adjacency": "add_remove_microbatch"},
        {"adjacency": "add_remove_example", "fixed_groups": True},
    ],
    ids=["factor", "factor_and_words", "words", "groups"],
)
def test_false_claims_about_micro_batches_are_refused(options):
    """Accounting clipped micro-batches as if they were examples is the error of many tutorials."""
    with pytest.raises(ParameterError, match=r"false claim|is not what fixed_groups"):
        MicroBatchTraining(1.0, microbatch_size=8, **options)
    MicroBatchTraining(1.0, microbatch_size=8, sensitivity_factor=1.0, fixed_groups=True,
                       adjacency="add_remove_microbatch")  # fmt: skip
    MicroBatchTraining(1.0, microbatch_size=1, sensitivity_factor=1.0)


class Line(Learner):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 1)

    def encode(self, batch):
        return batch["x"]

    def decode(self, encoding, batch):
        return self.layer(encoding)[:, 0]

    def score(self, output, batch):
        return (output - batch["y"]).square()


def train_line(
    folder, size=300, batch_size=30, bound=1.0, slow=0.0, stuck=-1, steps=30, resume=False
):
    x = torch.randn(size, 4, generator=torch.Generator().manual_seed(0))
    learner = Line()
    strategy = PrivateTraining(
        1.0,
        max_grad_norm=bound,
        noise_decay=0.9,
        layer_scale="quantile",
        accountant="rdp",
        noise_seed=0,
    )
    if slow:
        draw = strategy.draw
        strategy.draw = lambda c: time.sleep(600 if c.step == stuck else slow) or draw(c)
    fit(learner, TensorExamples({"x": x, "y": x.sum(1)}), strategies=[strategy], max_steps=steps,
        batch_size=batch_size, checkpoint=folder / "run.ckpt", checkpoint_every=1, resume=resume,
        learning_rate=0.05, device="cpu", progress=False)  # fmt: skip
    return learner, strategy


def test_the_accounts_survive_a_kill_at_any_point(tmp_path):
    """A real process, killed (-9) wherever it stands, again and again until it gets through."""
    expected, strategy = train_line(tmp_path / "whole")
    folder, kills = tmp_path / "killed", 0
    rng = np.random.default_rng(0)
    for attempt in range(200):
        resume = (folder / "run.ckpt").exists()
        process = multiprocessing.get_context("fork").Process(
            target=train_line, args=(folder,),
            # The first one stands still before it is through, however late it is killed.
            kwargs={"slow": 0.02, "resume": resume, "stuck": -1 if attempt else 25},
        )  # fmt: skip
        process.start()
        process.join(0.1 + 0.3 * rng.random() + 0.02 * attempt)
        if not process.is_alive():
            assert process.exitcode == 0
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
    assert kills >= 1
    learner, resumed = train_line(folder, resume=True)
    assert resumed.statement() == strategy.statement()
    assert sum(resumed.statement().steps) == 30
    for mine, theirs in zip(learner.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    "change, name",
    [({"size": 301}, "examples"), ({"batch_size": 31}, "expected_batch_size|batch_size"),
     ({"bound": 2.0}, "max_grad_norm")],
    ids=["N", "q", "C"],
)  # fmt: skip
def test_a_resume_under_other_circumstances_is_refused(tmp_path, change, name):
    train_line(tmp_path, steps=5)
    with pytest.raises(ForetellError, match=name):
        train_line(tmp_path, steps=10, resume=True, **change)
