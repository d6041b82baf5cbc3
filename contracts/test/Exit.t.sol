// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IX402BatchSettlement} from "../src/interfaces/IX402BatchSettlement.sol";
import {Wallet1271} from "../src/wallets/Wallet1271.sol";
import {Fixture} from "./Fixture.sol";

/// @title How tokens leave: settle, refund and withdrawal
contract ExitTest is Fixture {
    uint256 private constant OWNER_KEY = uint256(keccak256("owner"));

    function test_anyone_settles_to_the_receiver() external {
        fund(config(), 1000);
        claimSigned(batch(config(), 300));

        vm.expectEmit(address(settlement));
        emit IX402BatchSettlement.Settled(receiver, address(token), stranger, 300);
        vm.prank(stranger);
        settlement.settle(receiver, address(token));

        equal(token.balanceOf(receiver), 300, "the receiver's tokens");
        equal(token.balanceOf(address(settlement)), 700, "escrow");
        (uint128 total, uint128 settled) = settlement.receivers(receiver, address(token));
        equal(total, 300, "claimed");
        equal(settled, 300, "settled");
    }

    function test_settle_of_nothing_does_nothing() external {
        vm.recordLogs();
        settlement.settle(receiver, address(token));
        fund(config(), 1000);
        claimSigned(batch(config(), 300));
        settlement.settle(receiver, address(token));
        settlement.settle(receiver, address(token));

        equal(_count(IX402BatchSettlement.Settled.selector), 1, "settled");
        equal(token.balanceOf(receiver), 300, "the receiver's tokens");
    }

    function testFuzz_settle_sends_what_was_claimed_since(uint128 first, uint128 second) external {
        first = uint128(within(first, 0, 1000));
        second = uint128(within(second, 0, 1000));
        fund(config(), 1000);
        claimSigned(batch(config(), first));
        settlement.settle(receiver, address(token));
        equal(token.balanceOf(receiver), first, "after the first");
        claimSigned(batch(config(), second));
        settlement.settle(receiver, address(token));
        equal(token.balanceOf(receiver), first > second ? first : second, "after the second");
    }

    function test_receivers_side_refunds_the_payer() external {
        bytes32 id = fund(config(), 1000);
        vm.expectEmit(address(settlement));
        emit IX402BatchSettlement.Refunded(id, receiver, 400);
        vm.prank(receiver);
        settlement.refund(config(), 400);
        vm.expectEmit(address(settlement));
        emit IX402BatchSettlement.Refunded(id, authorizer, 100);
        vm.prank(authorizer);
        settlement.refund(config(), 100);

        _state(id, 500, 0, 2);
        equal(token.balanceOf(payer), 500, "the payer's tokens");
    }

    function testFuzz_refund_by_another_is_refused(address sender) external {
        bytes32 id = fund(config(), 1000);
        bool entitled = sender == receiver || sender == authorizer;
        if (!entitled) vm.expectRevert(IX402BatchSettlement.NotAuthorizedToRefund.selector);
        vm.prank(sender);
        settlement.refund(config(), 400);
        _state(id, entitled ? 600 : 1000, 0, entitled ? 1 : 0);
    }

    function test_refund_of_nothing_is_refused() external {
        fund(config(), 1000);
        vm.expectRevert(IX402BatchSettlement.ZeroRefund.selector);
        vm.prank(receiver);
        settlement.refund(config(), 0);
        vm.expectRevert(IX402BatchSettlement.ZeroRefund.selector);
        settlement.refundWithSignature(config(), 0, 0, "");
    }

    function test_full_refund_of_an_unused_channel_closes_it() external {
        bytes32 id = fund(config(), 1000);
        vm.expectEmit(address(settlement));
        emit IX402BatchSettlement.Refunded(id, receiver, 1000);
        vm.expectEmit(address(settlement));
        emit IX402BatchSettlement.ChannelClosed(id, config());
        vm.prank(receiver);
        settlement.refund(config(), type(uint128).max);

        _state(id, 0, 0, 1);
    }

    function test_refund_leaves_what_was_claimed_and_does_not_close() external {
        bytes32 id = fund(config(), 1000);
        claimSigned(batch(config(), 300));
        vm.recordLogs();
        vm.prank(receiver);
        settlement.refund(config(), 5000);

        equal(_count(IX402BatchSettlement.ChannelClosed.selector), 0, "closed");
        _state(id, 300, 300, 1);
        equal(token.balanceOf(payer), 700, "the payer's tokens");
        settlement.settle(receiver, address(token));
        equal(token.balanceOf(receiver), 300, "the receiver's tokens");
    }

    function test_k12_refund_that_moves_nothing_advances_the_nonce() external {
        bytes32 id = fund(config(), 300);
        claimSigned(batch(config(), 300));
        vm.recordLogs();
        vm.prank(receiver);
        settlement.refund(config(), 100);

        equal(_count(IX402BatchSettlement.Refunded.selector), 0, "refunded");
        _state(id, 300, 300, 1);
    }

    function test_anyone_relays_a_signed_refund() external {
        bytes32 id = fund(config(), 1000);
        bytes memory signed = _refundSignature(AUTHORIZER_KEY, id, 0, 400);
        vm.expectEmit(address(settlement));
        emit IX402BatchSettlement.Refunded(id, stranger, 400);
        vm.prank(stranger);
        settlement.refundWithSignature(config(), 400, 0, signed);

        _state(id, 600, 0, 1);
        equal(token.balanceOf(payer), 400, "the payer's tokens");
    }

    function test_k12_signed_refund_is_used_once() external {
        bytes32 id = fund(config(), 1000);
        bytes memory signed = _refundSignature(AUTHORIZER_KEY, id, 0, 400);
        settlement.refundWithSignature(config(), 400, 0, signed);
        vm.expectRevert(IX402BatchSettlement.InvalidRefundNonce.selector);
        settlement.refundWithSignature(config(), 400, 0, signed);
        vm.expectRevert(IX402BatchSettlement.InvalidSignature.selector);
        settlement.refundWithSignature(config(), 400, 1, signed);
    }

    function test_k12_direct_refund_voids_one_signed_before() external {
        bytes32 id = fund(config(), 1000);
        bytes memory signed = _refundSignature(AUTHORIZER_KEY, id, 0, 400);
        vm.prank(receiver);
        settlement.refund(config(), 1);
        vm.expectRevert(IX402BatchSettlement.InvalidRefundNonce.selector);
        settlement.refundWithSignature(config(), 400, 0, signed);
    }

    function test_k12_signed_refund_that_moves_nothing_is_used_up() external {
        bytes32 id = fund(config(), 300);
        claimSigned(batch(config(), 300));
        bytes memory signed = _refundSignature(AUTHORIZER_KEY, id, 0, 400);
        settlement.refundWithSignature(config(), 400, 0, signed);
        fund(config(), 1000);
        vm.expectRevert(IX402BatchSettlement.InvalidRefundNonce.selector);
        settlement.refundWithSignature(config(), 400, 0, signed);
    }

    function test_signed_refund_binds_amount_channel_and_signer() external {
        bytes32 id = fund(config(), 1000);
        bytes memory signed = _refundSignature(AUTHORIZER_KEY, id, 0, 400);
        bytes4 reason = IX402BatchSettlement.InvalidSignature.selector;
        vm.expectRevert(reason);
        settlement.refundWithSignature(config(), 401, 0, signed);
        IX402BatchSettlement.ChannelConfig memory other = configOf(address(token), 2);
        fund(other, 1000);
        vm.expectRevert(reason);
        settlement.refundWithSignature(other, 400, 0, signed);
        signed = _refundSignature(STRANGER_KEY, id, 0, 400);
        vm.expectRevert(reason);
        settlement.refundWithSignature(config(), 400, 0, signed);
        signed = highS(AUTHORIZER_KEY, settlement.getRefundDigest(id, 0, 400));
        vm.expectRevert(reason);
        settlement.refundWithSignature(config(), 400, 0, signed);
    }

    function test_contract_wallet_signs_refunds() external {
        Wallet1271 wallet = new Wallet1271(vm.addr(OWNER_KEY));
        IX402BatchSettlement.ChannelConfig memory channel = config();
        channel.receiverAuthorizer = address(wallet);
        bytes32 id = fund(channel, 1000);
        settlement.refundWithSignature(channel, 5, 0, _refundSignature(OWNER_KEY, id, 0, 5));
        _state(id, 995, 0, 1);
        vm.prank(vm.addr(OWNER_KEY));
        wallet.refuse(true);
        bytes memory signed = _refundSignature(OWNER_KEY, id, 1, 5);
        vm.expectRevert(IX402BatchSettlement.InvalidSignature.selector);
        settlement.refundWithSignature(channel, 5, 1, signed);
    }

    function testFuzz_refund_returns_at_most_what_is_unclaimed(uint128 claimed, uint128 amount)
        external
    {
        claimed = uint128(within(claimed, 0, 1000));
        amount = uint128(within(amount, 1, 2000));
        bytes32 id = fund(config(), 1000);
        claimSigned(batch(config(), claimed));
        bytes memory signed = _refundSignature(AUTHORIZER_KEY, id, 0, amount);
        settlement.refundWithSignature(config(), amount, 0, signed);

        uint256 back = amount < 1000 - claimed ? amount : 1000 - claimed;
        equal(token.balanceOf(payer), back, "the payer's tokens");
        _state(id, 1000 - back, claimed, 1);
    }

    function test_payer_leaves_after_the_delay() external {
        bytes32 id = fund(config(), 1000);
        vm.expectEmit(address(settlement));
        emit IX402BatchSettlement.WithdrawInitiated(id, 600, uint40(block.timestamp) + 900);
        vm.prank(payer);
        settlement.initiateWithdraw(config(), 600);
        (uint128 amount, uint40 initiatedAt) = settlement.pendingWithdrawals(id);
        equal(amount, 600, "pending");
        equal(initiatedAt, block.timestamp, "initiated at");

        vm.warp(initiatedAt + 900);
        vm.expectEmit(address(settlement));
        emit IX402BatchSettlement.WithdrawFinalized(id, voucherSigner, 600);
        vm.prank(voucherSigner);
        settlement.finalizeWithdraw(config());

        _state(id, 400, 0, 0);
        equal(token.balanceOf(payer), 600, "the payer's tokens");
        (amount, initiatedAt) = settlement.pendingWithdrawals(id);
        equal(amount, 0, "nothing pending");
        equal(initiatedAt, 0, "nothing pending");
    }

    function test_withdrawal_of_all_closes_an_unused_channel() external {
        bytes32 id = fund(config(), 1000);
        _initiate(1000);
        pass(900);
        vm.expectEmit(address(settlement));
        emit IX402BatchSettlement.WithdrawFinalized(id, payer, 1000);
        vm.expectEmit(address(settlement));
        emit IX402BatchSettlement.ChannelClosed(id, config());
        vm.prank(payer);
        settlement.finalizeWithdraw(config());
        _state(id, 0, 0, 0);
    }

    function testFuzz_withdrawal_is_the_payers_side_only(address sender) external {
        fund(config(), 1000);
        bool entitled = sender == payer || sender == voucherSigner;
        if (!entitled) vm.expectRevert(IX402BatchSettlement.InvalidChannel.selector);
        vm.prank(sender);
        settlement.initiateWithdraw(config(), 10);
        if (!entitled) _initiate(10);
        pass(900);
        if (!entitled) {
            vm.expectRevert(IX402BatchSettlement.NotAuthorizedToFinalizeWithdraw.selector);
        }
        vm.prank(sender);
        settlement.finalizeWithdraw(config());
        equal(token.balanceOf(payer), entitled ? 10 : 0, "the payer's tokens");
    }

    function test_second_withdrawal_waits_for_the_first() external {
        fund(config(), 1000);
        _initiate(10);
        vm.expectRevert(IX402BatchSettlement.WithdrawalAlreadyPending.selector);
        vm.prank(payer);
        settlement.initiateWithdraw(config(), 10);
    }

    function test_withdrawal_of_nothing_or_too_much_is_refused() external {
        fund(config(), 1000);
        claimSigned(batch(config(), 300));
        vm.expectRevert(IX402BatchSettlement.NothingToWithdraw.selector);
        vm.prank(payer);
        settlement.initiateWithdraw(config(), 0);
        vm.expectRevert(IX402BatchSettlement.WithdrawAmountExceedsAvailable.selector);
        vm.prank(payer);
        settlement.initiateWithdraw(config(), 701);
        _initiate(700);
    }

    function test_withdrawal_that_was_not_initiated_is_refused() external {
        fund(config(), 1000);
        vm.expectRevert(IX402BatchSettlement.WithdrawalNotPending.selector);
        vm.prank(payer);
        settlement.finalizeWithdraw(config());
    }

    function testFuzz_k5_delay_is_waited_for(uint40 delay, uint40 waited) external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        channel.withdrawDelay = uint40(within(delay, 15 minutes, 30 days));
        waited = uint40(within(waited, 0, 31 days));
        fund(channel, 10);
        vm.prank(payer);
        settlement.initiateWithdraw(channel, 10);
        pass(waited);
        bool over = waited >= channel.withdrawDelay;
        if (!over) vm.expectRevert(IX402BatchSettlement.WithdrawDelayNotElapsed.selector);
        vm.prank(payer);
        settlement.finalizeWithdraw(channel);
        equal(token.balanceOf(payer), over ? 10 : 0, "the payer's tokens");
    }

    function test_k5_claim_during_the_delay_is_honoured() external {
        bytes32 id = fund(config(), 1000);
        _initiate(1000);
        pass(900);
        claimSigned(batch(config(), 800));
        vm.expectEmit(address(settlement));
        emit IX402BatchSettlement.WithdrawFinalized(id, payer, 200);
        vm.prank(payer);
        settlement.finalizeWithdraw(config());

        _state(id, 800, 800, 0);
        settlement.settle(receiver, address(token));
        equal(token.balanceOf(receiver), 800, "the receiver's tokens");
        equal(token.balanceOf(payer), 200, "the payer's tokens");
    }

    function test_k5_withdrawal_of_a_channel_claimed_whole_ends_with_nothing() external {
        bytes32 id = fund(config(), 1000);
        _initiate(1000);
        claimSigned(batch(config(), 1000));
        pass(900);
        vm.expectEmit(address(settlement));
        emit IX402BatchSettlement.WithdrawFinalized(id, payer, 0);
        vm.prank(payer);
        settlement.finalizeWithdraw(config());
        _state(id, 1000, 1000, 0);
        // It does not linger to take a later deposit at once.
        fund(config(), 50);
        vm.expectRevert(IX402BatchSettlement.WithdrawalNotPending.selector);
        vm.prank(payer);
        settlement.finalizeWithdraw(config());
    }

    function test_k5_claim_after_the_payer_left_is_refused() external {
        fund(config(), 1000);
        IX402BatchSettlement.VoucherClaim[] memory rows = batch(config(), 800);
        bytes memory signed = authorization(rows);
        _initiate(1000);
        pass(900);
        vm.prank(payer);
        settlement.finalizeWithdraw(config());
        vm.expectRevert(IX402BatchSettlement.ClaimExceedsBalance.selector);
        settlement.claimWithSignature(rows, signed);
    }

    function test_refund_shrinks_a_pending_withdrawal() external {
        bytes32 id = fund(config(), 1000);
        _initiate(600);
        vm.prank(receiver);
        settlement.refund(config(), 250);
        (uint128 amount, uint40 initiatedAt) = settlement.pendingWithdrawals(id);
        equal(amount, 350, "pending");
        ensure(initiatedAt != 0, "the delay goes on");
    }

    function testFuzz_refund_of_as_much_cancels_a_pending_withdrawal(uint128 refunded) external {
        refunded = uint128(within(refunded, 1, 1000));
        bytes32 id = fund(config(), 1000);
        _initiate(600);
        vm.prank(receiver);
        settlement.refund(config(), refunded);
        (uint128 amount, uint40 initiatedAt) = settlement.pendingWithdrawals(id);
        equal(amount, refunded < 600 ? 600 - refunded : 0, "pending");
        ensure((initiatedAt == 0) == (refunded >= 600), "canceled");
    }

    function test_pending_withdrawal_outlives_a_refund_that_moves_nothing() external {
        bytes32 id = fund(config(), 1000);
        _initiate(600);
        claimSigned(batch(config(), 1000));
        vm.prank(receiver);
        settlement.refund(config(), 1000);
        (uint128 amount,) = settlement.pendingWithdrawals(id);
        equal(amount, 600, "pending");
    }

    function test_multicall_claims_and_refunds_at_once() external {
        bytes32 id = fund(config(), 1000);
        IX402BatchSettlement.VoucherClaim[] memory rows = batch(config(), 300);
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(settlement.claimWithSignature, (rows, authorization(rows)));
        bytes memory signed = _refundSignature(AUTHORIZER_KEY, id, 0, 700);
        calls[1] = abi.encodeCall(settlement.refundWithSignature, (config(), 700, 0, signed));
        settlement.multicall(calls);

        _state(id, 300, 300, 1);
        equal(token.balanceOf(payer), 700, "the payer's tokens");
    }

    function test_multicall_keeps_the_sender_and_the_reason() external {
        fund(config(), 1000);
        bytes[] memory calls = new bytes[](1);
        calls[0] = abi.encodeCall(settlement.refund, (config(), 700));
        vm.expectRevert(IX402BatchSettlement.NotAuthorizedToRefund.selector);
        vm.prank(stranger);
        settlement.multicall(calls);
        vm.prank(receiver);
        settlement.multicall(calls);
        equal(token.balanceOf(payer), 700, "the payer's tokens");
    }

    function test_multicall_is_all_or_nothing() external {
        bytes32 id = fund(config(), 1000);
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(settlement.refund, (config(), 700));
        calls[1] = abi.encodeCall(settlement.finalizeWithdraw, (config()));
        vm.expectRevert(IX402BatchSettlement.NotAuthorizedToFinalizeWithdraw.selector);
        vm.prank(receiver);
        settlement.multicall(calls);
        _state(id, 1000, 0, 0);
    }

    function _initiate(uint128 amount) private {
        vm.prank(payer);
        settlement.initiateWithdraw(config(), amount);
    }

    function _refundSignature(uint256 key, bytes32 id, uint256 nonce, uint128 amount)
        private
        view
        returns (bytes memory)
    {
        return signature(key, settlement.getRefundDigest(id, nonce, amount));
    }

    function _state(bytes32 id, uint256 balance, uint256 claimed, uint256 nonce) private view {
        (uint128 balanceNow, uint128 claimedNow) = settlement.channels(id);
        equal(balanceNow, balance, "balance");
        equal(claimedNow, claimed, "claimed");
        equal(settlement.refundNonce(id), nonce, "refund nonce");
    }
}
