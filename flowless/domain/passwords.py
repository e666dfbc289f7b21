"""Which passwords are accepted, and in which form they are hashed.

NIST SP 800-63B-4 section 3.1.1: no composition rules, at least 64 characters accepted, the whole password is used,
and Unicode is normalised before hashing (NFKC here) so that the same password typed on two keyboards matches.
"""

import unicodedata
from typing import Final

from flowless.domain.fields import Fields

MIN_CHARS: Final = 12
MAX_CHARS: Final = 256
_RAW_MAX_CHARS: Final = 4 * MAX_CHARS


def normalised(password: str) -> str:
    """NFKC form of a password. Text far beyond the limit is cut first: normalising it would cost for nothing."""
    return unicodedata.normalize("NFKC", password[:_RAW_MAX_CHARS])


def checked_new_password(field: str, password: str, fields: Fields) -> str:
    """Note a violation of the length rule; return the form to hash."""
    form = normalised(password)
    if not MIN_CHARS <= len(form) <= MAX_CHARS or len(password) > _RAW_MAX_CHARS:
        fields.add(field, f"{MIN_CHARS} to {MAX_CHARS} characters")
    return form
