"""`agentpay store`: what a store holds, whether it can be true, and moving it."""

from pathlib import Path
from typing import Annotated

import typer

from agentpay.cli.running import err, run
from agentpay.errors import ConfigurationError
from agentpay.stores import PostgresStore, SqliteStore, open_store
from agentpay.stores.checking import Books
from agentpay.stores.rows.whole import read_lines, write_lines

store_app = typer.Typer(help="Books of payers and payees.", no_args_is_help=True)

Place = Annotated[
    str, typer.Argument(help="A SQLite file, or postgresql://host/database.")
]
Lines = Annotated[Path, typer.Argument(help="A file of JSON lines.")]


@store_app.command()
def check(store: Place) -> None:
    """Read every record, and ask whether all of it can be true."""

    async def read() -> Books:
        async with await _open(store, make=False) as opened:
            return Books(await opened.all_rows())

    books = run(read())
    for table, rows in books.count().items():
        typer.echo(f"{table}: {rows}")
    found = books.check()
    for finding in found:
        typer.echo(finding)
    typer.echo(f"{len(found)} findings" if found else "all is well")
    raise typer.Exit(code=1 if found else 0)


@store_app.command(name="export")
def export(store: Place, file: Lines) -> None:
    """Write everything that a store keeps to a new file."""

    async def read() -> list[str]:
        async with await _open(store, make=False) as opened:
            return list(write_lines(await opened.all_rows()))

    lines = run(read())
    try:
        file.touch(mode=0o600, exist_ok=False)  # what was signed is in it
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        err.print(f"cannot write {file}: {error}")
        raise typer.Exit(code=1) from error
    typer.echo(f"{len(lines) - 1} rows")


@store_app.command(name="import")
def import_(store: Place, file: Lines) -> None:
    """Put everything that was exported into a store that keeps nothing."""

    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        err.print(f"cannot read {file}: {error}")
        raise typer.Exit(code=1) from error

    async def write() -> int:
        changes = read_lines(lines)
        async with await _open(store, make=True) as opened:
            await opened.fill(changes)
        return len(changes)

    typer.echo(f"{run(write())} rows")


async def _open(url: str, *, make: bool) -> SqliteStore | PostgresStore:
    opened = await open_store(url, make=make)
    if isinstance(opened, SqliteStore | PostgresStore):
        return opened
    raise ConfigurationError(f"{url} keeps nothing that lasts")
