"""Starting the clusters of the tests; skipped, visibly, where they cannot be had."""

import fcntl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "slurm.sh"


@contextmanager
def slurm(home: Path) -> Iterator[Path]:
    """A SLURM of one node on this machine; SLURM_CONF is its configuration."""
    pytest.importorskip("submitit", reason="submitit is not installed: pip install -e '.[slurm]'")
    with open(
        Path(tempfile.gettempdir()) / "moon-tests-slurm.lock", "w"
    ) as lock:  # one cluster at a time: it has fixed ports
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _started(home):
            yield home


@contextmanager
def _started(home: Path) -> Iterator[None]:
    started = subprocess.run([SCRIPT, "start", home], capture_output=True, text=True, timeout=280, check=False)
    if started.returncode == 77:
        pytest.skip(started.stdout.strip())
    assert started.returncode == 0, started.stdout + started.stderr
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(home / "slurm.conf"))
            patch.delenv("XLA_FLAGS", raising=False)
            yield
    finally:
        subprocess.run([SCRIPT, "stop", home], check=True, timeout=60)


@contextmanager
def ray(cores: int = 1) -> Iterator[str]:
    """A Ray of two nodes on this machine, the second with a resource "large"; the address to give."""
    pytest.importorskip("ray", reason="ray is not installed: pip install -e '.[ray]'")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.delenv("XLA_FLAGS", raising=False)
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": cores, "include_dashboard": False})
        nodes.add_node(num_cpus=cores, resources={"large": 1})
        try:
            yield nodes.address
        finally:
            nodes.shutdown()
