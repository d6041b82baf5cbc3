"""
`agentpay facilitator`: verifies and settles for other people's payees, over HTTP.

Keys and tokens come from files and the environment, by name, so that none is in the
list of processes.
"""

import asyncio
import gc
import os
import sys
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from agentpay.chain.rpc import RpcChain
from agentpay.cli.running import err, listen, run
from agentpay.errors import ChainUnreachable, ConfigurationError, ToolMissing
from agentpay.evm.networks import NETWORKS, Network, find_network
from agentpay.facilitator.assets import read_asset
from agentpay.facilitator.batches import BatchPolicy
from agentpay.facilitator.host import FacilitatorHost, FacilitatorLimits
from agentpay.facilitator.service import SCHEMES, FacilitatorTerms
from agentpay.facilitator.sponsor import SponsorLimits
from agentpay.http.facilitator_app import FacilitatorApp
from agentpay.signers.wallet import Wallet
from agentpay.types import Address, Asset

_LIMITS = FacilitatorLimits()


def facilitator(
    *,
    key_env: Annotated[
        list[str] | None,
        typer.Option(help="A variable that holds a key which pays gas; repeatable."),
    ] = None,
    keystore: Annotated[
        list[Path] | None, typer.Option(help="The same, as a key file; repeatable.")
    ] = None,
    password: Annotated[
        str, typer.Option(envvar="AGENTPAY_PASSWORD", help="Of the key files.")
    ] = "",
    network: Annotated[
        str, typer.Option(help=f"One of {', '.join(NETWORKS)}.")
    ] = "local",
    rpc_url: Annotated[
        str | None, typer.Option(help="The chain's JSON-RPC endpoint.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="0 is a free one.")
    ] = 8403,
    token_env: Annotated[
        list[str] | None,
        typer.Option(help="A variable that holds a bearer token; repeatable."),
    ] = None,
    authorizer_env: Annotated[
        str | None,
        typer.Option(
            help="A variable that holds the key which signs claims and refunds for"
            " payees that leave that to us; it needs a --token-env."
        ),
    ] = None,
    payee: Annotated[
        list[str] | None,
        typer.Option(help="Whom to pay gas for, anybody if not given; repeatable."),
    ] = None,
    asset: Annotated[
        list[str] | None,
        typer.Option(
            help="A token to pay gas for, by its address; repeatable. It is read"
            " from the chain at the start. The network's dollar if not given."
        ),
    ] = None,
    scheme: Annotated[
        list[str] | None,
        typer.Option(
            help=f"One of {', '.join(SCHEMES)}, all if not given; repeatable."
        ),
    ] = None,
    amount_min: Annotated[
        int, typer.Option(help="The least to pay gas for, in a token's base units.")
    ] = 1,
    store: Annotated[str, typer.Option(help="Its book.")] = "facilitator.db",
    gas_per_hour: Annotated[int, typer.Option(min=1)] = _LIMITS.gas_per_hour,
    gas_per_payee_hour: Annotated[int, typer.Option(min=1)] = (
        _LIMITS.gas_per_payee_hour
    ),
    batch_seconds: Annotated[
        float, typer.Option(min=0, help="Wait to share a transaction; 0 is never.")
    ] = 0,
    wallet_factory: Annotated[
        list[str] | None,
        typer.Option(
            help="A contract that may be called to make a payer's wallet; repeatable."
        ),
    ] = None,
    sponsor_wei: Annotated[
        int, typer.Option(min=0, help="For the gas of a payer's approval; 0 is none.")
    ] = 0,
    sponsor_wei_per_hour: Annotated[int, typer.Option(min=0)] = 0,
    allow_mainnet: Annotated[bool, typer.Option(help="Move real money.")] = False,
) -> None:
    """Verify and settle payments for others, and pay their gas, until Ctrl-C."""

    async def serve() -> None:
        wallets = [Wallet.from_key(_variable(name)) for name in key_env or ()]
        wallets += [Wallet.from_keystore(p, password=password) for p in keystore or ()]
        if not wallets:
            raise ConfigurationError(
                "it needs a key that pays gas: give a --key-env or a --keystore"
            )
        tokens = [_variable(name) for name in token_env or ()]
        key = _variable(authorizer_env) if authorizer_env else None
        authorizer = Wallet.from_key(key) if key else None
        if not tokens and not _is_loopback(host):
            raise ConfigurationError(
                f"on {host} anybody could make it pay gas: give a --token-env"
            )
        terms = FacilitatorTerms(
            assets=await _assets(find_network(network), rpc_url, asset or ()),
            schemes=tuple(dict.fromkeys(scheme or SCHEMES)),
            amount_min=amount_min,
            payees=_accounts("--payee", payee) if payee else None,
            wallet_factories=_accounts("--wallet-factory", wallet_factory or ()),
        )
        sponsoring = SponsorLimits(
            wei_each=sponsor_wei, wei_per_hour=max(sponsor_wei, sponsor_wei_per_hour)
        )
        limits = FacilitatorLimits(
            gas_per_hour=gas_per_hour,
            gas_per_payee_hour=gas_per_payee_hour,
            sponsoring=sponsoring if sponsor_wei else None,
        )
        service = FacilitatorHost(
            wallets,
            network=network,
            rpc_url=rpc_url,
            terms=terms,
            store=store,
            authorizer=authorizer,
            limits=limits,
            batch=BatchPolicy(seconds=batch_seconds) if batch_seconds else None,
            allow_mainnet=allow_mainnet,
        )
        await _serve(service, FacilitatorApp(service, tokens=tokens), host, port)

    run(serve())


async def _serve(
    service: FacilitatorHost, app: FacilitatorApp, host: str, port: int
) -> None:
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise ToolMissing("this needs: pip install 'agentpay-sdk[server]'") from error
    config = uvicorn.Config(app, log_level="warning", lifespan="on", ws="none")
    server = uvicorn.Server(config)
    with listen(host, port) as listener:
        try:
            await _start(service)
            gc.collect()
            gc.freeze()  # a full collection of all imports stops everybody for 0.1 s
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            bound = listener.getsockname()[1]
            sys.stdout.write(f"facilitator at http://{host}:{bound}\n")
            for address in service.addresses:
                sys.stdout.write(f"gas is paid by {address}\n")
            sys.stdout.flush()
            await serving
        finally:
            await service.stop()


async def _start(service: FacilitatorHost) -> None:
    try:
        await service.start()
    except ChainUnreachable as error:
        err.print(f"not up yet: {error}", style="yellow", markup=False)


async def _assets(
    network: Network, rpc_url: str | None, texts: Sequence[str]
) -> tuple[Asset, ...]:
    """The tokens of these addresses, as they are on the chain."""
    if not texts:
        return (network.usdc,)
    url = rpc_url or network.rpc_url
    if not url:
        raise ConfigurationError("an --asset is read from the chain: give an --rpc-url")
    tokens = sorted(_accounts("--asset", texts))
    async with RpcChain(url, chain_id=network.chain) as chain:
        await chain.check()
        return tuple([await read_asset(chain, token) for token in tokens])


def _variable(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise ConfigurationError(f"the environment has no {name}")
    return value


def _accounts(option: str, texts: Iterable[str]) -> frozenset[Address]:
    try:
        return frozenset(map(Address, texts))
    except ValueError as error:
        raise ConfigurationError(f"{option}: {error}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
