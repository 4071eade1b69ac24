"""What a server accepts from its clients: nothing that is broken is ever averaged in."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from foretell.errors import ParameterError
from foretell.training.federated.flower import refuse
from foretell.training.federated.records import mismatch, to_numpy


@dataclass(frozen=True)
class SizeCap:
    """How large a client may say it is: sizes are weights, and a liar would own the model.

    Args:
        quantile: of the other clients' sizes, what a size beyond belief is cut to.
        tolerance: how many times that quantile a size may be before it is beyond belief. 1 cuts
            every size at the quantile, honest heavy clients included.

    Raises:
        ParameterError: out of range.
    """

    quantile: float = 0.999
    tolerance: float = 10.0

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        if not 0 < self.quantile <= 1:
            raise ParameterError(f"quantile must be in (0, 1], not {self.quantile!r}")
        if not self.tolerance >= 1:
            raise ParameterError(f"tolerance must be at least 1, not {self.tolerance!r}")

    def limit(self, client: int, sizes: dict[int, float]) -> float:
        """The largest size of ``client`` that is believed, and what a larger one is cut to."""
        others = np.array([size for other, size in sizes.items() if other != client and size > 0])
        if not len(others):
            return math.inf
        return float(np.quantile(others, self.quantile, method="higher"))

    def cut(self, client: int, size: float, sizes: dict[int, float]) -> float:
        """The size to count a client with."""
        limit = self.limit(client, sizes)
        return limit if size > self.tolerance * limit else size


@dataclass
class Checked:
    """Replies of one round after the check.

    Attributes:
        replies: all that came, in the clients' order; refused ones as error replies.
        failures: why each failed client's reply does not count.
        capped: sizes that were cut, by client: what it said, what it counts.
    """

    replies: list[Message] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)
    capped: dict[int, tuple[float, float]] = field(default_factory=dict)


def check_replies(
    asked: list[int],
    replies: list[Message],
    arrays: ArrayRecord,
    sizes: dict[int, float],
    *,
    cap: SizeCap | None,
    weight_key: str = "num-examples",
    arrays_key: str = "arrays",
    alike: bool = True,
) -> Checked:
    """Turns replies that cannot be used into errors, and sizes that cannot be true into caps.

    Args:
        asked: clients that were asked.
        replies: what came back.
        arrays: what they were sent.
        sizes: known sizes of clients; those reported now are added.
        cap: None believes every size.
        weight_key: name of the size among a reply's metrics.
        arrays_key: name of the arrays.
        alike: whether metrics must have the names that most replies have, as means need. Without,
            whether a reply counts does not depend on the others'.
    """
    checked = Checked()
    for reply in replies:
        client = reply.metadata.src_node_id
        if reply.has_error():
            problem = reply.error.reason or f"error {reply.error.code}"
        else:
            problem = _problem(reply.content, arrays, weight_key, arrays_key) or ""
        if problem or reply.has_error():
            checked.failures[client] = problem
    sound = [reply for reply in replies if reply.metadata.src_node_id not in checked.failures]
    kinds = Counter(frozenset(_metrics(reply.content)) for reply in sound)
    for reply in sound:
        client, figures = reply.metadata.src_node_id, _metrics(reply.content)
        if alike and frozenset(figures) != kinds.most_common(1)[0][0]:
            checked.failures[client] = f"the reply has metrics {sorted(figures)}"
        else:
            sizes[client] = float(figures[weight_key])  # type: ignore[arg-type]
    answered = {reply.metadata.src_node_id for reply in replies}
    for client in asked:
        if client not in answered:
            checked.failures[client] = "no answer in time"
    for reply in replies:
        client = reply.metadata.src_node_id
        if client in checked.failures:
            reason = checked.failures[client]
            error = reply if reply.has_error() else refuse(reply, reason)
            checked.replies.append(error)
            continue
        content = reply.content
        content[arrays_key] = _in_order(content.array_records[arrays_key], arrays)
        if cap is not None:
            said = sizes[client]
            counts = cap.cut(client, said, sizes)
            if counts != said:
                checked.capped[client] = (said, counts)
                whole = isinstance(_metrics(content)[weight_key], int)
                _metrics(content)[weight_key] = int(counts) if whole else counts
        checked.replies.append(reply)
    for client, (_, counts) in checked.capped.items():
        sizes[client] = counts
    return checked


def _problem(
    content: RecordDict, arrays: ArrayRecord, weight_key: str, arrays_key: str
) -> str | None:
    """Why a reply cannot be averaged; None if it can."""
    if arrays_key not in content.array_records:
        return f"the reply has no arrays {arrays_key!r}"
    if len(content.metric_records) != 1:
        return "the reply has no metrics"
    size = _metrics(content).get(weight_key)
    if isinstance(size, bool) or not isinstance(size, int | float):
        return f"the reply's {weight_key!r} is {size!r}, not a number"
    if not math.isfinite(size) or size <= 0:
        return f"the reply's {weight_key!r} is {size!r}, not a positive number"
    for name, record in content.array_records.items():
        if problem := mismatch(record, arrays):
            return problem if name == arrays_key else f"{name}: {problem}"
        for key, array in record.items():
            try:
                values = to_numpy(array)
            except (ValueError, TypeError, EOFError, OSError) as error:
                return f"array {key!r} cannot be read: {error}"
            if values.shape != tuple(arrays[key].shape):
                return f"array {key!r} holds shape {values.shape}, not {tuple(arrays[key].shape)}"
            if not np.isfinite(values.sum()) and not np.isfinite(values).all():
                return f"array {key!r} holds values that are not finite"
    return None


def _metrics(content: RecordDict) -> MetricRecord:
    return next(iter(content.metric_records.values()))


def _in_order(record: ArrayRecord, arrays: ArrayRecord) -> ArrayRecord:
    """Arrays in the server's order: some of Flower's strategies pair them by position."""
    if list(record) == list(arrays):
        return record
    return ArrayRecord({name: record[name] for name in arrays})
