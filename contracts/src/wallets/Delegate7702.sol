// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @title What an account with a key delegates to so that it can do more (EIP-7702)
/// @dev Runs as the account, which then has code: contracts ask it by ERC-1271, and it answers
/// by its own key. No storage. For tests and local chains.
contract Delegate7702 is IERC1271 {
    /// @notice The caller is not the account itself.
    error NotSelf(address caller);

    /// @notice An account keeps taking coins.
    receive() external payable {}

    /// @notice Makes calls as the account, all or none.
    function execute(address[] calldata targets, bytes[] calldata data) external {
        if (msg.sender != address(this)) revert NotSelf(msg.sender);
        for (uint256 i = 0; i < targets.length; ++i) {
            Address.functionCall(targets[i], data[i]);
        }
    }

    /// @inheritdoc IERC1271
    function isValidSignature(bytes32 hash, bytes calldata signature)
        external
        view
        returns (bytes4)
    {
        (address signer,,) = ECDSA.tryRecoverCalldata(hash, signature);
        bool valid = signer == address(this);
        return valid ? IERC1271.isValidSignature.selector : bytes4(0xffffffff);
    }
}
