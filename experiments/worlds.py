"""The planted worlds that presets run on when no data is given, and their knobs by name."""

from dataclasses import fields, replace
from typing import Any

from moon_jax.data.behaviour import BehaviourConfig
from moon_jax.data.world import WorldConfig


def world_for(preset: str, drives: str = "visual") -> WorldConfig:
    """A world whose clicks follow what only images show ("visual"), only titles show ("text"), or neither ("id")."""
    if preset == "smoke":
        behaviour = BehaviourConfig(users=60, impressions=40)
        return WorldConfig(products=150, drives=drives, behaviour=behaviour)
    return WorldConfig(drives=drives, behaviour=BehaviourConfig(users=3000))


def with_knobs(config: WorldConfig, **knobs: Any) -> WorldConfig:
    """The world with these knobs (of a world or of its behaviour) turned; None leaves one as it is.

    `seed` seeds both; `weights` say how far back events tell (`stop`); `cart_events` is the share of the events' items
    put into the cart, of which as many are bought as in the search log. With many `events_before` fewer users are made at
    a time. Raises DataError for a value that cannot be.
    """
    given = {name: value for name, value in knobs.items() if value is not None}
    if weights := given.get("weights"):
        given["stop"] = 2 ** (len(weights) - 1)
    ours = {field.name for field in fields(WorldConfig)}
    crowd = {name: given[name] for name in (field.name for field in fields(BehaviourConfig)) if name in given}
    if "events_before" in given:
        crowd["block"] = min(config.behaviour.block, max(10, 2**23 // max(given["events_before"], 1)))
    if "cart_events" in given:
        share = given.pop("cart_events")
        crowd |= {"cart_share": share, "purchase_share": given.get("purchase_share", config.purchase_share)}
    world = {name: value for name, value in given.items() if name in ours}
    return replace(config, behaviour=replace(config.behaviour, **crowd), **world)
