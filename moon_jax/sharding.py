"""The mesh, and where each array lies on it: batches over `data` x `fsdp`, parameters over `fsdp` x `model`.

Numbers are the same on any mesh, up to the order of sums: a mesh says where arrays lie, the compiler (GSPMD,
arXiv 2105.04663) puts the communication in. Parameters follow rules by regex on their dotted path, as in big_vision.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from moon_jax.engine import Engine

AXES = ("data", "fsdp", "model")
BATCH = ("data", "fsdp")

Axis = str | tuple[str, ...] | None
Rules = Sequence[tuple[str, tuple[Axis, ...]]]

# (what is searched for in the dotted path, axes of the trailing dimensions). The first match counts. `model` cuts a
# block between two products (Megatron, arXiv 1909.08053): out-features of the first, in-features of the second, so that
# one sum over devices ends each half of a block. `fsdp` takes the other axis. Unknown arrays are replicated.
RULES: Rules = (
    (r"\b(qkv|q|kv|up|gate_up|projector_up|patch_embed)\.kernel$", ("fsdp", "model")),
    (r"\b(projector_up|patch_embed)\.bias$", ("model",)),
    (r"\b(out|down|projector_down)\.kernel$", ("model", "fsdp")),
    (r"\bprojector_down\.bias$", (None,)),
    (r"head\.kernel$", ("fsdp", None)),  # its out-features are the vectors of the loss, which wants them whole
    (r"\bembedding$", (("model", "fsdp"), None)),
    (r"\b(\w+_)?position$", (None, None)),
    (r"\bscale$", (None,)),
)


def make_mesh(engine: Engine, batch: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh that an engine asks for.

    Args:
        engine: its `data`, `fsdp` and `model`; data = 0 takes as many of the devices left as divide the batch.
        batch: pairs of a global batch.
        devices: all of all processes by default; a mesh of fewer takes the first ones.

    Raises:
        ValueError: the axes do not fit the devices, the processes or the batch.
    """
    chosen = list(jax.devices() if devices is None else devices)
    inner = engine.fsdp * engine.model
    asked = f"a mesh of data={engine.data or 'auto'}, fsdp={engine.fsdp}, model={engine.model}"
    if batch % engine.fsdp:
        raise ValueError(f"{asked} cannot split a batch of {batch}: {engine.fsdp} does not divide it")
    if len(chosen) < inner * max(engine.data, 1):
        raise ValueError(f"{asked} needs {inner * max(engine.data, 1)} devices, there are {len(chosen)}")
    if not engine.data and len(chosen) % inner:
        raise ValueError(f"{asked} cannot use {len(chosen)} devices evenly: {inner} does not divide them")
    data = engine.data or max(n for n in range(1, len(chosen) // inner + 1) if batch // engine.fsdp % n == 0)
    if batch % (data * engine.fsdp):
        raise ValueError(f"{asked} cannot split a batch of {batch}: {data} x {engine.fsdp} does not divide it")
    shape = (data, engine.fsdp, engine.model)
    chosen = chosen[: math.prod(shape)]
    _require_whole_processes(asked, chosen, batch, engine.model)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=chosen)


def _require_whole_processes(asked: str, chosen: Sequence[jax.Device], batch: int, model: int) -> None:
    """Every process must bring its equal part of the batch, so each needs all its devices and whole `model` groups."""
    if jax.process_count() == 1:
        return
    if len(chosen) < jax.device_count():
        raise ValueError(
            f"{asked} would use {len(chosen)} of the {jax.device_count()} devices of {jax.process_count()} processes; "
            f"with several processes it must use all, and they must divide the batch of {batch}"
        )
    if jax.local_device_count() % model:
        raise ValueError(f"{asked}: model must divide the {jax.local_device_count()} devices of a process")


def data_mesh(devices: int | None = None) -> Mesh:
    """A mesh over the first `devices` devices (all by default) that only splits batches."""
    chosen = jax.devices()[:devices]
    return make_mesh(Engine(), len(chosen), chosen)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading (batch) axis over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def place_batch(mesh: Mesh, batch: Any) -> Any:
    """A host batch (a tree of arrays with a leading axis) on the devices; of several processes each gives its part."""
    return jax.make_array_from_process_local_data(batch_sharding(mesh), batch)


def param_shardings(mesh: Mesh, tree: Any, rules: Rules = RULES) -> Any:
    """Where each parameter lies: a tree of `NamedSharding`s.

    The same rules find a parameter's moments in an optimiser's state and its moving average, whose paths end alike. An
    axis that does not divide its dimension is left out, so a small model is replicated where it must be.

    Args:
        tree: arrays or `jax.ShapeDtypeStruct`s.
        rules: see `RULES`; a stack's leading layer axis is no trailing dimension and never split.
    """

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, partition(mesh, dotted(path), leaf.shape, rules))

    return jax.tree_util.tree_map_with_path(place, tree)


def gathered(tree: Any) -> Any:
    """Parameters as products use them: whole over `fsdp`, still split over `model`; those of stacks stay as they are.

    Left to itself the compiler moves activations instead, which are larger: on 2 x 4 devices it then needed 3 times the
    memory of 8 x 1. A stack gathers its own parameters layer by layer, so that one layer is whole at a time (ZeRO-3,
    arXiv 1910.02054); their gradients are summed back to where the parameters lie. Under no mesh (`jax.set_mesh` or
    `jax.sharding.use_abstract_mesh` tell a trace of it) nothing is done.
    """
    mesh = _mesh_of_parameters()
    if mesh is None:
        return tree

    def place(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        if ".blocks." in dotted(path):
            return leaf
        spec = partition(mesh, dotted(path), leaf.shape)
        return jax.lax.with_sharding_constraint(leaf, PartitionSpec(*map(_without_fsdp, spec)))

    return jax.tree_util.tree_map_with_path(place, tree)


def _without_fsdp(axis: Axis) -> Axis:
    names = (axis,) if isinstance(axis, str) else axis or ()
    return tuple(name for name in names if name != "fsdp") or None


def split_rows(x: jax.Array) -> jax.Array:
    """Keep activations split by their leading (batch) axis under a mesh that divides it; see `gathered`."""
    mesh = _mesh_of_parameters()
    if mesh is None or x.shape[0] % _size(mesh, BATCH):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH))


def _mesh_of_parameters() -> AbstractMesh | None:
    """The mesh that is set, if it splits parameters; where it only splits batches the compiler needs no help."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if {"fsdp", "model"} <= {*mesh.axis_names} and _size(mesh, ("fsdp", "model")) > 1 else None


def dotted(path: tuple[Any, ...]) -> str:
    """The path of a leaf as "encoder.vision.blocks.qkv.kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")


def partition(mesh: Mesh | AbstractMesh, path: str, shape: tuple[int, ...], rules: Rules = RULES) -> PartitionSpec:
    """The axes of one array by the first rule that matches its path; replicated where none does or it has too few axes."""
    axes = next((axes for pattern, axes in rules if re.search(pattern, path)), ())
    if not axes or len(axes) > len(shape):
        return PartitionSpec()
    trailing = shape[len(shape) - len(axes) :]
    fitting = [
        axis if axis is None or size % _size(mesh, axis) == 0 else None
        for axis, size in zip(axes, trailing, strict=True)
    ]
    return PartitionSpec(*([None] * (len(shape) - len(axes))), *fitting)


def _size(mesh: Mesh | AbstractMesh, axis: str | tuple[str, ...]) -> int:
    return math.prod(mesh.shape[name] for name in ((axis,) if isinstance(axis, str) else axis))
