"""The identity of a step: what changes it, what does not, what is refused, and the way back from it."""

import dataclasses
import enum
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from steps_for_tests import Config, Inner, Shape

from sweeps import DataFile, Step, SweepError, canonical, grid
from sweeps.identity import decode, encode
from sweeps.step import in_order

GOLDEN = Path(__file__).parent / "golden_ids.json"

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(Shape)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text().filter(lambda key: not key.startswith("$")), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = {
    "number": st.integers(),
    "rate": st.floats(),
    "shape": st.sampled_from(Shape),
    "name": st.text(),
    "flag": st.booleans(),
    "nothing": st.none() | st.integers(),
    "inner": st.builds(Inner, st.integers(), st.lists(st.floats(), max_size=3).map(tuple)),
    "extras": st.dictionaries(st.text("abc"), VALUES, max_size=3),
}
CONFIGS = st.builds(Config, **FIELDS)


@dataclasses.dataclass(frozen=True)
class Grown:
    """A config that got a field after steps had run with it."""

    number: int
    rate: float = dataclasses.field(default=1.0, metadata={"added": True})


def step(config: Any, **others: Any) -> Step:
    return Step("steps_for_tests:count", **{"version": 1, "config": config, **others})


def examples() -> dict[str, Step]:
    base = step(Config())
    full = Config(7, math.inf, Shape.SQUARE, "zażółć", True, 3, Inner(1, ()), {"b": (1, 1.0), "a": {"x": None}})
    numeric = Config(extras={"dtype": np.float32, "array": np.arange(6, dtype=np.int16).reshape(2, 3)})
    return {
        "defaults": base,
        "everything": step(full),
        "numeric": step(numeric),
        "version": step(Config(), version=2),
        "files": step(Config(), files={"items": DataFile(Path("here"), "d1g357")}),
        "needs": step(Config(), needs={"before": base}),
    }


def test_ids_are_those_of_the_golden_file() -> None:
    """Ids are addresses of results that people keep: a change here forgets all of them."""
    golden = json.loads(GOLDEN.read_text())
    assert {name: [example.id, canonical(example.config)] for name, example in examples().items()} == golden


def test_ids_are_the_same_in_another_process_with_other_hash_seeds() -> None:
    code = "import test_step_identity as t; print(*(s.id for s in t.examples().values()))"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.split() == [example.id for example in examples().values()]


@given(CONFIGS, st.sampled_from(sorted(FIELDS)), st.data())
def test_one_changed_field_changes_the_id(config: Config, field: str, data: st.DataObject) -> None:
    value = data.draw(FIELDS[field])
    changed = dataclasses.replace(config, **{field: value})
    same_value = canonical(value) == canonical(getattr(config, field))
    assert (step(changed).id == step(config).id) == same_value


@given(CONFIGS)
def test_a_config_comes_back_from_its_canonical_text(config: Config) -> None:
    back = decode(json.loads(canonical(config)))
    assert type(back) is Config
    assert canonical(back) == canonical(config)
    assert back.shape is config.shape
    assert type(back.inner.rates) is tuple


@given(st.dictionaries(st.text().filter(lambda key: not key.startswith("$")), VALUES))
def test_the_order_of_keys_does_not_matter(mapping: dict[str, Any]) -> None:
    turned = dict(reversed(mapping.items()))
    assert canonical(turned) == canonical(mapping) == canonical(MappingProxyType(mapping))


def test_a_field_that_was_added_leaves_the_ids_of_before_as_they_were() -> None:
    """At its default it is not in the form, nor asked for on the way back; at any other value it is."""
    before = encode(Grown(3))
    assert before == {"$class": "test_step_identity:Grown", "fields": {"number": 3}}
    assert decode(before) == Grown(3)
    for changed in (Grown(3, 2.0), Grown(3, 1)):  # 1 is not 1.0: their texts differ
        assert encode(changed) == {**before, "fields": {"number": 3, "rate": changed.rate}}
        assert decode(encode(changed)) == changed
    with pytest.raises(SweepError, match=r"the fields of .*Grown have changed \(older\)"):
        decode({**before, "fields": {"number": 3, "older": 1}})


def test_what_looks_alike_is_told_apart() -> None:
    alike = [
        1,
        1.0,
        True,
        "1",
        (1,),
        ((1,),),
        None,
        "None",
        math.nan,
        "nan",
        0.0,
        -0.0,
        False,
        {},
        (),
        "",
        Shape.ROUND,
        "ROUND",
    ]
    assert len({canonical(value) for value in alike}) == len(alike)


