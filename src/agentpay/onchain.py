"""
What a chain says of tokens, channels, wallets and transfers.

Answers come from an endpoint that may be wrong or hostile: what makes no sense is a
`ChainUnreachable`, never a fact.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Generator, Sequence
from contextlib import aclosing, contextmanager
from typing import Final

from eth_abi.exceptions import DecodingError

from agentpay.errors import ChainUnreachable, TransactionFailed, UnsuitableToken
from agentpay.evm import batch_settlement_abi as channels
from agentpay.evm import eip3009_abi as tokens
from agentpay.evm import session_escrow_abi as sessions
from agentpay.evm.addresses import BATCH_SETTLEMENT
from agentpay.evm.batch_settlement import ChannelConfig, channel_id, voucher_digest
from agentpay.evm.batch_settlement_abi import ChannelOnChain
from agentpay.evm.calls import Call, Log, Receipt
from agentpay.evm.deposit import Deposit, SignedDeposit, TokenDeposit
from agentpay.evm.eip1559 import SignedCall
from agentpay.evm.eip3009 import token_separator
from agentpay.evm.erc6492 import is_wrapped, unwrap
from agentpay.evm.multicall3_abi import aggregate_call, decode_results
from agentpay.evm.permit2_abi import is_settle_of
from agentpay.evm.session_escrow import SessionConfig
from agentpay.evm.session_escrow_abi import SessionOnChain
from agentpay.evm.signature import BadSignature, is_signed_by_key
from agentpay.evm.transfer import Transfer, own_logs
from agentpay.history import logs_between
from agentpay.ports import Chain
from agentpay.records import Settled
from agentpay.types import ZERO_ADDRESS, Address, Asset, Hash32
from agentpay.wire.x402_transfers import FACTORY_NOT_ALLOWED

_GOOD_SECONDS_MAX: Final = 24 * 3600
"""Longer is not looked back from when a signature expired, or from now."""

_CLOCKS_DIFFER_SECONDS: Final = 60
_NEVER: Final = 2**62

_REPLACED_SECONDS: Final = 3.0
"""An endpoint may know of a used nonce before it knows who used it."""


async def check_asset(chain: Chain, asset: Asset) -> None:
    """
    Compare what is declared of a token with what its contract says.

    One without EIP-3009 may be any ERC-20, moved by Permit2; its domain is compared if
    it declares one.

    Raises:
        UnsuitableToken: No code, no EIP-3009, other decimals or another EIP-712 domain.
        ChainUnreachable: The contract could not be read.
    """
    name = f"token {asset.address} on chain {asset.chain}"
    if not await chain.code(asset.address):
        raise UnsuitableToken(f"{name}: there is no contract at this address")
    try:
        decimals, separator = await _read_facts(chain, asset)
    except (ValueError, TransactionFailed) as error:
        lacks = "EIP-3009 transfers" if asset.eip3009 else "what was declared of it"
        raise UnsuitableToken(f"{name}: it does not have {lacks}") from error
    if decimals != asset.decimals:
        raise UnsuitableToken(
            f"{name}: it has {decimals} decimals, {asset.decimals} are declared"
        )
    if separator is not None and separator.to_bytes() != token_separator(asset):
        raise UnsuitableToken(
            f"{name}: its EIP-712 domain is not the declared"
            f" name {asset.name!r}, version {asset.version!r}"
        )


async def _read_facts(chain: Chain, asset: Asset) -> tuple[int, Hash32 | None]:
    if asset.eip3009:
        answers = await chain.read(tokens.token_fact_calls(asset.address))
        facts = tokens.decode_token_facts(answers)
        return facts.decimals, facts.domain_separator
    calls = tokens.token_fact_calls(asset.address)[: 2 if asset.name else 1]
    words = await chain.read(calls)
    separator = Hash32.of(words[1]) if asset.name else None
    return tokens.decode_uint(words[0]), separator


@contextmanager
def _sense() -> Generator[None]:
    """An answer that no contract of ours gives: the endpoint is not to be trusted."""
    try:
        yield
    except (ValueError, DecodingError) as error:
        raise ChainUnreachable(f"the endpoint answers nonsense: {error}") from error


async def read_channel(
    chain: Chain, channel: Hash32, *, block: int | None = None
) -> ChannelOnChain:
    """
    What the contract says of a channel, all of it at one block: the last, or `block`.

    Raises:
        ChainUnreachable: It could not be read, or the answer makes no sense.
    """
    answers = await chain.read(channels.channel_state_calls(channel), block=block)
    with _sense():
        return channels.decode_channel_state(answers)


async def read_session(chain: Chain, config: SessionConfig) -> SessionOnChain:
    """
    What the escrow contract says of a session of MPP's.

    Raises:
        ChainUnreachable: It could not be read, or the answer makes no sense.
    """
    call = sessions.channel_state_call(config.channel, config.escrow)
    (answer,) = await chain.read([call])
    with _sense():
        return sessions.decode_channel_state(answer)


async def read_claimed(chain: Chain, ids: Sequence[Hash32]) -> list[int]:
    """What was claimed of each of several channels."""
    calls = [channels.channel_state_calls(channel)[0] for channel in ids]
    with _sense():
        return [channels.decode_claimed(answer) for answer in await chain.read(calls)]


async def find_deposit(chain: Chain, deposit: Deposit) -> Hash32 | None:
    """The transaction that made this very deposit, however long ago."""
    if not await is_used(chain, deposit):
        return None
    channel = channel_id(deposit.config, chain.chain_id)
    topics = [channels.DEPOSITED, channel]
    async with aclosing(_logs(chain, BATCH_SETTLEMENT, topics, deposit)) as logs:
        async for log in logs:
            if channels.amount_in([log], topics[0], channel) != deposit.amount:
                continue
            receipt = await chain.receipt(log.transaction)
            if receipt is not None and await _is_made_by(chain, deposit, receipt):
                return log.transaction
    return None


async def find_refund(chain: Chain, channel: Hash32, *, since: int) -> Settled:
    """The last refund of a channel, where there was one since it was asked for."""
    topics = [channels.REFUNDED, channel]
    logs = logs_between(
        chain,
        address=BATCH_SETTLEMENT,
        topics=topics,
        earliest=since - _CLOCKS_DIFFER_SECONDS,
        latest=_NEVER,
        seconds_max=_GOOD_SECONDS_MAX,
    )
    async with aclosing(logs):
        async for log in logs:
            amount = channels.amount_in([log], topics[0], channel) or 0
            return Settled(transaction=log.transaction, amount=amount)
    return Settled(transaction="", amount=0)


def _logs(
    chain: Chain,
    address: Address,
    topics: Sequence[Hash32 | None],
    signed: Transfer | Deposit,
) -> AsyncGenerator[Log]:
    """Those that what was signed may have left: it is good for a while only."""
    return logs_between(
        chain,
        address=address,
        topics=topics,
        earliest=signed.valid_after,
        latest=signed.valid_before,
        seconds_max=_GOOD_SECONDS_MAX,
    )


async def _is_made_by(chain: Chain, deposit: Deposit, receipt: Receipt) -> bool:
    """Not by one like it: its nonce may have been used up for something else."""
    if isinstance(deposit, TokenDeposit):
        return await moved_by(chain, deposit.transfer, receipt) > 0
    # Permit2 names no nonce in its events: only the very call is a proof.
    call = deposit.call()
    sent = await chain.input(receipt.transaction)
    return receipt.to == call.to and sent == call.data


async def read_unsettled(chain: Chain, receiver: Address, token: Address) -> int:
    """What was claimed for a receiver and not sent to it yet."""
    (answer,) = await chain.read([channels.receiver_state_call(receiver, token)])
    with _sense():
        claimed, settled = channels.decode_receiver_state(answer)
    return claimed - settled


async def read_words(chain: Chain, calls: Sequence[Call]) -> list[int]:
    """Numbers, each the whole answer to a call, all at one block."""
    answers = await chain.read(calls)
    with _sense():
        return [tokens.decode_uint(answer) for answer in answers]


async def is_used(
    chain: Chain, signed: Transfer | SignedDeposit, *, block: int | None = None
) -> bool:
    """Whether a signed transfer or deposit was used (or cancelled)."""
    (answer,) = await chain.read([signed.used_call()], block=block)
    with _sense():
        return signed.is_used(answer)


async def read_balance(
    chain: Chain, asset: Asset, payer: Address, sent: Sequence[Transfer]
) -> tuple[int, list[bool]]:
    """What a payer holds, and which of its transfers were used, all at one block."""
    calls = [transfer.used_call() for transfer in sent]
    held, *used = await chain.read([tokens.balance_call(asset.address, payer), *calls])
    with _sense():
        pairs = zip(sent, used, strict=True)
        return tokens.decode_uint(held), [t.is_used(answer) for t, answer in pairs]


async def is_signed(
    chain: Chain, account: Address, digest: bytes, signature: bytes
) -> bool:
    """
    Whether an account signed: by its key, or by what its contract says (ERC-1271).

    A contract may refuse what the key of its address signed (EIP-7702), so whatever
    this allows is simulated before it is relied on.
    """
    if is_signed_by_key(account, digest, signature):
        return True
    return await is_signature_of(chain, account, digest, signature)


async def wrong_signature(
    chain: Chain,
    account: Address,
    digest: bytes,
    signature: bytes,
    *,
    factories: Collection[Address],
    code: str,
) -> str | None:
    """
    The code of what is wrong with a signature: `code`, if it is not its account's.

    A wallet that is not deployed yet (ERC-6492) is asked in a simulation in which its
    factory made it. A factory that is not listed is not called even so.
    """
    if not is_wrapped(signature):
        signed = await is_signed(chain, account, digest, signature)
        return None if signed else code
    try:
        wrapped = unwrap(signature)
    except BadSignature:
        return code
    ask = tokens.valid_signature_call(account, digest, wrapped.signature)
    if await chain.code(account):
        signed = await is_signature_of(chain, account, digest, wrapped.signature)
    elif wrapped.factory not in factories:
        return FACTORY_NOT_ALLOWED
    else:
        try:
            (answer,) = await _read_after(chain, wrapped.deploy_call(), [ask])
        except TransactionFailed:
            return code
        signed = tokens.is_valid_answer(answer)
    return None if signed else code


async def read_words_after(
    chain: Chain, first: Call, calls: Sequence[Call]
) -> list[int]:
    """
    Numbers as they would be after a call that is not made.

    Raises:
        TransactionFailed: One of the calls fails then.
    """
    answers = await _read_after(chain, first, calls)
    with _sense():
        return [tokens.decode_uint(answer) for answer in answers]


async def _read_after(chain: Chain, first: Call, calls: Sequence[Call]) -> list[bytes]:
    (answer,) = await chain.read([aggregate_call([first, *calls])])
    with _sense():
        _, *results = decode_results(answer, 1 + len(calls))
    for call, result in zip(calls, results, strict=True):
        if not result.succeeded:
            raise TransactionFailed(call.what, reason=f"it reverts after {first.what}")
    return [result.answer for result in results]


async def is_voucher_signed(
    chain: Chain, config: ChannelConfig, amount: int, signature: bytes
) -> bool:
    """Whether the contract would take a voucher of a channel as its payer's."""
    channel = channel_id(config, chain.chain_id)
    digest = voucher_digest(channel, amount, chain.chain_id)
    if config.payer_authorizer != ZERO_ADDRESS:
        return is_signed_by_key(config.payer_authorizer, digest, signature)
    # Where the payer has code, the contract asks that and not the key (EIP-7702).
    if await chain.code(config.payer):
        return await is_signature_of(chain, config.payer, digest, signature)
    return is_signed_by_key(config.payer, digest, signature)


