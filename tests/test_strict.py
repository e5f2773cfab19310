"""The settings of `conftest.py` reached jax: it reads them when it is imported, so nothing may import it before."""

import jax
import pytest


def test_tests_are_strict() -> None:
    assert jax.device_count() == 8
    assert jax.config.jax_compilation_cache_dir
    with pytest.raises(ValueError, match="could not be broadcast together"):
        jax.numpy.ones((2, 3)) + jax.numpy.ones(3)
