"""Labels that come late: what is said when they are taken as final, and when they are corrected.

    python examples/late_redemptions.py

On a simulated stream whose truth is known, trees are trained on the sixth day with the labels that
are visible then. Taken as they stand, those labels say far too little. Importance weights mend most
of it; they divide by the probability that a conversion is visible already, which is clipped for
rows that are minutes old. Soft labels divide by nothing, and are closest here.
"""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from foretell.data.simulators import funnel_stream
from foretell.estimators.feedback import SnapshotClassifier

NOW = 144.0


def main(days: float = 8, rate: float = 100) -> dict[str, float]:
    """Returns, for each method, mean prediction over the true mean of the rows after ``NOW``."""
    log, truth = funnel_stream("short_window", days=days, rate=rate, seed=1)
    later = log.times > NOW
    true_mean = truth.conversion()[later].mean()
    trees = HistGradientBoostingClassifier(max_iter=40, learning_rate=0.1)
    ratios = {}
    for method in ("naive", "fsiw", "funnel", "soft"):
        engagement = ("view",) if method == "funnel" else ()
        model = SnapshotClassifier(trees, method, engagement=engagement)
        # Only the last day is trained on: most of its conversions are still to come.
        model.fit(log, NOW, since=NOW - 24)
        p = model.predict_proba(log.select(np.flatnonzero(later)))[:, 1]
        ratios[method] = float(p.mean() / true_mean)
    return ratios


if __name__ == "__main__":
    for name, ratio in main().items():
        print(f"{name:8} says {ratio:.2f} times what happens")
