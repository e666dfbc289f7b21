"""Which passwords are accepted, and in which form they are hashed.

NIST SP 800-63B-4 section 3.1.1.2 and OWASP ASVS 5.0 6.2: a minimum length and no composition rules, at least 64
characters accepted and the whole password used, Unicode normalised before hashing (NFKC here) so that the same
password typed on two keyboards matches, and none that is common, repetitive, a sequence, or made of the user's own
words.
"""

import itertools
import re
import unicodedata
from collections.abc import Container, Iterable
from typing import Final

LOWEST_MINIMUM: Final = 8
DEFAULT_MINIMUM: Final = 12
MAX_CHARS: Final = 256
RAW_MAX_CHARS: Final = 4 * MAX_CHARS

_OWN_WORD_CHARS: Final = 4
_REST_CHARS: Final = 6
_DISTINCT_CHARS: Final = 4
_SPELT: Final = str.maketrans("013457@$!", "oleastasi")
_EDGES: Final = re.compile(r"^[\W\d_]+|[\W\d_]+$")
_MARKS: Final = re.compile(r"^[\W_]+|[\W_]+$")
_WORDS: Final = re.compile(r"[^\W_]+")


def normalised(password: str) -> str:
    """NFKC form of a password. Text far beyond the limit is cut first: normalising it would cost for nothing."""
    return unicodedata.normalize("NFKC", password[:RAW_MAX_CHARS])


def has_length(password: str, form: str, *, minimum: int) -> bool:
    """Whether the form's length is within the limits, in characters; the raw text may be longer, but not absurdly."""
    return minimum <= len(form) <= MAX_CHARS and len(password) <= RAW_MAX_CHARS


def weakness(form: str, *, common: Container[str], own_words: Iterable[str]) -> str:
    """Say why a password is easy to guess whatever its length; empty when nothing is known against it.

    `common` holds case-folded passwords; `own_words` are texts whose words the user's password must not be made of.
    """
    # Characters that nobody sees (category Cf) change nothing about what is typed or guessed.
    folded = "".join(c for c in form if unicodedata.category(c) != "Cf").casefold()
    core = _EDGES.sub("", folded)
    inner = _MARKS.sub("", folded)
    if any(candidate in common for candidate in {folded, core, inner, core.translate(_SPELT)} if candidate):
        return "too common: a frequent password, or one with digits and marks around it"
    for candidate in (folded, core, inner):
        if candidate and (_is_repetition(candidate) or _is_sequence(candidate)):
            return "too simple: a repetition or a sequence"
    if len(set(folded)) < _DISTINCT_CHARS:
        return "too simple: too few different characters"
    if _is_made_of(folded, own_words):
        return "made of the account's own words or the service's"
    return ""


def _is_repetition(folded: str) -> bool:
    """Two or more times the same, the last time perhaps in part."""
    sizes = range(1, len(folded) // 2 + 1)
    return any(folded == (folded[:size] * (len(folded) // size + 1))[: len(folded)] for size in sizes)


def _is_sequence(folded: str) -> bool:
    """Every character is the one after, or before, its neighbour; 0 comes after 9 and a after z."""
    steps = {(ord(after) - ord(before)) for before, after in itertools.pairwise(folded)}
    return steps <= {1, -9, -25} or steps <= {-1, 9, 25}


def _is_made_of(folded: str, own_words: Iterable[str]) -> bool:
    texts = (unicodedata.normalize("NFKC", text).casefold() for text in own_words)
    words = {word for text in texts for word in _WORDS.findall(text) if len(word) >= _OWN_WORD_CHARS}
    rest = folded
    for word in sorted(words, key=len, reverse=True):
        rest = rest.replace(word, " ")
    return rest != folded and sum(map(len, _WORDS.findall(rest))) < _REST_CHARS
