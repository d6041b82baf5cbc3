// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ISignatureTransfer} from "./interfaces/ISignatureTransfer.sol";
import {x402Permit2Proxy} from "./x402Permit2Proxy.sol";

/// @title The spender of x402's scheme `exact` by Permit2
/// @notice Anyone may send a payment, which moves exactly the amount that was signed.
contract x402ExactPermit2Proxy is x402Permit2Proxy {
    /// @notice What is signed besides the transfer.
    struct Witness {
        address to;
        uint256 validAfter;
    }

    /// @notice The rest of the EIP-712 type, from the witness's field on.
    string public constant WITNESS_TYPE_STRING =
        "Witness witness)TokenPermissions(address token,uint256 amount)Witness(address to,uint256 validAfter)";
    /// @notice The type of the witness.
    bytes32 public constant WITNESS_TYPEHASH = keccak256("Witness(address to,uint256 validAfter)");

    constructor(address permit2) x402Permit2Proxy(permit2) {}

    /// @notice Settles a payment of a payer who approved Permit2.
    function settle(
        ISignatureTransfer.PermitTransferFrom calldata permit,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) external nonReentrant {
        _settleExact(permit, owner, witness, signature);
        emit Settled();
    }

    /// @notice Settles a payment after trying the payer's permit for Permit2 (EIP-2612).
    function settleWithPermit(
        EIP2612Permit calldata permit2612,
        ISignatureTransfer.PermitTransferFrom calldata permit,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) external nonReentrant {
        ISignatureTransfer.TokenPermissions calldata permitted = permit.permitted;
        _attemptPermit(permitted.token, owner, address(PERMIT2), permitted.amount, permit2612);
        _settleExact(permit, owner, witness, signature);
        emit SettledWithPermit();
    }

    function _settleExact(
        ISignatureTransfer.PermitTransferFrom calldata permit,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) private {
        _settle(
            permit,
            permit.permitted.amount,
            owner,
            witness.to,
            witness.validAfter,
            keccak256(abi.encode(WITNESS_TYPEHASH, witness)),
            WITNESS_TYPE_STRING,
            signature
        );
    }
}