async def is_signature_of(
    chain: Chain, wallet: Address, digest: bytes, signature: bytes
) -> bool:
    """Ask a contract wallet whether it signed (ERC-1271); False for plain keys."""
    if not await chain.code(wallet):
        return False
    call = tokens.valid_signature_call(wallet, digest, signature)
    try:
        (answer,) = await chain.read([call])
    except TransactionFailed:
        return False
    return tokens.is_valid_answer(answer)


async def read_funds(chain: Chain, transfer: Transfer) -> int:
    """The most that a transfer's payer could pay now."""
    return min(await read_words(chain, transfer.funds_calls()))


async def moved_in(chain: Chain, transfer: Transfer, transaction: Hash32) -> int:
    """What a transaction moved of a transfer that it used; 0 if it is another's."""
    receipt = await chain.receipt(transaction)
    if receipt is None or not await is_used(chain, transfer):
        return 0
    return await moved_by(chain, transfer, receipt)


async def find_transfer(chain: Chain, transfer: Transfer) -> Receipt | None:
    """
    The transaction that used this very transfer to pay the right account, however long
    ago.
    """
    if not await is_used(chain, transfer):
        return None
    trace = transfer.trace()
    async with aclosing(_logs(chain, trace.address, trace.topics, transfer)) as logs:
        async for log in logs:
            receipt = await chain.receipt(log.transaction)
            if receipt is not None and await moved_by(chain, transfer, receipt):
                return receipt
    return None


async def moved_by(chain: Chain, transfer: Transfer, receipt: Receipt) -> int:
    """
    What somebody's transaction moved of this very transfer, and not of one like it.

    Whoever sent it may have put into it what looks like other payments.
    """
    trace = transfer.trace()
    if trace.mark:
        if receipt.to != trace.by:
            return 0
        if not is_settle_of(trace.mark, await chain.input(receipt.transaction)):
            return 0
    elif not any(
        (log.address, log.topics) == (trace.address, trace.topics)
        for log in receipt.logs
    ):
        return 0
    return transfer.moved(own_logs(transfer, receipt.logs))


async def is_void(chain: Chain, signed: SignedCall) -> bool:
    """
    Whether a transaction can not move money any more, and did not.

    Raises:
        ChainError: The chain could not be asked.
    """
    for pause in (0.0, _REPLACED_SECONDS):
        await asyncio.sleep(pause)
        standing = await chain.standing(signed.owner)
        try:
            if await chain.receipt(signed.hash) is not None:
                return False
        except TransactionFailed:
            return True  # it reverted
        if standing.nonce <= signed.call.nonce:
            return False
    return True
