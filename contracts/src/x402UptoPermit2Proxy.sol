// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ISignatureTransfer} from "./interfaces/ISignatureTransfer.sol";
import {x402Permit2Proxy} from "./x402Permit2Proxy.sol";

/// @title The spender of x402's scheme `upto`
/// @notice Only the facilitator whom the payer named may send a payment, and it chooses the
/// amount: up to the one that was signed.
contract x402UptoPermit2Proxy is x402Permit2Proxy {
    /// @notice What is signed besides the transfer.
    struct Witness {
        address to;
        address facilitator;
        uint256 validAfter;
    }

    /// @notice The rest of the EIP-712 type, from the witness's field on.
    string public constant WITNESS_TYPE_STRING =
        "Witness witness)TokenPermissions(address token,uint256 amount)Witness(address to,address facilitator,uint256 validAfter)";
    /// @notice The type of the witness.
    bytes32 public constant WITNESS_TYPEHASH =
        keccak256("Witness(address to,address facilitator,uint256 validAfter)");

    /// @notice The caller is not the facilitator whom the payer named.
    error UnauthorizedFacilitator();
    /// @notice More is asked for than was signed.
    error AmountExceedsPermitted();

    constructor(address permit2) x402Permit2Proxy(permit2) {}

    /// @notice Settles a payment of a payer who approved Permit2.
    function settle(
        ISignatureTransfer.PermitTransferFrom calldata permit,
        uint256 amount,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) external nonReentrant {
        _requireAllowed(permit, amount, witness);
        _settleUpto(permit, amount, owner, witness, signature);
        emit Settled();
    }

    /// @notice Settles a payment after trying the payer's permit for Permit2 (EIP-2612), which
    /// is for all that was signed.
    function settleWithPermit(
        EIP2612Permit calldata permit2612,
        ISignatureTransfer.PermitTransferFrom calldata permit,
        uint256 amount,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) external nonReentrant {
        _requireAllowed(permit, amount, witness);
        ISignatureTransfer.TokenPermissions calldata permitted = permit.permitted;
        _attemptPermit(permitted.token, owner, address(PERMIT2), permitted.amount, permit2612);
        _settleUpto(permit, amount, owner, witness, signature);
        emit SettledWithPermit();
    }

    function _settleUpto(
        ISignatureTransfer.PermitTransferFrom calldata permit,
        uint256 amount,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) private {
        _settle(
            permit,
            amount,
            owner,
            witness.to,
            witness.validAfter,
            keccak256(abi.encode(WITNESS_TYPEHASH, witness)),
            WITNESS_TYPE_STRING,
            signature
        );
    }

    function _requireAllowed(
        ISignatureTransfer.PermitTransferFrom calldata permit,
        uint256 amount,
        Witness calldata witness
    ) private view {
        if (amount > permit.permitted.amount) revert AmountExceedsPermitted();
        if (msg.sender != witness.facilitator) revert UnauthorizedFacilitator();
    }
}
