"""What the sources of each step function were when its version was last looked at: `sources.json`.

A result of other sources is not known to be the same result. So a test fails where a step function's sources have changed since,
until its version was raised in `experiments/steps.py`, or somebody says why its results are the same:

    python -m experiments.sources [--same "why"]
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.steps import VERSIONS, function_of
from sweeps.sources import source_digest

RECORD = Path(__file__).with_name("sources.json")


def today() -> dict[str, dict[str, str | int]]:
    """Stage -> its version and the digest of its sources, as they are now."""
    return {
        stage: {"version": version, "digest": source_digest(function_of(stage))} for stage, version in VERSIONS.items()
    }


def changed() -> dict[str, list[str]]:
    """Stages whose sources are not those recorded: "raised" with another version (or none recorded), "same" with the same."""
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    out: dict[str, list[str]] = {"raised": [], "same": []}
    for stage, now in today().items():
        known = recorded.get(stage, {})
        if known.get("version") != now["version"]:
            out["raised"].append(stage)
        elif known["digest"] != now["digest"]:
            out["same"].append(stage)
    return out


def record(why: str | None) -> None:
    """Write down today's sources; `why` stands beside those whose version was not raised."""
    known, found = json.loads(RECORD.read_text()) if RECORD.exists() else {}, changed()
    for stage, now in today().items():
        reason = why if stage in found["same"] else None if stage in found["raised"] else known[stage].get("same")
        known[stage] = now | ({"same": reason} if reason else {})
    RECORD.write_text(json.dumps({stage: known[stage] for stage in VERSIONS}, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--same", metavar="WHY", help="why results are the same though the sources changed")
    given = parser.parse_args(arguments)
    if (same := changed()["same"]) and not given.same:
        print(f"the sources of {', '.join(same)} changed: raise the version in experiments/steps.py, or say --same WHY")
        return 2
    record(given.same)
    return 0


if __name__ == "__main__":
    sys.exit(main())
