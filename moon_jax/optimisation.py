"""How parameters move: AdamW whose rate is traced, schedules of one budget or of a trunk with branches, their average."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

Array = jax.Array
Schedule = Literal["cosine", "wsd", "trunk"]
DECAY = 0.2  # share of a budget over which "wsd" falls, and which a branch trains without its trunk
DECAYED = ("kernel", "embedding")  # names of parameters that weight decay draws to zero: matrices and tables


def optimiser(
    clip: float = 1.0, weight_decay: float = 0.01, frozen: tuple[str, ...] = ()
) -> optax.GradientTransformation:
    """AdamW without its learning rate, which is traced (see `learning_rate`): a grid over it shares a compilation.

    Kernels and embeddings decay. Scales, biases, positions and temperatures do not, whatever their rank: those that are
    stacked by layer have an axis more, so names decide and not shapes.

    Args:
        clip: bound of the gradients' global norm.
        weight_decay: share of a parameter that is subtracted, times the rate (Loshchilov & Hutter 2019).
        frozen: parts of the model (`is_frozen`) that do not move; they have no moments.
    """
    adam = optax.chain(
        optax.clip_by_global_norm(clip),
        optax.scale_by_adam(b2=0.98),
        optax.add_decayed_weights(weight_decay, mask=decayed),
    )
    if not frozen:
        return adam

    def moving(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: not is_frozen(path, frozen), params)

    def still(params: Any) -> Any:
        return jax.tree.map(lambda moves: not moves, moving(params))

    return optax.chain(optax.masked(adam, moving), optax.masked(optax.set_to_zero(), still))


# Parts of an encoder that can be frozen, and how the names of their parameters begin.
PARTS = {
    "vision": ("patch_embed", "position", "vision"),
    "projector": ("projector",),
    "tokens": ("tokens",),
    "decoder": ("decoder", "final_norm"),
}


def is_frozen(path: tuple[Any, ...], frozen: tuple[str, ...]) -> bool:
    """Whether a parameter at this path of {"encoder": ...} belongs to one of these parts (`PARTS`)."""
    names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
    starts = tuple(start for part in frozen for start in PARTS[part])
    return len(names) > 1 and names[0] == "encoder" and str(names[1]).startswith(starts) if starts else False


def decayed(params: Any) -> Any:
    """Of each parameter, whether it decays; a tree of bools like `params` (nested dicts or `nnx.State`)."""

    def by_name(path: tuple[Any, ...], _: Any) -> bool:
        # The last key of a dict: an nnx.State has `.value` after it.
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        return bool(names) and names[-1] in DECAYED

    return jax.tree_util.tree_map_with_path(by_name, params)


def learning_rate(
    step: Array,
    steps: Array,
    peak: Array,
    *,
    schedule: Schedule = "cosine",
    warmup: float | Array = 0.1,
    decay: float | Array = DECAY,
) -> Array:
    """The rate of one step; everything but `schedule` may be traced.

    "cosine" falls over the whole budget after a linear warm-up (Loshchilov & Hutter 2017). "wsd" stays at its peak and
    falls as 1 - sqrt(x) over the last share of the budget, which was better than a line and as good as a cosine
    (Haegele et al. 2024, arXiv 2405.18392, section 3.2). Both reach exactly zero with the last step. "trunk" never falls:
    up to `branch_point` of a budget it is that budget's "wsd", so that branches of all budgets can share it.

    Args:
        step: steps done before this one, from 0.
        steps: the budget. A trunk reads it for a warm-up by share alone.
        peak: the rate after the warm-up.
        warmup: below 1 a share of the budget, from 1 a number of steps. Branches of several budgets share a warm-up, so
            they and their trunk need the number.
        decay: share of the budget over which "wsd" falls.
    """
    done = step + 1
    rising = jnp.where(jnp.asarray(warmup) < 1, warmup * steps, warmup)
    rise = jnp.minimum(done / jnp.maximum(rising, 1e-9), 1.0)
    if schedule == "trunk":
        return peak * rise
    if schedule == "cosine":
        fallen = (done - rising) / jnp.maximum(steps - rising, 1e-9)
        return peak * rise * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(fallen, 0.0, 1.0)))
    falling = _falling(jnp, steps, decay)
    fallen = (done - (steps - falling)) / falling
    return peak * rise * (1 - jnp.sqrt(jnp.clip(fallen, 0.0, 1.0)))


BASE_WIDTH = 64  # rates are those of the ladder's smallest rung
INPUTS = ("patch_embed",)  # kernels whose inputs are as many in every rung


def width_shares(params: Any, vision: int, decoder: int) -> Any:
    """Like the parameters: what each one's rate is multiplied with, so that one rate serves every width.

    muP for Adam (Yang et al. 2022, arXiv 2203.03466, table 8): kernels that read a tower's states get 64 / width, for an
    update of every entry moves their output by as many times as there are inputs. Inputs, tables, biases and scales keep
    theirs. Initial values are 1 / fan-in in variance already.

    Args:
        params: {"encoder": ..., ...}; vision, decoder: widths of the two towers.
    """

    def share(path: tuple[Any, ...], _: Any) -> float:
        names = [str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey)]
        if names[-1] != "kernel" or set(names) & set(INPUTS):
            return 1.0
        seen = any(name.startswith(("vision", "projector_up")) for name in names)
        return BASE_WIDTH / (vision if seen else decoder)

    return jax.tree_util.tree_map_with_path(share, params)


def branch_point(steps: int, decay: float = DECAY) -> int:
    """Steps of a trunk after which a "wsd" branch of this budget leaves it: the last before its rate falls."""
    return steps - int(_falling(np, np.int32(steps), decay))


def _falling(numbers: Any, steps: Any, decay: Any) -> Any:
    """Steps over which a budget's rate falls, at least the last; in float32, so that host and device round alike."""
    return numbers.maximum(numbers.rint(numbers.float32(decay) * numbers.asarray(steps).astype(numbers.float32)), 1)


def descend(
    state: dict[str, Any],
    gradients: Any,
    *,
    rate: Array,
    adam: optax.GradientTransformation,
    ema: Array | float | None = None,
    shares: Any = None,
) -> dict[str, Any]:
    """`state` one step further: "params", "opt", "step" and, with a decay, "ema"; whatever else it holds stays.

    Args:
        state: "params" float32, "opt" of `adam`, "step" int32 and, where `ema` is given, "ema" like "params".
        gradients: like the parameters, float32.
        rate: learning rate.
        adam: `optimiser()`.
        ema: share of the average that is kept at each step. The average starts from the initial parameters (a copy, as
            states are donated), so there is no bias to correct: its early weight lies on them, and not on zero.
        shares: like the parameters, floats: what each one's rate is multiplied with (`width_shares`); None for 1.
    """
    updates, opt = adam.update(gradients, state["opt"], state["params"])
    if shares is not None:
        updates = jax.tree.map(lambda u, share: share * u, updates, shares)
    params = jax.tree.map(lambda p, u: p - rate * u, state["params"], updates)
    moved = state | {"params": params, "opt": opt, "step": state["step"] + 1}
    if ema is None:
        return moved
    return moved | {"ema": jax.tree.map(lambda average, p: ema * average + (1 - ema) * p, state["ema"], params)}
