// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Plain3009} from "./Plain3009.sol";

/// @title A token that answers `false` where others revert
/// @dev While it fails, transfers by authorization use up the nonce and move nothing.
contract FalseToken is Plain3009 {
    /// @notice Whether transfers move nothing.
    bool public failing;

    /// @notice Makes transfers fail, or work again.
    function setFailing(bool failing_) external {
        failing = failing_;
    }

    /// @notice As ERC-20, but without a revert.
    function transfer(address to, uint256 value) public override returns (bool) {
        if (failing || balanceOf(msg.sender) < value) return false;
        return super.transfer(to, value);
    }

    /// @notice As ERC-20, but without a revert.
    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        if (failing || balanceOf(from) < value || allowance(from, msg.sender) < value) {
            return false;
        }
        return super.transferFrom(from, to, value);
    }

    function _update(address from, address to, uint256 value) internal override {
        if (!failing) super._update(from, to, value);
    }
}
