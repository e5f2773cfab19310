"""CTR prediction: behaviour modules over a history, the target, and a top that joins them."""

import itertools
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from moon_jax.models.behaviour import MODULES, Seen, Shape, lag_bands
from moon_jax.models.catalogue import ROWS, Catalogue
from moon_jax.models.layers import linear

Array = jax.Array
ID_SCALE = 0.05  # standard deviation of embeddings at first


@dataclass(frozen=True)
class CtrConfig:
    """Shape of a CTR model.

    Attributes:
        items: rows of the ID table; it has some more, so that devices can share it evenly.
        actions: kinds of behaviour.
        modules: names of behaviour modules, joined side by side.
        shape: sizes that the modules share; `shape.content` is the width of the frozen representations, 0 for an ID-only
            model. With representations the target's own, r_t, joins, too, whatever the modules.
        query: whether impressions answer a query whose representation is known: r_q and cos(r_t, r_q) join, too.
        fields, field_rows: features of users and of context: how many, and the rows of their table of embeddings.
        top: "mlp", or "dcnv2": cross layers before it.
        hidden: widths of the top MLP; crosses: number of cross layers.
    """

    items: int
    actions: int
    modules: tuple[str, ...] = ("din",)
    shape: Shape = field(default_factory=Shape)
    query: bool = False
    fields: int = 0
    field_rows: int = 0
    top: Literal["mlp", "dcnv2"] = "mlp"
    hidden: tuple[int, ...] = (64, 32)
    crosses: int = 2

    def __post_init__(self) -> None:
        require_modules(self.modules)
        if self.top not in ("mlp", "dcnv2"):
            raise ValueError(f"top: {self.top!r} is unknown; mlp or dcnv2")
        if blind := [name for name in self.modules if MODULES[name].reads_content and not self.shape.content]:
            raise ValueError(f"modules: {blind[0]} reads representations, and there are none")
        if self.query and not self.shape.content:
            raise ValueError("query: queries are read as representations, and there are none")

    def build(self, seed: Array | int) -> "CtrModel":
        return CtrModel(self, nnx.Rngs(jax.random.key(seed)))

    def parameters(self) -> int:
        """Their number, tables of IDs included."""
        shapes = nnx.state(nnx.eval_shape(lambda: self.build(0)), nnx.Param)
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def require_modules(modules: tuple[str, ...]) -> None:
    """ValueError where a behaviour module is unknown or there is none."""
    if not modules:
        raise ValueError(f"modules: at least one is needed, of {', '.join(MODULES)}")
    if unknown := [name for name in modules if name not in MODULES]:
        raise ValueError(f"modules: {unknown[0]!r} is unknown; some of {', '.join(MODULES)}")


class IdRows(NamedTuple):
    """Rows of the ID table, int32: of B targets and of the L behaviours of each (any row where there is none)."""

    target_B: Array
    history_BxL: Array


def id_rows(target_B: Array, history_BxL: Array, catalogue: Catalogue) -> IdRows:
    """The rows that these items have in the ID table."""
    return IdRows(catalogue.id_row_N[target_B], catalogue.id_row_N[jnp.maximum(history_BxL, 0)])


