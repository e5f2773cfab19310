"""How training is computed, not what: the mesh, the chunk of GradCache, rematerialisation, loaders, the form of the loss.

None of it changes what is learned beyond the order of sums, so it is environment (recorded with the result, no part of a
step's identity) and comes from the variable MOON_ENGINE, which `moon run --engine "fsdp=4,chunk=64"` sets for its workers.
"""

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

VARIABLE = "MOON_ENGINE"
SHRINK = "SWEEPS_SHRINK"  # how many attempts at this step ran out of memory before
REMAT = ("none", "dots", "full")
FORMS = ("auto", "dense", "tiled", "ring")


@dataclass(frozen=True)
class Engine:
    """How to compute.

    Attributes:
        data, fsdp, model: axes of the mesh. Batches are split over data x fsdp, parameters and optimiser over fsdp and
            model. data = 0 takes all devices that are left, as far as they divide the batch.
        chunk: pairs that an encoder sees at a time (GradCache); 0 takes the whole batch.
        remat: what the backward pass recomputes in each block: "none", "dots" (all but products) or "full".
        loaders: worker processes that decode images; 0 decodes in threads.
        form, tile: of the contrastive loss: "auto" picks by size (`losses.choose_form`); tile 0 likewise.
    """

    data: int = 0
    fsdp: int = 1
    model: int = 1
    chunk: int = 0
    remat: str = "none"
    loaders: int = 0
    form: str = "auto"
    tile: int = 0

    def __post_init__(self) -> None:
        for name in ("data", "fsdp", "model", "chunk", "loaders", "tile"):
            value = getattr(self, name)
            least = 1 if name in ("fsdp", "model") else 0
            if type(value) is not int or value < least:
                raise ValueError(f"{name}: {value!r} must be a whole number from {least}")
        for name, known in (("remat", REMAT), ("form", FORMS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: {getattr(self, name)!r} is unknown; one of {', '.join(known)}")

    def __str__(self) -> str:
        """As it is written, without what is as by default."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return ",".join(f"{name}={value}" for name, value in given.items() if value != getattr(Engine, name))

    @property
    def on_device(self) -> "Engine":
        """Without what concerns the host alone: engines that are equal in this share compiled programs."""
        return dataclasses.replace(self, loaders=0)

    def within_memory(self, batch: int, devices: int = 1) -> "Engine":
        """With the chunk halved as often as this step ran out of memory before: the largest divisor of the batch that is no
        larger, and that the devices can share; itself where none did, or where a chunk cannot be smaller."""
        often = int(os.environ.get(SHRINK) or 0)
        most = (self.chunk or batch) >> often
        fitting = [rows for rows in range(devices, most + 1, devices) if batch % rows == 0]
        if not often or not fitting:
            return self
        return dataclasses.replace(self, chunk=fitting[-1])

    @classmethod
    def parse(cls, text: str) -> "Engine":
        """`Engine.parse("fsdp=4,chunk=64")`; ValueError names what is wrong."""
        kinds = {field.name: field.type for field in dataclasses.fields(cls)}
        given: dict[str, Any] = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if name not in kinds or not equals:
                raise ValueError(f"{part!r}: write name=value, with names among {', '.join(kinds)}")
            if name in given:
                raise ValueError(f"{name}: given twice")
            if kinds[name] is int and not value.isdecimal():
                raise ValueError(f"{name}: {value!r} is no whole number")
            given[name] = int(value) if kinds[name] is int else value
        return cls(**given)

    @classmethod
    def from_environment(cls) -> "Engine":
        """What MOON_ENGINE says, the defaults where it says nothing."""
        text = os.environ.get(VARIABLE, "")
        try:
            return cls.parse(text)
        except ValueError as error:
            raise ValueError(f"{VARIABLE}={text!r}: {error}") from None
