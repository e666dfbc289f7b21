"""Words of the mails that every Flowless can send, in English and German; the first line is the subject."""

from typing import Final

from flowless.domain.trust_tokens import (
    EMAIL_CHANGE,
    EMAIL_CHANGE_NOTICE,
    EMAIL_CHANGED,
    EMAIL_VERIFY,
    INVITATION,
    MAGIC_LINK,
    PASSWORD_RESET,
)

BUILT_IN_WORDS: Final[dict[tuple[str, str], str]] = {
    (EMAIL_VERIFY, "en"): """
Confirm your e-mail address

Please confirm that this is your e-mail address:

$link

The link works once, until $expires. If you did not ask for this, ignore this mail: nothing happens.
""",
    (PASSWORD_RESET, "en"): """
Choose a new password

Somebody, we hope you, asked for a new password for your account. Choose it here:

$link

The link works once, until $expires. If it was not you, ignore this mail: your password stays as it is.
""",
    (MAGIC_LINK, "en"): """
Your link to log in

This link logs you in:

$link

It works once, until $expires. Do not pass it on. If you did not ask for it, ignore this mail.
""",
    (INVITATION, "en"): """
You are invited

You have been invited to open an account with this e-mail address:

$link

The link works once, until $expires. If you do not want an account, ignore this mail.
""",
    (EMAIL_CHANGE, "en"): """
Confirm your new e-mail address

Please confirm that this is to be the e-mail address of your account:

$link

The link works once, until $expires. If you did not ask for this, ignore this mail: nothing happens.
""",
    (EMAIL_CHANGE_NOTICE, "en"): """
Somebody wants to change your e-mail address

Somebody, we hope you, asked to give your account another e-mail address. It changes when the new address is
confirmed.

If it was not you, choose a new password now: that also stops the change.
""",
    (EMAIL_CHANGED, "en"): """
Your e-mail address was changed

Your account has another e-mail address now. This one is no longer used for it.

If it was not you, turn to support at once.
""",
    ("test", "en"): """
Test mail

This mail was sent to find out whether mail can be sent. It can.
""",
    (EMAIL_VERIFY, "de"): """
Bestätigen Sie Ihre E-Mail-Adresse

Bitte bestätigen Sie, dass dies Ihre E-Mail-Adresse ist:

$link

Der Link gilt einmal und bis $expires. Wenn Sie das nicht veranlasst haben, tun Sie nichts: es geschieht nichts.
""",
    (PASSWORD_RESET, "de"): """
Wählen Sie ein neues Passwort

Jemand, hoffentlich Sie, möchte ein neues Passwort für Ihr Konto. Hier können Sie es wählen:

$link

Der Link gilt einmal und bis $expires. Wenn Sie es nicht waren, tun Sie nichts: Ihr Passwort bleibt, wie es ist.
""",
    (MAGIC_LINK, "de"): """
Ihr Link zum Anmelden

Mit diesem Link melden Sie sich an:

$link

Er gilt einmal und bis $expires. Geben Sie ihn nicht weiter. Wenn Sie ihn nicht angefordert haben, tun Sie nichts.
""",
    (INVITATION, "de"): """
Sie sind eingeladen

Sie sind eingeladen, mit dieser E-Mail-Adresse ein Konto zu eröffnen:

$link

Der Link gilt einmal und bis $expires. Wenn Sie kein Konto möchten, tun Sie nichts.
""",
    (EMAIL_CHANGE, "de"): """
Bestätigen Sie Ihre neue E-Mail-Adresse

Bitte bestätigen Sie, dass dies die E-Mail-Adresse Ihres Kontos werden soll:

$link

Der Link gilt einmal und bis $expires. Wenn Sie das nicht veranlasst haben, tun Sie nichts: es geschieht nichts.
""",
    (EMAIL_CHANGE_NOTICE, "de"): """
Ihre E-Mail-Adresse soll geändert werden

Jemand, hoffentlich Sie, möchte Ihrem Konto eine andere E-Mail-Adresse geben. Sie gilt, sobald die neue Adresse
bestätigt ist.

Wenn Sie es nicht waren, wählen Sie jetzt ein neues Passwort: das verhindert auch die Änderung.
""",
    (EMAIL_CHANGED, "de"): """
Ihre E-Mail-Adresse wurde geändert

Ihr Konto hat jetzt eine andere E-Mail-Adresse. Diese hier wird dafür nicht mehr verwendet.

Wenn Sie es nicht waren, wenden Sie sich sofort an den Support.
""",
    ("test", "de"): """
Testnachricht

Mit dieser Nachricht wird geprüft, ob Nachrichten verschickt werden können. Sie können.
""",
}
"""(template, language) -> words."""
