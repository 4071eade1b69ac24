"""Finding the likeliest text: the likeliest word each time, or several texts side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from foretell.data.text import PADDING, UNKNOWN
from foretell.errors import ParameterError
from foretell.learners.contract import Batch
from foretell.learners.language.seq2seq import Seq2SeqLearner


@torch.no_grad()
def generate(
    learner: Seq2SeqLearner,
    batch: Batch,
    *,
    begin: int,
    end: int,
    beams: int = 1,
    max_length: int = 60,
    length_penalty: float = 0.6,
    never: tuple[int, ...] = (PADDING, UNKNOWN),
) -> list[list[int]]:
    """Targets of a batch of sources, as codes.

    Beam search keeps the ``beams`` likeliest beginnings of each text; those that have ended compete
    by their log chance over ``((5 + length) / 6) ** length_penalty`` (Wu et al. 2016, equation 14).

    Args:
        learner: what speaks; put into evaluation mode by the caller.
        batch: ``source``, ``source_mask`` and ``copied``.
        begin: code before the first word.
        end: code after the last one.
        beams: 1 for greedy search.
        max_length: words at most.
        length_penalty: 0 for none.
        never: codes that are not said.

    Raises:
        ParameterError: fewer than one beam or word.
    """
    if beams < 1 or max_length < 1:
        raise ParameterError(f"beams and max_length must be positive: {beams}, {max_length}")
    copied, device = batch["copied"], batch["source"].device
    size, words = len(copied), learner.shape.words
    codes = max(words, int(copied.max()) + 1)
    encoding = learner.encode(batch)
    state = learner.begin(encoding, batch)

    def spread(values: Tensor) -> Tensor:
        return values.repeat_interleave(beams, 0)

    encoding, mask, copied, state = map(spread, (encoding, batch["source_mask"], copied, state))
    said = torch.full((size * beams, 1), begin, device=device)
    # All beams begin alike: only the first of each text counts at first.
    chance = torch.full((size, beams), -torch.inf, device=device, dtype=encoding.dtype)
    chance[:, 0] = 0
    ended: list[list[tuple[float, list[int]]]] = [[] for _ in range(size)]
    for length in range(1, max_length + 1):
        last = said[:, -1:]
        known = last.where(last < words, torch.full_like(last, UNKNOWN))
        output, state = learner.speak(known, state, encoding, mask)
        step = learner.mixed(output, copied, codes)[:, 0]
        step[:, [*never, begin]] = -torch.inf
        total = chance.view(-1, 1) + step
        # One more than there are beams, so that texts that end leave no beam empty.
        best, place = total.view(size, -1).topk(min(2 * beams, total.shape[1] * beams), 1)
        rows, following = place // codes, place % codes
        scale = ((5 + length) / 6) ** length_penalty
        picked_rows = torch.zeros(size, beams, dtype=torch.long, device=device)
        picked = torch.full((size, beams), end, device=device)
        chance = torch.full_like(chance, -torch.inf)
        for text in range(size):
            kept = 0
            for rank in range(best.shape[1]):
                value, word = float(best[text, rank]), int(following[text, rank])
                if value == -torch.inf or kept == beams:
                    break
                row = text * beams + int(rows[text, rank])
                if word == end:
                    if rank < beams:
                        ended[text].append((value / scale, said[row, 1:].tolist()))
                    continue
                picked_rows[text, kept], picked[text, kept] = row, word
                chance[text, kept] = value
                kept += 1
            # What has ended cannot be beaten any more: chances only fall.
            bound = ((5 + max_length) / 6) ** length_penalty
            done = ended[text] and max(ended[text])[0] >= float(chance[text].max()) / bound
            if done or (beams == 1 and ended[text]):
                chance[text] = -torch.inf
        if bool((chance == -torch.inf).all()):
            break
        at = picked_rows.flatten()
        said = torch.cat([said[at], picked.view(-1, 1)], 1)
        state = state[at]
    scale = ((5 + max_length) / 6) ** length_penalty
    found = []
    for text in range(size):
        # Texts that reached the end of the search without an end count as they are.
        going = [
            (float(chance[text, beam]) / scale, said[text * beams + beam, 1:].tolist())
            for beam in range(beams)
            if chance[text, beam] > -torch.inf
        ]
        found.append(max(ended[text] or going or [(0.0, [])])[1])
    return found
