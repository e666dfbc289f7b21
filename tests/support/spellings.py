"""How a secret may look in what was written: as it is, or in any of the encodings that programs like to use."""

import base64
import json
from collections.abc import Iterator, Mapping
from urllib.parse import quote, quote_from_bytes

_LEAST_BYTES = 8
"""What is shorter would be found by chance."""


def spellings(secret: bytes) -> Mapping[str, bytes]:
    """Encodings of a secret, by name. Of base64 the part that is the same whatever stands around it."""
    found = {
        "raw": secret,
        "hex": secret.hex().encode(),
        "upper hex": secret.hex().upper().encode(),
        "URL": quote_from_bytes(secret, safe="").encode(),
        "form": quote_from_bytes(secret, safe=" ").replace(" ", "+").encode(),
        "every byte escaped": "".join(f"%{byte:02X}" for byte in secret).encode(),
        **dict(_base64(secret)),
    }
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        pass
    else:
        found["JSON"] = json.dumps(text)[1:-1].encode()
        found["UTF-16"] = text.encode("utf-16-le")
        found["reversed"] = text[::-1].encode()
        found["lower"] = text.lower().encode()
        found["twice URL"] = quote(quote(text, safe=""), safe="").encode()
    assert all(len(spelling) >= _LEAST_BYTES for spelling in found.values()), "too short to be looked for"
    return found


def _base64(secret: bytes) -> Iterator[tuple[str, bytes]]:
    """Spell it at each of the three places that it can have within a longer text."""
    for offset in range(3):
        padded = bytes(offset) + secret
        # Only whole groups of three bytes, and only those that hold nothing of what comes before.
        usable = padded[3 if offset else 0 : len(padded) // 3 * 3]
        for name, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
            yield f"{name} at {offset}", encode(usable)
