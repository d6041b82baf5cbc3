// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ISignatureTransfer} from "./interfaces/ISignatureTransfer.sol";
import {PermitAttempt} from "./PermitAttempt.sol";

/// @title What the spenders of x402's Permit2 payments have in common
/// @notice A payer signs for one of these as Permit2's spender, with the payee in the witness:
/// whoever sends the payment can send it to nobody else. Holds no tokens.
abstract contract x402Permit2Proxy is PermitAttempt, ReentrancyGuardTransient {
    /// @notice The Permit2 that payers approved.
    ISignatureTransfer public immutable PERMIT2;

    /// @notice A payment was settled.
    event Settled();
    /// @notice A payment was settled after a permit was tried.
    event SettledWithPermit();

    /// @notice The constructor's argument is zero.
    error InvalidPermit2Address();
    /// @notice The payee is zero.
    error InvalidDestination();
    /// @notice The payment is valid from a later time only.
    error PaymentTooEarly();
    /// @notice The payer is zero.
    error InvalidOwner();
    /// @notice The amount is zero.
    error InvalidAmount();

    /// @param permit2 The Permit2 that payers approved.
    constructor(address permit2) {
        if (permit2 == address(0)) revert InvalidPermit2Address();
        PERMIT2 = ISignatureTransfer(permit2);
    }

    /// @dev Moves `amount` of what was permitted to `to`, as `owner` signed.
    function _settle(
        ISignatureTransfer.PermitTransferFrom calldata permit,
        uint256 amount,
        address owner,
        address to,
        uint256 validAfter,
        bytes32 witnessHash,
        string memory witnessType,
        bytes calldata signature
    ) internal {
        if (amount == 0) revert InvalidAmount();
        if (owner == address(0)) revert InvalidOwner();
        if (to == address(0)) revert InvalidDestination();
        if (block.timestamp < validAfter) revert PaymentTooEarly();
        PERMIT2.permitWitnessTransferFrom(
            permit,
            ISignatureTransfer.SignatureTransferDetails({to: to, requestedAmount: amount}),
            owner,
            witnessHash,
            witnessType,
            signature
        );
    }
}
