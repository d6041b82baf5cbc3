// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Vm} from "./Vm.sol";

/// @title Assertions, and the cheat codes
abstract contract Base {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    error NotTrue(string what);
    error NotEqual(string what, uint256 actual, uint256 expected);
    error WordsNotEqual(string what, bytes32 actual, bytes32 expected);
    error Above(string what, uint256 actual, uint256 limit);

    /// @dev Where a contract's shipped artifact is: what is tested is what is shipped.
    function artifact(string memory name) internal pure returns (string memory) {
        return string.concat("../src/agentpay/evm/artifacts/", name, ".json");
    }

    function deploy(string memory name) internal returns (address) {
        return vm.deployCode(artifact(name));
    }

    function deploy(string memory name, bytes memory arguments) internal returns (address) {
        return vm.deployCode(artifact(name), arguments);
    }

    function ensure(bool condition, string memory what) internal pure {
        if (!condition) revert NotTrue(what);
    }

    function equal(uint256 actual, uint256 expected, string memory what) internal pure {
        if (actual != expected) revert NotEqual(what, actual, expected);
    }

    function equal(bytes32 actual, bytes32 expected, string memory what) internal pure {
        if (actual != expected) revert WordsNotEqual(what, actual, expected);
    }

    function equal(address actual, address expected, string memory what) internal pure {
        equal(bytes32(bytes20(actual)), bytes32(bytes20(expected)), what);
    }

    function atMost(uint256 actual, uint256 limit, string memory what) internal pure {
        if (actual > limit) revert Above(what, actual, limit);
    }

    /// @dev Lets time pass. The compiler takes `block.timestamp` for constant within a test.
    function pass(uint256 duration) internal {
        vm.warp(vm.getBlockTimestamp() + duration);
    }

    /// @dev Maps any number into a range, both ends included.
    function within(uint256 x, uint256 low, uint256 high) internal pure returns (uint256) {
        return x >= low && x <= high ? x : low + x % (high - low + 1);
    }
}
