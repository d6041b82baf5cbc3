"""A deposit to a session is signed for it alone, and known by its events."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agentpay.evm.calls import Log
from agentpay.evm.hashing import address_word, uint_word
from agentpay.evm.session_deposit import (
    Permit2SessionDeposit,
    TokenSessionDeposit,
    deposited_in,
)
from agentpay.evm.session_escrow import Escrow, SessionConfig, SessionTerms
from agentpay.evm.session_escrow_events import CHANNEL_OPENED, SETTLED, TOP_UP
from agentpay.types import UINT128_MAX, Address, Asset, ChainId, Hash32

ASSET = Asset(
    chain=ChainId(31337),
    address=Address("0x" + "c0" * 20),
    decimals=6,
    name="USDC",
    version="2",
)
ADDRESSES = st.sampled_from([Address("0x" + f"{n:02x}" * 20) for n in range(1, 5)])
HASHES = st.sampled_from([Hash32.of(bytes([n]) * 32) for n in range(3)])
CONFIGS = st.builds(
    SessionConfig,
    terms=st.builds(
        SessionTerms,
        payer=ADDRESSES,
        payee=ADDRESSES,
        token=st.just(ASSET.address),
        salt=HASHES,
        authorized_signer=ADDRESSES,
    ),
    escrow=st.builds(Escrow, chain=st.just(ASSET.chain), contract=ADDRESSES),
)
AMOUNTS = st.integers(1, UINT128_MAX)
TIMES = st.integers(0, 2**40)


@st.composite
def deposits(draw: st.DrawFn) -> TokenSessionDeposit | Permit2SessionDeposit:
    config, opens = draw(CONFIGS), draw(st.booleans())
    payer = config.payer if opens else draw(ADDRESSES)
    if draw(st.booleans()):
        return Permit2SessionDeposit(
            config=config,
            asset=ASSET,
            payer=payer,
            amount=draw(AMOUNTS),
            nonce=draw(AMOUNTS),
            deadline=draw(TIMES),
            signature=b"",
            opens=opens,
        )
    return TokenSessionDeposit(
        config=config,
        asset=ASSET,
        payer=payer,
        amount=draw(AMOUNTS),
        valid_after=draw(TIMES),
        valid_before=draw(TIMES),
        signature=b"",
        top_up_salt=None if opens else draw(HASHES),
    )


@given(deposits(), deposits())
def test_k9_no_two_deposits_of_one_payer_are_signed_alike(
    one: TokenSessionDeposit | Permit2SessionDeposit,
    other: TokenSessionDeposit | Permit2SessionDeposit,
) -> None:
    # Permit2 finds the payer in the signature, so it is not in what is signed.
    assume(one.payer == other.payer)
    assert (one.digest() == other.digest()) == (one == other)


@given(deposits())
def test_a_deposit_is_in_the_token_of_its_session(
    deposit: TokenSessionDeposit | Permit2SessionDeposit,
) -> None:
    for asset in (
        replace(ASSET, address=Address("0x" + "c1" * 20)),
        replace(ASSET, chain=ChainId(1)),
    ):
        with pytest.raises(ValueError, match="is not the session's"):
            replace(deposit, asset=asset)


@given(deposits())
def test_a_session_is_opened_by_its_payers_own_money(
    deposit: TokenSessionDeposit | Permit2SessionDeposit,
) -> None:
    stranger = Address("0x" + "99" * 20)
    if not deposit.opens:
        assert replace(deposit, payer=stranger).payer == stranger
        return
    with pytest.raises(ValueError, match="opens a session of"):
        replace(deposit, payer=stranger)


def opened(config: SessionConfig, amount: int) -> Log:
    terms = config.terms
    words = address_word(terms.token) + address_word(terms.authorized_signer)
    return _log(config, CHANNEL_OPENED, words + terms.salt.to_bytes(), amount)


def topped_up(config: SessionConfig, added: int) -> Log:
    return _log(config, TOP_UP, uint_word(added), added + 7)


def settled(config: SessionConfig, amount: int) -> Log:
    return _log(config, SETTLED, uint_word(amount) * 2, amount)


def _log(config: SessionConfig, topic: Hash32, before: bytes, amount: int) -> Log:
    parties = (config.terms.payer, config.terms.payee)
    return Log(
        address=config.escrow.contract,
        topics=(
            topic,
            config.channel,
            *(Hash32.of(address_word(party)) for party in parties),
        ),
        data=before + uint_word(amount),
        block=1,
        index=0,
        transaction=Hash32.of(bytes(32)),
    )


@given(CONFIGS, CONFIGS, st.lists(AMOUNTS, max_size=3))
def test_k1_only_events_of_the_session_itself_put_anything_into_it(
    config: SessionConfig, other: SessionConfig, amounts: list[int]
) -> None:
    theirs = [] if other == config else [opened(other, 5), topped_up(other, 6)]
    logs = [
        *theirs,
        settled(config, 9),
        *(opened(config, amount) for amount in amounts[:1]),
        *(topped_up(config, amount) for amount in amounts[1:]),
    ]

    assert deposited_in(config, logs, opens=True) == amounts[:1]
    assert deposited_in(config, logs, opens=False) == amounts[1:]
