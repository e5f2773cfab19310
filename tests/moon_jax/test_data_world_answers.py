"""The known answers of a planted world, each held against something that does not use its code."""

import itertools
from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

import analysis
from moon_jax.data.bayes import LENGTHS, Personas, bayes_probabilities
from moon_jax.data.behaviour import Behaviour, BehaviourConfig, Simulation
from moon_jax.data.behaviour.calibration import expected_auc
from moon_jax.data.contract import Dataset
from moon_jax.data.coverage import coverage_law, local_exponent, simulated_errors, unseen_mass, zipf_shares
from moon_jax.data.forms import parse_form
from moon_jax.data.world import WorldConfig, draw_products, make_world
from moon_jax.data.world.recall import best_recall, expected_recall
from moon_jax.data.world.searches import FORMS, Asked
from moon_jax.metrics import recall_at_k, top_k
from moon_jax.metrics.ranking import auc, gauc

Array = np.ndarray
STYLE_I = np.random.default_rng(0).integers(0, 12, 600)
LOG = BehaviourConfig(users=400, impressions=20, personas=8, cold_users=0.4, page=5, position_bias=0.6)


class Log:
    """A simulated log and the causes behind it, as arrays in the order of its impressions."""

    def __init__(self, config: BehaviourConfig) -> None:
        self.simulation = Simulation(np.arange(len(STYLE_I)), STYLE_I, config)
        blocks = list(self.simulation.blocks())
        tables = {file: pl.concat([block[file] for block in blocks]) for file in blocks[0]}
        self.made = Behaviour(tables, self.simulation.facts)
        rows = tables["impressions"].join(tables["truth"], on="impression_id", maintain_order="left")
        self.rows = rows.with_row_index("row")
        self.test = rows.filter(pl.col("split") == "test")
        happened = {
            user: (part["timestamp"].to_numpy(), STYLE_I[part["item_id"].to_numpy()])
            for (user,), part in tables["events"].group_by("user_id", maintain_order=True)
        }
        self.histories = []  # styles of the events before each test impression, newest first
        for user, time in self.test.select("user_id", "timestamp").iter_rows():
            times, styles = happened[user]
            self.histories.append(styles[times < time][::-1])
        items = self.test["item_id"].to_numpy()
        self.target_N = STYLE_I[items]
        self.logit_N = self.made.facts["bias"] + self.simulation.effect_I[items]  # without the history's part


@pytest.fixture(scope="module")
def log() -> Log:
    return Log(LOG)


def oracle(log: Log, length: int, draws: int, seed: int) -> Array:
    """By brute force: weigh the personas by what is seen, draw the events that are not seen, and average."""
    rng = np.random.default_rng(seed)
    personas, weights = log.simulation.personas, np.array(log.made.facts["weights"])
    gain = log.made.facts["gain"]
    cumulative_ZxS = np.cumsum(personas.events, axis=1)
    answers = []
    for target, logit, history in zip(log.target_N, log.logit_N, log.histories, strict=True):
        seen = history[:length]
        likely_Z = personas.targets[:, target] * np.prod(personas.events[:, seen[: len(weights)]], axis=1)
        known = (weights[: len(seen)] * (seen[: len(weights)] == target)).sum()
        unseen = weights[len(seen) : len(history)]
        persona_M = rng.choice(len(likely_Z), draws, p=likely_Z / likely_Z.sum())
        added_M = np.zeros(draws)
        for persona in np.unique(persona_M):
            mine = np.flatnonzero(persona_M == persona)
            drawn = np.searchsorted(cumulative_ZxS[persona][:-1], rng.random((len(mine), len(unseen))), side="right")
            added_M[mine] = ((drawn == target) * unseen).sum(axis=1)
        answers.append((1 / (1 + np.exp(-(logit + gain * (known + added_M))))).mean())
    return np.array(answers)


