// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {DepositCollector} from "./DepositCollector.sol";
import {IDepositCollector} from "./interfaces/IDepositCollector.sol";
import {IERC3009} from "./interfaces/IERC3009.sol";

/// @title Collects deposits that the payer authorized by EIP-3009
/// @notice `collectorData` is `abi.encode(validAfter, validBefore, salt, signature)` of a
/// `ReceiveWithAuthorization` to this contract.
/// @dev The nonce is made of the channel's id, so that nobody can divert a payer's
/// authorization to another channel. Holds tokens only within a call.
contract ERC3009DepositCollector is DepositCollector {
    using SafeERC20 for IERC20;

    constructor(address settlement) DepositCollector(settlement) {}

    /// @inheritdoc IDepositCollector
    function collect(
        address payer,
        address token,
        uint256 amount,
        bytes32 channelId,
        bytes calldata collectorData
    ) external onlySettlement {
        (uint256 validAfter, uint256 validBefore, uint256 salt, bytes memory signature) =
            abi.decode(collectorData, (uint256, uint256, uint256, bytes));
        bytes32 nonce = keccak256(abi.encode(channelId, salt));
        IERC3009(token)
            .receiveWithAuthorization(
                payer, address(this), amount, validAfter, validBefore, nonce, signature
            );
        IERC20(token).safeTransfer(x402BatchSettlement, amount);
    }
}
