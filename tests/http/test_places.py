"""C5: a 402 is paid only if it speaks of the resource that was requested."""

import contextlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import MalformedMessage, OfferUntrusted
from agentpay.http.places import check_realm, check_resource, check_tls

ASKED = "https://api.shop.example/v1/weather?city=Oslo&day=2"
HOSTS = st.from_regex(r"[a-z]{1,8}(\.[a-z]{2,8}){1,2}", fullmatch=True)
PATHS = st.lists(st.text("abc%/ é", min_size=1, max_size=4), max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)


def agrees(said: str, asked: str = ASKED) -> bool:
    try:
        check_resource(said, httpx.URL(asked))
    except OfferUntrusted:
        return False
    return True


@pytest.mark.parametrize(
    "said",
    [
        ASKED,
        "https://api.shop.example/v1/weather",
        "HTTPS://API.Shop.Example:443/v1/weather",
        "https://api.shop.example./v1/weather",
        "http://api.shop.example/v1/weather?city=Oslo&day=2",
        "http://api.shop.example/v1/weather?day=2&city=Oslo",
        "http://api.shop.example/weather",
        "/v1/weather?city=Oslo&day=2",
        "/weather",
        "http://127.0.0.1:8000/v1/weather",
        "http://10.1.2.3/weather",
        "http://[::1]:8000/v1/weather",
        "http://backend/v1/weather",
        "http://weather.prod.svc.cluster.local:8080/weather",
    ],
)
def test_c5_what_a_server_behind_a_proxy_says_of_itself_is_the_same(said: str) -> None:
    assert agrees(said)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "weather",
        "https://bank.example/v1/weather",
        "https://shop.example/v1/weather",
        "https://api.shop.example.evil.example/v1/weather",
        "https://api.shop.example@evil.example/v1/weather",
        "https://api.shop.example\\@evil.example/v1/weather",
        "https://api.sh\u043ep.example/v1/weather",  # a Cyrillic o
        "https://api.xn--shp-0ed.example/v1/weather",
        "//evil.example/v1/weather",
        "ftp://api.shop.example/v1/weather",
        "mcp://tool/weather",
        "https:/v1/weather",
        "https://api.shop.example:8443/v1/weather",
        "https://api.shop.example/v1/weather2",
        "https://api.shop.example/v1/Weather",
        "https://api.shop.example/v2/weather",
        "https://api.shop.example/eather",
        "https://api.shop.example/v1/weather/",
        "https://api.shop.example",
        "https://api.shop.example/v1/weather?city=Rome&day=2",
        "https://api.shop.example/v1/weather?city=Oslo",
        "http://127.0.0.1:8000/admin",
        "http://8.8.8.8/v1/weather",
        "https://[",
        "https://" + "a" * 70 + ".example/v1/weather",
        "https://api.shop.example/v1/wea\nther",
    ],
)
def test_c5_another_resource_is_refused_by_both_names(said: str) -> None:
    with pytest.raises(OfferUntrusted) as refused:
        check_resource(said, httpx.URL(ASKED))

    assert repr(said) in str(refused.value)
    assert repr(ASKED) in str(refused.value)


@pytest.mark.parametrize(
    ("asked", "said", "same"),
    [
        ("http://shop.example/x", "https://shop.example/x", False),
        ("https://shop.example:8443/x", "http://shop.example/x", True),
        ("https://b\u00fccher.example/x", "https://xn--bcher-kva.example/x", True),
        ("https://xn--bcher-kva.example/x", "https://b\u00fccher.example/x", True),
        ("https://stra\u00dfe.example/x", "https://strasse.example/x", False),
        ("http://localhost:8402/x", "http://127.0.0.1:8402/x", True),
        ("http://10.0.0.1/x", "http://10.0.0.2/x", False),
        ("http://billing.internal/x", "http://shop.internal/x", False),
        ("https://shop.example/a%20b", "http://shop.example/a b", True),
        ("https://shop.example", "https://shop.example/", True),
    ],
)
def test_c5_hosts_are_compared_as_punycode(asked: str, said: str, same: bool) -> None:
    assert agrees(said, asked) is same


@given(HOSTS, PATHS)
def test_c5_a_resource_is_the_same_as_itself(host: str, path: str) -> None:
    url = httpx.URL(scheme="https", host=host, path=path)

    assert agrees(str(url), str(url))
    assert agrees(str(url.copy_with(scheme="http")), str(url))


@given(HOSTS, HOSTS, PATHS)
def test_c5_no_other_public_host_is_the_same(asked: str, said: str, path: str) -> None:
    internal = said.endswith((".local", ".internal", ".lan", ".localhost", ".arpa"))
    if said == asked or internal:
        return
    url = httpx.URL(scheme="https", host=asked, path=path)

    assert not agrees(str(url.copy_with(host=said)), str(url))


@given(st.text())
def test_c5_whatever_is_said_is_judged_and_nothing_else_is_raised(said: str) -> None:
    agrees(said)


@pytest.mark.parametrize(
    "realm",
    [
        "api.shop.example",
        "API.Shop.Example",
        "https://api.shop.example/",
        "api.shop.example:443",
        "shop.example",
        "eu.api.shop.example",
        "localhost",
        "billing.internal",
        "my-app",
        "MPP Payment",
        "v1.2",
        "10.0.0.7",
        "Weather, Inc.",
        "",
    ],
)
def test_a_realm_is_any_text_or_a_name_of_the_host_that_was_asked(realm: str) -> None:
    check_realm(realm, httpx.URL(ASKED))


@pytest.mark.parametrize(
    "realm",
    [
        "bank.example",
        "https://bank.example:8443/",
        "myapi.shop.example.net",
        "other.shop.example",
        "xapi.shop.example",
        "b\u00fccher.example",
        "\u0430pi.shop.example",
    ],
)
def test_c5_a_realm_that_is_somebody_elses_host_is_refused(realm: str) -> None:
    with pytest.raises(MalformedMessage, match="api\\.shop\\.example was requested"):
        check_realm(realm, httpx.URL(ASKED))


@given(HOSTS, st.booleans())
def test_a_host_may_name_itself(host: str, by_url: bool) -> None:
    realm = f"https://{host}" if by_url else host

    check_realm(realm, httpx.URL(scheme="https", host=host, path="/x"))


@given(st.text())
def test_c5_whatever_a_realm_is_nothing_else_is_raised(realm: str) -> None:
    with contextlib.suppress(MalformedMessage):
        check_realm(realm, httpx.URL(ASKED))


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        ("https://shop.example/x", True),
        ("http://shop.example/x", False),
        ("http://8.8.8.8/x", False),
        ("http://127.0.0.1:8000/x", True),
        ("http://localhost/x", True),
        ("http://api:8000/x", True),
        ("http://[::1]/x", True),
    ],
)
def test_challenges_come_over_tls_or_our_own_network(url: str, fine: bool) -> None:
    raised = contextlib.nullcontext() if fine else pytest.raises(MalformedMessage)
    with raised:
        check_tls(httpx.URL(url))