def test_an_oracle_by_monte_carlo_agrees_with_bayes(log: Log) -> None:
    """Cold users included: their unseen events are as many as they had."""
    assert (np.array([len(history) for history in log.histories]) < 64).mean() > 0.2
    for length in (0, 4):
        by_hand, stated = oracle(log, length, 300, seed=length), log.test[f"bayes_{length}"].to_numpy()
        noise = 0.3 / np.sqrt(300)  # a click probability scatters less than 0.3 over what is not seen
        assert np.abs(by_hand - stated).max() < 6 * noise
        assert abs((by_hand - stated).mean()) < 5 * noise / np.sqrt(len(stated))


@pytest.mark.proof
def test_an_oracle_by_monte_carlo_reaches_the_bayes_curve_at_every_length(log: Log) -> None:
    clicked, users = log.test["clicked"].to_numpy(), log.test["user_id"].to_numpy()
    for length in LENGTHS:
        by_hand = oracle(log, length, 2000, seed=length)
        stated = log.made.facts["bayes"]
        assert auc(clicked, by_hand) == pytest.approx(stated["auc"][str(length)], abs=0.003)
        assert gauc(clicked, by_hand, users)[0] == pytest.approx(stated["gauc"][str(length)], abs=0.003)
        probability = log.test["probability"].to_numpy()
        assert expected_auc(probability, by_hand) == pytest.approx(stated["expected_auc"][str(length)], abs=0.002)


def _slices(log: Log) -> Iterator[tuple[dict, Array]]:
    bayes = log.made.facts["bayes"]
    past_N = np.array([len(history) for history in log.histories])
    yield bayes, np.ones(len(past_N), bool)
    yield bayes["slices"]["cold_users"], past_N < 16
    shown = pl.concat([log.made.tables["events"]["item_id"], log.made.tables["impressions"]["item_id"]])
    seen_I = np.bincount(shown.to_numpy(), minlength=len(STYLE_I))
    tail_N = log.simulation.popularity.tail_I[log.test["item_id"].to_numpy()]
    assert seen_I[log.simulation.popularity.tail_I].mean() < 0.5 * seen_I[~log.simulation.popularity.tail_I].mean()
    yield bayes["slices"]["tail_items"], tail_N


def test_the_true_probabilities_reach_the_stated_auc_within_two_errors(log: Log) -> None:
    """Overall and on every slice, on clicks that are drawn anew: bootstrap over users."""
    rng = np.random.default_rng(5)
    probability, users = log.test["probability"].to_numpy(), log.test["user_id"].to_numpy()
    clicked = rng.random(len(probability)) < probability  # of what is examined: without position bias
    for stated, mask in _slices(log):
        assert stated["impressions"] == mask.sum()
        value = auc(clicked[mask], probability[mask])
        of_user = [np.flatnonzero((users == user) & mask) for user in np.unique(users[mask])]
        draws = []
        for _ in range(200):
            rows = np.concatenate([of_user[at] for at in rng.integers(0, len(of_user), len(of_user))])
            draws.append(auc(clicked[rows], probability[rows]))
        assert abs(value - stated["expected_auc"]["64"]) < 2 * np.std(draws)


def test_stated_slices_are_those_of_the_logged_clicks(log: Log) -> None:
    clicked, users = log.test["clicked"].to_numpy(), log.test["user_id"].to_numpy()
    for stated, mask in _slices(log):
        for length in LENGTHS:
            score = log.test[f"bayes_{length}"].to_numpy()[mask]
            assert stated["auc"][str(length)] == pytest.approx(auc(clicked[mask], score), abs=1e-6)
            assert stated["gauc"][str(length)] == pytest.approx(gauc(clicked[mask], score, users[mask])[0], abs=1e-6)
    seen = log.test["bayes_8"].to_numpy() * log.test["examination"].to_numpy()
    with_position = log.made.facts["bayes"]["with_position"]
    assert with_position["auc"]["8"] == pytest.approx(auc(clicked, seen), abs=1e-6)
    assert with_position["auc"]["8"] > log.made.facts["bayes"]["auc"]["8"]


