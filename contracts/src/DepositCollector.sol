// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IDepositCollector} from "./interfaces/IDepositCollector.sol";

/// @title A collector that serves one settlement contract
/// @dev Anyone else could have a payer's authorization spent outside a deposit.
abstract contract DepositCollector is IDepositCollector {
    /// @notice The only caller, and where all tokens go.
    address public immutable x402BatchSettlement;

    /// @notice The caller is not the settlement contract.
    error OnlyX402BatchSettlement();
    /// @notice The constructor's argument is zero.
    error InvalidX402BatchSettlementAddress();

    modifier onlySettlement() {
        if (msg.sender != x402BatchSettlement) revert OnlyX402BatchSettlement();
        _;
    }

    /// @param settlement The settlement contract.
    constructor(address settlement) {
        if (settlement == address(0)) revert InvalidX402BatchSettlementAddress();
        x402BatchSettlement = settlement;
    }
}
