// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IX402BatchSettlement} from "../src/interfaces/IX402BatchSettlement.sol";
import {Plain3009} from "../src/tokens/Plain3009.sol";
import {Wallet1271} from "../src/wallets/Wallet1271.sol";
import {Fixture} from "./Fixture.sol";

contract ClaimTest is Fixture {
    uint256 private constant OWNER_KEY = uint256(keccak256("owner"));

    function test_signed_claim_assigns_to_the_receiver_and_moves_nothing() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        bytes32 id = fund(channel, 1000);
        IX402BatchSettlement.VoucherClaim[] memory rows = batch(channel, 300);
        bytes memory signed = authorization(rows);

        vm.expectEmit(address(settlement));
        emit IX402BatchSettlement.Claimed(id, stranger, 300, 300);
        vm.prank(stranger);
        settlement.claimWithSignature(rows, signed);

        _state(id, 1000, 300);
        (uint128 total, uint128 settled) = settlement.receivers(receiver, address(token));
        equal(total, 300, "claimed for the receiver");
        equal(settled, 0, "settled");
        equal(token.balanceOf(address(settlement)), 1000, "escrow");
    }

    function test_receiver_and_its_authorizer_claim_without_a_signature() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        bytes32 id = fund(channel, 1000);
        IX402BatchSettlement.VoucherClaim[] memory rows = batch(channel, 300);
        vm.expectEmit(address(settlement));
        emit IX402BatchSettlement.Claimed(id, receiver, 300, 300);
        vm.prank(receiver);
        settlement.claim(rows);

        rows = batch(channel, 500);
        vm.expectEmit(address(settlement));
        emit IX402BatchSettlement.Claimed(id, authorizer, 200, 500);
        vm.prank(authorizer);
        settlement.claim(rows);

        _state(id, 1000, 500);
    }

    function test_direct_claim_by_another_is_refused_even_for_one_row() external {
        IX402BatchSettlement.VoucherClaim[] memory rows = _two();
        rows[1].voucher.channel.receiver = stranger;
        rows[1].voucher.channel.receiverAuthorizer = stranger;
        vm.expectRevert(IX402BatchSettlement.NotAuthorizedToClaim.selector);
        vm.prank(stranger);
        settlement.claim(rows);
        vm.expectRevert(IX402BatchSettlement.NotAuthorizedToClaim.selector);
        vm.prank(receiver);
        settlement.claim(rows);
        vm.expectRevert(IX402BatchSettlement.NotAuthorizedToClaim.selector);
        vm.prank(payer);
        settlement.claim(rows);
    }

    function test_empty_batch_is_refused() external {
        IX402BatchSettlement.VoucherClaim[] memory none;
        vm.expectRevert(IX402BatchSettlement.EmptyBatch.selector);
        settlement.claim(none);
        vm.expectRevert(IX402BatchSettlement.EmptyBatch.selector);
        settlement.claimWithSignature(none, "");
    }

    function test_rows_of_two_authorizers_are_refused() external {
        IX402BatchSettlement.VoucherClaim[] memory rows = _two();
        rows[1].voucher.channel.receiverAuthorizer = stranger;
        bytes memory signed = authorization(rows);
        vm.expectRevert(IX402BatchSettlement.NotReceiverAuthorizer.selector);
        settlement.claimWithSignature(rows, signed);
    }

    function test_claim_above_the_voucher_is_refused() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        fund(channel, 1000);
        IX402BatchSettlement.VoucherClaim[] memory rows = batch(channel, 300);
        rows[0].totalClaimed = 301;
        _refused(rows, IX402BatchSettlement.ClaimExceedsCeiling.selector);
    }

    function test_part_of_a_voucher_can_be_claimed() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        bytes32 id = fund(channel, 1000);
        IX402BatchSettlement.VoucherClaim[] memory rows = batch(channel, 1500);
        rows[0].totalClaimed = 1000;
        claimSigned(rows);

        _state(id, 1000, 1000);
    }

    function test_k7_claim_above_the_balance_reverts_the_whole_batch() external {
        IX402BatchSettlement.VoucherClaim[] memory rows = _two();
        rows[1] = claimRow(configOf(address(token), 2), 501, 501, VOUCHER_KEY);
        _refused(rows, IX402BatchSettlement.ClaimExceedsBalance.selector);
        _state(settlement.getChannelId(configOf(address(token), 1)), 500, 0);
    }

    function test_k7_row_claimed_already_does_not_stop_the_others() external {
        IX402BatchSettlement.VoucherClaim[] memory rows = _two();
        claimSigned(batch(configOf(address(token), 1), 150));
        vm.recordLogs();
        claimSigned(rows);

        equal(_count(IX402BatchSettlement.Claimed.selector), 1, "rows booked");
        _state(settlement.getChannelId(configOf(address(token), 1)), 500, 150);
        _state(settlement.getChannelId(configOf(address(token), 2)), 500, 200);
        (uint128 total,) = settlement.receivers(receiver, address(token));
        equal(total, 350, "claimed for the receiver");
    }

    function test_k2_claim_never_lowers_total() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        bytes32 id = fund(channel, 1000);
        vm.recordLogs();
        claimSigned(batch(channel, 300));
        claimSigned(batch(channel, 299));
        claimSigned(batch(channel, 300));
        claimSigned(batch(channel, 0));

        equal(_count(IX402BatchSettlement.Claimed.selector), 1, "events");
        _state(id, 1000, 300);
        (uint128 total,) = settlement.receivers(receiver, address(token));
        equal(total, 300, "claimed for the receiver");
    }

    function test_k4_row_without_effect_still_needs_the_authorizer() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        fund(channel, 1000);
        claimSigned(batch(channel, 300));
        IX402BatchSettlement.VoucherClaim[] memory rows = batch(channel, 300);
        bytes memory signed = signature(STRANGER_KEY, settlement.getClaimBatchDigest(rows));
        vm.expectRevert(IX402BatchSettlement.InvalidSignature.selector);
        settlement.claimWithSignature(rows, signed);
    }

    function test_same_channel_twice_in_a_batch_counts_once() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        bytes32 id = fund(channel, 1000);
        IX402BatchSettlement.VoucherClaim[] memory rows = new IX402BatchSettlement.VoucherClaim[](3);
        rows[0] = claimRow(channel, 100, 100, VOUCHER_KEY);
        rows[1] = claimRow(channel, 300, 300, VOUCHER_KEY);
        rows[2] = claimRow(channel, 200, 200, VOUCHER_KEY);
        claimSigned(rows);

        _state(id, 1000, 300);
        (uint128 total,) = settlement.receivers(receiver, address(token));
        equal(total, 300, "claimed for the receiver");
    }

    function test_receivers_and_tokens_are_kept_apart() external {
        Plain3009 other = Plain3009(deploy("Plain3009"));
        IX402BatchSettlement.VoucherClaim[] memory rows = new IX402BatchSettlement.VoucherClaim[](5);
        for (uint256 i = 0; i < 5; ++i) {
            IX402BatchSettlement.ChannelConfig memory channel =
                configOf(i == 3 ? address(other) : address(token), i);
            if (i == 1 || i == 2) channel.receiver = stranger;
            fund(channel, 1000);
            uint128 total = uint128(1 << i);
            rows[i] = claimRow(channel, total, total, VOUCHER_KEY);
        }
        claimSigned(rows);

        (uint128 total0,) = settlement.receivers(receiver, address(token));
        (uint128 total1,) = settlement.receivers(stranger, address(token));
        (uint128 total2,) = settlement.receivers(receiver, address(other));
        equal(total0, 1 + 16, "receiver");
        equal(total1, 2 + 4, "stranger");
        equal(total2, 8, "other token");
    }

    function test_voucher_of_another_key_is_refused() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        fund(channel, 1000);
        IX402BatchSettlement.VoucherClaim[] memory rows = batch(channel, 300);
        rows[0] = claimRow(channel, 300, 300, STRANGER_KEY);
        _refused(rows, IX402BatchSettlement.InvalidSignature.selector);
        // Not even the payer's own, when the channel names a key.
        rows[0] = claimRow(channel, 300, 300, PAYER_KEY);
        _refused(rows, IX402BatchSettlement.InvalidSignature.selector);
    }

    function test_voucher_for_another_amount_is_refused() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        fund(channel, 1000);
        IX402BatchSettlement.VoucherClaim[] memory rows = batch(channel, 300);
        rows[0].voucher.maxClaimableAmount = 301;
        _refused(rows, IX402BatchSettlement.InvalidSignature.selector);
    }

    function test_k1_voucher_of_another_channel_chain_or_contract_is_refused() external {
        IX402BatchSettlement.VoucherClaim[] memory rows = _two();
        rows[0].signature = rows[1].signature;
        _refused(rows, IX402BatchSettlement.InvalidSignature.selector);

        IX402BatchSettlement.ChannelConfig memory channel = configOf(address(token), 1);
        bytes32 id = settlement.getChannelId(channel);
        rows = batch(channel, 100);
        vm.chainId(8453);
        bytes32 elsewhere = settlement.getVoucherDigest(id, 100);
        vm.chainId(31337);
        rows[0].signature = signature(VOUCHER_KEY, elsewhere);
        _refused(rows, IX402BatchSettlement.InvalidSignature.selector);

        address copy = address(0xc0de);
        vm.etch(copy, address(settlement).code);
        elsewhere = IX402BatchSettlement(copy).getVoucherDigest(id, 100);
        rows[0].signature = signature(VOUCHER_KEY, elsewhere);
        _refused(rows, IX402BatchSettlement.InvalidSignature.selector);
    }

    function test_k3_malleable_and_misshapen_signatures_are_refused() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        bytes32 id = fund(channel, 1000);
        IX402BatchSettlement.VoucherClaim[] memory rows = batch(channel, 300);
        bytes32 digest = settlement.getVoucherDigest(id, 300);
        bytes memory good = rows[0].signature;
        bytes[] memory bad = _misshapen(VOUCHER_KEY, digest);
        for (uint256 i = 0; i < bad.length; ++i) {
            rows[0].signature = bad[i];
            _refused(rows, IX402BatchSettlement.InvalidSignature.selector);
        }
        rows[0].signature = good;
        bad = _misshapen(AUTHORIZER_KEY, settlement.getClaimBatchDigest(rows));
        for (uint256 i = 0; i < bad.length; ++i) {
            vm.expectRevert(IX402BatchSettlement.InvalidSignature.selector);
            settlement.claimWithSignature(rows, bad[i]);
        }
        claimSigned(rows);
    }

    function test_k3_nobody_signs_for_the_zero_address() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        channel.payer = address(0);
        channel.payerAuthorizer = address(0);
        channel.receiverAuthorizer = address(0);
        IX402BatchSettlement.VoucherClaim[] memory rows = new IX402BatchSettlement.VoucherClaim[](1);
        rows[0].voucher = IX402BatchSettlement.Voucher(channel, 0);
        vm.expectRevert(IX402BatchSettlement.InvalidSignature.selector);
        settlement.claimWithSignature(rows, new bytes(65));
        vm.expectRevert(IX402BatchSettlement.InvalidSignature.selector);
        settlement.claimWithSignature(rows, "");
        vm.expectRevert(IX402BatchSettlement.InvalidSignature.selector);
        settlement.refundWithSignature(channel, 1, 0, new bytes(65));
    }

    function test_batch_signature_covers_every_row_and_their_order() external {
        IX402BatchSettlement.VoucherClaim[] memory rows = _two();
        bytes memory signed = authorization(rows);
        rows[0].totalClaimed -= 1;
        vm.expectRevert(IX402BatchSettlement.InvalidSignature.selector);
        settlement.claimWithSignature(rows, signed);
        rows[0].totalClaimed += 1;
        (rows[0], rows[1]) = (rows[1], rows[0]);
        vm.expectRevert(IX402BatchSettlement.InvalidSignature.selector);
        settlement.claimWithSignature(rows, signed);
        (rows[0], rows[1]) = (rows[1], rows[0]);
        IX402BatchSettlement.VoucherClaim[] memory one = new IX402BatchSettlement.VoucherClaim[](1);
        one[0] = rows[0];
        vm.expectRevert(IX402BatchSettlement.InvalidSignature.selector);
        settlement.claimWithSignature(one, signed);
        settlement.claimWithSignature(rows, signed);
    }

    function test_payer_without_a_voucher_key_signs_itself() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        channel.payerAuthorizer = address(0);
        bytes32 id = fund(channel, 1000);
        IX402BatchSettlement.VoucherClaim[] memory rows = batch(channel, 300);
        _refused(rows, IX402BatchSettlement.InvalidSignature.selector);
        rows[0] = claimRow(channel, 300, 300, PAYER_KEY);
        claimSigned(rows);

        _state(id, 1000, 300);
    }

    function test_contract_wallet_signs_as_payer() external {
        (Wallet1271 wallet, IX402BatchSettlement.ChannelConfig memory channel) = _ofWallet();
        bytes32 id = settlement.getChannelId(channel);
        IX402BatchSettlement.VoucherClaim[] memory rows = batch(channel, 300);
        _refused(rows, IX402BatchSettlement.InvalidSignature.selector);
        rows[0] = claimRow(channel, 300, 300, OWNER_KEY);
        claimSigned(rows);

        _state(id, 1000, 300);
        equal(wallet.owner(), vm.addr(OWNER_KEY), "owner");
    }

    function test_k11_wallet_that_changed_its_owner_voids_old_vouchers() external {
        (Wallet1271 wallet, IX402BatchSettlement.ChannelConfig memory channel) = _ofWallet();
        IX402BatchSettlement.VoucherClaim[] memory rows = batch(channel, 300);
        rows[0] = claimRow(channel, 300, 300, OWNER_KEY);
        vm.prank(vm.addr(OWNER_KEY));
        wallet.setOwner(stranger);
        _refused(rows, IX402BatchSettlement.InvalidSignature.selector);
    }

    function test_t9_wallet_that_changed_its_mind_stops_the_batch() external {
        (Wallet1271 wallet, IX402BatchSettlement.ChannelConfig memory channel) = _ofWallet();
        IX402BatchSettlement.VoucherClaim[] memory rows = batch(channel, 300);
        rows[0] = claimRow(channel, 300, 300, OWNER_KEY);
        vm.prank(vm.addr(OWNER_KEY));
        wallet.refuse(true);
        _refused(rows, IX402BatchSettlement.InvalidSignature.selector);
        vm.prank(vm.addr(OWNER_KEY));
        wallet.refuse(false);
        claimSigned(rows);
    }

    function test_k11_key_of_a_channel_is_asked_even_if_the_payer_is_a_wallet() external {
        (Wallet1271 wallet, IX402BatchSettlement.ChannelConfig memory channel) = _ofWallet();
        channel.payerAuthorizer = voucherSigner;
        _deliver(channel, 1000);
        vm.prank(vm.addr(OWNER_KEY));
        wallet.refuse(true);
        claimSigned(batch(channel, 300));
        _state(settlement.getChannelId(channel), 1000, 300);
    }

    function test_contract_at_the_voucher_keys_address_is_not_asked() external {
        Wallet1271 wallet = new Wallet1271(vm.addr(OWNER_KEY));
        IX402BatchSettlement.ChannelConfig memory channel = config();
        channel.payerAuthorizer = address(wallet);
        fund(channel, 1000);
        IX402BatchSettlement.VoucherClaim[] memory rows = batch(channel, 300);
        rows[0] = claimRow(channel, 300, 300, OWNER_KEY);
        _refused(rows, IX402BatchSettlement.InvalidSignature.selector);
    }

    function test_contract_wallet_signs_as_receiver_authorizer() external {
        Wallet1271 wallet = new Wallet1271(vm.addr(OWNER_KEY));
        IX402BatchSettlement.ChannelConfig memory channel = config();
        channel.receiverAuthorizer = address(wallet);
        bytes32 id = fund(channel, 1000);
        IX402BatchSettlement.VoucherClaim[] memory rows = batch(channel, 300);
        _refused(rows, IX402BatchSettlement.InvalidSignature.selector);
        settlement.claimWithSignature(
            rows, signature(OWNER_KEY, settlement.getClaimBatchDigest(rows))
        );

        _state(id, 1000, 300);
    }

    function test_k10_receivers_total_does_not_wrap() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        fund(channel, type(uint128).max);
        claimSigned(batch(channel, type(uint128).max));
        channel = configOf(address(token), 9);
        fund(channel, 1);
        IX402BatchSettlement.VoucherClaim[] memory rows = batch(channel, 1);
        bytes memory signed = authorization(rows);
        vm.expectRevert(abi.encodeWithSignature("Panic(uint256)", 0x11));
        settlement.claimWithSignature(rows, signed);
    }

    function testFuzz_k2_total_is_the_highest_claimed(uint128[8] calldata totals) external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        bytes32 id = fund(channel, 10_000);
        uint256 highest = 0;
        for (uint256 i = 0; i < totals.length; ++i) {
            uint128 total = uint128(within(totals[i], 0, 10_000));
            claimSigned(batch(channel, total));
            highest = total > highest ? total : highest;

            _state(id, 10_000, highest);
            (uint128 credited,) = settlement.receivers(receiver, address(token));
            equal(credited, highest, "claimed for the receiver");
        }
    }

    function testFuzz_claim_within_voucher_and_balance_only(
        uint128 deposited,
        uint128 ceiling,
        uint128 total
    ) external {
        deposited = uint128(within(deposited, 1, 100));
        ceiling = uint128(within(ceiling, 0, 120));
        total = uint128(within(total, 1, 130));
        IX402BatchSettlement.ChannelConfig memory channel = config();
        bytes32 id = fund(channel, deposited);
        IX402BatchSettlement.VoucherClaim[] memory rows = batch(channel, ceiling);
        rows[0].totalClaimed = total;
        bytes memory signed = authorization(rows);
        if (total > ceiling) {
            vm.expectRevert(IX402BatchSettlement.ClaimExceedsCeiling.selector);
        } else if (total > deposited) {
            vm.expectRevert(IX402BatchSettlement.ClaimExceedsBalance.selector);
        }
        settlement.claimWithSignature(rows, signed);
        bool fits = total <= ceiling && total <= deposited;
        _state(id, deposited, fits ? total : 0);
    }

    function testFuzz_direct_claim_is_the_receivers_side_only(address sender) external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        fund(channel, 100);
        IX402BatchSettlement.VoucherClaim[] memory rows = batch(channel, 100);
        if (sender != receiver && sender != authorizer) {
            vm.expectRevert(IX402BatchSettlement.NotAuthorizedToClaim.selector);
        }
        vm.prank(sender);
        settlement.claim(rows);
    }

    function testFuzz_k3_other_bytes_are_no_signature(bytes calldata noise) external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        fund(channel, 100);
        IX402BatchSettlement.VoucherClaim[] memory rows = batch(channel, 100);
        rows[0].signature = noise;
        _refused(rows, IX402BatchSettlement.InvalidSignature.selector);
        rows = batch(channel, 100);
        vm.expectRevert(IX402BatchSettlement.InvalidSignature.selector);
        settlement.claimWithSignature(rows, noise);
    }

    function _two() private returns (IX402BatchSettlement.VoucherClaim[] memory rows) {
        rows = new IX402BatchSettlement.VoucherClaim[](2);
        for (uint256 i = 0; i < 2; ++i) {
            IX402BatchSettlement.ChannelConfig memory channel = configOf(address(token), i + 1);
            fund(channel, 500);
            uint128 total = uint128(100 * (i + 1));
            rows[i] = claimRow(channel, total, total, VOUCHER_KEY);
        }
    }

    function _ofWallet()
        private
        returns (Wallet1271 wallet, IX402BatchSettlement.ChannelConfig memory channel)
    {
        wallet = new Wallet1271(vm.addr(OWNER_KEY));
        channel = config();
        channel.payer = address(wallet);
        channel.payerAuthorizer = address(0);
        _deliver(channel, 1000);
    }

    /// @dev A deposit that the wallet's owner signed for it.
    function _deliver(IX402BatchSettlement.ChannelConfig memory channel, uint128 amount) private {
        token.mint(channel.payer, amount);
        bytes memory data = collectorData(channel, amount, 1, OWNER_KEY);
        settlement.deposit(channel, amount, collector, data);
    }

    function _misshapen(uint256 key, bytes32 digest) private pure returns (bytes[] memory bad) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        bad = new bytes[](6);
        bad[0] = highS(key, digest);
        bad[1] = abi.encodePacked(r, s, v - 27);
        bad[2] = abi.encodePacked(r, s, uint8(v == 27 ? 28 : 27));
        bad[3] = abi.encodePacked(r, bytes32(uint256(s) | (uint256(v - 27) << 255)));
        bad[4] = abi.encodePacked(r, s, v, uint8(0));
        bad[5] = "";
    }

    function _refused(IX402BatchSettlement.VoucherClaim[] memory rows, bytes4 why) private {
        bytes memory signed = authorization(rows);
        vm.expectRevert(why);
        settlement.claimWithSignature(rows, signed);
    }

    function _state(bytes32 id, uint256 balance, uint256 claimed) private view {
        (uint128 balanceNow, uint128 claimedNow) = settlement.channels(id);
        equal(balanceNow, balance, "balance");
        equal(claimedNow, claimed, "claimed");
    }
}