class CtrModel(nnx.Module):
    """[e_t, module features ..., (P r_t), (P_q r_q, cos(r_t, r_q)), (fields)] -> (cross layers ->) MLP -> click logit.

    Models of every L have the same parameters.
    """

    def __init__(self, config: CtrConfig, rngs: nnx.Rngs):
        self.config = config
        small = nnx.initializers.normal(ID_SCALE)
        width = config.shape.id_width
        self.ids = nnx.Embed(-(-config.items // ROWS) * ROWS, width, rngs=rngs, embedding_init=small)
        self.actions = nnx.Embed(config.actions, width, rngs=rngs, embedding_init=small)
        self.modules = nnx.List([MODULES[name](config.shape, rngs) for name in config.modules])
        features = width + sum(module.features for module in self.modules)
        if config.shape.content:
            self.project = linear(config.shape.content, width, rngs)
            features += width
        if config.query:
            self.project_query = linear(config.shape.content, width, rngs)
            features += width + 1
        if config.fields:
            self.fields = nnx.Embed(config.field_rows, width, rngs=rngs, embedding_init=small)
            features += config.fields * width
        crosses = config.crosses if config.top == "dcnv2" else 0
        self.crosses = nnx.List([linear(features, features, rngs, bias=True) for _ in range(crosses)])
        widths = (features, *config.hidden)
        self.layers = nnx.List([linear(a, b, rngs, bias=True) for a, b in itertools.pairwise(widths)])
        self.logit = linear(widths[-1], 1, rngs, bias=True)

    def __call__(
        self,
        target_B: Array,
        history_BxL: Array,
        action_BxL: Array,
        catalogue: Catalogue,
        query_B: Array | None = None,
        field_BxF: Array | None = None,
        ids: "IdRows | None" = None,
    ) -> Array:
        """Click logits, float32 B.

        Args:
            target_B: item rows.
            history_BxL: item rows of the last L behaviours, newest first, -1 where the history is shorter.
            action_BxL: action ids of the same.
            catalogue: of the dataset, with representations if the model reads them.
            query_B: rows of the queries that impressions answer, -1 for none, where the model reads them.
            field_BxF: rows of the table of features, where the model has some.
            ids: rows of the ID table where they are not those of the catalogue (`row_updates`).
        """
        seen = self.see(target_B, history_BxL, action_BxL, catalogue, ids)
        parts = [seen.target_BxW, *(module(seen) for module in self.modules)]
        if seen.target_BxD is not None:
            parts.append(self.project(seen.target_BxD))
        if self.config.query:
            parts += self.answers(seen, catalogue, query_B)
        if self.config.fields:
            if field_BxF is None:
                raise ValueError("this model reads features of users or context: give their rows")
            parts.append(self.fields(field_BxF).reshape(target_B.size, -1))
        x_BxF = first_BxF = jnp.concatenate(parts, axis=1)
        for cross in self.crosses:  # DCN-v2 (arXiv 2008.13535, eq. 1): x0 * (W x + b) + x
            x_BxF = first_BxF * cross(x_BxF) + x_BxF
        for layer in self.layers:
            x_BxF = jax.nn.relu(layer(x_BxF))
        return self.logit(x_BxF)[:, 0]

    def answers(self, seen: Seen, catalogue: Catalogue, query_B: Array | None) -> list[Array]:
        """[P r_q, cos(r_t, r_q)], 0 where there is no query (arXiv 2511.11305, Fig 5)."""
        if query_B is None or seen.target_BxD is None:
            raise ValueError("this model reads queries and representations: give both")
        query_BxD = catalogue.vectors(jnp.maximum(query_B, 0)) * (query_B >= 0)[:, None]
        return [self.project_query(query_BxD), jnp.einsum("bd,bd->b", query_BxD, seen.target_BxD)[:, None]]

    def see(
        self,
        target_B: Array,
        history_BxL: Array,
        action_BxL: Array,
        catalogue: Catalogue,
        ids: "IdRows | None" = None,
    ) -> Seen:
        """What the modules see: embeddings looked up, cosines computed."""
        shape, real_BxL = self.config.shape, history_BxL >= 0
        rows_BxL = jnp.maximum(history_BxL, 0)
        ids = ids or id_rows(target_B, history_BxL, catalogue)
        seen = Seen(
            target_BxW=self.ids(ids.target_B),
            history_BxLxW=self.ids(ids.history_BxL) + self.actions(action_BxL),
            real_BxL=real_BxL,
            band_BxL=lag_bands(history_BxL.shape[1], shape.bands)[None],
            rows_BxL=rows_BxL,
        )
        if not shape.content:
            return seen
        target_BxD = catalogue.vectors(target_B)
        similarity_BxL = catalogue.similarities(target_BxD, rows_BxL, shape.places)
        return seen._replace(catalogue=catalogue, target_BxD=target_BxD, similarity_BxL=similarity_BxL)
