"""What is signed and encoded here is taken by the contracts on a real Anvil."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.errors import TransactionFailed
from agentpay.evm import allowance_abi, permit2_abi
from agentpay.evm import batch_settlement_abi as channels
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.artifacts import load_artifact
from agentpay.evm.batch_settlement import ChannelConfig, channel_id
from agentpay.evm.calls import Call, Receipt
from agentpay.evm.eip2612 import Permit, SignedPermit, permit_digest
from agentpay.evm.eip3009_abi import (
    decode_uint,
    is_valid_answer,
    valid_signature_call,
)
from agentpay.evm.erc6492 import WrappedSignature, unwrap, wrap
from agentpay.evm.error_names import ERROR_NAMES
from agentpay.evm.hashing import address_word, selector, uint_word
from agentpay.evm.multicall3_abi import aggregate_call, decode_results
from agentpay.evm.permit2 import PermitTransfer
from agentpay.evm.permit2_signed import Permit2Deposit, Permit2Transfer
from agentpay.onchain import find_transfer, is_used, read_channel, read_funds
from agentpay.signers.wallet import Wallet
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, Asset, Hash32

RECEIVER = Address("0x" + "ee" * 20)
ADMIN = Address("0x" + "ad" * 20)
AMOUNT = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A payer with tokens and no coins, and a facilitator with coins."""

    local: LocalChain
    chain: RpcChain
    sender: TransactionSender
    payer: Wallet
    facilitator: Wallet
    token: Asset
    now: int

    async def payment(
        self, *, upto: bool = False, permit: bool = False, payer: Address | None = None
    ) -> Permit2Transfer:
        unsigned = Permit2Transfer(
            asset=self.token,
            transfer=PermitTransfer(
                payer=payer or self.payer.address,
                token=self.token.address,
                amount=AMOUNT,
                nonce=secrets.randbits(256),
                deadline=self.now + 600,
                to=RECEIVER,
                valid_after=0,
                facilitator=self.facilitator.address if upto else None,
            ),
            signature=b"",
            permit=await self.permit() if permit else None,
        )
        signed = await self.payer.sign_digest(unsigned.digest(), chain=self.token.chain)
        return replace(unsigned, signature=signed)

    async def permit(self) -> SignedPermit:
        owner = self.payer.address
        ask = allowance_abi.permit_nonce_call(self.token.address, owner)
        permit = Permit(
            owner=owner,
            spender=PERMIT2,
            value=AMOUNT,
            nonce=decode_uint(await self.read(ask)),
            deadline=self.now + 600,
        )
        signature = await self.payer.sign_digest(
            permit_digest(permit, self.token), chain=self.token.chain
        )
        return SignedPermit(permit=permit, signature=signature)

    async def approve(self, owner: Address, amount: int = AMOUNT) -> None:
        call = allowance_abi.approve_call(
            self.token.address, spender=PERMIT2, amount=amount
        )
        await self.local.node.set_balance(owner, 10**18)
        await self.local.node.transact(owner, call.data, to=call.to)

    async def read(self, call: Call) -> bytes:
        (answer,) = await self.chain.read([call])
        return answer

    async def settle(self, payment: Permit2Transfer, amount: int = AMOUNT) -> Receipt:
        assert not await is_used(self.chain, payment)
        receipt = await self.sender.send(payment.call(amount))
        assert await is_used(self.chain, payment)
        return receipt


async def place(chain: LocalChain, contract: str) -> Address:
    """Deploy a contract by its constructor."""
    await chain.node.set_balance(ADMIN, 10**18)
    creation = load_artifact(contract).creation
    sent = await chain.node.transact(ADMIN, creation, to=None)
    receipt = await chain.node.rpc("eth_getTransactionReceipt", sent)
    return Address(receipt["contractAddress"])


