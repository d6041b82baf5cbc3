"""
What can go wrong, arranged by the question a caller asks: did money move?

AgentPayError
├── PaymentRefused         no: we would not (budget, trust, policy)
├── PaymentRejected        no: the other side would not
├── PaymentOutcomeUnknown  perhaps: look it up, do not pay again
├── ProtocolError          no: a message was malformed or out of order
├── StreamEnded            as much as was delivered, and no more
├── ConfigurationError     no: this program was set up wrongly
├── ChainError             no, unless it says otherwise: the chain or its RPC
└── StoreError             no: the record could not be kept, so nothing was done

`InvariantViolated` stands outside: it is a bug of ours, and is not to be handled.
Every leaf has a literal `code`, which is stable and safe to branch on.
"""

from enum import StrEnum
from typing import ClassVar


class AgentPayError(Exception):
    """Anything this library raises on purpose."""

    code: ClassVar[str] = "agentpay_error"


class InvariantViolated(AssertionError):
    """A rule that must always hold does not: a bug in this library."""


# No: we would not.


class PaymentRefused(AgentPayError):
    """We declined to pay; nothing was signed."""

    code = "payment_refused"


class BudgetExceeded(PaymentRefused):
    """Paying would exceed a limit of the budget."""

    code = "budget_exceeded"

    def __init__(self, *, limit: str, wanted: int, left: int) -> None:
        super().__init__(
            f"the {limit} budget has {left} left, this payment needs {wanted}"
            " (in 10^-18 of its currency); raise the budget or refuse the price"
        )
        self.limit = limit
        self.wanted = wanted
        self.left = left


class OfferUntrusted(PaymentRefused):
    """An offer names a chain, asset, payee or term that the policy does not allow."""

    code = "offer_untrusted"


class BodyTooLarge(PaymentRefused):
    """A request's body is larger than what is kept of it to send it again."""

    code = "body_too_large"


class PriceRose(PaymentRefused):
    """A route costs many times what it cost when we first agreed to its price."""

    code = "price_rose"


class HostQuarantined(PaymentRefused):
    """A host took payments and delivered nothing: it is not paid for a while."""

    code = "host_quarantined"

    def __init__(self, *, host: str, lapses: int, until: int, seconds: int) -> None:
        super().__init__(
            f"{host} took {lapses} payments in a row and delivered nothing: nothing new"
            f" is paid to it for another {seconds} s (until {until}, Unix time)"
        )
        self.host = host
        self.until = until


class NoAcceptableOffer(PaymentRefused):
    """None of the offers of a 402 can be paid under the policy."""

    code = "no_acceptable_offer"


class ChallengeUsed(PaymentRefused):
    """A challenge of MPP was paid before: nothing is signed for it again."""

    code = "challenge_used"


class ApprovalNeeded(PaymentRefused):
    """Permit2 may not move enough of a token, and the payee sends no approval along."""

    code = "approval_needed"

    def __init__(self, token: str, *, allowance: int, amount: int) -> None:
        super().__init__(
            f"Permit2 may move {allowance} of token {token}, and {amount} are needed"
            " with what is under way: call agent.approve_permit2(amount)"
        )
        self.token = token
        self.allowance = allowance
        self.amount = amount


class ApprovalBusy(PaymentRefused):
    """Another payment's approval of Permit2 is under way, and takes too long."""

    code = "approval_busy"


class NonceBusy(PaymentRefused):
    """Another payment's transaction has the wallet's next nonce, and is not mined."""

    code = "nonce_busy"


class UnsafeKey(PaymentRefused):
    """A publicly known test key was about to sign for a chain that is not local."""

    code = "unsafe_key"


class KeyElsewhere(PaymentRefused):
    """Paying needs a signature of a key that this process does not have."""

    code = "key_elsewhere"


class ChannelUnusable(PaymentRefused):
    """A channel can sign nothing more (exhausted, closing, or its payee misbehaved)."""

    code = "channel_unusable"


# No: they would not.


class PaymentRejected(AgentPayError):
    """The other side did not accept the payment, and proved it or cannot use it."""

    code = "payment_rejected"

    def __init__(self, reason: str, *, status: int | None = None) -> None:
        super().__init__(f"the payee rejected the payment: {reason}")
        self.reason = reason
        self.status = status


# Perhaps.


class PaymentOutcomeUnknown(AgentPayError):
    """Sent, and no answer says what became of it: ask again for the same."""

    code = "payment_outcome_unknown"

    def __init__(self, payment_id: str, why: str) -> None:
        super().__init__(
            f"the outcome of payment {payment_id} is unknown ({why});"
            " it stays reserved until the payee or the chain says what became of it"
        )
        self.payment_id = payment_id


class AnswerLost(AgentPayError):
    """The payee charged for a request once, and its answer can no longer be had."""

    code = "answer_lost"

    def __init__(self, payment_id: str, *, charged: int) -> None:
        super().__init__(
            f"payment {payment_id} was charged {charged} and its answer was lost"
        )
        self.payment_id = payment_id
        self.charged = charged


# A message was wrong.


