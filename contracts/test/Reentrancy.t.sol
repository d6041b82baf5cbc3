// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IDepositCollector} from "../src/interfaces/IDepositCollector.sol";
import {IX402BatchSettlement} from "../src/interfaces/IX402BatchSettlement.sol";
import {Plain3009} from "../src/tokens/Plain3009.sol";
import {ReentrantToken} from "../src/tokens/ReentrantToken.sol";
import {Fixture} from "./Fixture.sol";

/// @title A collector that tries to have one delivery counted for two deposits
contract GreedyCollector is IDepositCollector {
    bytes private inner;

    function arm(bytes calldata inner_) external {
        inner = inner_;
    }

    function collect(address, address token, uint256 amount, bytes32, bytes calldata) external {
        bytes memory call = inner;
        inner = "";
        if (call.length == 0) {
            Plain3009(token).mint(msg.sender, amount);
            return;
        }
        Address.functionCall(msg.sender, call);
    }
}

/// @title A token or a collector that calls back into the settlement contract (K8)
contract ReentrancyTest is Fixture {
    ReentrantToken private attacker;

    function setUp() public override {
        super.setUp();
        attacker = ReentrantToken(deploy("ReentrantToken"));
    }

    function test_k8_no_entry_point_is_open_during_a_deposit() external {
        bytes[] memory calls = _entryPoints();
        for (uint256 i = 0; i < calls.length; ++i) {
            IX402BatchSettlement.ChannelConfig memory channel = configOf(address(attacker), 100 + i);
            attacker.mint(payer, 100);
            bytes memory data = collectorData(channel, 100, i, PAYER_KEY);
            attacker.arm(address(settlement), calls[i], i % 2 == 0, false);
            settlement.deposit(channel, 100, collector, data);
            _wasRefused(i + 1);
        }
    }

    function test_k8_no_entry_point_is_open_during_a_settlement() external {
        bytes[] memory calls = _entryPoints();
        for (uint256 i = 0; i < calls.length; ++i) {
            IX402BatchSettlement.ChannelConfig memory channel = configOf(address(attacker), 100 + i);
            fund(channel, 100);
            claimSigned(batch(channel, 10));
            attacker.arm(address(settlement), calls[i], i % 2 == 0, false);
            settlement.settle(receiver, address(attacker));
            _wasRefused(i + 1);
            equal(attacker.balanceOf(receiver), 10 * (i + 1), "paid once");
        }
    }

    function test_k8_no_entry_point_is_open_during_a_refund() external {
        bytes[] memory calls = _entryPoints();
        for (uint256 i = 0; i < calls.length; ++i) {
            IX402BatchSettlement.ChannelConfig memory channel = configOf(address(attacker), 100 + i);
            fund(channel, 100);
            attacker.arm(address(settlement), calls[i], i % 2 == 0, false);
            vm.prank(receiver);
            settlement.refund(channel, 60);
            _wasRefused(i + 1);
            equal(attacker.balanceOf(payer), 60 * (i + 1), "paid once");
        }
    }

    function test_k8_no_entry_point_is_open_during_a_withdrawal() external {
        bytes[] memory calls = _entryPoints();
        for (uint256 i = 0; i < calls.length; ++i) {
            IX402BatchSettlement.ChannelConfig memory channel = configOf(address(attacker), 100 + i);
            fund(channel, 100);
            vm.prank(payer);
            settlement.initiateWithdraw(channel, 60);
            pass(900);
            attacker.arm(address(settlement), calls[i], i % 2 == 0, false);
            vm.prank(payer);
            settlement.finalizeWithdraw(channel);
            _wasRefused(i + 1);
            equal(attacker.balanceOf(payer), 60 * (i + 1), "paid once");
        }
    }

    function test_k8_books_are_closed_before_tokens_leave() external {
        IX402BatchSettlement.ChannelConfig memory channel = configOf(address(attacker), 1);
        bytes32 id = fund(channel, 100);
        attacker.arm(address(settlement), abi.encodeCall(settlement.channels, (id)), true, true);
        vm.prank(receiver);
        settlement.refund(channel, 60);

        (uint128 seen,) = abi.decode(attacker.answer(), (uint128, uint128));
        equal(seen, 40, "the balance seen during the transfer");
    }

    function test_k8_one_delivery_is_not_counted_twice() external {
        GreedyCollector greedy = new GreedyCollector();
        IX402BatchSettlement.ChannelConfig memory channel = configOf(address(token), 1);
        bytes memory inner = abi.encodeCall(
            settlement.deposit, (configOf(address(token), 2), 100, address(greedy), "")
        );
        greedy.arm(inner);
        vm.expectRevert(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector);
        settlement.deposit(channel, 100, address(greedy), "");

        bytes[] memory calls = new bytes[](1);
        calls[0] = inner;
        greedy.arm(abi.encodeCall(settlement.multicall, (calls)));
        vm.expectRevert(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector);
        settlement.deposit(channel, 100, address(greedy), "");
    }

    function test_k8_guard_is_free_again_for_the_next_call_of_a_multicall() external {
        IX402BatchSettlement.ChannelConfig memory channel = configOf(address(token), 1);
        fund(channel, 100);
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(settlement.refund, (channel, 10));
        calls[1] = abi.encodeCall(settlement.refund, (channel, 20));
        vm.prank(receiver);
        settlement.multicall(calls);
        equal(token.balanceOf(payer), 30, "refunded");
    }

    /// @dev Each would succeed, or fail for another reason, if it were let in.
    function _entryPoints() private returns (bytes[] memory calls) {
        IX402BatchSettlement.ChannelConfig memory channel = configOf(address(attacker), 7);
        bytes32 id = fund(channel, 1000);
        IX402BatchSettlement.VoucherClaim[] memory rows = batch(channel, 500);
        bytes memory refundSignature =
            signature(AUTHORIZER_KEY, settlement.getRefundDigest(id, 0, 5));
        calls = new bytes[](8);
        calls[0] = abi.encodeCall(settlement.deposit, (channel, 5, collector, ""));
        calls[1] = abi.encodeCall(settlement.claim, (rows));
        calls[2] = abi.encodeCall(settlement.claimWithSignature, (rows, authorization(rows)));
        calls[3] = abi.encodeCall(settlement.settle, (receiver, address(attacker)));
        calls[4] = abi.encodeCall(settlement.initiateWithdraw, (channel, 5));
        calls[5] = abi.encodeCall(settlement.finalizeWithdraw, (channel));
        calls[6] = abi.encodeCall(settlement.refund, (channel, 5));
        calls[7] = abi.encodeCall(settlement.refundWithSignature, (channel, 5, 0, refundSignature));
    }

    function _wasRefused(uint256 calls) private view {
        equal(attacker.calls(), calls, "called back");
        ensure(!attacker.succeeded(), "let in");
        equal(
            bytes32(attacker.answer()),
            bytes32(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector),
            "reason"
        );
    }
}
