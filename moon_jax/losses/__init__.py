"""Contrastive losses over very many negatives."""

from moon_jax.losses.choice import Choice, choose_form
from moon_jax.losses.contrastive import circle_loss, info_nce, sigmoid_loss
from moon_jax.losses.counting import count_candidates
from moon_jax.losses.matryoshka import matryoshka

__all__ = ["Choice", "choose_form", "circle_loss", "count_candidates", "info_nce", "matryoshka", "sigmoid_loss"]
