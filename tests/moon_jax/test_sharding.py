"""The mesh: which ones there are, where parameters lie on them, and that they change memory and no number."""

import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from moon_jax.distributed import VARIABLES, is_first, join
from moon_jax.engine import Engine
from moon_jax.models.encoder import EncoderConfig
from moon_jax.sharding import (
    AXES,
    BATCH,
    RULES,
    batch_sharding,
    dotted,
    make_mesh,
    param_shardings,
    partition,
    place_batch,
    replicated,
)

BOTH = ("generative", "dual")
MESHES = {
    "one": Engine(data=1),
    "8 data": Engine(data=8),
    "2 x 4 fsdp": Engine(data=2, fsdp=4),
    "2 x 2 x 2": Engine(data=2, fsdp=2, model=2),
}


@pytest.mark.parametrize(
    ("engine", "batch", "shape"),
    [
        (Engine(), 64, (8, 1, 1)),
        (Engine(), 12, (6, 1, 1)),  # as many of the eight as divide the batch
        (Engine(), 7, (7, 1, 1)),
        (Engine(), 11, (1, 1, 1)),
        (Engine(fsdp=4), 64, (2, 4, 1)),
        (Engine(fsdp=4), 12, (1, 4, 1)),
        (Engine(fsdp=2, model=2), 64, (2, 2, 2)),
        (Engine(model=8), 5, (1, 1, 8)),
        (Engine(data=2), 64, (2, 1, 1)),
        (Engine(data=1, fsdp=8), 64, (1, 8, 1)),
    ],
)
def test_meshes(engine: Engine, batch: int, shape: tuple[int, int, int]) -> None:
    mesh = make_mesh(engine, batch)
    assert mesh.axis_names == AXES
    assert tuple(mesh.shape.values()) == shape
    assert [device.id for device in mesh.devices.flat] == list(range(prod(shape)))


