// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title A token with EIP-2612 and without EIP-3009; anyone may mint
/// @dev OpenZeppelin's, as most tokens with a permit are: 18 decimals, version 1. Deployed by
/// its constructor only.
contract PermitToken is ERC20Permit {
    constructor() ERC20("Permit Token", "PERMIT") ERC20Permit("Permit Token") {}

    /// @notice Makes tokens out of nothing, for anyone.
    function mint(address to, uint256 value) external {
        _mint(to, value);
    }
}
