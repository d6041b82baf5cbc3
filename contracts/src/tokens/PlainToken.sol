// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @title A plain ERC-20 token with 18 decimals and nothing else; anyone may mint
contract PlainToken is ERC20 {
    constructor() ERC20("", "") {}

    /// @inheritdoc ERC20
    function name() public pure override returns (string memory) {
        return "Plain Token";
    }

    /// @inheritdoc ERC20
    function symbol() public pure override returns (string memory) {
        return "PLAIN";
    }

    /// @notice Makes tokens out of nothing, for anyone.
    function mint(address to, uint256 value) external {
        _mint(to, value);
    }
}