def test_bayes_of_a_short_history_equals_brute_force() -> None:
    """Users with fewer events than could tell: every persona and every history, summed by hand."""
    rng = np.random.default_rng(1)
    personas = Personas(events=rng.dirichlet(np.ones(3), 4), targets=rng.dirichlet(np.ones(3), 4))
    weights, gain = np.array([3, 0, 2, 1, 1]), 0.5
    for depth in (0, 1, 2, 4):
        histories = np.array(list(itertools.product(range(3), repeat=depth)), int).reshape(3**depth, depth)
        prior_ZxH = np.prod(personas.events[:, histories], axis=2)
        recent_HxL = np.full((len(histories) + 1, 5), -1)
        recent_HxL[:-1, :depth] = histories
        recent_HxL[-1] = 0  # one with all events, which must not change the others
        target, logit = 1, -0.4
        p_H = 1 / (1 + np.exp(-(logit + gain * ((histories == target) * weights[:depth]).sum(axis=1))))
        joint_ZxH = prior_ZxH * personas.targets[:, target, None]
        count = len(recent_HxL)
        bayes = bayes_probabilities(
            np.full(count, logit), gain, np.full(count, target), recent_HxL, personas, weights, (0, 1, 2, 3, 5)
        )
        for length, row in itertools.product((0, 1, 2, 3, 5), range(len(histories))):
            same = (histories[:, :length] == histories[row, :length]).all(axis=1)
            expected = (joint_ZxH[:, same] * p_H[same]).sum() / joint_ZxH[:, same].sum()
            assert bayes[length][row] == pytest.approx(expected, abs=1e-12)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_expected_auc_is_the_mean_over_all_pairs(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 8))
    p = np.array(data.draw(st.lists(st.floats(0.05, 0.95), min_size=count, max_size=count)))
    scores = np.array(data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    right = sum(
        p[i] * (1 - p[j]) * (float(scores[i] > scores[j]) + 0.5 * float(scores[i] == scores[j]))
        for i, j in itertools.product(range(count), repeat=2)
    )
    assert expected_auc(p, scores) == pytest.approx(right / (p.sum() * (1 - p).sum()), rel=1e-12)


# The best possible recall

SMALL = WorldConfig(products=120, missing=0.3, zipf=1.2, zipf_looks=1.2, mixed_queries=1)


def _asked(kind: str, rng: np.random.Generator) -> Asked:
    product_Q = rng.permutation(120)[:40]
    told_Qx4 = rng.random((40, 4)) < 0.5 if kind in ("text", "mixed") else np.zeros((40, 4), bool)
    return Asked(kind, product_Q, told_Qx4, product_Q * 3 + 1 if kind == "item" else np.full(40, -1))


@pytest.mark.parametrize("kind", ["image", "text", "item", "mixed"])
def test_the_best_recall_is_what_an_oracle_reaches_that_breaks_ties_by_chance(kind: str) -> None:
    """The oracle is written out item by item; a search finds what it finds in the mean of many random orders."""
    rng = np.random.default_rng(3)
    products, told_Ix4 = draw_products(SMALL), rng.random((360, 4)) < 0.7
    asked = _asked(kind, rng)
    likely = np.zeros((40, 360))
    for query, item in itertools.product(range(40), range(360)):
        p, i = asked.product_Q[query], item // 3
        looks = ("category",) if kind == "text" else ("category", "colour", "accent", "pattern")
        likely[query, item] = all(getattr(products, look)[p] == getattr(products, look)[i] for look in looks)
        told = told_Ix4[asked.item_Q[query]] if kind == "item" else asked.told_Qx4[query]
        for column, name in enumerate(("brand", "material", "use", "model")):
            word = products.words[p, column]
            if told[column] and kind != "image":
                stated = products.words[i, column] == word
                likely[query, item] *= stated if told_Ix4[item, column] else products.shares[name][word]
    relevant = [p * 3 + np.arange(3) for p in asked.product_Q]
    if kind == "item":
        likely[np.arange(40), asked.item_Q] = -1
        relevant = [rows[rows != own] for rows, own in zip(relevant, asked.item_Q, strict=True)]
    ks = (1, 5, 20)
    found = {k: [] for k in ks}
    hits = {k: [] for k in ks}
    for _ in range(150):
        order = np.lexsort((rng.random(likely.shape), -likely), axis=1)[:, :20]
        for k in ks:
            inside = [np.isin(order[q, :k], rows).sum() for q, rows in enumerate(relevant)]
            found[k].append(np.mean([n / len(rows) for n, rows in zip(inside, relevant, strict=True)]))
            hits[k].append(np.mean(np.array(inside) > 0))
    recall_QxK, hit_QxK = expected_recall(products, told_Ix4, asked, parse_form(kind, FORMS[kind]), ks)
    for at, k in enumerate(ks):
        for expected, drawn in ((recall_QxK[:, at].mean(), found[k]), (hit_QxK[:, at].mean(), hits[k])):
            assert expected == pytest.approx(np.mean(drawn), abs=5 * np.std(drawn) / np.sqrt(150) + 1e-9), k


def test_no_searcher_beats_the_best_recall(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One that knows the causes and is lucky with ties by their order stays at it; one that knows less stays below."""
    products, rng = draw_products(SMALL), np.random.default_rng(0)
    asked = _asked("image", rng)
    gallery = np.repeat(np.eye(2688, dtype=np.float32)[products.look], 3, axis=0)
    colours = np.repeat(np.eye(8, dtype=np.float32)[products.colour], 3, axis=0)
    relevant = [p * 3 + np.arange(3) for p in asked.product_Q]
    best = best_recall(products, np.ones((360, 4), bool), [asked], ks=(10,))["image"]["recall@10"]
    order = rng.permutation(360)
    at = np.argsort(order)
    for vectors, low, high in ((gallery, best - 0.08, best + 0.08), (colours, 0.0, best - 0.1)):
        top = top_k(vectors[asked.product_Q * 3], vectors[order], 10)
        value = recall_at_k(top, [at[rows] for rows in relevant], 10)
        assert low <= value <= high


# The token law of the learner that remembers


@given(st.integers(2, 60), st.floats(0.2, 3), st.integers(1, 500))
@settings(max_examples=50, deadline=None)
def test_unseen_mass_is_the_sum_over_kinds(values: int, exponent: float, samples: int) -> None:
    shares = zipf_shares(values, exponent)
    by_hand = sum(p * (1 - p) ** samples for p in shares)
    assert unseen_mass(shares, np.array([samples]))[0] == pytest.approx(by_hand, rel=1e-9)
    step = np.array([samples, samples * 1.0001])
    log_slope = -np.diff(np.log(unseen_mass(shares, step)))[0] / np.log(1.0001)
    assert local_exponent(shares, step[:1])[0] == pytest.approx(log_slope, rel=1e-2, abs=1e-6)


@pytest.mark.parametrize(("exponent", "first", "last"), [(1.5, 100, 3_000), (2.0, 300, 30_000)])
def test_analysis_recovers_the_exponent_of_the_learner_that_remembers(exponent: float, first: int, last: int) -> None:
    law = coverage_law(10**6, exponent)
    samples = np.unique(np.geomspace(first, last, 10).astype(int))
    assert law["valid"][0] < first < last < law["valid"][1]
    shares = zipf_shares(10**6, exponent)
    rows = [
        {"n": int(n), "error": float(error), "run": run}
        for run in range(16)
        for n, error in zip(samples, simulated_errors(shares, samples, run), strict=True)
    ]
    fit = analysis.fit(pl.DataFrame(rows), x="n", y="error", law="power", cluster="run", resamples=500)
    low, high = fit.intervals(0.95)["alpha"]
    assert low <= 1 - 1 / exponent <= high
    assert law["exponent"] == pytest.approx(1 - 1 / exponent, abs=1e-6)
    assert high - low < 0.1


def test_analysis_recovers_the_token_law_of_a_world_from_its_products() -> None:
    """Products in the order in which they come, looks remembered: the exponent that the world's facts state."""
    stated = coverage_law(2688, 2.0)
    samples = np.unique(np.geomspace(100, 5000, 8).astype(int))
    rows = []
    for seed in range(16):
        products = draw_products(WorldConfig(products=5000, zipf_looks=2.0, seed=seed))
        shares, looks = products.look_shares(), products.look
        assert shares.sum() == pytest.approx(1)
        rows += [{"n": int(n), "error": 1 - shares[np.unique(looks[:n])].sum(), "run": seed} for n in samples]
    fit = analysis.fit(pl.DataFrame(rows), x="n", y="error", law="power", cluster="run", resamples=500)
    low, high = fit.intervals(0.95)["alpha"]
    assert low <= stated["exponent"] <= high
    assert high - low < 0.15


def test_there_is_no_power_law_without_a_heavy_head() -> None:
    assert coverage_law(1000, 1.0) == {"exponent": None, "amplitude": None, "valid": None}
    with_law = coverage_law(10**6, 2.0)
    n = np.array([1e3, 1e4])
    power = with_law["amplitude"] * n ** -with_law["exponent"]
    np.testing.assert_allclose(unseen_mass(zipf_shares(10**6, 2.0), n), power, rtol=0.02)


# What is planted is found again


def test_analysis_recovers_the_planted_frequency_exponents() -> None:
    rows = []
    for seed in range(12):
        products = draw_products(WorldConfig(products=4000, zipf=1.1, seed=seed))
        share = products.shares["model"]
        counts = np.bincount(products.words[:, 3], minlength=len(share))[np.argsort(-share)]
        rows += [{"rank": rank, "count": int(count), "seed": seed} for rank, count in enumerate(counts[:20], 1)]
    fit = analysis.fit(pl.DataFrame(rows), x="rank", y="count", law="power", cluster="seed", resamples=500)
    low, high = fit.intervals(0.95)["alpha"]
    assert low <= 1.1 <= high
    assert high - low < 0.1


def test_the_planted_lag_weights_are_recovered_from_clicks() -> None:
    """Logistic regression of clicks on matches by lag, one coefficient for each doubling: gain x weight."""
    planted = (12, 0, 6, 3, 9, 0, 2)
    log = Log(BehaviourConfig(users=800, impressions=40, weights=planted, auc=0.75, test_share=0.8))
    doubling = np.ceil(np.log2(np.arange(1, 65))).astype(int)
    matches_Nx7 = np.array(
        [
            np.bincount(doubling, history[:64] == target, minlength=7)
            for history, target in zip(log.histories, log.target_N, strict=True)
        ]
    )
    coefficients, errors = _logistic(matches_Nx7, log.logit_N, log.test["clicked"].to_numpy())
    wanted = log.made.facts["gain"] * np.array(planted)
    assert (np.abs(coefficients - wanted) < 3.5 * errors).all()
    assert (errors < 0.09).all()
    assert log.made.facts["weights"][:5] == [12, 0, 6, 6, 3]


def _logistic(x_NxK: Array, offset_N: Array, clicked_N: Array) -> tuple[Array, Array]:
    """Maximum likelihood: coefficients and standard errors, with a known offset."""

    def loss(coefficients: Array) -> tuple[float, Array]:
        logit_N = offset_N + x_NxK @ coefficients
        p_N = 1 / (1 + np.exp(-logit_N))
        return float((np.logaddexp(0, logit_N) - clicked_N * logit_N).mean()), x_NxK.T @ (p_N - clicked_N) / len(p_N)

    coefficients = minimize(loss, np.zeros(x_NxK.shape[1]), jac=True, method="L-BFGS-B", tol=1e-12).x
    p_N = 1 / (1 + np.exp(-(offset_N + x_NxK @ coefficients)))
    hessian = (x_NxK * (p_N * (1 - p_N))[:, None]).T @ x_NxK
    return coefficients, np.sqrt(np.diag(np.linalg.inv(hessian)))


def test_facts_state_the_answers(tmp_path_factory: pytest.TempPathFactory) -> None:
    config = WorldConfig(
        products=60, zipf_looks=2.0, drives="text", behaviour=BehaviourConfig(users=40, impressions=10, personas=4)
    )
    world: Dataset = make_world(tmp_path_factory.mktemp("facts") / "world", config)
    assert world.facts["must_win"] == "text_recall@10"
    assert world.facts["token_law"]["exponent"] == pytest.approx(0.5)
    assert set(world.facts["best_recall"]) == {"image", "text", "item"}
    assert 0 < world.facts["best_recall"]["image"]["recall@10"] <= 1
    assert set(world.facts["bayes"]) == {"impressions", "auc", "gauc", "expected_auc", "slices"}
