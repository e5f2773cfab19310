"""Tokenizers of open models in our convention: id 0 is padding, so every id of theirs is one higher."""

import json
from pathlib import Path
from typing import Any

from moon_jax.data.contract import DataError
from moon_jax.open_weights.tensors import read_json

PAD = "[PAD]"


def read_tokenizer(folder: Path, rows: int) -> str:
    """`tokenizer.json` of a folder, its ids moved up by one and 0 given to `[PAD]`: as JSON, which `tokenizers` reads.

    Args:
        rows: of the token table that it is for, the padding's among them.

    Raises:
        DataError: there is none, it is of a kind that is not known, or has more ids than the table has rows.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    told = read_json(path)
    model = told.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        kind = model.get("type") if isinstance(model, dict) else None
        raise DataError(
            f"{path}: a tokenizer of kind {kind!r} is not supported; those with a vocabulary of ids are (BPE)"
        )
    model["vocab"] = {PAD: 0, **{token: number + 1 for token, number in model["vocab"].items()}}
    added = [entry | {"id": entry["id"] + 1} for entry in told.get("added_tokens") or ()]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    told["added_tokens"] = [{"id": 0, "content": PAD, "special": True, **flags}, *added]
    told["padding"] = told["truncation"] = None
    _shift_template(told.get("post_processor"))
    text = json.dumps(told)
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises plain Exception
        raise DataError(f"{path}: not a tokenizer ({error})") from None
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if highest >= rows:
        raise DataError(
            f"{path}: has ids up to {highest - 1}, but the model's table has {rows - 1} rows; they do not belong together"
        )
    return text


def _shift_template(processor: Any) -> None:
    """Ids that a post-processor writes itself, in place; those of sequences are within."""
    if not isinstance(processor, dict):
        return
    for inner in processor.get("processors") or ():
        _shift_template(inner)
    if processor.get("type") == "TemplateProcessing":
        for special in (processor.get("special_tokens") or {}).values():
            special["ids"] = [number + 1 for number in special["ids"]]
