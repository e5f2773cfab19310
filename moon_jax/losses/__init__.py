"""Contrastive losses."""

from moon_jax.losses.contrastive import candidate_mask, info_nce

__all__ = ["candidate_mask", "info_nce"]
