"""
What pays an MPP charge: each type of credential, read and compared with its challenge.

Source: draft-evm-charge-00, "Credential Schema" and "Verification Procedure". An
`authorization` and a `permit2` are signed for one challenge. A `transaction` and a
`hash` are not: whoever sees one first may present it as its own. So only transactions
that call the token's `transfer` count, that have not been mined before their challenge
was asked for, and each of them once, by one challenge.
"""

from dataclasses import replace

from agentpay.errors import (
    MalformedMessage,
    TransactionFailed,
    TransactionOutcomeUnknown,
)
from agentpay.evm.charge_permit import (
    WITNESS_TYPE,
    WITNESS_TYPE_ENCODED,
    ChargePermit,
    Part,
)
from agentpay.evm.eip1559 import read_signed_call
from agentpay.evm.eip3009 import Authorization
from agentpay.evm.plain_transfer import PlainTransfer, read_plain_transfer
from agentpay.evm.session_escrow import is_charge_nonce
from agentpay.evm.transfer import TokenTransfer, Transfer
from agentpay.payee.movements import (
    Movement,
    SentMovement,
    TransactionMovement,
    transaction_id,
)
from agentpay.payee.mpp_offers import MppTerms, charge_parts, charge_types
from agentpay.payee.offers import PayeeSettings
from agentpay.payee.pricing import Terms
from agentpay.payee.transfer_sales import TransferSales
from agentpay.ports import Chain, PayeeStore
from agentpay.sending_ports import Relay
from agentpay.types import Address, ChainId
from agentpay.wire.mpp.challenge import Challenge
from agentpay.wire.mpp.credential import Credential
from agentpay.wire.mpp.evm_charge import (
    AuthorizationPayload,
    ChargePayload,
    HashPayload,
    Permit2Payload,
    TransactionPayload,
)
from agentpay.wire.mpp.source import parse_source
from agentpay.wire.mpp.timestamps import parse_time


