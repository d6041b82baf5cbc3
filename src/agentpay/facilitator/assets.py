"""
Tokens as their own contracts describe them, for who knows an address only.
"""

from dataclasses import replace

from agentpay.errors import TransactionFailed, UnsuitableToken
from agentpay.evm import eip3009_abi as tokens
from agentpay.onchain import check_asset
from agentpay.ports import Chain
from agentpay.types import Address, Asset


async def read_asset(chain: Chain, token: Address) -> Asset:
    """
    What a token says of itself, where `check_asset` finds it true.

    The names of its EIP-712 domain are read by EIP-5267, or by `name()` and
    `version()`. One without EIP-3009 is moved by Permit2, and may have none.

    Raises:
        UnsuitableToken: It is no token, or has EIP-3009 and a domain it does not tell.
        ChainUnreachable: The contract could not be read.
    """
    bare = await _read_bare(chain, token)
    for name, version in await _names(chain, token):
        asset = replace(bare, name=name, version=version)
        try:
            await check_asset(chain, asset)
        except UnsuitableToken:
            continue
        return asset
    if bare.eip3009:
        raise UnsuitableToken(
            f"token {token} on chain {chain.chain_id}: it does not tell the name and"
            " version of its EIP-712 domain: declare it in Python, as an Asset of"
            " FacilitatorTerms"
        )
    return bare


async def _read_bare(chain: Chain, token: Address) -> Asset:
    """All but the names of its domain."""
    name = f"token {token} on chain {chain.chain_id}"
    if not await chain.code(token):
        raise UnsuitableToken(f"{name}: there is no contract at this address")
    facts = tokens.token_fact_calls(token)
    try:
        (decimals,) = await chain.read(facts[:1])
        bare = Asset(
            chain=chain.chain_id,
            address=token,
            decimals=tokens.decode_uint(decimals),
            name="",
            version="",
            eip3009=False,
        )
    except (ValueError, TransactionFailed) as error:
        raise UnsuitableToken(f"{name}: it has not 0 to 18 decimals") from error
    try:
        tokens.decode_token_facts(await chain.read(facts))
    except (ValueError, TransactionFailed):
        return bare
    return replace(bare, eip3009=True)


async def _names(chain: Chain, token: Address) -> list[tuple[str, str]]:
    """What it may be called in its domain."""
    names: list[tuple[str, str]] = []
    for calls, decode in (
        ([tokens.domain_call(token)], tokens.decode_domain),
        (tokens.name_calls(token), tokens.decode_names),
    ):
        try:
            names.append(decode(await chain.read(calls)))
        except (ValueError, TransactionFailed):
            continue
    return names
