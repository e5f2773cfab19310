"""What a loss holds on one device, as compiled (nothing is run), and which form is picked for it."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from moon_jax.losses import choose_form, info_nce
from moon_jax.losses.choice import CPU_TILE, GIB

WIDTH, QUEUE = 512, 131_072


def held(batch: int, form: str, *, queue: int = 0, axes: tuple[int, int, int] = (8, 1, 1)) -> float:
    """GiB of temporary memory on each of 8 devices for value and gradients of bfloat16 vectors of width 512."""
    mesh = jax.make_mesh(axes, ("data", "fsdp", "model"), axis_types=(AxisType.Auto,) * 3)
    split = NamedSharding(mesh, P(("data", "fsdp")))

    def array(*shape: int, dtype: type = jnp.bfloat16) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=split if shape else None)

    def loss(queries, keys, temperature, window, ids, queued, queued_ids):  # type: ignore[no-untyped-def]
        return info_nce(
            queries,
            keys,
            queue_QxD=queued,
            num_negatives=window,
            positive_ids_B=ids,
            queue_ids_Q=queued_ids,
            temperature=temperature,
            form=form,
            mesh=mesh,
        )

    compiled = (
        jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
        .lower(
            array(batch, WIDTH),
            array(batch, WIDTH),
            array(dtype=jnp.float32),
            array(dtype=jnp.int32),
            array(batch, dtype=jnp.int32),
            array(queue, WIDTH) if queue else None,
            array(queue, dtype=jnp.int32) if queue else None,
        )
        .compile()
    )
    return compiled.memory_analysis().temp_size_in_bytes / GIB


def test_65_thousand_pairs_and_a_queue_of_131_thousand_take_less_than_a_gibibyte() -> None:
    assert 0.1 < held(65_536, "tiled", queue=QUEUE) <= 0.9


@pytest.mark.parametrize(("form", "most"), [("tiled", 7.0), ("ring", 2.5)])
def test_a_million_pairs_fit_and_memory_at_most_doubles_with_the_batch(form: str, most: float) -> None:
    million, half = held(2**20, form), held(2**19, form)
    assert 0 < million <= most
    assert million <= 2.2 * half


def test_a_model_axis_does_not_make_devices_hold_the_same_logits() -> None:
    """Rows are split over all axes of the mesh, though the batch comes whole over `model`."""
    for form, batch in (("dense", 8192), ("tiled", 65_536)):
        assert held(batch, form, axes=(2, 2, 2)) <= 1.1 * held(batch, form)


@pytest.mark.parametrize(
    ("batch", "queue", "devices", "form"),
    [
        (9_459, 0, 1, "dense"),  # 12 x 9,459^2 bytes are 1 GiB
        (9_460, 0, 1, "tiled"),
        (26_752, 0, 8, "dense"),  # 12 x 26,752^2 / 8 are
        (26_760, 0, 8, "tiled"),
        (8_192, 2_730, 1, "dense"),  # 12 x 8,192 x (8,192 + 2,730) are
        (8_192, 2_731, 1, "tiled"),
        (349_520, 0, 8, "tiled"),  # 6 x 512 x 349,525 are
        (349_528, 0, 8, "ring"),
        (2**20, 0, 1, "tiled"),  # there is nobody to pass keys on to
    ],
)
def test_the_form_is_picked_by_what_it_would_hold(batch: int, queue: int, devices: int, form: str) -> None:
    chosen = choose_form(batch, WIDTH, queue=queue, devices=devices, itemsize=2)
    assert chosen.form == form
    assert chosen.tile == CPU_TILE
    assert str(chosen) == ("dense" if form == "dense" else f"{form} in tiles of 1024")


def test_what_is_asked_for_is_taken_and_a_ring_of_one_device_is_tiled() -> None:
    asked = [choose_form(64, 8, devices=devices, form="ring", tile=16) for devices in (1, 2)]
    assert [str(each) for each in asked] == ["tiled in tiles of 16", "ring in tiles of 16"]
    assert choose_form(2**20, WIDTH, form="dense").form == "dense"
    with pytest.raises(ValueError, match="'rings' is unknown; one of auto, dense, tiled, ring"):
        choose_form(64, 8, form="rings")


def test_what_a_choice_says_it_holds_is_of_the_right_size() -> None:
    for batch, queue, form in ((8_192, 0, "dense"), (65_536, QUEUE, "tiled"), (2**20, 0, "ring")):
        told = choose_form(batch, WIDTH, queue=queue, devices=8, itemsize=2, form=form).bytes / GIB
        assert 0.4 <= told / held(batch, form, queue=queue) <= 2.5, form
