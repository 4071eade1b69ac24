"""What a stay is offered to measure: asked as an hour closes, taken off as it comes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from foretell.decisions.alarms import AlarmState
from foretell.serving.errors import ScorerFailedError
from foretell.serving.worker.hours import Hours
from foretell.serving.worker.scorer import AMBIGUOUS, Risk
from foretell.serving.worker.state import ANSWERS, STANDS, PatientState

log = logging.getLogger("foretell.serving.worker")
_KEPT = 20


class Offers(Hours):
    """Asks scorers that advise, and keeps what became of it."""

    def _adviser(self, state: PatientState, hour: int, risk: Risk, alarms: AlarmState) -> Any:
        """The scorer that may say what to measure, None where nothing is to be asked for.

        Asked where it may matter: near the threshold, or where the gate cannot tell.
        """
        if alarms.suppression is not None and alarms.suppression.until >= hour:
            # Who wants no alarms for a reason, such as comfort care, wants no tests for them.
            return None
        primary = self._asked(state, hour)[0]
        if risk.value is None or risk.model != primary or primary not in self._number:
            return None
        scorer = self.ladder.scorers[self._number[primary]]
        if not _advises(scorer) or _advice_of(primary) in state.off:
            return None
        low = self.rules(state.site).policy.tiers[0].of(state.unit(hour))
        return scorer if risk.status == AMBIGUOUS or risk.value >= low / 2 else None

    def _standing(
        self, state: PatientState, hour: int, risk: Risk, alarms: AlarmState,
        after: Sequence[Mapping[str, NDArray]],
    ) -> list[dict[str, Any]]:  # fmt: skip
        """What was offered as the last hour closed, less what has come or is ordered since.

        Nothing where another model speaks by now: it is asked as its first hour closes.
        """
        scorer = self._adviser(state, hour, risk, alarms) if state.offers else None
        if scorer is None or scorer.version != self._asked(state, state.closed)[0]:
            return []
        memory = after[self._number[scorer.version]]
        return self._extra(state, scorer, "still", state.offers, memory)

    def _offer(self, state: PatientState, hour: int, risk: Risk) -> None:
        """Asks what to measure as an hour that was computed last closes, and keeps the offers.

        When views are made depends on commits, when hours close on the log alone. What was offered
        and has come is kept with what it did to the risk.
        """
        if state.asked:
            self._answer(state, hour, risk)
        # In the order of a snapshot, which sorts its keys.
        state.offers = [dict(sorted(o.items())) for o in self._advice(state, hour, risk)]
        for panel in state.offers:
            made = state.asked.get(panel["panel"])
            if made is None or hour - made > STANDS:
                state.asked[panel["panel"]] = hour

    def _advice(self, state: PatientState, hour: int, risk: Risk) -> list[dict[str, Any]]:
        """What to measure in the hour that was computed last."""
        scorer = self._adviser(state, hour, risk, state.checkpoints[-1].alarms)
        if scorer is None:
            return []
        number = self._number[scorer.version]
        before, features, after = self._seen
        if features[number] is None:
            return []
        return self._extra(
            state, scorer, "advise", before.scorers[number], features[number], after[number],
            risk=risk.value, hour=hour, asked=dict(state.asked),
        )  # fmt: skip

    def _extra(
        self, state: PatientState, scorer: Any, question: str, *given: Any, **named: Any
    ) -> list[dict[str, Any]]:
        """What a scorer says of measurements; where it fails its score still counts."""
        if hasattr(scorer, "panels_at"):
            named["site"] = state.site
        try:
            return list(getattr(scorer, question)(*given, ordered=_pending(state), **named))
        except Exception as error:
            name = _advice_of(scorer.version)
            self.ladder.failures[name] = self.ladder.failures.get(name, 0) + 1
            if self.strict:
                failed = ScorerFailedError(name, type(error).__name__)
                failed.site, failed.patient = state.site, state.patient
                raise failed from None
            log.error("there is no advice: %s", type(error).__name__)
            return []

    def _answer(self, state: PatientState, hour: int, risk: Risk) -> None:
        number = self._number.get(self._asked(state, hour)[0])
        scorer = None if number is None else self.ladder.scorers[number]
        of_site = getattr(scorer, "panels_at", None)
        panels = getattr(scorer, "panels", {}) if of_site is None else of_site(state.site)
        came = {r.channel for r in state.records.values() if r.hour == hour and not r.stale}
        for name, channels in panels.items():
            made = state.asked.get(name)
            if made is None or not made < hour <= made + ANSWERS or not channels & came:
                continue
            # From here on the result itself holds the panel back.
            del state.asked[name]
            # In the order of a snapshot, which sorts its keys.
            told = {"after": risk.value, "before": state.issued.get(hour - 1), "measured": hour,
                    "offered": made, "panel": name}  # fmt: skip
            state.answered = [*state.answered, told][-_KEPT:]


def _advises(scorer: Any) -> bool:
    """Whether a scorer is an :class:`~foretell.serving.worker.scorer.AdvisingScorer`."""
    return hasattr(scorer, "advise") and hasattr(scorer, "still")


def _advice_of(version: str) -> str:
    """By what name advice fails and is left out."""
    return f"advice of {version}"


def _pending(state: PatientState) -> list[str]:
    """Codes of what is ordered and has not come."""
    return [code for codes in state.orders.values() for _, code in codes]
