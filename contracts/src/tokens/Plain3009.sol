// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {Token3009} from "./Token3009.sol";

/// @title The plainest token with EIP-3009: no blacklist, no pause; anyone may mint
contract Plain3009 is Token3009 {
    /// @inheritdoc ERC20
    function name() public pure virtual override returns (string memory) {
        return "Plain 3009";
    }

    /// @inheritdoc ERC20
    function symbol() public pure override returns (string memory) {
        return "P3009";
    }

    /// @notice As most stablecoins.
    function decimals() public pure override returns (uint8) {
        return 6;
    }

    /// @notice Makes tokens out of nothing, for anyone.
    function mint(address to, uint256 value) external {
        _mint(to, value);
    }
}
