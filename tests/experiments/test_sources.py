"""Sources of step functions: no change goes by without a new version, or a reason why results are the same."""

import json
from pathlib import Path

import pytest

from experiments import sources
from experiments.steps import VERSIONS


def test_every_change_of_a_step_function_has_a_version_or_a_reason() -> None:
    found = sources.changed()
    assert not found["raised"], "versions were raised or added: python -m experiments.sources"
    assert not found["same"], 'raise VERSIONS in experiments/steps.py, or python -m experiments.sources --same "why"'
    assert json.loads(sources.RECORD.read_text()).keys() == VERSIONS.keys()


def test_a_change_asks_for_a_version_or_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sources, "RECORD", tmp_path / "sources.json")
    assert sources.main([]) == 0
    assert sources.changed() == {"raised": [], "same": []}
    recorded = json.loads(sources.RECORD.read_text())
    recorded["embed"]["digest"] = "other"
    sources.RECORD.write_text(json.dumps(recorded))
    assert sources.main([]) == 2
    assert "embed changed: raise the version" in capsys.readouterr().out
    assert sources.main(["--same", "a comment"]) == 0
    assert json.loads(sources.RECORD.read_text())["embed"]["same"] == "a comment"
    recorded["embed"]["version"] = 0
    sources.RECORD.write_text(json.dumps(recorded))
    assert sources.changed()["raised"] == ["embed"]
    assert sources.main([]) == 0
    assert "same" not in json.loads(sources.RECORD.read_text())["embed"]
