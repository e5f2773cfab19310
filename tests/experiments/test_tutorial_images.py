"""The tutorial from a folder of images to a checked dataset runs, and shows what its words say."""

from pathlib import Path

import pytest
from running_notebooks import executed

# Only what Jupyter's own packages warn about.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:nbclient"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:zmq"),
    pytest.mark.proof,
]


def check_shop(text: str) -> None:
    assert "MADE UP SHOP" in text
    assert "188 items" in text  # 190 of the shop; two photos cannot be read
    assert "left out: 2 rows for items" in text
    assert "has no column 'nmae' for title" in text
    assert text.count("(exit code 2)") == text.count("(exit code") == 1
    assert "items with the same photo as another" in text
    assert "training_tokens: 12 cells" in text  # the untrained encoder and five budgets, by two seeds


def test_from_your_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOON_FASHION", raising=False)
    text = executed("from_your_images.ipynb")
    check_shop(text)
    assert "no real products here" in text


@pytest.mark.real_data
def test_from_your_images_with_real_products(monkeypatch: pytest.MonkeyPatch, real_data: Path) -> None:
    monkeypatch.setenv("MOON_FASHION", str(real_data / "fashion-product-images-small"))
    text = executed("from_your_images.ipynb")
    check_shop(text)
    assert "44,072 items" in text
    assert "train pairs 32,286 ->" in text
