// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Fetches the tokens of a deposit from a payer
/// @notice One collector per way in which a payer can authorize a transfer.
interface IDepositCollector {
    /// @notice Moves exactly `amount` of `token` from `payer` to the settlement contract, or
    /// reverts. Callable by the settlement contract only.
    /// @param payer Whose tokens.
    /// @param token Which token.
    /// @param amount How much.
    /// @param channelId The channel that the payer's authorization must be bound to.
    /// @param collectorData The authorization, in the collector's own encoding.
    function collect(
        address payer,
        address token,
        uint256 amount,
        bytes32 channelId,
        bytes calldata collectorData
    ) external;
}
