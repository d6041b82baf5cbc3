"""
One deposit to be put on the chain once: what checks, sends and finds it.
"""

from collections.abc import Callable

from agentpay.errors import TransactionFailed
from agentpay.evm.calls import Receipt
from agentpay.evm.deposit import Deposit
from agentpay.facilitator.embedded import Facilitator
from agentpay.facilitator.once import Refused
from agentpay.facilitator.outcomes import deposit_result
from agentpay.onchain import find_deposit, is_used
from agentpay.ports import Chain
from agentpay.records import Settled
from agentpay.shortage import deposit_code
from agentpay.types import Address
from agentpay.wire.x402_deposits import wrong_time


class DepositMovement:
    """See `Movement`. Codes are without the prefix of the scheme."""

    failed_code = "deposit_transaction_failed"

    def __init__(
        self,
        *,
        chain: Chain,
        facilitator: Facilitator,
        clock: Callable[[], float],
        deposit: Deposit,
    ) -> None:
        self._chain = chain
        self._facilitator = facilitator
        self._clock = clock
        self.deposit = deposit

    @property
    def id(self) -> str:
        """What was signed; it names chain, channel and nonce."""
        return f"deposit:{self.digest().hex()}"

    @property
    def payer(self) -> Address:
        return self.deposit.config.payer

    @property
    def maximum(self) -> int:
        return self.deposit.amount

    @property
    def valid_before(self) -> int:
        return self.deposit.valid_before

    def digest(self) -> bytes:
        """See `Movement.digest`; its id says it as well."""
        return self.deposit.digest()

    async def check(self) -> Refused | None:
        """See `Movement.check`."""
        late = wrong_time(self.deposit, int(self._clock()))
        if late is not None:
            return Refused(code=late)
        try:
            await self._facilitator.verify_deposit(self.deposit)
        except TransactionFailed as error:
            code = await deposit_code(self._chain, self.deposit)
            return Refused(code=code, message=error.reason)
        return None

    async def found(self) -> Settled | Refused | None:
        """See `Movement.found`."""
        if not await is_used(self._chain, self.deposit):
            return None
        transaction = await find_deposit(self._chain, self.deposit)
        if transaction is None:
            return Refused(code=self.failed_code, message="it was used or cancelled")
        return Settled(transaction=transaction, amount=self.deposit.amount)

    async def send(self) -> Settled:
        """See `Movement.send`."""
        return await self._facilitator.deposit(self.deposit)

    def result(self, receipt: Receipt) -> Settled:
        """See `Movement.result`."""
        return deposit_result(self.deposit, receipt)
