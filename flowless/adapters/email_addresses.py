"""Parsing of e-mail addresses by the email-validator library, without any look-up."""

from email_validator import EmailNotValidError, validate_email

from flowless.domain.users import EMAIL_BYTES


class LibraryEmailAddresses:
    """See `flowless.ports.addresses.EmailAddresses`.

    The canonical form is the library's normalised one (NFC local part, IDNA domain) with the whole address
    case-folded: two accounts that differ only in letter case would be a trap for people.
    """

    def canonical(self, address: str) -> str | None:
        """See the port."""
        if len(address.encode("utf-8", "surrogatepass")) > EMAIL_BYTES:
            return None
        try:
            found = validate_email(address, check_deliverability=False, allow_smtputf8=True)
        except (EmailNotValidError, UnicodeError):
            return None
        canonical = found.normalized.casefold()
        return canonical if len(canonical.encode()) <= EMAIL_BYTES else None
