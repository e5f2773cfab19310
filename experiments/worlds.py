"""The planted worlds that presets run on when no data is given."""

from moon_jax.data.behaviour import BehaviourConfig
from moon_jax.data.world import WorldConfig


def world_for(preset: str, drives: str = "visual") -> WorldConfig:
    """A world whose clicks follow what only images show ("visual"), only titles show ("text"), or neither ("id")."""
    if preset == "smoke":
        behaviour = BehaviourConfig(users=60, impressions=40)
        return WorldConfig(products=150, drives=drives, behaviour=behaviour)
    return WorldConfig(drives=drives, behaviour=BehaviourConfig(users=3000))
