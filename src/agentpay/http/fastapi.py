"""
What a FastAPI or Starlette handler needs to know of its payment.
"""

from starlette.requests import HTTPConnection

from agentpay.errors import ConfigurationError
from agentpay.http.paid_request import PaidRequest
from agentpay.http.paywall import SCOPE_KEY


def paid_request(connection: HTTPConnection) -> PaidRequest:
    """
    Who paid and how to charge: `paid: Annotated[PaidRequest, Depends(paid_request)]`.

    Raises:
        ConfigurationError: The route is not behind a `Paywall`.
    """
    paid = connection.scope.get(SCOPE_KEY)
    if not isinstance(paid, PaidRequest):
        raise ConfigurationError(f"{connection.url.path} is not a priced route")
    return paid
