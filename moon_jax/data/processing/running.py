"""Transformations one after the other, over a contract directory or over tables; a killed run goes on where it was."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moon_jax.data.contract import FILES, DataError, Dataset, open_dataset, refuse_existing
from moon_jax.data.processing.material import Material, Progress
from moon_jax.data.processing.outputs import require_impressions, shards_after, tables_of
from moon_jax.data.processing.samples import in_words
from moon_jax.data.processing.settling import settle
from moon_jax.data.processing.transformation import Report, Transformation
from moon_jax.data.processing.vectors import Vectors
from moon_jax.data.processing.working import Working
from moon_jax.data.writing import DatasetWriter

REPORT = "processing.json"


def process_dataset(
    source: Path | str,
    target: Path | str,
    transformations: Sequence[Transformation],
    *,
    vectors: Vectors | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """The dataset `source` after the transformations, in order, as the new contract directory `target`.

    The reports stand in `facts["processing"]` of its `dataset.json` and in `processing.json`. What is derived meanwhile
    is kept in a hidden folder beside `target` until it is published or refused: the same call after a kill goes on there.

    Args:
        vectors: representations, for the transformations that need them.
        progress: called with (done, total); each transformation, and the writing, counts 100.

    Raises:
        DataError: `target` exists, a table is missing or unreadable, a split would lose its last pair.
    """
    source, target = Path(source), Path(target)
    dataset = open_dataset(source)
    refuse_existing(target)
    files = {name: dataset.path(name) for name in FILES if dataset.has(name)}
    work = target.parent / f".{target.name}-{_identity(dataset.digests, transformations, vectors)}"
    with _kept_if_killed(work):
        material = Material(files, work, vectors, progress)
        working, reports = transform(transformations, material)
        names = tables_of(working, files)
        described = {
            "transformations": [report.as_json() for report in reports],
            "source": {"name": dataset.name, "digests": dict(dataset.digests)},
        }
        with DatasetWriter(
            target,
            name=f"{dataset.name}, processed",
            source=dataset.source,
            licence=dataset.licence,
            split_rule=dataset.split_rule,
            simulated={name: dataset.simulated[name if name in dataset.simulated else "pairs"] for name in names},
            forms=dataset.forms,
            facts={**dataset.facts, "processing": described},
        ) as writer:
            for index, name in enumerate(names):
                for shard in shards_after(working, files, name):
                    writer.add(name, shard)
                material.report((index + 1) / len(names))
        write_report(target, reports)
    return writer.dataset


@contextmanager
def _kept_if_killed(work: Path) -> Iterator[None]:
    """The folder of the work, gone once it is done or refused: after a DataError the same call would be refused again."""
    work.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except DataError:
        shutil.rmtree(work)
        raise
    shutil.rmtree(work)


def transform(transformations: Sequence[Transformation], material: Material) -> tuple[Working, list[Report]]:
    """The ids that are left and the reports. Finished transformations are kept in the material's folder, by number."""
    if not transformations:
        raise DataError("name at least one transformation")
    working, reports = Working.read(material.files), []
    for number, transformation in enumerate(transformations):
        material.at(number, len(transformations) + 1)
        folder = material.folder / f"after-{number:02d}-{transformation.name}"
        if folder.is_dir():
            working = Working.load(folder)
            reports.append(Report.read(json.loads((folder / REPORT).read_text(encoding="utf-8"))))
            continue
        working, report = _one(transformation, working, material)
        reports.append(report)
        part = folder.with_suffix(f".{os.getpid()}.part")
        part.mkdir()
        working.save(part)
        (part / REPORT).write_text(json.dumps(report.as_json()), encoding="utf-8")
        part.rename(folder)
    material.at(len(transformations), len(transformations) + 1)
    return working, reports


def _one(transformation: Transformation, working: Working, material: Material) -> tuple[Working, Report]:
    decision = transformation.decide(working, material)
    before = working.counts()
    settled = settle(working, decision, transformation.scope)
    require_impressions(settled.working, material.files, decision.why)
    after = settled.working.counts()
    report = Report(
        name=transformation.name,
        config=asdict(transformation),
        rows={name: (before[name], after[name]) for name in before},
        why=settled.why,
        samples=in_words(decision, settled.gone, material),
        facts=dict(decision.facts),
    )
    return settled.working, report


def write_report(folder: Path, reports: Sequence[Report]) -> None:
    """`processing.json`, by rename."""
    text = json.dumps([report.as_json() for report in reports], indent=1, ensure_ascii=False)
    part = folder / f".{REPORT}.{os.getpid()}"
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(folder / REPORT)


def _identity(digests: Mapping[str, str], transformations: Sequence[Transformation], vectors: Vectors | None) -> str:
    """Of the work: the source's content, the transformations in order, and the representations."""
    told: list[Any] = [dict(digests), [(step.name, asdict(step)) for step in transformations]]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    if vectors is not None:
        for array in (vectors.item_ids, vectors.items, vectors.query_ids, vectors.queries):
            digest.update(array.tobytes() if array.flags.c_contiguous else array.copy().tobytes())
    return digest.hexdigest()[:16]
