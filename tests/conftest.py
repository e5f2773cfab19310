"""Strict by default: eight simulated devices, rank promotion raises, warnings are errors (pyproject.toml)."""

import os

from experiments.running import cache_folder, worker_environment

if "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# Tests compile much and run little; what is compiled is kept: a second run hardly compiles anything.
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=1"
os.environ.update(worker_environment() | {"JAX_COMPILATION_CACHE_DIR": str(cache_folder() / "tests-xla")})

from pathlib import Path

import hypothesis
import pytest

# The same examples every time, so that a failure belongs to the change that brings it; HYPOTHESIS_PROFILE=search seeks new ones.
hypothesis.settings.register_profile("fixed", derandomize=True, print_blob=True)
hypothesis.settings.register_profile("search", print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

REAL_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data beside the project; the test is skipped, visibly, where it is missing."""
    if not REAL_DATA.is_dir():
        assert not os.environ.get("MOON_REQUIRE_REAL_DATA"), f"real data is required here, and missing at {REAL_DATA}"
        pytest.skip(f"real data not found at {REAL_DATA}")
    return REAL_DATA
