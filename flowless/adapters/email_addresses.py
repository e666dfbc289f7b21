"""Parsing of e-mail addresses by the email-validator library, without any look-up."""

import unicodedata

from email_validator import EmailNotValidError, validate_email

from flowless.domain.users import EMAIL_BYTES


class LibraryEmailAddresses:
    """See `flowless.ports.addresses.EmailAddresses`.

    The canonical form is the local part in lower case and NFC, at the domain in ASCII (IDNA 2008). Two accounts that
    differ only in letter case would be a trap for people; whatever else differs is another mailbox.
    """

    def canonical(self, address: str) -> str | None:
        """See the port."""
        if len(address.encode("utf-8", "surrogatepass")) > EMAIL_BYTES:
            return None
        try:
            found = validate_email(address, check_deliverability=False, allow_smtputf8=True)
        except (EmailNotValidError, UnicodeError):
            return None
        # Only letter case is folded, and the domain is the one that mail goes to: `casefold` would make `faß.example`
        # and `fass.example` one, which are two owners' domains.
        local = unicodedata.normalize("NFC", found.local_part.lower())
        canonical = f"{local}@{found.ascii_domain.lower()}"
        return canonical if len(canonical.encode()) <= EMAIL_BYTES else None
