"""Stays in which sepsis comes more than once, cut so that each part has one onset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from foretell.data.clinical.stays import Stays
from foretell.data.panel import Categorical
from foretell.errors import DataError, ParameterError


def split_episodes(
    stays: Stays, onsets: Mapping[str, Sequence[float]], *, washout: float = 48
) -> Stays:
    """Cuts stays with several onsets into episodes; no row is copied.

    The first onset is that of the stay. ``washout`` hours after an onset a new episode begins,
    named ``"A/1#2"``, with its own first row, onset and, from then on, features that know nothing
    of the episode before. Onsets within the washout of the one before belong to it. An episode
    after the last onset has none, and ends with the stay. Onsets whose washout ends before the
    first row are left out.

    Args:
        stays: as read.
        onsets: id of the stay -> hours of its onsets on the unit's clock; stays that are not named
            keep the onset they have.
        washout: hours from an onset to the next episode.

    Raises:
        DataError: an id is not among the stays, or an onset is not finite.
        ParameterError: the washout is not positive.
    """
    if not washout > 0:
        raise ParameterError(f"the washout must be positive, not {washout}")
    unknown = set(onsets) - set(stays.ids.tolist())
    if unknown:
        raise DataError("onsets are given for a stay that is not there", series=min(unknown))
    source, names, begins, lengths, starts, found = [], [], [], [], [], []
    for i, name in enumerate(stays.ids.tolist()):
        given = np.sort(np.asarray(onsets.get(name, ()), np.float64))
        if not np.isfinite(given).all():
            raise DataError("an onset is not finite", series=name)
        first, end = int(stays.starts[i]), int(stays.starts[i] + stays.lengths[i])
        queue: list[float] = given.tolist() if name in onsets else [float(stays.onset[i])]
        if name in onsets:
            # An onset that was washed out before the first row leaves no row of its episode.
            queue = [o for o in queue if np.ceil(o + washout) > first]
        number = 1
        at = first
        while True:
            onset = queue.pop(0) if queue else np.nan
            after = int(np.ceil(onset + washout)) if np.isfinite(onset) else end
            queue = [o for o in queue if o >= after]
            # A stay of one onset stays whole, as others do.
            stop = min(after, end) if name in onsets else end
            source.append(i)
            names.append(name if number == 1 else f"{name}#{number}")
            begins.append(int(stays.begins[i]) + at - first)
            lengths.append(stop - at)
            starts.append(at)
            found.append(onset)
            at, number = stop, number + 1
            if at >= end:
                break
    rows = np.array(source, np.int64)
    return replace(
        stays,
        ids=np.array([*names, None], object)[:-1],
        patients=stays.patients[rows],
        begins=np.array(begins, np.int64),
        lengths=np.array(lengths, np.int64),
        starts=np.array(starts, np.int64),
        onset=np.array(found, np.float64),
        categories={
            k: Categorical(c.codes[rows], c.vocabulary) for k, c in stays.categories.items()
        },
        numbers={k: v[rows] for k, v in stays.numbers.items()},
    )
