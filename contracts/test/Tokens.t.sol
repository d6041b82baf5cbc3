// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {IDepositCollector} from "../src/interfaces/IDepositCollector.sol";
import {IX402BatchSettlement} from "../src/interfaces/IX402BatchSettlement.sol";
import {FalseToken} from "../src/tokens/FalseToken.sol";
import {NoReturnToken} from "../src/tokens/NoReturnToken.sol";
import {RebasingToken} from "../src/tokens/RebasingToken.sol";
import {TestUSDC} from "../src/tokens/TestUSDC.sol";
import {Fixture} from "./Fixture.sol";

/// @title Fetches by allowance, for tokens without EIP-3009
contract AllowanceCollector is IDepositCollector {
    function collect(address payer, address token, uint256 amount, bytes32, bytes calldata)
        external
    {
        NoReturnToken(token).transferFrom(payer, msg.sender, amount);
    }
}

/// @title Tokens that do not do what a token should (T*)
contract TokensTest is Fixture {
    function test_t1_token_that_takes_a_fee_can_not_be_deposited() external {
        IX402BatchSettlement.ChannelConfig memory channel = configOf(deploy("FeeToken"), 1);
        _mint(channel.token, payer, 1000);
        bytes memory data = collectorData(channel, 1000, 1, PAYER_KEY);
        vm.expectRevert(_short(collector, 980, 990));
        settlement.deposit(channel, 1000, collector, data);
        // Not even when the collector happens to hold enough to forward the full amount.
        _mint(channel.token, collector, 1000);
        vm.expectRevert(IX402BatchSettlement.DepositCollectionFailed.selector);
        settlement.deposit(channel, 1000, collector, data);
    }

    function test_t4_deposit_of_a_token_that_moves_nothing_is_refused() external {
        FalseToken failing = FalseToken(deploy("FalseToken"));
        IX402BatchSettlement.ChannelConfig memory channel = configOf(address(failing), 1);
        failing.mint(payer, 1000);
        failing.setFailing(true);
        bytes memory data = collectorData(channel, 1000, 1, PAYER_KEY);
        vm.expectRevert(
            abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(failing))
        );
        settlement.deposit(channel, 1000, collector, data);
    }

    function test_t4_false_from_a_transfer_keeps_the_books_as_they_were() external {
        FalseToken failing = FalseToken(deploy("FalseToken"));
        IX402BatchSettlement.ChannelConfig memory channel = configOf(address(failing), 1);
        bytes32 id = fund(channel, 1000);
        claimSigned(batch(channel, 300));
        failing.setFailing(true);
        bytes memory reason =
            abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(failing));
        vm.expectRevert(reason);
        settlement.settle(receiver, address(failing));
        vm.expectRevert(reason);
        vm.prank(receiver);
        settlement.refund(channel, 700);
        equal(settlement.refundNonce(id), 0, "refund nonce");
        failing.setFailing(false);
        settlement.settle(receiver, address(failing));
        vm.prank(receiver);
        settlement.refund(channel, 700);

        equal(failing.balanceOf(receiver), 300, "the receiver's tokens");
        equal(failing.balanceOf(payer), 700, "the payer's tokens");
    }

    function test_t4_token_that_returns_nothing_goes_through() external {
        NoReturnToken silent = NoReturnToken(deploy("NoReturnToken"));
        IX402BatchSettlement.ChannelConfig memory channel = configOf(address(silent), 1);
        AllowanceCollector byAllowance = new AllowanceCollector();
        silent.mint(payer, 1000);
        vm.prank(payer);
        silent.approve(address(byAllowance), 1000);
        settlement.deposit(channel, 1000, address(byAllowance), "");
        claimSigned(batch(channel, 300));
        settlement.settle(receiver, address(silent));
        vm.prank(receiver);
        settlement.refund(channel, 700);

        equal(silent.balanceOf(receiver), 300, "the receiver's tokens");
        equal(silent.balanceOf(payer), 700, "the payer's tokens");
    }

    function test_t10_allowance_of_a_token_like_usdt_is_set_to_zero_first() external {
        NoReturnToken silent = NoReturnToken(deploy("NoReturnToken"));
        silent.approve(stranger, 5);
        vm.expectRevert(abi.encodeWithSelector(NoReturnToken.AllowanceNotZero.selector, 5));
        silent.approve(stranger, 6);
        silent.approve(stranger, 0);
        silent.approve(stranger, 6);
    }

    function test_t5_shrunk_escrow_pays_whom_it_can_and_never_more() external {
        RebasingToken elastic = RebasingToken(deploy("RebasingToken"));
        IX402BatchSettlement.ChannelConfig memory channel = configOf(address(elastic), 1);
        fund(channel, 1000);
        claimSigned(batch(channel, 600));
        elastic.rebase(50);
        // Counted in shares, of which each is worth half a token now.
        vm.expectRevert(_short(address(settlement), 1000, 1200));
        settlement.settle(receiver, address(elastic));
        vm.prank(receiver);
        settlement.refund(channel, 400);
        equal(elastic.balanceOf(payer), 400, "the payer's tokens");
        elastic.rebase(300);
        settlement.settle(receiver, address(elastic));
        equal(elastic.balanceOf(receiver), 600, "the receiver's tokens");
    }

    function test_t2_frozen_receiver_does_not_stop_the_payer() external {
        (TestUSDC usdc, IX402BatchSettlement.ChannelConfig memory channel) = _usdcChannel();
        claimSigned(batch(channel, 300));
        usdc.blacklist(receiver);
        bytes memory reason = abi.encodeWithSelector(TestUSDC.AccountBlacklisted.selector, receiver);
        vm.expectRevert(reason);
        settlement.settle(receiver, address(usdc));
        vm.prank(authorizer);
        settlement.refund(channel, 700);
        equal(usdc.balanceOf(payer), 700, "the payer's tokens");
        usdc.unBlacklist(receiver);
        settlement.settle(receiver, address(usdc));
        equal(usdc.balanceOf(receiver), 300, "the receiver's tokens");
    }

    function test_t2_frozen_payer_does_not_stop_claim_and_settlement() external {
        (TestUSDC usdc, IX402BatchSettlement.ChannelConfig memory channel) = _usdcChannel();
        usdc.blacklist(payer);
        claimSigned(batch(channel, 300));
        settlement.settle(receiver, address(usdc));
        equal(usdc.balanceOf(receiver), 300, "the receiver's tokens");
        vm.expectRevert(abi.encodeWithSelector(TestUSDC.AccountBlacklisted.selector, payer));
        vm.prank(receiver);
        settlement.refund(channel, 700);
    }

    function test_t2_frozen_escrow_still_books_claims() external {
        (TestUSDC usdc, IX402BatchSettlement.ChannelConfig memory channel) = _usdcChannel();
        usdc.blacklist(address(settlement));
        claimSigned(batch(channel, 300));
        usdc.unBlacklist(address(settlement));
        settlement.settle(receiver, address(usdc));
        equal(usdc.balanceOf(receiver), 300, "the receiver's tokens");
    }

    function test_t3_pause_loses_no_state() external {
        (TestUSDC usdc, IX402BatchSettlement.ChannelConfig memory channel) = _usdcChannel();
        vm.prank(payer);
        settlement.initiateWithdraw(channel, 700);
        pass(900);
        usdc.pause();
        claimSigned(batch(channel, 300));
        vm.expectRevert(TestUSDC.Paused.selector);
        settlement.settle(receiver, address(usdc));
        vm.expectRevert(TestUSDC.Paused.selector);
        vm.prank(payer);
        settlement.finalizeWithdraw(channel);
        usdc.unpause();
        settlement.settle(receiver, address(usdc));
        vm.prank(payer);
        settlement.finalizeWithdraw(channel);

        equal(usdc.balanceOf(receiver), 300, "the receiver's tokens");
        equal(usdc.balanceOf(payer), 700, "the payer's tokens");
    }

    function _usdcChannel()
        private
        returns (TestUSDC usdc, IX402BatchSettlement.ChannelConfig memory channel)
    {
        usdc = TestUSDC(deploy("TestUSDC"));
        channel = configOf(address(usdc), 1);
        fund(channel, 1000);
    }

    function _short(address holder, uint256 has, uint256 needs)
        private
        pure
        returns (bytes memory)
    {
        return abi.encodeWithSelector(
            IERC20Errors.ERC20InsufficientBalance.selector, holder, has, needs
        );
    }

    function _mint(address token_, address to, uint256 value) private {
        FalseToken(token_).mint(to, value);
    }
}