@pytest.mark.parametrize(
    ("engine", "batch", "message"),
    [
        (Engine(data=3, fsdp=4), 48, "needs 12 devices, there are 8"),
        (Engine(fsdp=4, model=4), 64, "needs 16 devices"),
        (Engine(fsdp=3), 48, "3 does not divide them"),
        (Engine(fsdp=4), 10, "cannot split a batch of 10: 4 does not divide it"),
        (Engine(data=4, fsdp=2), 12, "4 x 2 does not divide it"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(engine: Engine, batch: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_mesh(engine, batch)


def shapes_of(config: EncoderConfig) -> nnx.State:
    return nnx.split(nnx.eval_shape(lambda: config.build(0)))[1]


@pytest.mark.parametrize("backbone", BOTH)
def test_every_parameter_has_a_rule_and_its_moments_follow_it(backbone: str) -> None:
    params = {"encoder": shapes_of(EncoderConfig("256x3", backbone=backbone))}
    mesh = make_mesh(MESHES["2 x 2 x 2"], 8)
    expected = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = dotted(path)
        assert any(re.search(pattern, name) for pattern, _ in RULES), f"{name} has no rule"
        spec = partition(mesh, name, leaf.shape)
        if leaf.ndim - (".blocks." in name) == 2 and "position" not in name:
            assert any(spec), f"{name} is a matrix and lies whole on every device"
        if ".blocks." in name:
            assert spec[0] is None, f"{name}: layers are not split"
        expected[name] = spec
    state = jax.eval_shape(optax.adamw(1e-3).init, params)
    placed = jax.tree_util.tree_leaves_with_path(param_shardings(mesh, {"opt": state, "average": params}))
    found = 0
    for path, sharding in placed:
        name = next((name for name in expected if dotted(path).endswith(name)), None)
        assert sharding.spec == (expected[name] if name else P())
        found += name is not None
    assert found == 3 * len(expected)  # mu, nu, and the average


def test_the_axes_of_a_matrix() -> None:
    mesh = make_mesh(MESHES["2 x 2 x 2"], 8)
    assert partition(mesh, "encoder.vision.blocks.qkv.kernel", (3, 64, 192)) == P(None, "fsdp", "model")
    assert partition(mesh, "1.mu.encoder.decoder.blocks.down.kernel", (3, 96, 64)) == P(None, "model", "fsdp")
    assert partition(mesh, "encoder.tokens.embedding", (64, 32)) == P(("model", "fsdp"), None)
    assert partition(mesh, "encoder.decoder.blocks.gate_up.kernel", (3, 64, 15)) == P(None, "fsdp", None)  # 15 is odd
    assert partition(mesh, "encoder.tokens.embedding", (63, 32)) == P(None, None)
    assert partition(mesh, "queue.keys", (64, 32)) == P()
    assert partition(mesh, "log_scale", ()) == P()
    assert partition(mesh, "encoder.qkv.kernel", ()) == P()  # a scalar of that name, as a masked moment would be


@pytest.mark.parametrize("backbone", BOTH)
@pytest.mark.parametrize(
    ("engine", "share"), [(Engine(fsdp=8), 1 / 8), (Engine(fsdp=4), 1 / 4), (Engine(fsdp=4, model=2), 1 / 8)]
)
def test_parameter_bytes_per_device_fall(backbone: str, engine: Engine, share: float) -> None:
    params = shapes_of(EncoderConfig("small", backbone=backbone))
    mesh = make_mesh(engine, 8)
    each = zip(jax.tree.leaves(params), jax.tree.leaves(param_shardings(mesh, params)), strict=True)
    held = sum(prod(sharding.shard_shape(leaf.shape)) for leaf, sharding in each)
    assert share <= held / sum(leaf.size for leaf in jax.tree.leaves(params)) < share + 0.01


CONFIG = EncoderConfig("64x1", height=16, width=16, patch=4, vocabulary=48, embedding=16)
ROWS = 40


def programme(config: EncoderConfig, engine: Engine, batch: int = ROWS) -> tuple:
    """(jitted contrastive value and gradient under the mesh, shardings of parameters, mesh)."""
    mesh = make_mesh(engine, batch)
    graph, abstract = nnx.split(nnx.eval_shape(lambda: config.build(0)))
    lie = param_shardings(mesh, abstract)

    def loss(params: nnx.State, images: jax.Array, text: jax.Array) -> jax.Array:
        encoder = nnx.merge(graph, params)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            logits = encoder(images, None) @ encoder(None, text).T / 0.07
        return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits)))

    return jax.jit(jax.value_and_grad(loss), out_shardings=(replicated(mesh), lie)), lie, mesh


def shown(batch: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, 16, 16, 3)).astype(np.uint8)
    return images, rng.integers(1, 48, (batch, 6)).astype(np.int32)


@pytest.mark.proof
@pytest.mark.parametrize(("backbone", "meshes"), [("generative", [*MESHES]), ("dual", ["one", "2 x 2 x 2"])])
def test_all_meshes_give_the_same_value_and_gradient(backbone: str, meshes: list[str]) -> None:
    config = replace(CONFIG, backbone=backbone)
    params = nnx.split(config.build(0))[1]
    results = {}
    for name in meshes:
        step, lie, mesh = programme(config, MESHES[name])
        value, gradient = step(jax.device_put(params, lie), *place_batch(mesh, shown()))
        results[name] = float(value), jax.tree.map(np.asarray, gradient)
    expected, direct = results.pop("one")
    for name, (value, gradient) in results.items():
        assert value == pytest.approx(expected, abs=1e-5), name
        for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(direct), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6 + 1e-4 * np.abs(theirs).max(), err_msg=name)


def compiled(engine: Engine) -> jax.stages.Compiled:
    step, lie, mesh = programme(CONFIG, engine, batch=400)
    params = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes_of(CONFIG), lie)
    rows = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(mesh)) for x in shown(400)]
    return step.lower(params, *rows).compile()


def test_sharded_parameters_come_to_the_rows_and_not_the_rows_to_them() -> None:
    """Gathered are parameters, one by one, and the vectors of the loss; activations stay, and so memory does."""
    sharded, alike = compiled(MESHES["2 x 4 fsdp"]), compiled(MESHES["8 data"])
    gathered = re.findall(
        r"= \(?f32\[([\d,]*)\]\S* (?:all-gather|all-to-all|collective-permute)(?:-start)?\(", sharded.as_text()
    )
    stacked = {leaf.shape[-2:] for leaf in jax.tree.leaves(shapes_of(CONFIG)) if leaf.ndim >= 2}
    allowed = {prod(shape) for shape in stacked} | {400 * 16}
    assert len(gathered) > 8
    assert {prod(map(int, shape.split(","))) for shape in gathered} <= allowed
    temporary = [each.memory_analysis().temp_size_in_bytes for each in (sharded, alike)]
    assert temporary[0] < 1.3 * temporary[1]


