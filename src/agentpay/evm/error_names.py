"""
The errors of every contract that we call, by selector, to name a revert by.

Source: the contracts' ABIs (see the `*_abi` modules), ERC-6093 for tokens, and
OpenZeppelin's names for a permit that is refused.
"""

from typing import Final

from agentpay.evm import batch_settlement_abi, permit2_abi, session_escrow_abi
from agentpay.evm.hashing import selector

_TOKEN_ERRORS = {
    selector(signature): signature.partition("(")[0]
    for signature in (
        "ERC20InsufficientBalance(address,uint256,uint256)",
        "ERC20InsufficientAllowance(address,uint256,uint256)",
        "ERC20InvalidSender(address)",
        "ERC20InvalidReceiver(address)",
        "ERC20InvalidApprover(address)",
        "ERC20InvalidSpender(address)",
        "ERC2612ExpiredSignature(uint256)",
        "ERC2612InvalidSigner(address,address)",
        "SafeERC20FailedOperation(address)",
    )
}

ERROR_NAMES: Final = (
    batch_settlement_abi.ERROR_NAMES
    | session_escrow_abi.ERROR_NAMES
    | permit2_abi.ERROR_NAMES
    | _TOKEN_ERRORS
)
