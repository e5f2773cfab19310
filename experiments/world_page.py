"""A page with pictures that explains a planted world: what was planted, what it looks like, and what is known of it."""

from pathlib import Path

from analysis.report import write_report
from experiments import world_sections as sections
from experiments.world_sections import World
from moon_jax.data.contract import open_dataset

_DRIVES = {
    "visual": "the colour and pattern that only the photo shows",
    "text": "the brand and material that only the title tells",
    "id": "a hidden group that neither photo nor title tells, only the item's id",
    "popularity": "how popular an item is, and no content",
}


def write_page(folder: Path, path: Path) -> Path:
    """Writes the page of the planted world in `folder` to `path`; DataError where it is no planted world."""
    world = World(open_dataset(folder))
    shown = (
        sections.products(world),
        sections.frequencies(world),
        sections.searches(world),
        sections.history(world),
        sections.weights(world),
        sections.best_predictions(world),
        sections.positions(world),
        sections.arrivals(world),
        sections.coverage(world),
        sections.files(world),
    )
    return write_report(
        path,
        title=f"A world with known answers: {world.dataset.name}",
        answer=answer(world),
        sections=[section for section in shown if section is not None],
        provenance={
            "dataset": world.dataset.name,
            "source": world.dataset.source,
            "licence": world.dataset.licence,
            "split rule": world.dataset.split_rule,
            "simulated": dict(world.dataset.simulated),
            "made of": {k: v for k, v in world.facts["config"].items() if k != "behaviour"},
            "behaviour": world.facts["config"]["behaviour"],
        },
    )


def answer(world: World) -> list[str]:
    """What to know first."""
    bayes, recall = world.facts["bayes"]["expected_auc"], world.facts["best_recall"]
    longest = str(world.facts["stop"])
    lines = [
        f"{world.dataset.rows['items']:,} items, {world.dataset.rows['queries']:,} searches and "
        f"{world.dataset.rows['impressions']:,} impressions, all simulated; every click probability is known.",
        f"Clicks follow {_DRIVES[world.config.drives]}. The best possible AUC is {bayes['0']:.3f} without a history"
        + (f" and {bayes[longest]:.3f} with the last {longest} events." if longest in bayes else "."),
    ]
    if winner := world.facts["must_win"]:
        lines.append(f"So the offline metric that must foretell CTR best is {winner}.")
    best = ", ".join(f"{kind} {facts['recall@10']:.3f}" for kind, facts in recall.items())
    return [*lines, f"The best possible recall@10 by search: {best}."]
