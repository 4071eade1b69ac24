from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from foretell.data.simulators import Truth, cones, elastic_demand, shop, spikes
from foretell.data.simulators.cones import asymmetric_laplace_quantiles
from foretell.data.simulators.shop import EVENTS
from foretell.data.simulators.truth import negative_binomial_quantiles, normal_nodes
from foretell.errors import DataError, ParameterError

LEVELS = np.array([0.1, 0.5, 0.9])
GENERATORS = {
    "shop": (shop, {"items": 60}, 13),
    "elastic_demand": (elastic_demand, {"items": 300}, 13),
    "cones": (cones, {}, 12),
    "spikes": (spikes, {}, 13),
}


@pytest.fixture(params=list(GENERATORS), scope="module")
def simulation(request):
    generator, arguments, horizon = GENERATORS[request.param]
    panel, truth = generator(**arguments)
    return generator, arguments, horizon, panel, truth


def test_same_seed_gives_the_same_data_and_another_seed_others(simulation):
    generator, arguments, _, panel, truth = simulation
    again, truth_again = generator(**arguments)
    assert again.fingerprint() == panel.fingerprint()
    assert truth_again.demand.fingerprint() == truth.demand.fingerprint()
    assert generator(**arguments, seed=1)[0].fingerprint() != panel.fingerprint()


def test_oracle_quantiles_cover_what_they_say(simulation):
    _, _, horizon, _, truth = simulation
    assert isinstance(truth, Truth)
    cut = truth.demand.cut(horizon)
    held = np.flatnonzero(cut.lengths > 0)
    ids = truth.demand.ids[held]
    quantiles = truth.quantiles(ids, cut.ends[held], horizon, LEVELS)
    outcome = truth.demand.outcomes(ids, cut.ends[held], horizon)[..., None]
    assert quantiles.shape == (len(held), horizon, 3)
    assert np.all(np.diff(quantiles, axis=-1) >= 0)
    # A quantile q of a count has P(Y < q) <= level <= P(Y <= q).
    tolerance = 0.025
    assert np.all((outcome < quantiles).mean((0, 1)) <= LEVELS + tolerance)
    assert np.all((outcome <= quantiles).mean((0, 1)) >= LEVELS - tolerance)


def test_cells_beyond_the_simulation_are_refused(simulation):
    _, _, horizon, _, truth = simulation
    with pytest.raises(DataError, match="beyond what was simulated"):
        truth.quantiles(truth.demand.ids[:1], truth.demand.ends[:1], horizon, LEVELS)
    with pytest.raises(DataError, match="not of this simulation"):
        truth.quantiles(["nobody"], [0], horizon, LEVELS)
    with pytest.raises(ParameterError):
        truth.quantiles(truth.demand.ids[:1], truth.demand.starts[:1], horizon, [1.0])


def test_shop_has_everything_a_planner_meets():
    panel, truth = shop(items=60)
    panel.require_known(13)
    demand, sales = truth.demand, panel
    assert panel.censored is not None and 0.01 < panel.censored.mean() < 0.05
    assert (panel.target < 0).any(), "no returns"
    assert 5 <= panel.lengths.min() < 26 and panel.lengths.max() == 156, "no launches"
    assert set(panel.events) == set(EVENTS)
    for i in range(len(panel)):
        true = demand.series(i)[: panel.lengths[i]]
        assert np.all(sales.series(i) <= true)
    cut = np.concatenate([demand.series(i)[: panel.lengths[i]] for i in range(len(panel))])
    assert np.all(panel.target[panel.censored] < cut[panel.censored])
    for event in EVENTS:
        weeks = panel.known_windows(event, np.array([0]), np.array([52 + 52]), 104)
        assert weeks.sum() == 2
    prices = panel.known["price"]
    assert np.all(prices > 0)
    assert prices[panel.known["promotion"] == 1].mean() < prices.mean()


def test_shop_demand_answers_to_price_as_its_elasticity_says():
    panel, truth = shop(items=60, new_share=0.0, stockout_rate=0.0, return_rate=0.0)
    price = panel.known["price"].reshape(60, 5, -1)[:, 0, :156]
    promotion = panel.known["promotion"].reshape(60, 5, -1)[:, 0, :156]
    sales = panel.target.reshape(60, 5, 156).sum(1)
    rest = np.log1p(sales) - truth.interest.reshape(60, 5, -1)[:, 0, :156]
    angle = 2 * np.pi * np.arange(156) / 52.1775
    calendar = [np.ones(156), np.arange(156), np.sin(angle), np.cos(angle)]
    estimates = [
        np.linalg.lstsq(np.column_stack([np.log(p), f, *calendar]), y, rcond=None)[0][0]
        for p, f, y in zip(price, promotion, rest, strict=True)
    ]
    error = np.array(estimates) - truth.items["elasticity"].to_numpy()
    assert abs(error.mean()) < 0.2
    assert np.corrcoef(estimates, truth.items["elasticity"])[0, 1] > 0.7


def test_shop_page_views_show_the_latent_interest():
    panel, truth = shop(new_share=0.0)
    views = np.log(panel.past["page_views"].reshape(len(panel), -1))
    interest = truth.interest[:, : views.shape[1]]
    assert np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(views, interest, strict=True)]) > 0.9


def test_shop_samples_agree_with_its_quantiles():
    panel, truth = shop(items=3, stores=1, new_share=0.0)
    paths = truth.sample(panel.ids, panel.ends, 4, 20_000)
    exact = truth.quantiles(panel.ids, panel.ends, 4, LEVELS)
    sampled = np.quantile(paths, LEVELS, axis=0, method="inverted_cdf").transpose(1, 2, 0)
    assert np.all(np.abs(sampled - exact) <= np.maximum(1, 0.05 * exact))


def test_negative_binomial_quantiles_are_scipys():
    means = np.array([0.01, 0.5, 3.0, 40.0, 2_000.0])[:, None]
    size = np.array([0.3, 5.0, 5.0, 2.0, 8.0])
    ours = negative_binomial_quantiles(means, np.ones(1), size, LEVELS)
    for i in range(5):
        probability = size[i] / (size[i] + means[i, 0])
        np.testing.assert_array_equal(ours[i], stats.nbinom.ppf(LEVELS, size[i], probability))


def test_normal_nodes_integrate_moments():
    nodes, weights = normal_nodes(11)
    for power, moment in ((0, 1), (1, 0), (2, 1), (4, 3), (6, 15)):
        assert np.sum(weights * nodes**power) == pytest.approx(moment, abs=1e-9)


def test_asymmetric_laplace_quantiles_invert_its_distribution():
    levels = np.linspace(0.01, 0.99, 25)
    e = asymmetric_laplace_quantiles(levels)
    p = 0.35
    cdf = np.where(e < 0, p * np.exp((1 - p) * e), 1 - (1 - p) * np.exp(-p * e))
    np.testing.assert_allclose(cdf, levels, atol=1e-12)


def test_cone_spread_grows_with_the_square_root_of_the_step():
    panel, truth = cones(series=3)
    q = truth.quantiles(panel.ids, panel.cut(12).ends, 12, LEVELS)
    width = q[..., 2] - q[..., 0]
    np.testing.assert_allclose(
        width / width[:, :1], np.sqrt(np.arange(1, 13))[None, :].repeat(3, 0)
    )


def test_impossible_shops_are_refused():
    with pytest.raises(ParameterError):
        shop(items=0)
    with pytest.raises(ParameterError):
        spikes(series=0)
    with pytest.raises(ParameterError):
        cones(horizon=0)
    with pytest.raises(ParameterError):
        elastic_demand(items=0)
