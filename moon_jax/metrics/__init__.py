"""Metrics: global, never per batch."""

from moon_jax.metrics.geometry import alignment, neighbour_accuracy, uniformity
from moon_jax.metrics.ranking import auc, ece, gauc, log_loss, ndcg_at_k, user_aucs
from moon_jax.metrics.retrieval import contrastive_entropy, hit_rate_at_k, recall_at_k, top_k

__all__ = [
    "alignment", "auc", "contrastive_entropy", "ece", "gauc", "hit_rate_at_k", "log_loss", "ndcg_at_k", "neighbour_accuracy",
    "recall_at_k", "top_k", "uniformity", "user_aucs",
]  # fmt: skip
