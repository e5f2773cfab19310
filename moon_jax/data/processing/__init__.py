"""Processing of a dataset: named transformations, each a frozen config, reported, in train scope unless said otherwise.

process_dataset("data/fashion", "data/fashion-clean", [ExactImages(), EntityFilter(least=3)])
"""

from moon_jax.data.processing.entities import EntityFilter, named_share
from moon_jax.data.processing.exposure import MatchExposure
from moon_jax.data.processing.hard_negatives import HardNegatives
from moon_jax.data.processing.photos import ExactImages, PerceptualImages
from moon_jax.data.processing.running import process_dataset
from moon_jax.data.processing.similarity import SimilarityDedup
from moon_jax.data.processing.titles import NearTitles
from moon_jax.data.processing.transformation import Report, Transformation
from moon_jax.data.processing.variants import MergeVariants
from moon_jax.data.processing.vectors import Vectors

KINDS: tuple[type[Transformation], ...] = (
    ExactImages,
    PerceptualImages,
    NearTitles,
    MergeVariants,
    SimilarityDedup,
    MatchExposure,
    EntityFilter,
    HardNegatives,
)
TRANSFORMATIONS = {kind.name: kind for kind in KINDS}

__all__ = [
    "TRANSFORMATIONS", "EntityFilter", "ExactImages", "HardNegatives", "MatchExposure", "MergeVariants", "NearTitles",
    "PerceptualImages", "Report", "SimilarityDedup", "Transformation", "Vectors", "named_share",
    "process_dataset",
]  # fmt: skip
