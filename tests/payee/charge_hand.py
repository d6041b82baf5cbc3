"""Payloads of MPP charges that are not EIP-3009, made by hand, right or wrong."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agentpay import Wallet
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.allowance_abi import approve_call
from agentpay.evm.calls import Call
from agentpay.evm.charge_permit import ChargePermit, Part
from agentpay.evm.eip1559 import CallTransaction, SignedCall
from agentpay.evm.plain_transfer import PlainTransfer
from agentpay.evm.session_escrow import charge_nonce
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, Asset, Hash32
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.challenge import Challenge
from agentpay.wire.mpp.credential import Credential, format_credential
from agentpay.wire.mpp.evm_write import (
    hash_payload,
    permit2_payload,
    transaction_payload,
)
from agentpay.wire.mpp.source import format_source
from tests.payee.mpp_hand import asked_of


async def send(chain: LocalChain, sender: Address, call: Call) -> Hash32:
    """A call from any account, mined."""
    await chain.node.set_balance(sender, 10**18)
    return Hash32(await chain.node.transact(sender, call.data, to=call.to))


async def allow_permit2(chain: LocalChain, owner: Address) -> None:
    await send(
        chain, owner, approve_call(chain.usdc.address, spender=PERMIT2, amount=10**9)
    )


class OtherPayer:
    """Pays charges in the other ways; nothing is checked or remembered."""

    def __init__(self, chain: LocalChain, wallet: Wallet) -> None:
        self.chain = chain
        self.wallet = wallet

    @property
    def asset(self) -> Asset:
        return self.chain.usdc

    def headers(
        self, challenge: Challenge, payload: JsonObject, *, source: str | None = ""
    ) -> dict[str, str]:
        """The headers of a request that pays for a challenge."""
        if source == "":
            source = format_source(self.asset.chain, self.wallet.address)
        credential = Credential(challenge=challenge, payload=payload, source=source)
        return {challenge.credential_field: format_credential(credential)}

    async def transfer(self, to: Address, amount: int) -> Hash32:
        """Send it, as a wallet would."""
        plain = PlainTransfer(token=self.asset.address, to=to, amount=amount)
        return await send(self.chain, self.wallet.address, plain.call())

    async def by_hash(self, challenge: Challenge) -> dict[str, str]:
        asked = asked_of(challenge)
        sent = await self.transfer(asked.recipient, asked.amount)
        return self.headers(challenge, hash_payload(sent))

    async def signed(self, challenge: Challenge, **changes: Any) -> SignedCall:
        """A transaction that pays, not sent."""
        asked = asked_of(challenge)
        plain = PlainTransfer(
            token=self.asset.address, to=asked.recipient, amount=asked.amount
        )
        rpc, account = self.chain.node.rpc, self.wallet.address
        call = CallTransaction(
            chain=self.asset.chain,
            nonce=int(await rpc("eth_getTransactionCount", account, "latest"), 16),
            tip=10**9,
            fee_max=10**11,
            gas=100_000,
            to=self.asset.address,
            data=plain.call().data,
        )
        call = replace(call, **changes)
        signature = await self.wallet.sign_digest(call.digest(), chain=self.asset.chain)
        return SignedCall(call=call, signature=signature)

    async def by_transaction(
        self, challenge: Challenge, **changes: Any
    ) -> dict[str, str]:
        signed = await self.signed(challenge, **changes)
        return self.headers(challenge, transaction_payload(signed.raw))

    async def permit(
        self,
        challenge: Challenge,
        *,
        signer: Wallet | None = None,
        parts: Sequence[tuple[Address, int]] | None = None,
        **changes: Any,
    ) -> ChargePermit:
        asked = asked_of(challenge)
        due = [(asked.recipient, asked.primary_amount)]
        due += [(split.recipient, split.amount) for split in asked.splits]
        spender = asked.method_details.spender
        assert spender is not None
        permit = ChargePermit(
            asset=self.asset,
            payer=self.wallet.address,
            spender=spender,
            parts=tuple(Part(to=t, amount=n, permitted=n) for t, n in parts or due),
            nonce=secrets.randbits(256),
            deadline=int(time.time()) + 300,
            challenge_hash=charge_nonce(challenge.id, challenge.realm),
            external_id="",
            signature=b"",
        )
        permit = replace(permit, **changes)
        digest = permit.digest()
        key = signer or self.wallet
        signature = await key.sign_digest(digest, chain=self.asset.chain)
        return replace(permit, signature=signature)

    async def by_permit2(self, challenge: Challenge, **changes: Any) -> dict[str, str]:
        token = changes.pop("token", self.asset.address)
        source = changes.pop("source", "")
        permit = await self.permit(challenge, **changes)
        payload = permit2_payload(
            token=token,
            transfers=[(part.to, part.amount) for part in permit.parts],
            nonce=permit.nonce,
            deadline=permit.deadline,
            challenge_hash=permit.challenge_hash,
            external_id=permit.external_id,
            signature=permit.signature,
        )
        return self.headers(challenge, payload, source=source)
