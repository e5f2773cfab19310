"""The planted world: products whose every cause is known, photographed, titled, searched for and clicked on.

A product has a category (told by image and title), a colour, a pattern and an accent (told by the image alone), a
brand, a material, a use and a model (told by the title alone) and a hidden group (told by nothing but its id). Its
variants share all of these and differ in photo and wording. Which of them drives clicks is a knob, so what a
representation must hold is known.
"""

from moon_jax.data.world.making import make_world
from moon_jax.data.world.products import DRIVES, Products, WorldConfig, config_of, draw_products

__all__ = ["DRIVES", "Products", "WorldConfig", "config_of", "draw_products", "make_world"]