def test_a_batch_is_placed_by_rows() -> None:
    mesh = make_mesh(MESHES["2 x 2 x 2"], 8)
    placed = place_batch(mesh, {"images": np.arange(16).reshape(8, 2), "ids": np.arange(8)})
    assert placed["images"].sharding == batch_sharding(mesh)
    assert placed["images"].sharding.spec == P(BATCH)
    assert {shard.data.shape for shard in placed["ids"].addressable_shards} == {(2,)}
    np.testing.assert_array_equal(placed["images"], np.arange(16).reshape(8, 2))


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list:
    """What `jax.distributed.initialize` was called with."""
    calls: list = []
    for name in [*VARIABLES, *(name for name in os.environ if name.startswith("SLURM_"))]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **kwargs: calls.append((args, kwargs)))
    return calls


def test_a_process_alone_joins_nothing(joined: list, monkeypatch: pytest.MonkeyPatch) -> None:
    join()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NTASKS", "4")  # a batch script of a larger job, but no task of a step
    join()
    for name, value in zip(VARIABLES, ("host:1234", "1", "0"), strict=True):
        monkeypatch.setenv(name, value)
    join()
    assert joined == []
    assert is_first()


def test_variables_and_slurm_are_found(joined: list, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = {"JOB_ID": "7", "STEP_NODELIST": "node[1-4]", "NTASKS": "4", "PROCID": "2", "LOCALID": "0"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    join()
    assert joined.pop() == ((), {})  # jax reads the rest itself
    for name, value in zip(VARIABLES, ("host:1234", "2", "1"), strict=True):
        monkeypatch.setenv(name, value)
    join()
    assert joined.pop()[0] == ("host:1234", 2, 1)  # said aloud, it comes first
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    join()
    assert joined == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("host:1234", "2", ""), "MOON_PROCESS: not set"),
        (("", "2", "0"), "MOON_COORDINATOR: not set"),
        (("host", "2", "0"), "must be host:port"),
        (("host:1234", "two", "0"), "MOON_PROCESSES='two' is no whole number"),
        (("host:1234", "2", "2"), r"must lie in 0\.\.1"),
    ],
)
def test_half_given_variables_are_named(
    joined: list, monkeypatch: pytest.MonkeyPatch, values: tuple[str, str, str], message: str
) -> None:
    for name, value in zip(VARIABLES, values, strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        join()
    assert joined == []


PROCESS = """
import jax, numpy as np
from moon_jax.distributed import is_first, join
join()
join()
from moon_jax.engine import Engine
from moon_jax.sharding import make_mesh, param_shardings, place_batch
index = jax.process_index()
assert (jax.process_count(), jax.device_count(), is_first()) == (2, 4, index == 0)
mesh = make_mesh(Engine(fsdp=2), 8)
rows = place_batch(mesh, np.arange(8.0).reshape(8, 1)[4 * index : 4 * index + 4])
weights = {"qkv": {"kernel": np.ones((6, 2), np.float32)}}
placed = jax.tree.map(jax.device_put, weights, param_shardings(mesh, weights))
total = jax.jit(lambda rows, weights: (rows.T @ rows).sum() + weights["qkv"]["kernel"].sum())(rows, placed)
assert float(total) == 140 + 12
for engine, batch in ((Engine(), 3), (Engine(model=4), 8)):
    try:
        make_mesh(engine, batch)
    except ValueError as error:
        print("refused:", str(error)[-60:])
    else:
        raise AssertionError(engine)
"""


def test_two_processes_join_and_make_one_mesh() -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
    environment = os.environ | {
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=2",
        "MOON_COORDINATOR": f"localhost:{port}",
        "MOON_PROCESSES": "2",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS],
            env=environment | {"MOON_PROCESS": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    told = [process.communicate(timeout=240)[0] for process in started]
    for process, text in zip(started, told, strict=True):
        assert process.returncode == 0, text
        assert text.count("refused:") == 2, text
