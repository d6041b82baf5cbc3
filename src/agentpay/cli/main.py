"""The `agentpay` command. Its commands are in `app`, which needs the `cli` extra."""

import sys


def main() -> None:
    """Run the command line, or say what to install for it."""
    try:
        from agentpay.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich"):
            raise
        sys.exit("the agentpay command needs: pip install 'agentpay-sdk[cli]'")
    app()
