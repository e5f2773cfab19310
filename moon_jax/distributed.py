"""Several processes as one: joined once, before anything asks for a device."""

import os

import jax

VARIABLES = ("MOON_COORDINATOR", "MOON_PROCESSES", "MOON_PROCESS")
# What a SLURM step sets for each of its tasks, and jax looks for (jax/_src/clusters/slurm_cluster.py).
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


def join() -> None:
    """Join the other processes where the environment says that there are some; does nothing alone, or a second time.

    Either MOON_COORDINATOR=host:port (of process 0), MOON_PROCESSES and MOON_PROCESS (from 0) say so, or a SLURM step
    of more than one task, which jax finds by itself: one task for each GPU. On CPU the processes talk through gloo.
    Call it before anything else of jax: a backend that has started cannot be joined.

    Raises:
        ValueError: only some of the variables are set, or one of them is no sensible value.
    """
    if jax.distributed.is_initialized():
        return
    given = _given()
    if given is None and not _in_slurm():
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if given is None:
        jax.distributed.initialize()
    else:
        jax.distributed.initialize(*given, cluster_detection_method="deactivate")
    jax.devices()  # all start the backend now: one that starts it later alone would wait for the others


def is_first() -> bool:
    """Whether this is the process that writes what is written once."""
    return jax.process_index() == 0


def _given() -> tuple[str, int, int] | None:
    """(coordinator, processes, process) of the three variables; None if there are none or there is one process."""
    values = [os.environ.get(name, "") for name in VARIABLES]
    if not any(values):
        return None
    if not all(values):
        missing = ", ".join(name for name, value in zip(VARIABLES, values, strict=True) if not value)
        raise ValueError(f"{missing}: not set; several processes need all of {', '.join(VARIABLES)}")
    coordinator, *numbers = values
    for name, value in zip(VARIABLES[1:], numbers, strict=True):
        if not value.isdecimal():
            raise ValueError(f"{name}={value!r} is no whole number")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"MOON_COORDINATOR={coordinator!r} must be host:port")
    processes, process = map(int, numbers)
    if process >= processes:
        raise ValueError(f"MOON_PROCESS={process} must lie in 0..{processes - 1}, for MOON_PROCESSES={processes}")
    return (coordinator, processes, process) if processes > 1 else None


def _in_slurm() -> bool:
    return all(name in os.environ for name in _SLURM) and int(os.environ["SLURM_NTASKS"]) > 1