async def mint(chain: LocalChain, token: Address, owner: Address) -> None:
    data = selector("mint(address,uint256)") + address_word(owner)
    await chain.node.transact(ADMIN, data + uint_word(10 * AMOUNT), to=token)


@asynccontextmanager
async def opened(local: LocalChain) -> AsyncIterator[Scene]:
    payer, facilitator = Wallet.create(), await local.funded_wallet()
    address = await place(local, "PermitToken")
    await mint(local, address, payer.address)
    async with (
        RpcChain(
            local.rpc_url, chain_id=local.chain_id, error_names=ERROR_NAMES
        ) as chain,
        TransactionSender(chain, key=facilitator.gas_key()) as sender,
    ):
        yield Scene(
            local=local,
            chain=chain,
            sender=sender,
            payer=payer,
            facilitator=facilitator,
            token=Asset(
                chain=local.chain_id,
                address=address,
                decimals=18,
                name="Permit Token",
                version="1",
            ),
            now=(await chain.head()).timestamp,
        )


@pytest.mark.parametrize("upto", [False, True])
async def test_a_payment_is_taken_after_an_approval(
    agentpay_chain: LocalChain, upto: bool
) -> None:
    async with opened(agentpay_chain) as scene:
        await scene.approve(scene.payer.address)
        payment = await scene.payment(upto=upto)
        amount = AMOUNT // 3 if upto else AMOUNT
        assert await read_funds(scene.chain, payment) == AMOUNT
        receipt = await scene.settle(payment, amount)

        assert payment.moved(receipt.logs) == amount
        found = await find_transfer(scene.chain, payment)
        assert found is not None
        assert found.transaction == receipt.transaction
        assert await find_transfer(scene.chain, await scene.payment()) is None
        with pytest.raises(TransactionFailed, match="InvalidNonce"):
            await scene.sender.simulate(payment.call(amount))


@pytest.mark.parametrize("upto", [False, True])
async def test_a_payment_is_taken_with_a_permit(
    agentpay_chain: LocalChain, upto: bool
) -> None:
    async with opened(agentpay_chain) as scene:
        payment = await scene.payment(upto=upto, permit=True)
        with pytest.raises(TransactionFailed, match="TRANSFER_FROM_FAILED"):
            await scene.sender.simulate(replace(payment, permit=None).call(AMOUNT))
        receipt = await scene.settle(payment)

        assert payment.moved(receipt.logs) == AMOUNT
        token, owner = scene.token.address, scene.payer.address
        assert not permit2_abi.permit_failed(receipt.logs, token, owner)


async def test_t8_a_permit_that_was_sent_before_stops_nothing(
    agentpay_chain: LocalChain,
) -> None:
    async with opened(agentpay_chain) as scene:
        payment = await scene.payment(permit=True)
        token, owner = scene.token.address, scene.payer.address
        assert payment.permit is not None
        await scene.sender.send(allowance_abi.permit_call(token, payment.permit))
        allowance = allowance_abi.allowance_call(token, owner=owner, spender=PERMIT2)
        assert decode_uint(await scene.read(allowance)) == AMOUNT
        receipt = await scene.settle(payment)

        assert payment.moved(receipt.logs) == AMOUNT
        assert permit2_abi.permit_failed(receipt.logs, token, owner)


async def test_an_upto_payment_is_taken_from_its_facilitator_only(
    agentpay_chain: LocalChain,
) -> None:
    async with opened(agentpay_chain) as scene:
        await scene.approve(scene.payer.address)
        payment = await scene.payment(upto=True)
        other = await agentpay_chain.funded_wallet()
        async with TransactionSender(scene.chain, key=other.gas_key()) as sender:
            with pytest.raises(TransactionFailed, match="UnauthorizedFacilitator"):
                await sender.simulate(payment.call(AMOUNT))


