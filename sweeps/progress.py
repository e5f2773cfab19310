"""What a person sees of a sweep: a live view on a terminal, plain lines elsewhere, and the table of `moon status`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sweeps.ledger import Ledger
from sweeps.outcomes import STATES
from sweeps.snapshots import Failed, Running, Snapshot, take_snapshot

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table

_COLOURS = {"done": "green", "diverged": "magenta", "running": "cyan", "pending": "dim", "preempted": "yellow"}
_BAR = 20  # characters
_FAILURES_SHOWN = 5


@contextmanager
def view(console: "Console | None" = None) -> Iterator[Callable[[Snapshot], None]]:
    """Show snapshots as they come: `with view() as on_tick: run_local(..., on_tick=on_tick)`.

    A terminal shows a bar over all steps, a line for each running step and one for each failure; anything else gets one
    line for each step that finishes or fails.
    """
    from rich.console import Console

    console = console or Console()
    if not console.is_terminal:
        yield _Lines(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
        return
    from rich.live import Live

    with Live(console=console, refresh_per_second=4) as live:
        yield lambda snapshot: live.update(_drawn(snapshot))


def status_table(ledger: Ledger, questions: Sequence[str] | None = None) -> "Group":
    """The steps of each question by state, what runs now, and why what failed failed (None: all questions)."""
    from rich.console import Group
    from rich.table import Table

    chosen = ledger.questions() if questions is None else list(questions)
    snapshots = {question: take_snapshot(ledger, ledger.planned([question])) for question in chosen}
    met = [state for state in STATES if state == "done" or any(s.counts.get(state) for s in snapshots.values())]
    table = Table("question", *met, "steps", "left", box=None, pad_edge=False)
    for question, snapshot in snapshots.items():
        counts = [_coloured(str(snapshot.counts.get(state, 0) or "."), state) for state in met]
        table.add_row(question, *counts, str(snapshot.total), duration(snapshot.seconds_left))
    running = {now.name: now for snapshot in snapshots.values() for now in snapshot.running}
    failed = {step.name: step for snapshot in snapshots.values() for step in snapshot.failed}
    return Group(table, *_running_lines(list(running.values())), *(_failed_line(step) for step in failed.values()))


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: 4.2s, 3m05s, 2h07m; "?" for None."""
    if seconds is None:
        return "?"
    if seconds < 60:
        return f"{seconds:.1f}s"
    if seconds < 3600:
        return f"{int(seconds) // 60}m{int(seconds) % 60:02d}s"
    return f"{int(seconds) // 3600}h{int(seconds) % 3600 // 60:02d}m"


class _Lines:
    """Tells of each step once: when it has its result, or when its attempt failed."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told: set[tuple[str, str]] | None = None

    def __call__(self, snapshot: Snapshot) -> None:
        if self._told is None:  # what an earlier run did, or left failed, is no news
            self._told = {(step.name, step.status) for step in snapshot.finished}
            self._told |= {(step.name, step.status) for step in snapshot.failed}
            if snapshot.finished:
                self._say(f"{len(snapshot.finished)}/{snapshot.total} steps are done already")
        known = len(snapshot.finished) - sum((step.name, step.status) not in self._told for step in snapshot.finished)
        for step in snapshot.finished:
            if (step.name, step.status) in self._told:
                continue
            known += 1
            word = "" if step.status == "done" else f" {step.status}"
            self._say(f"[{known}/{snapshot.total}] {step.name}{word} {duration(step.seconds)}")
            self._told.add((step.name, step.status))
        for failure in snapshot.failed:
            if (failure.name, failure.status) not in self._told:
                self._say(f"{failure.status}: {failure.name}: {failure.message}")
                self._told.add((failure.name, failure.status))


def _drawn(snapshot: Snapshot) -> "Group":
    from rich.console import Group
    from rich.text import Text

    finished = len(snapshot.finished)
    others = [
        f"{count} {state}" for state, count in snapshot.counts.items() if state not in ("done", "running", "pending")
    ]
    head = Text.assemble(
        (_bar(finished, snapshot.total), "bold green"),
        f" {finished}/{snapshot.total} steps",
        (f"  {', '.join(others)}" if others else "", "yellow"),
        (f"  {duration(snapshot.seconds_left)} left" if finished < snapshot.total else "", "dim"),
    )
    failures = [_failed_line(step) for step in snapshot.failed[-_FAILURES_SHOWN:]]
    more = len(snapshot.failed) - len(failures)
    tail = [Text(f"... and {more} more failures: see the status", style="dim")] if more else []
    return Group(head, *_running_lines(snapshot.running), *failures, *tail)


def _running_lines(running: Sequence[Running]) -> list["Table"]:
    from rich.table import Table

    if not running:
        return []
    table = Table.grid(padding=(0, 2))
    for now in running:
        share = f"{now.done:g}/{now.total:g}" if now.done is not None and now.total is not None else ""
        left = f"{duration(now.seconds_left)} left" if now.seconds_left is not None else ""
        rate = f"{now.done / now.seconds:.3g}/s" if now.done and now.seconds > 0 else ""
        bar = _bar(now.done or 0, now.total or 0)
        table.add_row(
            f"[cyan]{now.name}[/]",
            f"[cyan]{bar}[/]",
            share,
            rate,
            duration(now.seconds),
            left,
            f"[dim]{_told(now.info)}[/]",
        )
    return [table]


def _failed_line(step: Failed) -> Any:
    from rich.text import Text

    return Text.assemble(
        (f"{step.status} ", "bold red"), f"{step.name}: {step.message}", no_wrap=True, overflow="ellipsis"
    )


def _bar(done: float, total: float) -> str:
    filled = round(_BAR * min(1.0, done / total)) if total else 0
    return "━" * filled + "╌" * (_BAR - filled)


def _told(info: Mapping[str, Any]) -> str:
    return " ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in info.items()
    )


def _coloured(text: str, state: str) -> str:
    return f"[{_COLOURS.get(state, 'red')}]{text}[/]" if text != "." else f"[dim]{text}[/]"
