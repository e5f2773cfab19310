"""Ray: an actor for each worker, placed by the resources that it asks for, on a cluster that is there or on this machine.

An actor that dies is started anew by Ray, and so is its work; a step that it was at goes on from its last checkpoint. Ctrl-C asks
the actors to stop, each saving its step.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sweeps import leases
from sweeps.errors import SweepError
from sweeps.launchers.programs import same_modules
from sweeps.launchers.watching import watch
from sweeps.ledger import Ledger
from sweeps.outcomes import Rules
from sweeps.snapshots import Snapshot

GRACE = 15.0  # seconds that a step has to save itself


def run_ray(
    ledger: Ledger,
    questions: Sequence[str],
    *,
    workers: int,
    resources: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    setup: str | None = None,
    on_tick: Callable[[Snapshot], None] = lambda snapshot: None,
    patience: float = leases.PATIENCE,
    rules: Rules | None = None,
) -> Snapshot:
    """Run the questions' plans with `workers` actors, and return how it ended. The ledger must lie where all nodes see it.

    resources: of one actor, by Ray's names: num_cpus, num_gpus, memory, and any that nodes declare; `address` is that of the
        cluster (by default that of RAY_ADDRESS, or of one that runs here, or a new one on this machine).
    env: added to the actors' environment. setup: "package.module:function", called first in each.

    Raises SweepError without ray, or where no cluster can be had.
    """
    rules = rules or Rules()
    crew = _Crew(
        workers, (str(ledger.root), tuple(questions), rules, patience, setup), dict(resources or {}), dict(env or {})
    )
    try:
        return watch(ledger, questions, workers, crew, on_tick, rules)
    finally:
        crew.close()


class Worker:
    """The actor: one call works until nothing is left, another asks it to stop."""

    def __init__(self) -> None:
        self._asked = False

    def stop(self) -> None:
        self._asked = True

    def work(self, root: str, questions: tuple[str, ...], rules: Rules, patience: float, setup: str | None) -> bool:
        from sweeps.worker import set_up, work

        set_up(setup)
        return work(root, questions, rules=rules, patience=patience, stopping=lambda: self._asked)


class _Crew:
    """The actors of one run."""

    def __init__(self, workers: int, given: tuple[Any, ...], resources: dict[str, Any], env: dict[str, str]):
        try:
            import ray
        except ImportError:
            raise SweepError("--launcher ray needs ray: pip install 'moon-jax[ray]'") from None
        self._ray, self._workers, self._given = ray, workers, given
        self._owned = not ray.is_initialized()
        address = resources.pop("address", None)
        try:
            if self._owned:
                ray.init(
                    address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=False if not address else None,
                )
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise SweepError(f"--launcher ray: {' '.join(str(error).split())[:300]}") from None
        known = {"num_cpus", "num_gpus", "memory"}
        options = {name: value for name, value in resources.items() if name in known} | {
            "resources": {name: value for name, value in resources.items() if name not in known}
        }
        self._actor = ray.remote(Worker).options(
            **{"num_cpus": 1, **options},
            max_concurrency=2,  # so that it hears while it works
            max_restarts=-1,
            max_task_retries=-1,
            runtime_env={"env_vars": {**same_modules(), **env}},
        )
        self._actors: list[Any] = []
        self._calls: list[Any] = []

    def start(self) -> None:
        self._end()
        self._actors = [self._actor.remote() for _ in range(self._workers)]
        self._calls = [actor.work.remote(*self._given) for actor in self._actors]

    def alive(self) -> bool:
        return len(self._ray.wait(self._calls, num_returns=len(self._calls), timeout=0)[1]) > 0

    def stop(self) -> None:
        for actor in self._actors:
            actor.stop.remote()
        deadline = time.monotonic() + GRACE
        while self._calls and self.alive() and time.monotonic() < deadline:
            time.sleep(0.1)

    def last_words(self) -> str:
        try:
            self._ray.get(self._calls)
        except Exception as error:  # whatever an actor died of
            return " ".join(str(error).split())[-300:]
        return "they end, and say nothing"

    def close(self) -> None:
        self._end()
        if self._owned:
            self._ray.shutdown()

    def _end(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
