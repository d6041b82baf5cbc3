"""
What a request says in its body, which streams past: whether it asks for the same again.
"""

import hashlib

from agentpay.http.asgi import Message, Receive, Send, send_refusal, send_whole
from agentpay.payee.sales import Refusal


class Hearing:
    """Passes a request's body on, and remembers a hash of it."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._hash = hashlib.sha256()
        self._begun = False
        self._ended = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._begun = True
            self._hash.update(message.get("body", b""))
            self._ended = not message.get("more_body")
        return message

    @property
    def content(self) -> bytes | None:
        """The hash of what was heard, empty if nothing was; None if only a part."""
        if not self._begun:
            return b""
        return self._hash.digest() if self._ended else None

    async def rest(self) -> None:
        """Hear the body to its end, or until the client leaves."""
        while not self._ended and (await self.receive())["type"] == "http.request":
            continue


async def tell_again(receive: Receive, send: Send, refusal: Refusal) -> None:
    """Send a refusal; or what was answered earlier, if the same is asked once more."""
    earlier = refusal.earlier
    if earlier is None:
        await send_refusal(send, refusal)
        return
    hearing = Hearing(receive)
    if earlier.content:
        await hearing.rest()
    if hearing.content != earlier.content:
        await send_refusal(send, refusal)
        return
    await send_whole(send, earlier.status, earlier.headers, earlier.body)
