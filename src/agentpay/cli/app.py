"""
The commands. Only here, and in `testing`, are files and the environment read.
"""

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from agentpay.agent import Agent
from agentpay.chain.rpc import RpcChain
from agentpay.cli.demo import DemoReport, run_demo
from agentpay.cli.facilitator import facilitator
from agentpay.cli.running import err, run
from agentpay.cli.store import store_app
from agentpay.evm import eip3009_abi as tokens
from agentpay.evm.hashing import checksummed
from agentpay.evm.networks import NETWORKS, find_network
from agentpay.payer.policy import Budget
from agentpay.signers.wallet import Wallet
from agentpay.signers.watched import WatchedWallet
from agentpay.stores import open_store
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, format_money

T = TypeVar("T")

app = typer.Typer(
    help="Pay for HTTP requests in stablecoins, and be paid.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
wallet_app = typer.Typer(help="Keys in encrypted files.", no_args_is_help=True)
app.add_typer(wallet_app, name="wallet")
app.add_typer(store_app, name="store")

_out = Console()

NetworkName = Annotated[str, typer.Option(help=f"One of {', '.join(NETWORKS)}.")]
RpcUrl = Annotated[str | None, typer.Option(help="The chain's JSON-RPC endpoint.")]
Keystore = Annotated[Path, typer.Argument(help="An encrypted key file.")]
Password = Annotated[
    str,
    typer.Option(
        envvar="AGENTPAY_PASSWORD",
        prompt=True,
        hide_input=True,
        help="The key file's password.",
    ),
]


app.command()(facilitator)


@app.command()
def demo(
    *,
    requests: Annotated[int, typer.Option(min=1, help="Requests on the channel.")] = (
        1000
    ),
    concurrency: Annotated[int, typer.Option(min=1, help="In flight at once.")] = 32,
    rpc_url: Annotated[
        str | None, typer.Option(help="Use an Anvil that runs already.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """An agent pays a provider on a local chain: see that it works, and how fast."""
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("starting a chain and a provider", total=requests)

        def progress(done: int, total: int) -> None:
            if done % 10 == 0 or done == total:
                bar.update(task, completed=done, description="paid requests")

        report = run(
            run_demo(
                requests=requests,
                concurrency=concurrency,
                rpc_url=rpc_url,
                progress=progress,
            )
        )
    if as_json:
        sys.stdout.write(json.dumps(asdict(report)) + "\n")
    else:
        _show(report)
    raise typer.Exit(0 if report.passed else 1)


def _show(report: DemoReport) -> None:
    table = Table(title="an agent paid a provider", show_header=False)
    saved = report.gas_if_exact / report.gas_used if report.gas_used else 0
    rows = {
        "paid requests": f"{report.paid_requests:,}",
        "failed requests": f"{report.failed_requests:,}",
        "HTTP round trips per request": (
            f"{report.http_round_trips / max(1, report.paid_requests):.3f}"
        ),
        "requests per second": f"{report.requests_per_second:,.0f}",
        "latency, median and 99th percentile": (
            f"{report.p50_ms} ms, {report.p99_ms} ms"
        ),
        "transactions on chain": f"{report.onchain_transactions}",
        "gas used": f"{report.gas_used:,}",
        "gas with one transfer per request": f"{report.gas_if_exact:,} ({saved:,.0f}x)",
        "the agent lost": format_money(report.agent_lost, 6),
        "the provider got": format_money(report.provider_got, 6),
        "left in escrow": format_money(report.escrow_holds, 6),
        "conserved, to the base unit": "yes" if report.conserved else "NO",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    _out.print(table)
    for failure in report.failures:
        err.print(failure, style="red", markup=False)


@app.command()
def chain(
    *,
    port: Annotated[int, typer.Option(help="Where to listen on loopback.")] = 8545,
    accounts: Annotated[int, typer.Option(min=1, help="Funded keys to make.")] = 3,
) -> None:
    """A funded local chain with all contracts, until Ctrl-C."""
    run(_chain(port, accounts))


async def _chain(port: int, accounts: int) -> None:
    async with LocalChain(port=port) as local:
        _out.print(f"chain {local.chain_id} at {local.rpc_url}")
        _out.print(f"USDC (test)      {checksummed(local.usdc.address)}")
        for number in range(accounts):
            wallet = await local.funded_wallet("$1000", ether=10)
            key = wallet.gas_key().hex()
            line = f"account {number}  {checksummed(wallet.address)}  key 0x{key}"
            _out.print(line, soft_wrap=True)
        _out.print("each has $1000 and 10 ether; Ctrl-C ends it")
        await asyncio.Event().wait()


@wallet_app.command("new")
def wallet_new(
    path: Annotated[Path, typer.Argument(help="The key file to write.")],
    password: Annotated[
        str,
        typer.Option(
            envvar="AGENTPAY_PASSWORD",
            prompt=True,
            hide_input=True,
            confirmation_prompt=True,
        ),
    ],
    *,
    voucher_of: Annotated[
        Path | None,
        typer.Option(help="Make the voucher key of this wallet's key file instead."),
    ] = None,
    wallet_password: Annotated[
        str | None,
        typer.Option(
            envvar="AGENTPAY_WALLET_PASSWORD", help="Of --voucher-of, if it differs."
        ),
    ] = None,
) -> None:
    """
    Make a key and keep it in an encrypted file.

    A voucher key spends what channels hold and nothing else; the wallet can make it
    again.
    """

    async def make() -> Address:
        wallet = Wallet.create()
        if voucher_of is not None:
            opens = wallet_password or password
            wallet = Wallet.from_keystore(voucher_of, password=opens).voucher_key()
        wallet.save_keystore(path, password=password)
        return wallet.address

    _out.print(checksummed(run(make())))


@wallet_app.command("show")
def wallet_show(path: Keystore, password: Password) -> None:
    """Print a key file's address."""

    async def read() -> Address:
        return Wallet.from_keystore(path, password=password).address

    _out.print(checksummed(run(read())))


@wallet_app.command("balance")
def wallet_balance(
    path: Keystore,
    password: Password,
    *,
    network: NetworkName = "local",
    rpc_url: RpcUrl = None,
) -> None:
    """Print what a wallet holds in the network's dollar token."""

    async def read() -> str:
        place = find_network(network)
        wallet = Wallet.from_keystore(path, password=password)
        url = rpc_url or place.rpc_url or ""
        async with RpcChain(url, chain_id=place.chain) as reader:
            await reader.check()
            call = tokens.balance_call(place.usdc.address, wallet.address)
            (answer,) = await reader.read([call])
        return format_money(tokens.decode_uint(answer), place.usdc.decimals)

    _out.print(run(read()))


@app.command()
def pay(
    url: Annotated[str, typer.Argument(help="What to get.")],
    wallet: Annotated[
        str, typer.Option(help="The key file that pays, or an address with no key.")
    ],
    password: Password,
    *,
    voucher_key: Annotated[
        Path | None, typer.Option(help="A key file that signs vouchers.")
    ] = None,
    voucher_password: Annotated[
        str | None,
        typer.Option(
            envvar="AGENTPAY_VOUCHER_PASSWORD", help="Of --voucher-key, if it differs."
        ),
    ] = None,
    budget: Annotated[str, typer.Option(help='The most to spend: "$0.05".')] = "$0.05",
    deposit: Annotated[str | None, typer.Option(help="Of a channel.")] = None,
    network: NetworkName = "local",
    rpc_url: RpcUrl = None,
    store: Annotated[
        str, typer.Option(help="Where channels are kept.")
    ] = "agentpay.db",
    private: Annotated[bool, typer.Option(help="Allow private addresses.")] = False,
    allow_mainnet: Annotated[bool, typer.Option(help="Spend real money.")] = False,
) -> None:
    """Get a URL and pay for it; the answer goes to standard output."""
    from agentpay.payer.policy import Policy

    async def get() -> bytes:
        vouchers = None
        if voucher_key is not None:
            opens = voucher_password or password
            vouchers = Wallet.from_keystore(voucher_key, password=opens)
        async with Agent(
            _signer(wallet, password),
            voucher_key=vouchers,
            budget=Budget(total=budget, per_request=budget),
            network=network,
            rpc_url=rpc_url,
            store=store,
            policy=Policy(deposit=deposit or budget),
            allow_mainnet=allow_mainnet,
            allow_private_networks=private,
        ) as agent:
            response = await agent.get(url)
            err.print(f"status {response.status_code}; {await agent.spending()}")
            return response.content

    sys.stdout.buffer.write(run(get()))


def _signer(wallet: str, password: str) -> Wallet | WatchedWallet:
    if _is_address(wallet):
        return WatchedWallet(wallet)
    return Wallet.from_keystore(wallet, password=password)


def _is_address(wallet: str) -> bool:
    return wallet.startswith("0x") and not Path(wallet).exists()


@app.command()
def channels(
    wallet: Annotated[str, typer.Option(help="The key file that pays, or an address.")],
    password: Annotated[
        str | None,
        typer.Option(envvar="AGENTPAY_PASSWORD", help="Of a key file; asked for."),
    ] = None,
    *,
    store: Annotated[
        str, typer.Option(help="Where channels are kept.")
    ] = "agentpay.db",
) -> None:
    """List a wallet's channels; an address needs no password."""
    if password is None and not _is_address(wallet):
        password = typer.prompt("Password", hide_input=True)

    async def show() -> None:
        account = _signer(wallet, password or "").address
        async with await open_store(store, shared=True) as books:
            table = Table("channel", "with", "status", "balance", "spent")
            for record in await books.payer.channels(account):
                ledger = record.ledger
                table.add_row(
                    record.channel,
                    record.origin,
                    ledger.status,
                    format_money(ledger.balance, record.decimals),
                    format_money(ledger.spent, record.decimals),
                )
            _out.print(table)

    run(show())
