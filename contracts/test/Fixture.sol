// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Plain3009} from "../src/tokens/Plain3009.sol";
import {Parties} from "./Parties.sol";

/// @title The contracts at their canonical addresses
/// @dev Placed by code alone, as `anvil_setCode` does it: no constructor runs there. The code
/// is read from the artifacts that are shipped.
abstract contract Fixture is Parties {
    function setUp() public virtual {
        vm.etch(address(settlement), vm.getDeployedCode(artifact("x402BatchSettlement")));
        bytes memory arguments = abi.encode(address(settlement));
        vm.etch(collector, deploy("ERC3009DepositCollector", arguments).code);
        token = Plain3009(deploy("Plain3009"));
    }
}
