"""`results/README.md`: what every kept question says, as Markdown, written from its `answer.json` and from nothing else."""

import re
from pathlib import Path
from typing import Any

from experiments.suite_page import answers_in, held_in, held_sentence

HEAD = """# Results

Written by `moon redraw results` (`make results`) from the tables beside it: no number here was typed. `results.parquet` of a
question has a row a cell with its provenance, `fits/` the fitted laws, `answer.json` all sentences and small tables;
`make results-full` makes the tables from nothing.
"""


def write_overview(folder: Path) -> Path:
    """Write `README.md` over the sets of answers in the folder; its path."""
    parts = [HEAD]
    for home in sorted(path for path in folder.iterdir() if path.is_dir()):
        if answers := answers_in(home):
            parts.append(_set(home.name, answers))
    page = folder / "README.md"
    page.write_text("\n".join(parts), encoding="utf-8")
    return page


def _set(name: str, answers: dict[str, dict[str, Any]]) -> str:
    about = next(iter(answers.values()))["provenance"]
    simulated = [file for file, is_so in about.get("simulated", {}).items() if is_so]
    lines = [f"## {name}: {about['data']}", "", f"Preset {about['preset']}; source: {about['source']}."]
    lines.append(f"Simulated: {', '.join(simulated)}." if simulated else "Nothing in it is simulated.")
    if held := held_in(answers):
        lines += ["", held_sentence(held)]
    for question, answer in answers.items():
        lines += ["", f"### {name}: {question}", ""]
        lines += [f"- {sentence}" for sentence in answer["answer"]]
        if answer["figures"]:
            lines += ["", f"![{name}: {question}]({name}/{question}/figures/{answer['figures'][0]}.png)"]
        made = answer["provenance"]
        lines += ["", f"<details><summary>How it was made, and {len(answer['weak'])} weak points</summary>", ""]
        lines += [f"- {sentence}" for sentence in answer["notes"]]
        lines += [f"- weak: {sentence}" for sentence in answer["weak"]]
        lines += [
            f"- {made['cells']} cells, seeds {made['seeds']}; {_versions(made['versions'])}; {made['device']}; commit "
            + re.sub(r"([0-9a-f]{12})[0-9a-f]{28}", r"\1", made["commit"]),
            "",
            "</details>",
        ]
    return "\n".join([*lines, ""])


def _versions(told: str) -> str:
    """Of all packages those that compute."""
    return ", ".join(sorted({found[0] for found in re.finditer(r"\b(?:python|jax|flax|optax|numpy) [\d.]+", told)}))
