"""Turning one text into another: gated recurrent units, attention, and a way to copy words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretell.errors import ParameterError
from foretell.learners.contract import Batch, Learner
from foretell.learners.language.reader import IGNORED
from foretell.learners.language.recurrent import GRU

_LEAST = 1e-12


@dataclass(frozen=True)
class Seq2SeqShape:
    """Widths and options of a :class:`Seq2SeqLearner`, JSON-able.

    Args:
        words: codes of words or pieces.
        embedding: dimensions of a word.
        hidden: units of each direction of the encoder; the decoder has as many.
        dropout: share of embedded and decoded values dropped.
        copy: whether words of the source can be copied.
    """

    words: int
    embedding: int = 100
    hidden: int = 128
    dropout: float = 0.0
    copy: bool = True

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


class Seq2SeqOutput(NamedTuple):
    """What is said of the next word at each step, given the true words before it.

    Attributes:
        words: ``(B, T, V)`` log chances of the vocabulary's words, were they chosen from it.
        copies: ``(B, T, S)`` chances of the source's places, were one of them copied.
        choose: ``(B, T)`` score, before the sigmoid, of choosing from the vocabulary.
    """

    words: Tensor
    copies: Tensor
    choose: Tensor


class Seq2SeqLearner(Learner):
    """Encoder and decoder with attention (Luong et al. 2015) that points too (See et al. 2017).

    The decoder's units do not read what was attended to before, so that all its steps are one call;
    one table of words serves source, target and output (Press and Wolf 2017). Words that the
    vocabulary lacks have codes of their own in each example, from V on in the order of the source.

    Args:
        shape: widths and options.

    Raises:
        ParameterError: dropout out of its range.
    """

    def __init__(self, shape: Seq2SeqShape) -> None:
        super().__init__()
        if not 0 <= shape.dropout < 1:
            raise ParameterError(f"dropout must lie in [0, 1), not {shape.dropout}")
        self.shape = shape
        size, width = shape.embedding, shape.hidden
        self.embedding = nn.Embedding(shape.words, size, padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=size**-0.5)
        with torch.no_grad():
            self.embedding.weight[0] = 0
        self.forwards, self.backwards = GRU(size, width), GRU(size, width)
        self.bridge = nn.Linear(2 * width, width)
        self.decoder = GRU(size, width)
        self.attend = nn.Linear(width, 2 * width)
        self.combine = nn.Linear(3 * width, size)
        self.output = nn.Linear(size, shape.words)
        self.output.weight = self.embedding.weight
        self.choose = nn.Linear(3 * width + size, 1) if shape.copy else None

    def _drop(self, values: Tensor) -> Tensor:
        return F.dropout(values, self.shape.dropout, self.training)

    def encode(self, batch: Batch) -> Tensor:
        """State of each word of the source ``(B, S, 2 hidden)``; 0 in the padding."""
        mask = batch["source_mask"]
        embedded = self._drop(self.embedding(batch["source"]))
        steps = torch.arange(mask.shape[1], device=mask.device)
        own = mask.sum(1, keepdim=True)
        turned = torch.where(steps < own, own - 1 - steps, steps).unsqueeze(-1)
        right, _ = self.forwards(embedded)
        left, _ = self.backwards(embedded.gather(1, turned.expand_as(embedded)))
        left = left.gather(1, turned.expand_as(left))
        return torch.cat([right, left], -1) * mask.unsqueeze(-1)

    def begin(self, encoding: Tensor, batch: Batch) -> Tensor:
        """State of the decoder ``(B, hidden)`` before its first word."""
        width = self.shape.hidden
        last = batch["source_mask"].sum(1).clamp(min=1) - 1
        rows = torch.arange(len(encoding), device=encoding.device)
        ends = torch.cat([encoding[rows, last, :width], encoding[:, 0, width:]], -1)
        return torch.tanh(self.bridge(ends))

    def speak(
        self, tokens: Tensor, state: Tensor, encoding: Tensor, mask: Tensor
    ) -> tuple[Seq2SeqOutput, Tensor]:
        """What follows words ``(B, T)``, and the decoder's state ``(B, hidden)`` after them."""
        embedded = self._drop(self.embedding(tokens))
        states, state = self.decoder(embedded, state)
        scores = self.attend(states) @ encoding.mT
        weights = scores.masked_fill(~mask[:, None, :], -1e4).softmax(-1)
        both = torch.cat([states, weights @ encoding], -1)
        words = self.output(self._drop(torch.tanh(self.combine(both)))).log_softmax(-1)
        if self.choose is None:
            choose = words.new_full(words.shape[:2], torch.inf)
        else:
            choose = self.choose(torch.cat([both, embedded], -1)).squeeze(-1)
        return Seq2SeqOutput(words, weights, choose), state

    def decode(self, encoding: Tensor, batch: Batch) -> Seq2SeqOutput:
        """Chances of each word of the target, given those before it."""
        state = self.begin(encoding, batch)
        return self.speak(batch["target"], state, encoding, batch["source_mask"])[0]

    def score(self, output: Seq2SeqOutput, batch: Batch) -> Tensor:
        """Mean negative log chance of the example's own target words ``(B,)``."""
        labels = batch["labels"]
        real = labels != IGNORED
        known = real & (labels < self.shape.words)
        listed = labels.where(known, torch.zeros_like(labels)).unsqueeze(-1)
        log_chance = output.words.gather(-1, listed).squeeze(-1)
        if self.shape.copy:
            there = batch["copied"][:, None, :] == labels.unsqueeze(-1)
            copied = (output.copies * there).sum(-1).clamp(min=_LEAST).log()
            log_chance = log_chance.masked_fill(~known, -1e4)
            log_chance = torch.logaddexp(
                F.logsigmoid(output.choose) + log_chance, F.logsigmoid(-output.choose) + copied
            )
        losses = -(log_chance.where(real, torch.zeros_like(log_chance))).sum(1)
        return losses / real.sum(1).clamp(min=1)

    def mixed(self, output: Seq2SeqOutput, copied: Tensor, codes: int) -> Tensor:
        """Log chances ``(B, T, codes)`` of all words, those that only the source has included."""
        batch, steps, words = output.words.shape
        chances = output.words.new_zeros(batch, steps, codes)
        chances[..., :words] = output.words.exp()
        if self.shape.copy:
            choose = output.choose.sigmoid().unsqueeze(-1)
            places = copied[:, None, :].expand(-1, steps, -1)
            chances = (chances * choose).scatter_add(2, places, output.copies * (1 - choose))
        return chances.clamp(min=_LEAST).log()
