// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {Plain3009} from "./Plain3009.sol";

/// @title A token whose balances all change at once
/// @dev Amounts are shares times an index in percent; transfers round down.
contract RebasingToken is Plain3009 {
    // 100 less, so that zero means 100 percent where no constructor ran.
    int256 private change;

    /// @notice Sets every balance to a percentage of what was minted and moved.
    function rebase(uint256 percent) external {
        change = int256(percent) - 100;
    }

    /// @inheritdoc ERC20
    function balanceOf(address account) public view override returns (uint256) {
        return super.balanceOf(account) * _percent() / 100;
    }

    /// @inheritdoc ERC20
    function totalSupply() public view override returns (uint256) {
        return super.totalSupply() * _percent() / 100;
    }

    function _update(address from, address to, uint256 value) internal override {
        super._update(from, to, value * 100 / _percent());
    }

    function _percent() private view returns (uint256) {
        return uint256(100 + change);
    }
}
