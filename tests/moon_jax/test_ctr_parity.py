"""Our DIN is FuxiCTR's: golden weights, logits and gradients of a step; live where FuxiCTR is installed."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from ctr_parity import NAMES, TOLERANCE, apart, theirs

GOLDEN = Path(__file__).parent / "golden" / "fuxictr_din.npz"


def test_fuxictr_weights_give_its_logits_and_gradients() -> None:
    pair = dict(np.load(GOLDEN, allow_pickle=False))
    assert (pair["history"] == 0).any()  # padding is part of it
    assert np.abs(pair["logits"]).min() > 0
    found = apart(pair)
    assert len(found) == 1 + 2 * len(NAMES) - 1
    assert max(found.values()) <= TOLERANCE, found


def test_a_weight_that_is_not_theirs_is_seen() -> None:
    pair = dict(np.load(GOLDEN, allow_pickle=False))
    name = f"weight:{NAMES['modules.0.unit.inner']}.weight"
    assert max(apart(pair | {name: pair[name] * 1.01}).values()) > 10 * TOLERANCE
    with pytest.raises(KeyError, match="weights that ours lacks"):
        apart(pair | {"weight:dnn.mlp.9.weight": pair[name]})


@pytest.mark.skipif(find_spec("fuxictr") is None, reason="the peer is not installed: pip install -e '.[bench]'")
def test_fuxictr_itself_says_so_today() -> None:
    assert max(apart(theirs()).values()) <= TOLERANCE
