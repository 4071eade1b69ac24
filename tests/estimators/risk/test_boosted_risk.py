"""The boosted anchor and its features."""

from __future__ import annotations

import json

import numpy as np
import pytest

from foretell.data.clinical import challenge_label, challenge_utility_rows, target
from foretell.errors import ArtefactError, DataError, NotFittedError, ParameterError
from foretell.learners.risk import AnchorFeatures, BoostedRisk, GBMVitals, feature_words
from foretell.learners.risk.ranking import auroc

SMALL = {"trees": 25, "learning_rate": 0.2, "leaf_rows": 20, "l2": 1.0, "well_share": 1.0}


@pytest.fixture(scope="module", params=["lightgbm", "sklearn"])
def model(request, stays):
    if request.param == "lightgbm":
        pytest.importorskip("lightgbm")
    return BoostedRisk(**SMALL, backend=request.param).fit(stays.select(slice(0, 90)))


def test_alarms_gain(model, stays):
    test = stays.select(slice(90, 120))
    rows = challenge_utility_rows(challenge_label(test), test.lengths)
    alarms = model.predict(test)
    share = rows.gain[alarms].sum() / (rows.best - rows.silence).sum()
    assert share > 0.4


@pytest.mark.parametrize("kind", ["full", "vitals", "time-blind"])
@pytest.mark.parametrize("signature_hours", [0, 7])
def test_features_stream_as_in_batch(kind, signature_hours, stays, describe):
    features = AnchorFeatures(kind, signature_hours=signature_hours)
    for i in (1, 50):
        stay = stays.select([i])
        whole = features.raw(stay)
        live = features.stream(**describe(stay))
        rows = stay.matrix()
        found = []
        for t, row in enumerate(rows):
            if t == 6:
                live = features.stream(**describe(stay)).restore(live.snapshot())
            found.append(live.step(row))
        np.testing.assert_array_equal(np.stack(found), whole)
    assert whole.shape[1] == len(features.names) == len(set(features.names))


def test_trends_and_signatures_are_what_they_say(stays):
    features = AnchorFeatures(signature_hours=5)
    stay = stays.select([4])
    X = features.raw(stay)
    last = X[:, features.names.index("HR:last")].astype(float)
    of = {n.partition(":")[2]: X[:, i] for i, n in enumerate(features.names) if n[:3] == "HR:"}
    for t in (0, 3, 7):
        window = last[max(0, t - 11) : t + 1]
        day = last[max(0, t - 23) : t + 1]
        steps = np.arange(len(window))
        slope = np.polyfit(steps, window, 1)[0] if t else 0.0
        assert of["slope_12h"][t] == pytest.approx(slope, abs=1e-4)
        assert of["spread_12h"][t] == pytest.approx(window.std(), rel=1e-4, abs=1e-4)
        assert of["mean_gap_24h"][t] == pytest.approx(last[t] - day.mean(), abs=1e-3)
        assert of["above_lowest_24h"][t] == pytest.approx(last[t] - day.min(), abs=1e-3)
        path = np.diff(last[max(0, t - 4) : t + 1])
        total = path.sum()
        assert of["signature_lead"][t] == pytest.approx(total, abs=1e-3)
        assert of["signature_lead_lead"][t] == pytest.approx(total**2 / 2, rel=1e-3, abs=1e-2)
        # Lead moves before lag: their area is the quadratic variation.
        area = of["signature_lead_lag"][t] - of["signature_lag_lead"][t]
        assert area == pytest.approx((path**2).sum(), rel=1e-3, abs=1e-2)
        cube = of["signature_lag_lag_lag"][t]
        assert cube == pytest.approx(total**3 / 6, rel=1e-3, abs=1e-1)


def test_time_blind_features_tell_no_time(stays):
    names = AnchorFeatures("time-blind").names
    told = {"hour", "admission", "labs_known", "hours_since_lab", "labs_8h", "vitals_8h"}
    assert not told & set(names)
    assert not any(n.endswith((":since", ":count", ":never")) for n in names)
    vitals = AnchorFeatures("vitals").names
    assert len(vitals) == 6 and all(n.endswith(":last") for n in vitals)


def test_stream_equals_batch(model, stays, describe):
    stay = stays.select([92])
    live = model.stream(**describe(stay))
    found = [live.step(row) for row in stay.matrix()]
    np.testing.assert_allclose(found, model.decision_function(stay), atol=1e-12)


def test_save_and_load(model, stays, tmp_path):
    model.save(tmp_path)
    again = BoostedRisk.load(tmp_path)
    np.testing.assert_array_equal(again.decision_function(stays), model.decision_function(stays))
    assert again.threshold_ == model.threshold_ and again.backend_ == model.backend_
    config = json.loads((tmp_path / "model.json").read_text())
    config["config"]["features"]["kind"] = "vitals"
    (tmp_path / "model.json").write_text(json.dumps(config))
    with pytest.raises(ArtefactError, match="not a readable"):
        BoostedRisk.load(tmp_path)


def test_explanations_name_the_heart_rate(model, stays):
    septic = stays.select(np.flatnonzero(np.isfinite(stays.onset))[:10])
    told = model.explain(septic, top=10)
    assert told.height == 10 * len(septic)
    assert told.filter(told["feature"].str.starts_with("HR"))["words"].str.contains("heart").all()
    mask = np.zeros(septic.n_rows, bool)
    mask[:7] = True
    sums = model.contributions(septic, mask).sum(axis=1) + model.trees_.expected
    np.testing.assert_allclose(sums, model.decision_function(septic)[:7], atol=1e-9)


def test_onset_is_a_probability(stays, tmp_path):
    model = GBMVitals(trees=30, well_share=1.0)
    model.leaf_rows = 20
    model.fit(stays.select(slice(0, 90)))
    test = stays.select(slice(90, 120))
    wanted = target(test)
    risk = model.predict_proba(test)[:, 1]
    assert auroc(risk[wanted.at_risk], wanted.label[wanted.at_risk]) > 0.8
    assert ((risk > 0) & (risk < 1)).all() and model.predict(test).dtype == bool
    model.save(tmp_path)
    np.testing.assert_array_equal(GBMVitals.load(tmp_path).predict_proba(test)[:, 1], risk)
    with pytest.raises(ArtefactError, match="GBMVitals"):
        BoostedRisk.load(tmp_path)


def test_every_feature_has_words():
    features = AnchorFeatures(signature_hours=7)
    for name in features.names:
        words = feature_words(name, features.schema)
        assert words and ":" not in words.replace("unit: ", "") and "_" not in words


def test_refusals(stays):
    with pytest.raises(NotFittedError):
        BoostedRisk().decision_function(stays)
    with pytest.raises(ParameterError, match="learns"):
        BoostedRisk("mortality").fit(stays)
    with pytest.raises(ParameterError, match="no probability"):
        BoostedRisk().predict_proba(stays)
    with pytest.raises(DataError, match="no stay has an onset"):
        BoostedRisk().fit(stays.select(~np.isfinite(stays.onset)))
    with pytest.raises(ParameterError, match="kind"):
        AnchorFeatures("all")
    with pytest.raises(ParameterError, match="signature_hours"):
        AnchorFeatures(signature_hours=99)