def test_version_function_files_and_needs_change_the_id_and_paths_do_not() -> None:
    ids = {example.id for example in examples().values()}
    assert len(ids) == len(examples())
    there = step(Config(), files={"items": DataFile(Path("there"), "d1g357")})
    assert there == examples()["files"]
    other = step(Config(), files={"items": DataFile(Path("here"), "other")})
    assert other != examples()["files"]
    assert Step("steps_for_tests:echo_inputs", 1, Config()) != examples()["defaults"]


def test_arrays_and_dtypes_count_by_content_and_come_back() -> None:
    array = np.arange(12, dtype=np.float64).reshape(3, 4)
    assert canonical(array) == canonical(np.asfortranarray(array)) == canonical(array.astype(">f8").astype("<f8"))
    assert canonical(array) != canonical(array.reshape(4, 3))
    assert canonical(array) != canonical(array.astype(np.float32))
    back = decode(encode(array))
    np.testing.assert_array_equal(back, array)
    assert canonical(back) == canonical(array)
    import jax.numpy as jnp

    for pair in ((np.float32, jnp.float32), (np.dtype("int8"), jnp.int8), (jnp.bfloat16, jnp.dtype("bfloat16"))):
        assert canonical(pair[0]) == canonical(pair[1])
        assert decode(encode(pair[0])) == pair[1]


@dataclasses.dataclass
class Loose:
    x: int = 1


@dataclasses.dataclass(frozen=True)
class Derived:
    x: int = dataclasses.field(default=1, init=False)


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([1], r"config\.extras\.x: a list .* tuple"),
        ({1}, r"config\.extras\.x: a set"),
        (Path("a"), r"config\.extras\.x: a path is not .* `files`"),
        (len, r"config\.extras\.x: len is code"),
        (lambda: 1, r"config\.extras\.x: .* is code"),
        (b"a", r"config\.extras\.x: bytes"),
        (1j, r"config\.extras\.x: complex"),
        (int, r"config\.extras\.x: int is code"),
        (np.float64(1.5), r"config\.extras\.x: a numpy scalar \(float64\).* write 1\.5"),
        (np.array(["a"]), r"config\.extras\.x: an array of dtype <U1"),
        (np.zeros(1 << 18), r"config\.extras\.x: an array of 2,097,152 bytes is data"),
        (np.dtype(">i4"), r"config\.extras\.x: dtype .* not told by its name"),
        (Loose(), r"config\.extras\.x: dataclass Loose is not frozen"),
        (Derived(), r"config\.extras\.x\.x: a field with init=False"),
        (Access.READ | Access.WRITE, r"config\.extras\.x: .* combination"),
        ({1: 2}, r"config\.extras\.x: key 1 is not a string"),
        ({"$class": 2}, r"config\.extras\.x: key '\$class' begins with"),
        ((0, (1, [])), r"config\.extras\.x\[1\]\[1\]: a list"),
    ],
)
def test_what_has_no_stable_form_is_refused_with_its_path(value: Any, says: str) -> None:
    with pytest.raises(SweepError, match=says):
        _ = step(Config(extras={"x": value})).id


def test_a_class_that_workers_cannot_import_is_refused() -> None:
    @dataclasses.dataclass(frozen=True)
    class Local:
        x: int = 1

    with pytest.raises(SweepError, match="defined inside a function"):
        canonical(Local())


@pytest.mark.parametrize("function", ["posttrain", "a.b", "a:b:c", "a:", "a b:c", "a.:b"])
def test_function_names_are_checked(function: str) -> None:
    with pytest.raises(SweepError, match=r"package\.module:function"):
        Step(function, 1, Config())


def test_a_form_whose_class_changed_or_left_says_so() -> None:
    form = encode(Config())
    with pytest.raises(SweepError, match=r"fields of steps_for_tests:Config have changed \(more\)"):
        decode({**form, "fields": {**form["fields"], "more": 1}})
    with pytest.raises(SweepError, match="steps_for_tests:Gone cannot be imported"):
        decode({**form, "$class": "steps_for_tests:Gone"})


def test_steps_come_in_order_each_once() -> None:
    first = step(Config(1))
    second = step(Config(2), needs={"a": first})
    third = step(Config(3), needs={"a": second, "b": first})
    assert in_order([third, first, second]) == [first, second, third]


def test_grid_is_a_product_in_stable_order() -> None:
    assert grid(a=(1, 2), b="xy") == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]
    assert grid() == [{}]
