"""The tutorial on a question of one's own runs, and shows what its words say."""

import re

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
def test_your_own_question(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name in ("JAX_PLATFORMS", "XLA_FLAGS", "MOON_CACHE"):
        monkeypatch.setenv(name, environment[name])
    text = executed("your_own_question.ipynb")
    assert "dimensions: 8 cells" in text
    assert "smallest difference it can detect" in text
    assert text.count("image_entropy follows y = A x^-alpha") == 2  # each run ends with the answer
    assert len(re.findall(r"\[ *1/\d+\]", text)) == 1  # and the second had no step to run
    assert "runs/dimensions/report.html" in text
    assert "wrong.py, line 26: AttributeError" in text
    assert text.count("(exit code 2)") == text.count("(exit code") == 1
