"""Titles and text queries of planted products.

They name the category (as the image does), and what only words can tell: brand, material, use and model. Each value has
several spellings, so that matching words finds the right product only sometimes. They never name colour or pattern.
"""

import numpy as np

# Division, department, type, in the order of rendering.SHAPES: the image shows the same thing.
CATEGORIES = (
    ("clothing", "garments", "shirt"),
    ("clothing", "garments", "trousers"),
    ("clothing", "garments", "dress"),
    ("clothing", "accessories", "hat"),
    ("home", "tableware", "mug"),
    ("home", "furnishing", "lamp"),
    ("home", "furnishing", "chair"),
    ("home", "tableware", "vase"),
)
LEVELS = ("division", "department", "type")
NOUNS = (
    ("shirt", "tee", "blouse"),
    ("trousers", "pants", "slacks"),
    ("dress", "gown", "frock"),
    ("hat", "cap", "fedora"),
    ("mug", "cup", "beaker"),
    ("lamp", "light", "luminaire"),
    ("chair", "seat", "stool"),
    ("vase", "urn", "flask"),
)
BRANDS = (
    ("alderhus", "aldr", "alder house", "a-hus"),
    ("brentano", "brento", "casa brent", "btn"),
    ("corvane", "corv", "maison corvane", "crvn"),
    ("dunmarra", "dunma", "dun marra", "dmr"),
    ("eskildo", "eskil", "studio eskil", "ekd"),
    ("fenwick", "fenn", "fen & wick", "fwk"),
    ("galatori", "galat", "gala tori", "gtr"),
    ("hoshina", "hoshi", "atelier hoshi", "hsn"),
    ("ivelund", "ivel", "ive lund", "ivl"),
    ("juniperro", "juni", "juniper row", "jpr"),
    ("kestrane", "kestr", "kes trane", "ktn"),
    ("lumorra", "lumor", "lu morra", "lmr"),
)
MATERIALS = (
    ("cotton", "percale", "jersey", "calico"),
    ("leather", "cowhide", "nappa", "suede"),
    ("metal", "steel", "alloy", "chrome"),
    ("wood", "oak", "timber", "bamboo"),
)
USES = (
    ("office", "work"),
    ("outdoor", "garden"),
    ("party", "festive"),
    ("travel", "holiday"),
    ("kids", "junior"),
    ("daily", "casual"),
)
_SYLLABLES = ("ka", "lo", "mi", "nu", "ri", "so", "te", "vo"), ("bel", "dor", "fin", "gan", "lex")
MODELS = tuple(first + second for first in _SYLLABLES[0] for second in _SYLLABLES[1])
FILLERS = ("new", "sale", "best", "classic", "premium", "free shipping", "2 pack", "gift", "quality", "original", "top")

LEXICONS = (BRANDS, MATERIALS, USES, MODELS)  # the columns of `words_Nx4`


Written = tuple[list[str], np.ndarray]


def write_titles(noun_N: np.ndarray, words_Nx4: np.ndarray, missing: float, rng: np.random.Generator) -> Written:
    """Titles in a seller's words: the noun, what is known of brand, material, use and model, and filler, in some order.

    `words_Nx4` are indices into the LEXICONS; each is left out with probability `missing`. Returns the titles and
    which words they hold, bool [N, 4].
    """
    return _write(noun_N, words_Nx4, keep=(1 - missing,) * 4, fillers=3, rng=rng)


def write_queries(noun_N: np.ndarray, words_Nx4: np.ndarray, rng: np.random.Generator) -> Written:
    """Text queries in a user's words: shorter, mostly noun, brand and material. Returns what `write_titles` does."""
    return _write(noun_N, words_Nx4, keep=(0.85, 0.75, 0.3, 0.45), fillers=0, rng=rng)


def _write(
    noun_N: np.ndarray, words_Nx4: np.ndarray, keep: tuple[float, ...], fillers: int, rng: np.random.Generator
) -> Written:
    count = len(noun_N)
    kept_Nx4 = rng.random((count, 4)) < np.array(keep)
    spelling_Nx5 = rng.integers(0, 1 << 16, (count, 5))
    order_Nx8 = rng.random((count, 8))
    filler_NxF = rng.integers(0, len(FILLERS), (count, fillers))
    fillers_N = rng.integers(0, fillers + 1, count)
    written = []
    for row in range(count):
        nouns = NOUNS[noun_N[row]]
        words = [nouns[spelling_Nx5[row, 4] % len(nouns)]]
        for column, lexicon in enumerate((BRANDS, MATERIALS, USES)):
            if kept_Nx4[row, column]:
                spellings = lexicon[words_Nx4[row, column]]
                words.append(spellings[spelling_Nx5[row, column] % len(spellings)])
        if kept_Nx4[row, 3]:
            words.append(MODELS[words_Nx4[row, 3]])
        words += [FILLERS[word] for word in dict.fromkeys(filler_NxF[row, : fillers_N[row]].tolist())]
        written.append(" ".join(words[place] for place in np.argsort(order_Nx8[row, : len(words)])))
    return written, kept_Nx4
