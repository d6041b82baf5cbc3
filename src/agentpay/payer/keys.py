"""
A payer's two keys: the wallet moves money, the voucher key spends what a channel holds.

They may be one. A channel's terms name the key of its vouchers for ever, so a record
says which key signs for it, not the agent that reads it.
"""

from dataclasses import dataclass

from agentpay.errors import ChannelUnusable
from agentpay.evm.session_escrow import SessionConfig
from agentpay.ports import Chain, Signer
from agentpay.records import Config, PayerRecord
from agentpay.signers.smart_wallet import SmartWallet
from agentpay.signers.watched import WatchedWallet
from agentpay.types import ZERO_ADDRESS, Address


@dataclass(frozen=True, slots=True, kw_only=True)
class PayerKeys:
    """Who signs what for one payer."""

    wallet: Signer
    """Signs deposits and transfers, and makes the salts of channels."""
    voucher: Signer
    """Signs the vouchers of channels that are opened now."""

    @property
    def account(self) -> Address:
        """Whose money it is."""
        return self.wallet.address

    @property
    def authorizer(self) -> Address:
        """Whose vouchers a channel that is opened now takes."""
        return self.voucher.address

    @property
    def may_deposit(self) -> bool:
        """Whether money can be moved at all: not with a wallet that is only watched."""
        return not isinstance(self.wallet, WatchedWallet)

    def of(self, record: PayerRecord) -> Signer:
        """
        The key that signs this channel's vouchers.

        Raises:
            ChannelUnusable: We do not hold it.
        """
        named = _voucher_key(record.config)
        if named == self.voucher.address:
            return self.voucher
        if named in (self.wallet.address, ZERO_ADDRESS) and self.may_deposit:
            return self.wallet
        raise ChannelUnusable(
            f"channel {record.channel} takes vouchers of {named}, and this agent holds"
            f" {self.voucher.address}: run it with the key the channel was opened with"
        )


def _voucher_key(config: Config) -> Address:
    """Whose vouchers count; the zero address leaves them to the payer."""
    if isinstance(config, SessionConfig):
        return config.terms.authorized_signer
    return config.payer_authorizer


async def sign_by_wallet(wallet: Signer, digest: bytes, chain: Chain) -> bytes:
    """
    Sign what moves a wallet's money; wrapped, while its contract is not deployed.

    Raises:
        KeyElsewhere: The wallet is only watched.
        ConfigurationError: The contract is not deployed, and we cannot say by whom.
        ChainError: The chain could not be asked whether it is.
    """
    signature = await wallet.sign_digest(digest, chain=chain.chain_id)
    if not isinstance(wallet, SmartWallet) or await chain.code(wallet.address):
        return signature
    return wallet.wrap(signature)
