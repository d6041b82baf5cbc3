// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Plain3009} from "../src/tokens/Plain3009.sol";
import {Parties} from "./Parties.sol";

/// @title The contracts at their canonical addresses
/// @dev Placed by code alone, as `anvil_setCode` does it: no constructor runs there. The code
/// is read from the artifacts; `new` would compile all of it again into every test.
abstract contract Fixture is Parties {
    function setUp() public virtual {
        vm.etch(address(settlement), vm.getDeployedCode("x402BatchSettlement.sol"));
        bytes memory arguments = abi.encode(address(settlement));
        vm.etch(collector, vm.deployCode("ERC3009DepositCollector.sol", arguments).code);
        token = Plain3009(vm.deployCode("Plain3009.sol"));
    }
}
