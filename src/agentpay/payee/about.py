"""
What a provider says of a route: for people, and for catalogues of paid resources.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from agentpay.errors import ConfigurationError
from agentpay.wire import bazaar
from agentpay.wire.headers import JsonObject, JsonValue

_PRINTED = re.compile(r"[ -~]{1,32}", re.ASCII)
_TAGS_MAX = 5
_ICON_CHARACTERS_MAX = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """
    What a route is and how it is called, for people and for catalogues (`bazaar`).

    Examples say more than schemas; both may be given. A body is described for routes
    of POST, PUT and PATCH.
    """

    description: str = ""
    mime_type: str = ""
    service_name: str = ""
    tags: tuple[str, ...] = ()
    icon_url: str = ""
    query: JsonObject | None = None
    """An example of its query parameters."""
    query_schema: JsonObject | None = None
    body: JsonValue = None
    """An example of its request's body."""
    body_schema: JsonObject | None = None
    body_type: str = "json"
    output: JsonValue = None
    """An example of its answer."""
    output_schema: JsonObject | None = None
    output_type: str = "json"
    listed: bool = True
    """Whether catalogues are told of it."""

    def __post_init__(self) -> None:
        """
        Raises:
            ConfigurationError: Catalogues would drop a field, by the rules of `bazaar`.
        """
        names = [name for name in (self.service_name, *self.tags) if name]
        wrong = [name for name in names if not _PRINTED.fullmatch(name)]
        if wrong or "" in self.tags or len(self.tags) > _TAGS_MAX:
            raise ConfigurationError(
                "a service's name and at most five tags have 1 to 32 printable ASCII"
                f" characters each, unlike {(wrong or self.tags)!r}"
            )
        icon = urlsplit(self.icon_url)
        web = icon.scheme in ("http", "https") and icon.hostname and not icon.username
        if self.icon_url and (not web or len(self.icon_url) > _ICON_CHARACTERS_MAX):
            raise ConfigurationError(f"not the URL of an icon: {self.icon_url[:200]!r}")
        if self.body_type not in bazaar.BODY_TYPES:
            raise ConfigurationError(
                f"a body is one of {bazaar.BODY_TYPES}, not {self.body_type!r}"
            )

    def resource(self) -> JsonObject:
        """What a 402 says of the resource beside its URL."""
        fields: JsonObject = {
            "description": self.description,
            "mimeType": self.mime_type,
            "serviceName": self.service_name,
            "tags": [*self.tags],
            "iconUrl": self.icon_url,
        }
        return {name: value for name, value in fields.items() if value}

    def listing(
        self, method: str, *, path: Mapping[str, str], template: str
    ) -> JsonObject | None:
        """What catalogues are told of a request; None if nothing."""
        known = method in bazaar.QUERY_METHODS + bazaar.BODY_METHODS
        if not self.listed or not known:
            return None
        return bazaar.offer(
            method=method,
            query=(self.query, self.query_schema),
            body=(self.body, self.body_schema),
            body_type=self.body_type,
            output=(self.output, self.output_schema),
            output_type=self.output_type,
            path=path,
            template=template,
        )