@pytest.mark.parametrize("with_permit", [False, True])
async def test_a_deposit_is_taken(
    agentpay_chain: LocalChain, with_permit: bool
) -> None:
    async with opened(agentpay_chain) as scene:
        if not with_permit:
            await scene.approve(scene.payer.address)
        unsigned = Permit2Deposit(
            config=ChannelConfig(
                payer=scene.payer.address,
                payer_authorizer=scene.payer.address,
                receiver=RECEIVER,
                receiver_authorizer=RECEIVER,
                token=scene.token.address,
                withdraw_delay=900,
                salt=Hash32("0x" + "01" * 32),
            ),
            asset=scene.token,
            amount=AMOUNT,
            nonce=secrets.randbits(256),
            deadline=scene.now + 600,
            signature=b"",
            permit=await scene.permit() if with_permit else None,
        )
        chain_id = scene.token.chain
        signature = await scene.payer.sign_digest(unsigned.digest(), chain=chain_id)
        deposit = replace(unsigned, signature=signature)
        assert not await is_used(scene.chain, deposit)
        receipt = await scene.sender.send(deposit.call())
        channel = channel_id(deposit.config, chain_id)

        assert await is_used(scene.chain, deposit)
        assert (await read_channel(scene.chain, channel)).balance == AMOUNT
        moved = channels.amount_in(receipt.logs, channels.DEPOSITED, channel)
        assert moved == AMOUNT


async def test_k7_a_poisoned_payment_leaves_the_others_paid(
    agentpay_chain: LocalChain,
) -> None:
    async with opened(agentpay_chain) as scene:
        await scene.approve(scene.payer.address, 2 * AMOUNT)
        good, other = await scene.payment(), await scene.payment()
        bad = replace(await scene.payment(), signature=good.signature)
        payments = [good, bad, other]
        call = aggregate_call([payment.call(AMOUNT) for payment in payments])
        results = decode_results(await scene.read(call), len(payments))
        await scene.sender.send(call)

        assert [result.succeeded for result in results] == [True, False, True]
        assert ERROR_NAMES[results[1].answer[:4]] == "InvalidSigner"
        used = [await is_used(scene.chain, payment) for payment in payments]
        assert used == [True, False, True]


async def test_t9_a_wallet_that_is_not_there_yet_pays_after_its_deployment(
    agentpay_chain: LocalChain,
) -> None:
    async with opened(agentpay_chain) as scene:
        factory = await place(agentpay_chain, "WalletFactory")
        words = address_word(scene.payer.address) + bytes(32)
        where = Call(
            to=factory, data=selector("addressOf(address,bytes32)") + words, what=""
        )
        wallet = Address("0x" + (await scene.read(where))[12:].hex())
        await mint(agentpay_chain, scene.token.address, wallet)
        payment = await scene.payment(payer=wallet)
        wrapped = wrap(
            WrappedSignature(
                factory=factory,
                factory_data=selector("create(address,bytes32)") + words,
                signature=payment.signature,
            )
        )
        with pytest.raises(TransactionFailed, match="InvalidSigner"):
            await scene.sender.simulate(payment.call(AMOUNT))
        deployment = unwrap(wrapped)
        await scene.sender.send(deployment.deploy_call())
        await scene.approve(wallet)

        ask = valid_signature_call(wallet, payment.digest(), deployment.signature)
        assert is_valid_answer(await scene.read(ask))
        receipt = await scene.settle(payment)
        assert payment.moved(receipt.logs) == AMOUNT


async def test_t9_a_delegated_account_pays_by_its_own_key(
    agentpay_chain: LocalChain,
) -> None:
    async with opened(agentpay_chain) as scene:
        await scene.approve(scene.payer.address)
        delegate = await place(agentpay_chain, "Delegate7702")
        # How EIP-7702 writes a delegation into an account's code.
        code = bytes.fromhex("ef0100") + delegate.to_bytes()
        await agentpay_chain.node.set_code(scene.payer.address, code)
        payment = await scene.payment()
        receipt = await scene.settle(payment)

        assert payment.moved(receipt.logs) == AMOUNT
