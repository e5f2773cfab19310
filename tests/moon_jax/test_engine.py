"""The engine: how to compute, read from a line of text."""

import dataclasses

import pytest

from moon_jax.engine import Engine


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fsdp", "'fsdp': write name=value"),
        ("fsdp=0", "fsdp: 0 must be a whole number from 1"),
        ("speed=3", "write name=value, with names among data, fsdp"),
        ("remat=some", "remat: 'some' is unknown; one of none, dots, full"),
        ("tile=x", "tile: 'x' is no whole number"),
        ("tile=3,tile=4", "tile: given twice"),
    ],
)
def test_an_engine_that_is_none_is_told(text: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOON_ENGINE", text)
    with pytest.raises(ValueError, match=f"MOON_ENGINE='{text}'.*{told}"):
        Engine.from_environment()


def test_an_engine_is_read_as_it_is_written() -> None:
    given = Engine(data=2, fsdp=4, chunk=64, remat="dots", loaders=3, form="ring", tile=512)
    text = ", ".join(f"{name}={value}" for name, value in dataclasses.asdict(given).items())
    assert Engine.parse(text) == given
    assert Engine.parse("") == Engine()


@pytest.mark.parametrize(
    ("chunk", "often", "devices", "expected"),
    [
        (0, 0, 1, 0),
        (0, 1, 1, 32),
        (0, 2, 1, 16),
        (16, 1, 1, 8),
        (48, 1, 1, 16),
        (0, 3, 8, 8),
        (0, 6, 8, 0),
        (0, 9, 1, 0),
    ],
)
def test_out_of_memory_before_the_chunk_is_smaller(
    monkeypatch: pytest.MonkeyPatch, chunk: int, often: int, devices: int, expected: int
) -> None:
    """Halved each time, a divisor of the batch of 64 that the devices share; as it was where it cannot be smaller."""
    monkeypatch.setenv("SWEEPS_SHRINK", str(often))
    assert Engine(chunk=chunk).within_memory(64, devices).chunk == expected
