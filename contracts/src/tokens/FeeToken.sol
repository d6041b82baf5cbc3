// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Plain3009} from "./Plain3009.sol";

/// @title A token that keeps one percent of every transfer
contract FeeToken is Plain3009 {
    function _update(address from, address to, uint256 value) internal override {
        if (from == address(0) || to == address(0)) {
            super._update(from, to, value);
            return;
        }
        uint256 fee = value / 100;
        super._update(from, address(0), fee);
        super._update(from, to, value - fee);
    }
}
