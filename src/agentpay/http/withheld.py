"""
Answers that their payers were not sent, since nobody knew whether they were paid for.
"""

from agentpay.http.asgi import App, Headers, Receive, Scope, Send, send_whole
from agentpay.payee.answers import request_of
from agentpay.payee.pricing import Terms
from agentpay.payee.sales import Sale
from agentpay.records import AnswerRecord


def withheld_for(sale: Sale, terms: Terms, headers: Headers) -> bytes:
    """
    Which request is told an answer that was withheld.

    The chain shows a transfer to everybody. Where nobody can prove to be its payer,
    what was answered to one who sent cookies or keys is for who sends the same.
    """
    head = b"" if sale.key else repr(sorted(headers)).encode()
    return request_of(terms, head)


def told(earlier: AnswerRecord) -> App:
    """What answers as was answered earlier."""

    async def tell(scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        heard = earlier.content == b""
        while not heard:
            message = await receive()
            heard = message["type"] != "http.request" or not message.get("more_body")
        await send_whole(send, earlier.status, earlier.headers, earlier.body)

    return tell
