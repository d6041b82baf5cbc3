// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Multicall3} from "../src/Multicall3.sol";
import {Base} from "./Base.sol";

/// @title Something to call
contract Answering {
    error No(uint256 number);

    function double(uint256 number) external payable returns (uint256) {
        if (number == 13) revert No(number);
        return 2 * number;
    }
}

contract Multicall3Test is Base {
    bytes private constant FAILED =
        abi.encodeWithSignature("Error(string)", "Multicall3: call failed");

    Multicall3 private many;
    Answering private target;

    function setUp() external {
        many = Multicall3(deploy("Multicall3"));
        target = new Answering();
    }

    function testFuzz_k7_failures_are_isolated_and_told(uint8 count, uint8 bad) external {
        count = uint8(within(count, 1, 40));
        bad = uint8(within(bad, 0, count - 1));
        Multicall3.Call3[] memory calls = new Multicall3.Call3[](count);
        for (uint256 i = 0; i < count; ++i) {
            calls[i] = Multicall3.Call3(address(target), true, _double(i == bad ? 13 : 100 + i));
        }
        Multicall3.Result[] memory results = many.aggregate3(calls);
        equal(results.length, count, "results");
        for (uint256 i = 0; i < count; ++i) {
            ensure(results[i].success == (i != bad), "success");
            bytes memory expected = i == bad
                ? abi.encodeWithSelector(Answering.No.selector, 13)
                : abi.encode(200 + 2 * i);
            equal(keccak256(results[i].returnData), keccak256(expected), "answer");
        }
    }

    function test_failure_that_was_not_allowed_stops_all() external {
        Multicall3.Call3[] memory calls = new Multicall3.Call3[](2);
        calls[0] = Multicall3.Call3(address(target), true, _double(13));
        calls[1] = Multicall3.Call3(address(target), false, _double(13));
        vm.expectRevert(FAILED);
        many.aggregate3(calls);
    }

    function test_older_forms_do_the_same() external {
        Multicall3.Call[] memory calls = new Multicall3.Call[](2);
        calls[0] = Multicall3.Call(address(target), _double(1));
        calls[1] = Multicall3.Call(address(target), _double(2));
        (uint256 number, bytes[] memory answers) = many.aggregate(calls);
        equal(number, block.number, "block");
        equal(abi.decode(answers[1], (uint256)), 4, "answer");
        calls[0].callData = _double(13);
        vm.expectRevert(FAILED);
        many.aggregate(calls);
        vm.expectRevert(FAILED);
        many.tryAggregate(true, calls);
        Multicall3.Result[] memory results = many.tryAggregate(false, calls);
        ensure(!results[0].success && results[1].success, "success");
    }

    function test_coins_are_passed_on_and_all_used() external {
        Multicall3.Call3Value[] memory calls = new Multicall3.Call3Value[](2);
        calls[0] = Multicall3.Call3Value(address(target), false, 3, _double(1));
        calls[1] = Multicall3.Call3Value(address(target), true, 0, _double(13));
        Multicall3.Result[] memory results = many.aggregate3Value{value: 3}(calls);
        ensure(results[0].success && !results[1].success, "success");
        equal(many.getEthBalance(address(target)), 3, "passed on");
        bytes memory reason = abi.encodeWithSignature("Error(string)", "Multicall3: value mismatch");
        vm.expectRevert(reason);
        many.aggregate3Value{value: 4}(calls);
        calls[1].allowFailure = false;
        vm.expectRevert(FAILED);
        many.aggregate3Value{value: 3}(calls);
    }

    function test_it_says_where_and_when_it_is() external view {
        equal(many.getChainId(), block.chainid, "chain");
        equal(many.getBlockNumber(), block.number, "block");
        equal(many.getCurrentBlockTimestamp(), vm.getBlockTimestamp(), "time");
    }

    function _double(uint256 number) private view returns (bytes memory) {
        return abi.encodeCall(target.double, (number));
    }
}
