"""Behaviour modules: what a CTR model makes of a user's history. One file each; each docstring gives its paper's equation."""

from moon_jax.models.behaviour.attention import Attention
from moon_jax.models.behaviour.cube import Cube
from moon_jax.models.behaviour.din import Din
from moon_jax.models.behaviour.gsu_content import GsuContent
from moon_jax.models.behaviour.make import Make
from moon_jax.models.behaviour.sa_ta import SaTa
from moon_jax.models.behaviour.seen import Module, Seen, Shape, lag_bands
from moon_jax.models.behaviour.sim_soft import SimSoft
from moon_jax.models.behaviour.simtier import SimTier
from moon_jax.models.behaviour.twin import Twin

MODULES: dict[str, type[Module]] = {
    "attention": Attention,
    "din": Din,
    "sim_soft": SimSoft,
    "twin": Twin,
    "simtier": SimTier,
    "sa_ta": SaTa,
    "gsu_content": GsuContent,
    "make": Make,
    "cube": Cube,
}

__all__ = ["MODULES", "Module", "Seen", "Shape", "lag_bands"]
