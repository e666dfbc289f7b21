"""How `broken_app` can be wrong."""

from enum import StrEnum


class Wrong(StrEnum):
    """What is wrong with it."""

    NOTHING = "nothing"
    LETS_ALL_IN = "lets-all-in"
    LETS_THE_UNSURE_IN = "lets-the-unsure-in"
    DENIES_THE_UNSURE = "denies-the-unsure"
    FORBIDS_THE_DENIED = "forbids-the-denied"
    NO_CHALLENGE = "no-challenge"
    ONE_CHALLENGE = "one-challenge"
    MAY_BE_CACHED = "may-be-cached"
    NO_RETRY_AFTER = "no-retry-after"
    PLAIN_TEXT = "plain-text"
    SAYS_TOO_MUCH = "says-too-much"
    TELLS_SESSION_IDS = "tells-session-ids"
    LOGS_SESSION_IDS = "logs-session-ids"
    TAKES_THE_FIRST_OF_TWO = "takes-the-first-of-two"
    TAKES_IT_FROM_THE_QUERY = "takes-it-from-the-query"
    BELIEVES_EVERYBODY = "believes-everybody"
    FOLDS_PATHS = "folds-paths"
    FORGETS_DEVICES = "forgets-devices"
    DIES = "dies"
