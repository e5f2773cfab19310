"""One page for all questions of a folder: what pays, what each says, what was foretold, what is weak."""

import json
from pathlib import Path
from typing import Any

from experiments.answering import shortfall
from experiments.question import QUESTIONS

FIRST = {
    "next_gpu_hour": 1,
    "exchange_rate": 4,
    "iterations": 1,
}  # sentences that stand on top, of questions that were asked


def answers_in(out: Path) -> dict[str, dict[str, Any]]:
    """Question -> its `answer.json`, in the order of the questions; those of a user's own files last."""
    found = {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("*/answer.json"))}
    found = {name: answer for name, answer in found.items() if answer["answer"]}
    return {
        name: found[name] for name in (*(q for q in QUESTIONS if q in found), *(q for q in found if q not in QUESTIONS))
    }


def held_in(answers: dict[str, dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """ "question: fit" -> (held-out runs within their prediction interval, held-out runs).

    A question over questions names its laws so itself: they count once, whoever reads them.
    """
    return {
        name if ": " in name else f"{question}: {name}": (int(pair[0]), int(pair[1]))
        for question, answer in answers.items()
        for name, pair in answer["held_out"].items()
    }


def held_sentence(held: dict[str, tuple[int, int]]) -> str:
    """How often the largest scales, held out of the fits, lay within their prediction intervals."""
    within, of = (sum(pair[k] for pair in held.values()) for k in (0, 1))
    return shortfall(held) or (
        f"Largest scales, held out: {within} of {of} runs lie within their 95 % prediction intervals, over {len(held)} fits."
    )


def write_suite(out: Path) -> Path | None:
    """`report.html` of a folder, over the answers in it; None where there is none."""
    from analysis.report import Section, write_report

    if not (answers := answers_in(out)):
        return None
    held = held_in(answers)
    # A shortfall is said by the page as a whole, before anything else.
    said = {
        name: [line for line in answer["answer"] if not line.startswith("NOT foretold")]
        for name, answer in answers.items()
    }
    lead = [line for name, count in FIRST.items() if name in said for line in said[name][:count]]
    lead = lead or [next(iter(said.values()))[0]]
    if held:
        lead.insert(0 if shortfall(held) else len(lead), held_sentence(held))
    sections = [Section("The questions", table=[_row(name, answer) for name, answer in answers.items()])]
    for name, answer in answers.items():
        figure = out / name / "figures" / f"{answer['figures'][0]}.svg" if answer["figures"] else None
        sections.append(
            Section(
                name.replace("_", " ").capitalize(),
                text="\n\n".join(answer["answer"]),
                figure=figure.read_text() if figure is not None and figure.exists() else None,
                alt=f"{name}: {answer['figures'][0]}" if answer["figures"] else "",
                warnings=answer["weak"],
                made=answer["provenance"],
                link=(f"{name}/report.html", "All figures, fits and tables of this question"),
            )
        )
    about = next(iter(answers.values()))["provenance"]
    shared = {name: about[name] for name in ("data", "source", "licence", "simulated", "preset") if name in about}
    return write_report(
        out / "report.html",
        title=f"What pays: {about.get('data', out.name)}",
        answer=lead,
        sections=sections,
        provenance=shared
        | {"questions": len(answers), "cells": sum(a["provenance"]["cells"] for a in answers.values())},
        contents=True,
    )


def _row(name: str, answer: dict[str, Any]) -> dict[str, Any]:
    within, of = (sum(pair[k] for pair in answer["held_out"].values()) for k in (0, 1))
    return {
        "question": name,
        "answer": answer["answer"][0],
        "held out, within": f"{within} of {of}" if of else "none held out",
        "cells": answer["provenance"]["cells"],
        "weak points": len(answer["weak"]),
    }