class Charges:
    """Reads what pays, for one payee."""

    def __init__(
        self,
        *,
        settings: PayeeSettings,
        mpp: MppTerms,
        transfers: TransferSales,
        chain: Chain,
        relay: Relay,
        store: PayeeStore,
    ) -> None:
        self._settings = settings
        self._mpp = mpp
        self._transfers = transfers
        self._chain = chain
        self._relay = relay
        self._store = store

    async def read(
        self, credential: Credential, payload: ChargePayload, terms: Terms
    ) -> Movement | str:
        """
        The money of a credential, or what is wrong with it under its challenge.

        Raises:
            MalformedMessage: It cannot be read.
            TransactionOutcomeUnknown: Its transaction is not mined, and may be.
            ChainError, StoreUnavailable: It could not be asked.
        """
        if payload.type not in charge_types(self._settings, self._mpp, terms):
            return f"credential type {payload.type} is not offered"
        source = credential.source
        said = None if source is None else parse_source(source)
        chain = self._settings.asset.chain
        if said is not None and said[0] != chain:
            return f"the source is not on chain {chain}"
        found: Movement | str
        match payload:
            case AuthorizationPayload():
                found = await self._authorization(payload, credential.challenge, terms)
            case Permit2Payload():
                found = await self._permit(payload, credential.challenge, said, terms)
            case TransactionPayload():
                found = await self._transaction(payload, terms)
            case HashPayload():
                found = await self._hash(payload, credential.challenge, terms)
        if isinstance(found, str) or said in (None, (chain, found.payer)):
            return found
        return f"the source is not {found.payer} on this chain"

    async def _authorization(
        self, payload: AuthorizationPayload, echo: Challenge, terms: Terms
    ) -> Movement | str:
        settings = self._settings
        if payload.to != settings.pay_to:
            return f"the transfer is to {payload.to}, not to {settings.pay_to}"
        if payload.value != terms.maximum:
            return f"the transfer is of {payload.value}, not of {terms.maximum}"
        if not is_charge_nonce(payload.nonce, echo.id, echo.realm):
            return "the nonce is not that of the challenge"
        authorization = Authorization(
            payer=payload.payer,
            to=payload.to,
            value=payload.value,
            valid_after=payload.valid_after,
            valid_before=payload.valid_before,
            nonce=payload.nonce,
        )
        return await self._signed(
            TokenTransfer(
                asset=settings.asset,
                authorization=authorization,
                signature=payload.signature,
            )
        )

    async def _permit(
        self,
        payload: Permit2Payload,
        echo: Challenge,
        said: tuple[ChainId, Address] | None,
        terms: Terms,
    ) -> Movement | str:
        settings, witness = self._settings, payload.witness
        if said is None or settings.facilitator is None:
            return "a permit2 credential names its payer as its source"
        pairs = zip(payload.permit.permitted, payload.transfer_details, strict=True)
        parts = tuple(
            Part(to=to.to, amount=to.requested_amount, permitted=permitted.amount)
            for permitted, to in pairs
        )
        wanted = charge_parts(settings, self._mpp, terms)
        if [(part.to, part.amount) for part in parts] != wanted:
            return "the transfers are not those of the challenge, in their order"
        if any(p.token != settings.asset.address for p in payload.permit.permitted):
            return f"a permitted token is not {settings.asset.address}"
        bound = is_charge_nonce(witness.challenge_hash, echo.id, echo.realm)
        if not bound or witness.external_id:
            return "the witness is not that of the challenge"
        permit = ChargePermit(
            asset=settings.asset,
            payer=said[1],
            spender=settings.facilitator,
            parts=parts,
            nonce=payload.permit.nonce,
            deadline=payload.permit.deadline,
            challenge_hash=witness.challenge_hash,
            external_id=witness.external_id,
            signature=payload.signature,
            witness_type=WITNESS_TYPE,
        )
        found = await self._signed(permit)
        if not isinstance(found, str):
            return found
        return await self._signed(replace(permit, witness_type=WITNESS_TYPE_ENCODED))

    async def _signed(self, transfer: Transfer) -> Movement | str:
        wrong = await self._transfers.wrong(transfer)
        return self._transfers.movement(transfer) if wrong is None else wrong

    async def _transaction(
        self, payload: TransactionPayload, terms: Terms
    ) -> Movement | str:
        settings = self._settings
        try:
            signed = read_signed_call(payload.raw)
            transfer = read_plain_transfer(signed.call.to, signed.call.data)
        except ValueError as error:
            raise MalformedMessage(f"no transaction of a transfer: {error}") from error
        if signed.call.chain != settings.asset.chain:
            return f"the transaction is for chain {signed.call.chain}"
        if transfer != self._wanted(terms):
            return "the transaction is not the transfer that is asked for"
        movement = TransactionMovement(
            signed=signed, transfer=transfer, chain=self._chain, relay=self._relay
        )
        if await self._store.find_payment(movement.id) is not None:
            return movement  # it may be ours that a node knows
        if await self._chain.input(signed.hash):
            return "the transaction was sent already: who sent it may present its hash"
        return movement

    async def _hash(
        self, payload: HashPayload, echo: Challenge, terms: Terms
    ) -> Movement | str:
        chain, transaction = self._chain, payload.transaction
        try:
            receipt = await chain.receipt(transaction)
        except TransactionFailed:
            return "the transaction was mined and reverted"
        if receipt is None:
            raise TransactionOutcomeUnknown("transfer", transaction=transaction)
        wanted = self._wanted(terms)
        call, payer = wanted.call(), wanted.payer_in(receipt.logs)
        plain = receipt.to == call.to and await chain.input(transaction) == call.data
        if payer is None or not plain:
            return "the transaction is not the transfer that is asked for"
        asked_at = parse_time(echo.expires or "", name="expires")
        asked_at -= self._settings.max_timeout_seconds
        mined_at = (await chain.block(receipt.block)).timestamp
        # One that was mined while its challenge expired pays for the next one.
        if mined_at < asked_at - self._settings.max_timeout_seconds:
            return "the transaction was mined before the challenge was asked for"
        return SentMovement(
            id=transaction_id(self._settings.asset.chain, transaction),
            payer=payer,
            maximum=terms.maximum,
            transaction=transaction,
        )

    def _wanted(self, terms: Terms) -> PlainTransfer:
        return PlainTransfer(
            token=self._settings.asset.address,
            to=self._settings.pay_to,
            amount=terms.maximum,
        )
