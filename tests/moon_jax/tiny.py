"""A world of sixty products, and a report that says nothing."""

from typing import Any

from moon_jax.data.behaviour import BehaviourConfig
from moon_jax.data.world import WorldConfig

TINY_WORLD = WorldConfig(
    products=60, image_queries=3, text_queries=3, behaviour=BehaviourConfig(users=40, impressions=12)
)


def silent(done: float, total: float, **info: Any) -> None:
    """A `report` that says nothing."""
