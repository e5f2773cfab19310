"""Metrics: global, never per batch."""

from moon_jax.metrics.ranking import auc, ece, gauc, log_loss, ndcg_at_k, user_aucs
from moon_jax.metrics.retrieval import contrastive_entropy, hit_rate_at_k, recall_at_k, top_k

__all__ = [
    "auc", "contrastive_entropy", "ece", "gauc", "hit_rate_at_k", "log_loss", "ndcg_at_k", "recall_at_k", "top_k", "user_aucs",
]  # fmt: skip
