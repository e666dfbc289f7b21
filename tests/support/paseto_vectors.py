"""Official test vectors of PASETO v4 and PASERK k4, as figures: what must verify, what must not."""

from dataclasses import dataclass
from typing import Final

PUBLIC_KEY: Final = bytes.fromhex("1eb9dbbbbc047c03fd70604e0071f0987e16b28b757225c11f00415d0e20b1a2")
SEED: Final = bytes.fromhex("b4cbfb43df4ce210727d953e4a713307fa19bb7d9f85041438d9e11b942a3774")
MESSAGE: Final = b'{"data":"this is a signed message","exp":"2022-01-01T00:00:00+00:00"}'
_KID: Final = '{"kid":"zVhMiPBP9fRf2snEcT7gFTioeA9COcNy9DfgL1W60haN"}'


@dataclass(frozen=True, kw_only=True)
class Vector:
    """One token with what was signed beside it."""

    name: str
    token: str
    footer: str = ""
    implicit: str = ""


SIGNED: Final = (
    Vector(
        name="4-S-1",
        token="v4.public.eyJkYXRhIjoidGhpcyBpcyBhIHNpZ25lZCBtZXNzYWdlIiwiZXhwIjoiMjAyMi0wMS0wMVQwMDowMDowMCswMDowMCJ9"
        "bg_XBBzds8lTZShVlwwKSgeKpLT3yukTw6JUz3W4h_ExsQV-P0V54zemZDcAxFaSeef1QlXEFtkqxT1ciiQEDA",
    ),
    Vector(
        name="4-S-2",
        token="v4.public.eyJkYXRhIjoidGhpcyBpcyBhIHNpZ25lZCBtZXNzYWdlIiwiZXhwIjoiMjAyMi0wMS0wMVQwMDowMDowMCswMDowMCJ9"
        "v3Jt8mx_TdM2ceTGoqwrh4yDFn0XsHvvV_D0DtwQxVrJEBMl0F2caAdgnpKlt4p7xBnx1HcO-SPo8FPp214HDw"
        ".eyJraWQiOiJ6VmhNaVBCUDlmUmYyc25FY1Q3Z0ZUaW9lQTlDT2NOeTlEZmdMMVc2MGhhTiJ9",
        footer=_KID,
    ),
    Vector(
        name="4-S-3",
        token="v4.public.eyJkYXRhIjoidGhpcyBpcyBhIHNpZ25lZCBtZXNzYWdlIiwiZXhwIjoiMjAyMi0wMS0wMVQwMDowMDowMCswMDowMCJ9"
        "NPWciuD3d0o5eXJXG5pJy-DiVEoyPYWs1YSTwWHNJq6DZD3je5gf-0M4JR9ipdUSJbIovzmBECeaWmaqcaP0DQ"
        ".eyJraWQiOiJ6VmhNaVBCUDlmUmYyc25FY1Q3Z0ZUaW9lQTlDT2NOeTlEZmdMMVc2MGhhTiJ9",
        footer=_KID,
        implicit='{"test-vector":"4-S-3"}',
    ),
)

FAILING: Final = (
    Vector(
        name="4-F-1",
        token="v4.local.vngXfCISbnKgiP6VWGuOSlYrFYU300fy9ijW33rznDYgxHNPwWluAY2Bgb0z54CUs6aYYkIJ-bOOOmJHPuX_34Agt_"
        "IPlNdGDpRdGNnBz2MpWJvB3cttheEc1uyCEYltj7wBQQYX.YXJiaXRyYXJ5LXN0cmluZy10aGF0LWlzbid0LWpzb24",
        footer="arbitrary-string-that-isn't-json",
        implicit='{"test-vector":"4-F-1"}',
    ),
    Vector(
        name="4-F-2",
        token="v4.public.eyJpbnZhbGlkIjoidGhpcyBzaG91bGQgbmV2ZXIgZGVjb2RlIn22Sp4gjCaUw0c7EH84ZSm_jN_Qr41MrgLNu5LIBCzUr"
        "1pn3Z-Wukg9h3ceplWigpoHaTLcwxj0NsI1vjTh67YB"
        ".eyJraWQiOiJ6VmhNaVBCUDlmUmYyc25FY1Q3Z0ZUaW9lQTlDT2NOeTlEZmdMMVc2MGhhTiJ9",
        footer=_KID,
        implicit='{"test-vector":"4-F-2"}',
    ),
    Vector(
        name="4-F-3",
        token="v3.local.23e_2PiqpQBPvRFKzB0zHhjmxK3sKo2grFZRRLM-U7L0a8uHxuF9RlVz3Ic6WmdUUWTxCaYycwWV1yM8gKbZB2JhygDMKv"
        "HQ7eBf8GtF0r3K0Q_gF1PXOxcOgztak1eD1dPe9rLVMSgR0nHJXeIGYVuVrVoLWQ.YXJiaXRyYXJ5LXN0cmluZy10aGF0LWlzbid0LWpz"
        "b24",
        footer="arbitrary-string-that-isn't-json",
        implicit='{"test-vector":"4-F-3"}',
    ),
    Vector(
        name="4-F-4",
        token="v4.local.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAQAr68PS4AXe7If_ZgesdkUMvSwscFlAl1pk5HC0e8kApeaqMfGo"
        "_7OpBnwJOAbY9V7WU6abu74MmcUE8YWAiaArVI8XJ5hOb_4v9RmDkneN0S92dx0OW4pgy7omxgf3S8c3LlQh",
    ),
)
"""4-F-1: a local token where a public one is expected. 4-F-2: a signature that is none. 4-F-3: another version.
4-F-4: base64url whose last character carries bits that mean nothing."""