class ProtocolError(AgentPayError):
    """A message is malformed, or not one that may come now."""

    code = "protocol_error"


class MalformedMessage(ProtocolError):
    """A header or body does not have the form that its specification gives."""

    code = "malformed_message"


class MessageTooLarge(MalformedMessage):
    """A header or body is larger than we read."""

    code = "message_too_large"


class PayeeMisbehaved(ProtocolError):
    """A payee said something that its own earlier words or our signatures disprove."""

    code = "payee_misbehaved"


# This program was set up wrongly.


class ConfigurationError(AgentPayError):
    """An argument, file or setting cannot be used."""

    code = "configuration_error"


class MainnetNotEnabled(ConfigurationError):
    """Real money needs an explicit opt-in until the contracts are audited."""

    code = "mainnet_not_enabled"


class ToolMissing(ConfigurationError):
    """A program this needs is not installed and could not be fetched."""

    code = "tool_missing"


# The chain.


class ChainError(AgentPayError):
    """The chain, or the RPC endpoint in front of it, did not do what was asked."""

    code = "chain_error"


class ChainUnreachable(ChainError):
    """The RPC endpoint does not answer, or not in time."""

    code = "chain_unreachable"


class WrongChain(ChainError):
    """The RPC endpoint serves another chain than the one expected."""

    code = "wrong_chain"


class UnsuitableToken(ChainError):
    """An asset has no code, lacks EIP-3009, or is not what was declared of it."""

    code = "unsuitable_token"


class UnsuitableEscrow(ChainError):
    """A contract that is to hold sessions is not one to rely on."""

    code = "unsuitable_escrow"


class SessionFault(StrEnum):
    """Why a session, or a deposit to one, is not fit."""

    NOT_OURS = "not_ours"
    """Another token, contract or payee than sessions are taken with."""
    NOT_SIGNED = "not_signed"
    """The signature is not its payer's."""
    NOT_FOUND = "not_found"
    """The contract knows no such session."""
    FINALIZED = "finalized"
    """It was closed, for good."""
    CLOSE_REQUESTED = "close_requested"
    """Its payer asked the contract to close it."""
    OTHER_EFFECT = "other_effect"
    """The transaction succeeded, and did not do what was said of it."""


class SessionUnfit(ChainError):
    """A session, or a deposit to one, cannot be relied on; nothing was sent for it."""

    code = "session_unfit"

    def __init__(self, what: str, fault: SessionFault) -> None:
        super().__init__(f"{what} ({fault})")
        self.fault = fault


class TransactionFailed(ChainError):
    """A transaction was refused in simulation, or reverted; it moved nothing."""

    code = "transaction_failed"

    def __init__(self, what: str, *, reason: str, transaction: str = "") -> None:
        where = f" (transaction {transaction})" if transaction else ""
        super().__init__(f"{what} failed: {reason}{where}")
        self.reason = reason
        self.transaction = transaction


class GasMissing(ChainError):
    """The key that pays gas cannot pay for a transaction; nothing was sent."""

    code = "gas_missing"


class GasTooExpensive(ChainError):
    """Gas costs more than a sender's policy allows to pay; nothing was sent."""

    code = "gas_too_expensive"


class GasLimitReached(ChainError):
    """No more gas is spent on this in this hour; nothing was sent."""

    code = "gas_limit_reached"

    def __init__(self, *, who: str, limit: int) -> None:
        super().__init__(
            f"the gas of {who} for this hour is used up ({limit}); try again later"
        )
        self.limit = limit


class FacilitatorUnavailable(ChainError):
    """No facilitator can be reached, or none does what is needed; nothing was sent."""

    code = "facilitator_unavailable"


class TransactionOutcomeUnknown(ChainError):
    """A transaction was sent and may yet be mined."""

    code = "transaction_outcome_unknown"

    def __init__(self, what: str, *, transaction: str) -> None:
        super().__init__(
            f"{what}: transaction {transaction} was sent and is not yet mined"
            if transaction
            else f"{what}: it may have been sent, and nobody says so"
        )
        self.transaction = transaction


# The store.


class StoreError(AgentPayError):
    """A record could not be read or kept."""

    code = "store_error"


class StoreUnavailable(StoreError):
    """The database cannot be reached or written now; nothing was saved."""

    code = "store_unavailable"


class StoreClosed(StoreUnavailable):
    """The store was closed, and takes nothing any more; nothing was saved."""

    code = "store_closed"


class StoreOutcomeUnknown(StoreError):
    """Something may have been saved or not, and the database can no longer be asked."""

    code = "store_outcome_unknown"


class StoreNotEmpty(StoreError):
    """What was to be filled keeps something already, which is not overwritten."""

    code = "store_not_empty"


class StoreInUse(StoreError):
    """Another process holds the database, which has one writer; or another payee."""

    code = "store_in_use"


class StoreCorrupt(StoreError):
    """The database is not one of ours, or is damaged."""

    code = "store_corrupt"


class StoreNewer(StoreError):
    """The database was written by a newer version of this library."""

    code = "store_newer"
