"""The ledger: what it keeps, what it refuses, and that a step is published once, whoever races."""

import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from steps_for_tests import Work

from sweeps import Cell, DataFile, Ledger, Step, SweepError, attempts, sources, work
from sweeps.files import read_json, write_json
from sweeps.outcomes import Rules

Make = Callable[..., Step]


def calls(traces: Path) -> list[str]:
    return sorted(path.name for path in traces.iterdir())


def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_text("picture")
    with pytest.raises(SweepError, match="is not a ledger of this program; give an empty or new folder"):
        Ledger(tmp_path)
    assert os.listdir(tmp_path) == ["holiday.jpg"]
    with pytest.raises(SweepError, match="is a file"):
        Ledger(tmp_path / "holiday.jpg")
    with pytest.raises(SweepError, match="no ledger here"):
        Ledger(tmp_path / "new", create=False)
    assert not (tmp_path / "new").exists()


def test_an_empty_folder_becomes_a_ledger_and_is_known_again(tmp_path: Path) -> None:
    Ledger(tmp_path)
    assert Ledger(tmp_path, create=False).steps() == []
    (tmp_path / "ledger.json").write_text('{"format": 99}')
    with pytest.raises(SweepError, match="not a ledger that this version can read"):
        Ledger(tmp_path)


def test_a_published_step_has_all_that_the_layout_promises(ledger: Ledger, counting: Make, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("abc")
    step = counting(4, units=2, files={"table": DataFile(table, "digest")})
    ledger.register([step])
    assert ledger.state(step) == ledger.state(counting(5)) == "pending"  # also before it is registered
    assert ledger.stale([step, counting(5)]) == []
    assert ledger.ready() == ledger.pending() == [step.name]
    assert work(ledger.root)
    result = ledger.result(step)
    assert result is not None
    assert ledger.state(step) == "done"
    assert result["metrics"] == {"value": 4, "begun": 0, "text": "abc"}
    folder = ledger.root / "steps" / step.name
    assert step.name == f"count-{step.id[:12]}"
    assert (folder / "log.txt").read_text() == "counting 4 from 0\n"
    assert json.loads((folder / "metrics.jsonl").read_text()) == {"value": 4}
    assert (folder / "checkpoints" / "state.json").is_file()
    assert read_json(folder / "step.json")["id"] == step.id
    assert result["checkpoints"] == ["state.json"]
    assert set(result["files"]) == {"value.json", "log.txt", "metrics.jsonl"}
    for name, known in result["files"].items():
        content = (ledger.folder(step) / name).read_bytes()
        assert known == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    assert not (folder / "lease.json").exists()


def test_running_twice_does_nothing_twice_and_shared_steps_run_once(
    ledger: Ledger, counting: Make, traces: Path
) -> None:
    shared = counting(1)
    cells = [
        Cell({"x": x}, {"count": shared, "echo": counting(x, function="echo_inputs", needs={"a": shared})})
        for x in (2, 3)
    ]
    names = ledger.write_plan("two", cells)
    assert names[0] == shared.name
    assert len(names) == 3
    work(ledger.root)
    work(ledger.root, ["two"])
    assert calls(traces) == ["1.1", "2.1", "3.1"]
    rows = Ledger(ledger.root).rows(ledger.read_plan("two").cells)
    assert [(row["x"], row["value"], row["read"], row["status"]) for row in rows] == [
        (2, 1, 2, "done"),
        (3, 1, 3, "done"),
    ]
    assert rows == ledger.rows(cells)
    assert rows[0]["count_step"] == shared.name
    assert rows[0]["seconds"] == pytest.approx(rows[0]["count_seconds"] + rows[0]["echo_seconds"])
    assert "python 3." in rows[0]["versions"]
    assert "pytest " in rows[0]["versions"]
    assert rows[0]["device"]


def test_plans_come_back_without_the_question(ledger: Ledger, counting: Make) -> None:
    ledger.write_plan("b", [Cell({"x": 1.5, "name": "n"}, {"count": counting(1)})])
    ledger.write_plan("a", [])
    steps, cells = Ledger(ledger.root).read_plan("b")
    assert steps == (counting(1).name,)
    assert cells == (Cell({"x": 1.5, "name": "n"}, {"count": counting(1).name}),)
    assert ledger.questions() == ["a", "b"]
    with pytest.raises(SweepError, match=r"question 'c' has no plan .* planned here: a, b"):
        ledger.read_plan("c")
    for bad in ("steps", "../up", ""):
        with pytest.raises(SweepError, match="use letters"):
            ledger.write_plan(bad, [])
    with pytest.raises(SweepError, match="coordinate 'x' is tuple"):
        ledger.write_plan("b", [Cell({"x": (1,)}, {})])


def test_every_cell_has_a_row_and_its_status_is_the_worst_of_its_steps(ledger: Ledger, counting: Make) -> None:
    def cell(number: int, behave: str) -> Cell:
        first = counting(number, behave=behave)
        return Cell(
            {"x": number}, {"count": first, "echo": counting(number, function="echo_inputs", needs={"a": first})}
        )

    how = ["well", "diverge", "crash", "memory", "bad input", "exit"]
    cells = [cell(10 + index, behave) for index, behave in enumerate(how)]
    ledger.write_plan("all", cells[:-1])
    work(ledger.root)
    ledger.register(cells)
    last = Cell({"x": 0}, {"count": counting(99)})
    ledger.register([last])
    status = [row["status"] for row in ledger.rows([*cells, last])]
    assert status == ["done", "diverged", "crashed", "oom", "bad_input", "pending", "pending"]


def test_what_needs_a_diverged_step_does_not_run(ledger: Ledger, counting: Make, traces: Path) -> None:
    first = counting(1, behave="diverge")
    second = counting(2, function="echo_inputs", needs={"a": first})
    third = counting(3, function="echo_inputs", needs={"a": second})
    ledger.register([third])
    assert work(ledger.root)
    assert calls(traces) == ["1.1"]
    assert [ledger.state(step) for step in (first, second, third)] == ["diverged"] * 3
    assert ledger.result(second) is None
    assert ledger.pending() == ledger.ready() == []


@pytest.mark.parametrize(
    ("behave", "state", "tries", "says"),
    [
        ("crash", "crashed", 2, "RuntimeError: it broke"),
        ("exit", "crashed", 2, "SystemExit: 3"),
        ("memory", "oom", 4, "RuntimeError: RESOURCE_EXHAUSTED"),
        ("bad input", "bad_input", 1, "PictureDataError: items.parquet, row 3: no picture"),
    ],
)
def test_failures_are_told_apart_and_tried_by_their_own_rules(
    ledger: Ledger, counting: Make, traces: Path, behave: str, state: str, tries: int, says: str
) -> None:
    step = counting(1, behave=behave)
    ledger.register([step])
    work(ledger.root)
    assert len(calls(traces)) == tries
    failure = ledger.failure(step)
    assert failure is not None
    assert (ledger.state(step), failure["message"].startswith(says)) == (state, True)
    log = next((ledger.step_folder(step) / "attempts").iterdir()) / "log.txt"
    assert "Traceback" in log.read_text()
    work(ledger.root)  # another run tries again
    assert len(calls(traces)) == 2 * tries


def test_out_of_memory_is_tried_again_with_less_and_the_result_says_so(
    ledger: Ledger, counting: Make, traces: Path
) -> None:
    step = counting(1, behave="large", until=2)
    ledger.register([step])
    work(ledger.root)
    assert (ledger.state(step), len(calls(traces))) == ("done", 3)
    assert ledger.rows([Cell({}, {"count": step})])[0]["shrunk"] == 2


@pytest.mark.parametrize(
    ("behave", "retry", "again"),
    [("bad input", ("bad_input",), True), ("bad input", ("crashed", "oom"), False), ("bad input", (), False),
     ("crash", ("crashed",), True), ("crash", ("timed_out",), False)],
)  # fmt: skip
def test_another_run_tries_what_it_is_told_to(
    ledger: Ledger, counting: Make, traces: Path, behave: str, retry: tuple[str, ...], again: bool
) -> None:
    step = counting(1, behave=behave)
    ledger.register([step])
    work(ledger.root)
    before = len(calls(traces))
    work(ledger.root, rules=Rules(retry=retry))
    assert (len(calls(traces)) > before) == again


def test_a_step_whose_time_is_up_saves_itself_and_is_not_tried_again_by_itself(
    ledger: Ledger, counting: Make, traces: Path
) -> None:
    step = counting(1, units=100, pause=0.2)
    ledger.register([step])
    work(ledger.root, rules=Rules("r", seconds=1.0))
    failure = ledger.failure(step)
    assert failure is not None
    assert (ledger.state(step), len(calls(traces))) == ("timed_out", 1)
    assert failure["message"].startswith("TimedOut: worked for 1 s")
    work(ledger.root, rules=Rules("r", seconds=1.0))
    work(ledger.root, rules=Rules(retry=("crashed",)))
    assert len(calls(traces)) == 1


def test_a_step_that_does_not_hear_ends_its_process(ledger: Ledger, counting: Make) -> None:
    step = counting(1, units=2, pause=30.0)
    ledger.register([step])
    code = (
        "import sys; from sweeps import running, work; from sweeps.outcomes import Rules; running.DEAF = 0.5\n"
        "work(sys.argv[1], rules=Rules(seconds=0.5))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code, str(ledger.root)], env=env, timeout=25, check=False)
    assert (done.returncode, ledger.state(step)) == (75, "timed_out")


def test_a_crash_that_passes_is_mended_by_the_second_try(ledger: Ledger, counting: Make, traces: Path) -> None:
    step = counting(1, behave="crash", until=1)
    ledger.register([step])
    work(ledger.root)
    assert (ledger.state(step), calls(traces)) == ("done", ["1.1", "1.2"])
    assert len(attempts.attempts_of(ledger.step_folder(step))) == 1  # the failed one is swept away


def test_a_step_that_cannot_be_found_is_bad_input_in_one_line(ledger: Ledger, tmp_path: Path) -> None:
    steps = {
        "no module 'nowhere'": Step("nowhere:count", 1, Work(1)),
        "has no function gone": Step("steps_for_tests:gone", 1, Work(1)),
        "file 'table' is not at": Step("steps_for_tests:count", 1, Work(1), {"table": DataFile(tmp_path / "no", "d")}),
    }
    ledger.register(steps.values())
    work(ledger.root)
    for says, step in steps.items():
        failure = ledger.failure(step)
        assert failure is not None
        assert failure["status"] == "bad_input"
        assert says in failure["message"]


def test_the_latest_path_of_a_file_counts(ledger: Ledger, counting: Make, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for path in (old, new):
        path.write_text(path.name)
    step = counting(1, files={"table": DataFile(new, "same")})
    for path in (old, new):
        ledger.register([counting(1, files={"table": DataFile(path, "same")})])
    assert ledger.record(step).files["table"]["path"] == str(new)
    old.write_text("something else, which nobody reads")
    work(ledger.root)
    result = ledger.result(step)
    assert result is not None
    assert result["metrics"]["text"] == "new"


def test_a_file_that_changed_after_it_was_planned_is_not_read(ledger: Ledger, counting: Make, tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text("as planned")
    step = counting(1, files={"table": DataFile(path, "digest of what was planned")})
    ledger.register([step])
    path.write_text("written over since")
    work(ledger.root)
    assert ledger.result(step) is None
    assert "was changed after it was planned" in (ledger.failure(step) or {})["message"]


def test_names_with_two_meanings_are_refused(ledger: Ledger, counting: Make) -> None:
    ledger.register([counting(1), counting(2)])
    work(ledger.root)
    with pytest.raises(SweepError, match=r"'value' is given by a and by step 'b'|'begun' is given by a"):
        ledger.rows([Cell({}, {"a": counting(1), "b": counting(2)})])
    with pytest.raises(SweepError, match="'value' is given by the coordinates and by step 'a'"):
        ledger.rows([Cell({"value": 7}, {"a": counting(1)})])
    assert ledger.rows([Cell({"value": 1}, {"a": counting(1)})])[0]["value"] == 1
    with pytest.raises(SweepError, match="'seconds' is given by the coordinates, but the ledger"):
        ledger.rows([Cell({"seconds": 7}, {"a": counting(1)})])


def _publish_at_once(folder: Path, name: str, barrier: Barrier, answers: Any) -> None:
    attempt = attempts.begin(folder, name, "run", "digest")
    (attempt.folder / "value.json").write_text(name)
    barrier.wait()
    answers.put((name, attempt.publish({"status": "done", "metrics": {"who": name}, "inputs": {}}, 1.0)))


@pytest.mark.parametrize("turn", range(3))
def test_of_processes_that_publish_at_once_exactly_one_wins(ledger: Ledger, counting: Make, turn: int) -> None:
    step = counting(turn)
    ledger.register([step])
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    names = ["one", "two"]
    racers = [
        context.Process(target=_publish_at_once, args=(ledger.step_folder(step), name, barrier, answers))
        for name in names
    ]
    for racer in racers:
        racer.start()
    won = dict(answers.get(timeout=30) for _ in racers)
    for racer in racers:
        racer.join(timeout=30)
    winner = [name for name in names if won[name]]
    assert len(winner) == 1
    result = ledger.result(step)
    assert result is not None
    assert result["metrics"]["who"] == result["attempt"] == winner[0]
    assert (ledger.folder(step) / "value.json").read_text() == winner[0]
    assert attempts.attempts_of(ledger.step_folder(step)) == winner


def test_a_step_that_wrote_the_ledgers_own_file_is_not_published(ledger: Ledger, counting: Make) -> None:
    step = counting(1)
    ledger.register([step])
    attempt = attempts.begin(ledger.step_folder(step), "mine", "run", "digest")
    (attempt.folder / "result.json").write_text("{}")
    with pytest.raises(SweepError, match="which are the ledger's own"):
        attempt.publish({"status": "done"}, 1.0)
    assert ledger.result(step) is None


def test_a_truncated_result_and_a_lost_folder_are_told_in_a_line(ledger: Ledger, counting: Make) -> None:
    step = counting(1)
    ledger.register([step])
    work(ledger.root)
    shutil.rmtree(ledger.folder(step))
    with pytest.raises(SweepError, match="folder of a published result is gone"):
        ledger.folder(step)
    path = ledger.step_folder(step) / "result.json"
    os.unlink(path)
    path.write_text('{"status": ')
    with pytest.raises(SweepError, match="not a whole result"):
        Ledger(ledger.root).result(step)


def test_stale_results_are_found_with_what_rests_on_them_and_rerun_from_their_beginning(
    ledger: Ledger, counting: Make, traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = counting(1, units=2)
    second = counting(2, function="echo_inputs", needs={"a": first})
    ledger.register([second])
    work(ledger.root)
    assert ledger.stale([first, second]) == []
    for module in ("sweeps.ledger", "sweeps.running"):
        monkeypatch.setattr(f"{module}.source_digest", lambda function: "another")
    assert ledger.stale([second]) == [first.name, second.name]  # what it needs, too, and first
    aside = ledger.discard(first)
    assert aside.name == "result.stale-1.json"
    assert ledger.result(first) is None
    assert ledger.stale([first, second]) == [second.name]  # what it read is no longer there
    ledger.discard(second)
    work(ledger.root)
    result = ledger.result(first)
    assert result is not None
    assert result["metrics"]["begun"] == 0  # the old result's checkpoints are not gone on from
    assert result["source_digest"] == "another"
    assert calls(traces) == ["1.1", "1.2", "2.1", "2.2"]
    assert ledger.stale([first, second]) == []
    assert (ledger.step_folder(first) / "attempts" / json.loads(aside.read_text())["attempt"]).is_dir()
    with pytest.raises(SweepError, match="has no result to discard"):
        ledger.discard(counting(3))


def test_the_digest_covers_the_sources_that_a_function_rests_on_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "pack"
    texts = {
        "__init__.py": "",
        "steps.py": "def f():\n    from pack.deep import used\n",
        "deep/__init__.py": "from .inner import thing\n",
        "deep/used.py": "from .. import top\nimport json\n",
        "deep/inner.py": "thing = 1\n",
        "top.py": "import pack.late as late\n",
        "late.py": "",
        "unused.py": "raise RuntimeError('never imported')\n",
    }
    for name, text in texts.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = sources.modules_behind("pack.steps")
    assert set(found) == {
        "pack",
        "pack.steps",
        "pack.deep",
        "pack.deep.used",
        "pack.deep.inner",
        "pack.top",
        "pack.late",
    }

    def digest() -> str:
        sources.source_digest.cache_clear()
        return sources.source_digest("pack.steps:f")

    before = digest()
    (package / "unused.py").write_text("")
    assert digest() == before
    (package / "late.py").write_text("x = 1\n")
    assert digest() != before
    with pytest.raises(SweepError, match=r"pack\.gone.* not found"):
        sources.source_digest("pack.gone:f")


def test_json_files_keep_what_is_not_finite_and_never_show_halves(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": float("inf"), "b": [float("nan"), 1.0]})
    json.loads(path.read_text(), parse_constant=pytest.fail)  # strict JSON
    back = read_json(path)
    assert back["a"] == float("inf")
    assert back["b"][0] != back["b"][0]
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path)["b"][1] == 1.0
    assert os.listdir(tmp_path) == ["a.json"]
    path.write_text('{"a": ')
    assert read_json(path) is None
    assert read_json(tmp_path / "missing.json") is None
