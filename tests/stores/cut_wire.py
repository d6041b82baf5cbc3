"""A wire to a server that a test may cut at any message, before or after it arrives."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit


class CutWire:
    """
    Carries what a client sends to a server and back.

    `cuts` is asked of each piece that the client sends, and says whether the connection
    ends with it: "before" it is delivered, "after", so that its answer is lost, or "".
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: set[asyncio.StreamWriter] = set()
        self.cuts: Callable[[bytes], str] = lambda _: ""
        self.connections = 0

    async def carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One connection, until either side or a cut ends it."""
        self.connections += 1
        there, to_there = await asyncio.open_connection("127.0.0.1", self._port)
        self._open |= {writer, to_there}
        back = asyncio.create_task(_pass_on(there, writer))
        try:
            while piece := await reader.read(65536):
                cut = self.cuts(piece)
                if cut == "before":
                    return
                if cut == "after":
                    back.cancel()
                to_there.write(piece)
                await to_there.drain()
                if cut:
                    await asyncio.sleep(0.05)  # it is read before we hang up
                    return
        except ConnectionError:
            return
        finally:
            back.cancel()
            for end in (writer, to_there):
                end.transport.abort()
                self._open.discard(end)

    def cut_all(self) -> None:
        """End every connection now."""
        for end in list(self._open):
            end.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
        writer.transport.abort()
    except ConnectionError:
        return


@asynccontextmanager
async def cut_wire(url: str) -> AsyncIterator[tuple[str, CutWire]]:
    """A URL of the same database that leads over the wire."""
    parts = urlsplit(url)
    wire = CutWire(parts.port or 5432)
    server = await asyncio.start_server(wire.carry, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    place = parts.netloc.rpartition(":")[0]
    try:
        yield urlunsplit(parts._replace(netloc=f"{place}:{port}")), wire
    finally:
        server.close()
        wire.cut_all()
        await asyncio.sleep(0)
