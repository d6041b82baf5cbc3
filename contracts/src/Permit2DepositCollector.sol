// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {DepositCollector} from "./DepositCollector.sol";
import {IDepositCollector} from "./interfaces/IDepositCollector.sol";
import {ISignatureTransfer} from "./interfaces/ISignatureTransfer.sol";
import {PermitAttempt} from "./PermitAttempt.sol";

/// @title Collects deposits that the payer authorized by Permit2
/// @notice `collectorData` is `abi.encode(nonce, deadline, signature, permit2612)`: a Permit2
/// transfer to this contract as spender, with the channel's id as witness. `permit2612` is
/// empty, or `abi.encode(value, deadline, v, r, s)` of an EIP-2612 permit for Permit2, which is
/// tried first.
/// @dev Tokens go from the payer to the settlement contract and never come here.
contract Permit2DepositCollector is DepositCollector, PermitAttempt {
    /// @notice The rest of the EIP-712 type, from the witness's field on.
    string public constant DEPOSIT_WITNESS_TYPE_STRING =
        "DepositWitness witness)DepositWitness(bytes32 channelId)TokenPermissions(address token,uint256 amount)";
    /// @notice The type of the witness.
    bytes32 public constant DEPOSIT_WITNESS_TYPEHASH =
        keccak256("DepositWitness(bytes32 channelId)");

    /// @notice The Permit2 that payers approved.
    ISignatureTransfer public immutable PERMIT2;

    /// @notice The constructor's second argument is zero.
    error InvalidPermit2Address();

    /// @param settlement The settlement contract.
    /// @param permit2 The Permit2 that payers approved.
    constructor(address settlement, address permit2) DepositCollector(settlement) {
        if (permit2 == address(0)) revert InvalidPermit2Address();
        PERMIT2 = ISignatureTransfer(permit2);
    }

    /// @inheritdoc IDepositCollector
    function collect(
        address payer,
        address token,
        uint256 amount,
        bytes32 channelId,
        bytes calldata collectorData
    ) external onlySettlement {
        (uint256 nonce, uint256 deadline, bytes memory signature, bytes memory permit2612) =
            abi.decode(collectorData, (uint256, uint256, bytes, bytes));
        if (permit2612.length != 0) {
            _attemptPermit(token, payer, address(PERMIT2), amount, _permit(permit2612));
        }
        PERMIT2.permitWitnessTransferFrom(
            ISignatureTransfer.PermitTransferFrom({
                permitted: ISignatureTransfer.TokenPermissions({token: token, amount: amount}),
                nonce: nonce,
                deadline: deadline
            }),
            ISignatureTransfer.SignatureTransferDetails({
                to: x402BatchSettlement, requestedAmount: amount
            }),
            payer,
            keccak256(abi.encode(DEPOSIT_WITNESS_TYPEHASH, channelId)),
            DEPOSIT_WITNESS_TYPE_STRING,
            signature
        );
    }

    function _permit(bytes memory data) private pure returns (EIP2612Permit memory permit) {
        (permit.value, permit.deadline, permit.v, permit.r, permit.s) =
            abi.decode(data, (uint256, uint256, uint8, bytes32, bytes32));
    }
}
