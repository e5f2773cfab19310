"""Questions run until they ask for nothing more, then read."""

from pathlib import Path
from typing import Literal

from experiments.commands.common import BAD_INPUT, DONE, SOME_FAILED, is_users, say
from experiments.launching import Launch


def run_questions(  # type: ignore[no-untyped-def]
    questions,
    preset: str,
    data: Path | None,
    out: Path,
    launch: Launch,
    stale: Literal["keep", "rerun"] | None,
    engine: str,
    trunk: bool = False,
) -> int:
    """Plans the questions, runs what is not done, reads the results and writes the reports; returns the exit code.

    Cells may depend on what others measured (learning rates are tried before systems are compared): as long as the questions
    ask for more than was planned they are planned and run again.
    """
    from experiments import running
    from sweeps import Ledger
    from sweeps.progress import view

    dataset = running.open_data(data, preset, say)
    ledger = Ledger(out)
    running.require_sound_once(dataset, out)

    def ask(told):  # type: ignore[no-untyped-def]
        return running.cells_of(questions, preset, dataset, told, trunk=trunk, known=running.known_in(ledger))

    planned = ask(say)
    for name in planned:
        running.refuse_other_data(out, name, dataset)
    while running.settle_stale(ledger, planned, stale):
        planned = ask(silent)
    if "diverged" in launch.retry:
        running.discard_diverged(ledger, planned)
        planned = ask(silent)
    env = running.worker_environment() | running.engine_environment(engine)
    with launch.curves(ledger, list(planned)) as beside:
        while True:
            for name, cells in planned.items():
                ledger.write_plan(name, cells)
                running.save_about(out, name, dataset, preset)
            if launch.launcher == "none":
                break
            with view() as on_tick:
                snapshot = launch(ledger, list(planned), env, running.Tables(ledger, planned).beside(beside(on_tick)))
            more = ask(silent)
            while running.settle_stale(ledger, more, stale):
                more = ask(silent)
            if more == planned:
                break
            say("learning rates are chosen: going on with what was waiting for them")
            planned = more
    if launch.launcher == "none":
        say(f"planned in {out}; `moon worker --out {out}` runs it, `moon report QUESTION --out {out}` reads it")
        known = running.known_in(ledger, assume=True)
        if planned != running.cells_of(questions, preset, dataset, silent, trunk=trunk, known=known):
            say(
                "some cells wait for learning rates to be chosen: once these steps are done, plan again with the same command"
            )
        return DONE
    failed = running.failures(snapshot) > 0
    unread = 0
    for question in questions:
        if question.name not in planned:
            continue
        try:
            answer(out, question.name, question, planned[question.name])
        except ValueError as error:  # the other questions can still be read
            if not is_users(error):
                raise
            unread += 1
            say(f"\n{question.name.replace('_', ' ')}\n  no answer: {error}")
    tell_suite(out)
    return SOME_FAILED if failed else BAD_INPUT if unread else DONE


def silent(message: str) -> None:
    """What was said before is not said again."""


def answer(out: Path, name: str, question, cells) -> None:  # type: ignore[no-untyped-def]
    """Collect, read, write, and print the answer."""
    from experiments import answering, running
    from sweeps import Ledger

    table = running.collect(Ledger(out, create=False), name, cells)
    reading = answering.reading_of(question, table, out)
    path = answering.write_reading(out, question, reading, table, running.load_about(out, name))
    say(f"\n{name.replace('_', ' ')}")
    for sentence in reading.answer:
        say(f"  {sentence}")
    for sentence in reading.notes:
        say(f"  {sentence}")
    for sentence in reading.weak:
        say(f"  weak: {sentence}")
    say(f"  {path}")


def tell_suite(out: Path) -> None:
    """Write the page over all answers of the folder, and say where it is."""
    from experiments.suite_page import write_suite

    if (page := write_suite(out)) is not None:
        say(f"\nall questions of this folder: {page}")