_COUNTING: Final = "707172737475767778797a7b7c7d7e7f808182838485868788898a8b8c8d8e"
PUBLIC_IDS: Final = {
    "00" * 32: "S_XQmeEwHbbvRmiyfXfHYpLGjXGzjTRSDoT1YtTakWFE",
    f"{_COUNTING}8f": "9ShR3xc8-qVJ_di0tc9nx0IDIqbatdeM2mqLFBJsKRHs",
    f"{_COUNTING}90": "-nyvbaTz8U6TQz7OZWW-iB3va31iAxIpUgzUcVQVmW9A",
}
"""k4.pid: public key -> id."""

WRAPPED: Final = (
    (
        "707172737475767778797a7b7c7d7e7f808182838485868788898a8b8c8d8e8f",
        "00000000000000000000000000000000000000000000000000000000000000003b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243"
        "a63ac048a18b59da29",
        "k4.secret-wrap.pie.NC6xj8t0VuK-0KE7Fy6PAKtbQwEFRyQMe39A0ctrkaIcS1zjVgvYTN6cu1AZM7bU2bz-jzKclAWu3Bln6xhSOsUqcQ"
        "Pi6Kw_LtKXLRCeggiuPnaqWfIT4qacjXtXhFvOvDPye21fbWOPuoNM9VppuTzN0LzYDYgNYCPsbWt2n4c",
    ),
    (
        "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "707172737475767778797a7b7c7d7e7f808182838485868788898a8b8c8d8e8f1ce56a48c82ff99162a14bc544612674e5d61fb9317e65"
        "d4055780fdbcb4dc35",
        "k4.secret-wrap.pie.dYA31PP6a-d1Cyk3xt2Dz8kpGSlbpwkG5UyrLcgRspSvq1RUO1UQicQNE3-eXYUYGhXrG9zAVnR93tize-IPtiFEyO"
        "70U3bWEXd0uU7asDJQ19I3V2mf5OPIcKQl-TnY0XXtw5DPqY1yEFEbA9WTiDG0I3z6KTWA2z09NWm0OHQ",
    ),
)
"""k4.secret-wrap.pie: wrapping key, key with its public part, wrapped."""
NOT_WRAPPED: Final = (
    "k4.secret-wrap.pie.AIA31PP6ad1Cyk3xt2Dz8kpGSlbpwkG5UyrLcgRspSvq1RUO1UQicQNE3eXYUYGhXrG9zAVnR93tizeIPtiFEyO70U3bWE"
    "Xd0uU7asDJQ19I3V2mf5OPIcKQlTnY0XXtw5DPqY1yEFEbA9WTiDG0I3z6KTWA2z09NWm0OHQ",
    "k3.secret-wrap.pie._9Npd2vzpHCHdGYDQ5QFMc6Nirlv3ubsPPb-xJnh6cLImLhpirH_PDQWRIkmb95m-fc1XpqwY2QQbUkkvb2-_tznGQBt0Yg"
    "2-0Lux2MNxObkxDIfxfz5lD_tToF58BIuTh9_Pny0dy27HmJPnUBgy7JP2Je-h3doq6i0V2Q5hRA",
)
