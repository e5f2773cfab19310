"""A floor for answers about products: naive Bayes on the words of their titles, without any photo."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

SMOOTHING = 0.1
_WORD = re.compile(r"\w+")


def guess_from_titles(titles: Sequence[str], answers: Sequence[str], asked: Sequence[str]) -> list[str]:
    """The likeliest answer for each title asked about, under multinomial naive Bayes (Manning et al. 2008, section 13.2).

    Words are lower-cased; one that no training title has tells nothing.

    Args:
        titles, answers: of training, N each.
        asked: titles to guess for.
    """
    classes, class_N = np.unique(np.asarray(answers, object).astype(str), return_inverse=True)
    vocabulary = {word: n for n, word in enumerate(sorted({word for title in titles for word in words(title)}))}
    counts_CxV = np.full((classes.size, len(vocabulary)), SMOOTHING)
    for row, title in zip(class_N.tolist(), titles, strict=True):
        for word, count in Counter(words(title)).items():
            counts_CxV[row, vocabulary[word]] += count
    log_prior_C = np.log(np.bincount(class_N) / class_N.size)
    log_words_CxV = np.log(counts_CxV / counts_CxV.sum(axis=1, keepdims=True))
    out = []
    for title in asked:
        known = [vocabulary[word] for word in words(title) if word in vocabulary]
        out.append(str(classes[np.argmax(log_prior_C + log_words_CxV[:, known].sum(axis=1))]))
    return out


def words(title: str) -> list[str]:
    return _WORD.findall(title.lower())
