"""From a folder of images and a CSV to a checked dataset on the command line, as its help says."""

import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from experiments import cli

Run = Callable[..., tuple[int, str, str]]
MAP = ("--map", "item_id=sku", "--map", "title=name", "--map", "image=photo")


@pytest.fixture
def moon(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """(exit code, stdout, stderr) of a command, run in this process in a fresh folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["moon", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return call


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / "photos").mkdir(parents=True)
    lines = ["sku,name,photo"]
    for k in range(40):
        Image.new("RGB", (8, 8), (6 * k, 90, 90)).save(folder / "photos" / f"{k}.png")
        lines.append(f"S{k},Shoe {k // 2},{k}.png")
    (folder / "shop.csv").write_text("\n".join([*lines, "S40,Lost,40.png"]) + "\n")
    return folder


def test_a_newcomer_gets_to_a_checked_dataset(moon: Run, shop: Path, tmp_path: Path) -> None:
    code, told, _ = moon("data", "import", "table", "shop", "data", *MAP)
    assert code == 0
    assert "40 items" in told
    assert "left out: 1 rows for items; data/quarantine.parquet says which and why" in told
    noted = pl.read_parquet(tmp_path / "data" / "quarantine.parquet").rows()
    assert noted == [("items", "shop.csv", 42, "image '40.png' is not there")]
    code, told, _ = moon("data", "check", "data")
    assert code == 0
    assert "40 items" in told


def test_the_help_leads_there(moon: Run) -> None:
    code, told, _ = moon("data", "--help")
    assert code == 0
    assert "moon data import table SHOP DIR --map item_id=sku --map title=name --map image=photo" in " ".join(
        told.split()
    )
    assert "moon data check DIR" in told
    _, told, _ = moon("data", "import", "--help")
    assert all(name in told for name in ("taobao_mm", "mmctr", "esci", "quarantine.parquet", "--limit"))


def test_an_option_of_another_adapter_is_refused(moon: Run, shop: Path, tmp_path: Path) -> None:
    for arguments, line in (
        (("fashion", "shop", "data", "--map", "a=b"), "moon: --map is not for fashion\n"),
        (("table", "shop", "data", *MAP, "--locales", "us"), "moon: --locales is not for table\n"),
        (
            ("table", "shop", "data"),
            "moon: shop/shop.csv: which column is item_id? say --map item_id=COLUMN; it has sku, ",
        ),
    ):
        code, _, told = moon("data", "import", *arguments)
        assert code == 2
        assert told.startswith(line)
    assert not (tmp_path / "data").exists()
