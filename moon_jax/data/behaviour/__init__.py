"""Simulated behaviour over a catalogue, with the click probability of every impression known.

Every item has a style. A user is one of some known personas, and a persona is a distribution over styles; the user's
events are drawn from it independently (style, then an item of it by popularity, or a search for it). An impression is
clicked, once it is examined, with

    p = sigmoid(bias + effect[item] + gain * s),    s = sum over lags l = 1..stop of w_l * [style of event l is shown]

where event l is the l-th last before the impression and w_l is an integer, the same from lag 2^(k-1) + 1 to 2^k and by
default about scale * l^-decay: interest that recurs at heavy-tailed lags. Beyond `stop` the history tells nothing more.
Impressions stand on pages; position k of a page is examined with probability k^-position_bias, whatever it shows.
"""

from moon_jax.data.behaviour.config import START, Behaviour, BehaviourConfig
from moon_jax.data.behaviour.on_catalogue import simulate_behaviour
from moon_jax.data.behaviour.simulation import Simulation, simulate

__all__ = ["START", "Behaviour", "BehaviourConfig", "Simulation", "simulate", "simulate_behaviour"]
