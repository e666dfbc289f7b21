"""The policy of new passwords, used wherever one is set."""

from collections.abc import Container, Iterable, Sequence

from flowless.domain.fields import Fields
from flowless.domain.passwords import MAX_CHARS, has_length, normalised, weakness
from flowless.domain.users import Profile
from flowless.ports.passwords import BreachedPasswords


class PasswordPolicy:
    """Accepts or refuses new passwords; see `flowless/domain/passwords.py` for the rules and their sources."""

    def __init__(
        self,
        *,
        minimum: int,
        context_words: Sequence[str],
        common: Container[str],
        breached: BreachedPasswords,
    ) -> None:
        """`minimum` in characters; `context_words` are the service's own; `common` holds case-folded passwords."""
        self._minimum = minimum
        self._context_words = tuple(context_words)
        self._common = common
        self._breached = breached

    def check(self, field: str, password: str, *, own_words: Iterable[str], fields: Fields) -> str:
        """Note what is wrong with a password; return the form to hash. Asks nobody outside."""
        form = normalised(password)
        if not has_length(password, form, minimum=self._minimum):
            fields.add(field, f"{self._minimum} to {MAX_CHARS} characters")
        elif problem := weakness(form, common=self._common, own_words=[*own_words, *self._context_words]):
            fields.add(field, problem)
        return form

    async def refuse_breached(self, field: str, form: str) -> None:
        """Refuse a password that is known from a breach. Errors: INVALID_FIELD."""
        if await self._breached.is_known(form):
            fields = Fields()
            fields.add(field, "known from a breach of another service; choose one that you use nowhere else")
            fields.refuse()


def words_of(email: str, profile: Profile) -> list[str]:
    """Words of a user's own."""
    local, _, domain = email.rpartition("@")
    return [local, domain, email, profile.user_name, profile.name, profile.last_name, profile.phone]
