"""A trunk and its branches: runs of their own budgets that share a beginning."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from posttraining import CONFIG, ONE, Interrupts, run

from moon_jax.optimisation import branch_point
from moon_jax.stages import posttrain as stage
from moon_jax.stages.posttrain import TrunkConfig, trunk
from moon_jax.training import Trained, train


def test_branches_of_a_trunk_are_runs_of_their_own_budgets(prepared_folder: Path, tmp_path: Path) -> None:
    """The branch of the largest budget is, bit by bit, the run that was never branched; a smaller one ends as asked."""
    config = replace(CONFIG, schedule="wsd", warmup_tokens=300)
    budgets = (1_300, 2_600)
    for name in ("trunk", "small", "large", "whole"):
        (tmp_path / name).mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOON_ENGINE", ONE)
        shared = TrunkConfig(config, budgets)
        told = trunk(
            shared, files={}, inputs={"prepare": prepared_folder}, folder=tmp_path / "trunk", report=Interrupts()
        )
    assert told["branches"] == 2
    ended = {
        name: run(
            prepared_folder,
            tmp_path / name,
            Interrupts(),
            config=replace(config, tokens=tokens),
            **({} if name == "whole" else {"trunk": tmp_path / "trunk"}),
        )
        for name, tokens in (("small", budgets[0]), ("large", budgets[1]), ("whole", budgets[1]))
    }
    assert told["trunk_steps"] == branch_point(ended["whole"].result["steps"])
    for (path, leaf), other in zip(
        jax.tree_util.tree_leaves_with_path(ended["whole"].trained.state),
        jax.tree.leaves(ended["large"].trained.state),
        strict=True,
    ):
        assert np.asarray(leaf).tobytes() == np.asarray(other).tobytes(), jax.tree_util.keystr(path)
    for name in ("tokens", "realised_negatives", "train_loss", "passes", "posttrain_flops"):
        assert ended["large"].result[name] == pytest.approx(ended["whole"].result[name], rel=1e-6), name
    assert ended["small"].result["tokens"] == pytest.approx(budgets[0], rel=0.1)
    assert ended["small"].rows[-1]["lr"] == 0


def test_a_trunk_that_diverges_keeps_the_branches_that_left_before(prepared_folder: Path, tmp_path: Path) -> None:
    """The branch that left before is a run like any other, the one that leaves later is diverged."""
    config = replace(CONFIG, schedule="wsd", warmup_tokens=300)
    budgets = (500, 2_600)
    (tmp_path / "trunk").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOON_ENGINE", ONE)
        patch.setattr(stage, "train", diverging_at(4))
        inputs = {"prepare": prepared_folder}
        shared = TrunkConfig(config, budgets)
        told = trunk(shared, files={}, inputs=inputs, folder=tmp_path / "trunk", report=Interrupts())
    assert told["diverged_at_step"] == 4
    assert "status" not in told
    ended = {}
    for tokens in budgets:
        (tmp_path / str(tokens)).mkdir()
        one = replace(config, tokens=tokens)
        ended[tokens] = run(prepared_folder, tmp_path / str(tokens), Interrupts(), config=one, trunk=tmp_path / "trunk")
    assert ended[500].result["steps"] == 2
    assert ended[2_600].result == {"status": "diverged", "diverged_at_step": 4}


def diverging_at(step: int) -> Callable[..., Trained]:
    """The loop, whose loss is nan at this step."""

    def loop(update: Callable[..., Any], *args: Any, **kwargs: Any) -> Trained:
        def broken(state: Any, batch: Any) -> Any:
            at = int(state["step"])
            state, metrics, counts = update(state, batch)
            return state, metrics | {"loss": jnp.nan if at == step else metrics["loss"]}, counts

        return train(broken, *args, **kwargs)

    return loop


def test_a_budget_too_small_for_a_branch_is_refused(prepared_folder: Path, tmp_path: Path) -> None:
    shared = TrunkConfig(replace(CONFIG, schedule="wsd", warmup_tokens=100), (100, 2_600))
    with pytest.raises(ValueError, match="budgets: 100 tokens are too few steps"):
        trunk(shared, files={}, inputs={"prepare": prepared_folder}, folder=tmp_path, report=Interrupts())
