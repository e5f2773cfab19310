"""The tutorial on a question of one's own runs, and shows what its words say."""

from pathlib import Path

import pytest
from running_notebooks import executed

# Only what Jupyter's own packages warn about.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:nbclient"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:zmq"),
    pytest.mark.proof,
]


@pytest.mark.timeout(600)
def test_your_own_question(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], tmp_path: Path) -> None:
    for name in ("JAX_PLATFORMS", "XLA_FLAGS"):
        monkeypatch.setenv(name, environment[name])
    # A cache of its own: other tests look at who makes the planted world. Compiled programs are shared.
    (tmp_path / "xla").symlink_to(Path(environment["MOON_CACHE"]) / "xla")
    monkeypatch.setenv("MOON_CACHE", str(tmp_path))
    text = executed("your_own_question.ipynb")
    assert "dimensions: 8 cells" in text
    assert "smallest difference it can detect" in text
    assert text.count("image_entropy follows y = A x^-alpha") == 2  # each run ends with the answer
    assert "runs/dimensions/report.html" in text
    assert "wrong.py, line 26: AttributeError" in text
    assert text.count("(exit code 2)") == text.count("(exit code") == 1
