// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {IEVMPaymentChannel} from "../src/interfaces/IEVMPaymentChannel.sol";
import {ISignatureTransfer} from "../src/interfaces/ISignatureTransfer.sol";
import {Token3009} from "../src/tokens/Token3009.sol";
import {SessionFixture} from "./SessionFixture.sol";

/// @title How tokens enter a session: open and top up, by allowance, EIP-3009 and Permit2
contract SessionOpenTest is SessionFixture {
    /// @dev The arguments of a relayed opening.
    struct Opening {
        address payee;
        address token;
        uint128 deposit;
        bytes32 salt;
        address signer;
        address from;
        uint256 deadline;
        bytes32 nonce;
        bytes signature;
    }

    function test_opening_books_the_terms_and_fetches_the_deposit() external {
        bytes32 id = idOf(address(token), 1);
        give(address(token), payer, 1000);
        vm.expectEmit(address(escrow));
        emit IEVMPaymentChannel.ChannelOpened(
            id, payer, payee, address(token), voucherSigner, bytes32(uint256(1)), 1000
        );
        vm.prank(payer);
        equal(
            escrow.open(payee, address(token), 1000, bytes32(uint256(1)), voucherSigner), id, "id"
        );

        IEVMPaymentChannel.Channel memory channel = escrow.getChannel(id);
        equal(channel.payer, payer, "payer");
        equal(channel.payee, payee, "payee");
        equal(channel.token, address(token), "token");
        equal(channel.authorizedSigner, voucherSigner, "signer");
        equal(channel.closeRequestedAt, 0, "close requested");
        has(id, 1000, 0, false);
        equal(token.balanceOf(address(escrow)), 1000, "escrow");
        equal(token.balanceOf(payer), 0, "the payer's tokens");
    }

    function test_relayed_openings_make_the_channel_that_the_payer_would() external {
        token.mint(payer, 1000);
        equal(openByAuthorization(address(token), 1, 1000), idOf(address(token), 1), "EIP-3009");
        giveByPermit2(address(token), payer, 500);
        equal(openByPermit2(address(token), 2, 500, 7), idOf(address(token), 2), "Permit2");

        has(idOf(address(token), 1), 1000, 0, false);
        has(idOf(address(token), 2), 500, 0, false);
        equal(escrow.getChannel(idOf(address(token), 1)).payer, payer, "payer");
        equal(escrow.getChannel(idOf(address(token), 2)).payer, payer, "payer");
        equal(token.balanceOf(address(escrow)), 1500, "escrow");
    }

    function test_top_ups_of_every_kind_add_up() external {
        bytes32 id = opened(1000);
        give(address(token), payer, 10);
        vm.expectEmit(address(escrow));
        emit IEVMPaymentChannel.TopUp(id, payer, payee, 10, 1010);
        vm.prank(payer);
        escrow.topUp(id, 10);
        token.mint(payer, 200);
        topUpByAuthorization(id, 200, PAYER_KEY, 1);
        giveByPermit2(address(token), payer, 3000);
        topUpByPermit2(id, 3000, PAYER_KEY, 1);

        has(id, 4210, 0, false);
        equal(token.balanceOf(address(escrow)), 4210, "escrow");
    }

    function test_payers_key_signs_where_no_signer_is_named() external {
        give(address(token), payer, 1000);
        vm.prank(payer);
        bytes32 id = escrow.open(payee, address(token), 1000, bytes32(0), address(0));
        bytes memory signed = signature(PAYER_KEY, escrow.getVoucherDigest(id, 400));
        vm.prank(payee);
        escrow.settle(id, 400, signed);
        equal(token.balanceOf(payee), 400, "the payee's tokens");
    }

    function test_channels_without_payee_token_or_deposit_are_refused() external {
        give(address(token), payer, 1000);
        vm.prank(payer);
        vm.expectRevert(IEVMPaymentChannel.InvalidPayee.selector);
        escrow.open(address(0), address(token), 1000, bytes32(0), voucherSigner);
        vm.prank(payer);
        vm.expectRevert(IEVMPaymentChannel.InvalidToken.selector);
        escrow.open(payee, stranger, 1000, bytes32(0), voucherSigner);
        vm.prank(payer);
        vm.expectRevert(IEVMPaymentChannel.ZeroDeposit.selector);
        escrow.open(payee, address(token), 0, bytes32(0), voucherSigner);
        bytes32 id = opened(1000);
        vm.prank(payer);
        vm.expectRevert(IEVMPaymentChannel.ZeroDeposit.selector);
        escrow.topUp(id, 0);
    }

    function test_only_the_payer_tops_up_by_allowance() external {
        bytes32 id = opened(1000);
        give(address(token), stranger, 10);
        vm.prank(stranger);
        vm.expectRevert(IEVMPaymentChannel.NotPayer.selector);
        escrow.topUp(id, 10);
    }

    function test_top_ups_of_no_channel_are_refused() external {
        bytes4 reason = IEVMPaymentChannel.ChannelNotFound.selector;
        vm.expectRevert(reason);
        escrow.topUp(bytes32(0), 10);
        bytes32 nonce = topUpNonce(bytes32(0), 10, payer, 0);
        vm.expectRevert(reason);
        escrow.topUpWithAuthorization(bytes32(0), 10, payer, 0, 0, DEADLINE, nonce, "");
        vm.expectRevert(reason);
        escrow.topUpWithPermit2(bytes32(0), 10, payer, 0, DEADLINE, "");
    }

    function test_an_opening_without_the_tokens_leaves_nothing_behind() external {
        token.mint(payer, 999);
        vm.prank(payer);
        token.approve(address(escrow), 1000);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientBalance.selector, payer, 999, 1000)
        );
        vm.prank(payer);
        escrow.open(payee, address(token), 1000, bytes32(0), voucherSigner);
        equal(escrow.getChannel(idOf(address(token), 0)).payee, address(0), "payee");
    }

    function test_k1_an_open_channel_is_not_opened_again() external {
        opened(1000);
        _cannotBeOpened();
    }

    function test_k1_k6_a_closed_channel_is_never_opened_again() external {
        bytes32 id = opened(1000);
        bytes memory old = voucher(id, 900);
        closeAsPayee(id, 100);
        _cannotBeOpened();
        vm.prank(payee);
        vm.expectRevert(IEVMPaymentChannel.ChannelFinalized.selector);
        escrow.settle(id, 900, old);
        has(id, 1000, 100, true);
    }

    function test_k1_k6_a_withdrawn_channel_is_never_opened_again() external {
        bytes32 id = opened(1000);
        requestCloseAsPayer(id);
        pass(900);
        withdrawAsPayer(id);
        _cannotBeOpened();
        has(id, 1000, 0, true);
    }

    function test_k6_a_closed_channel_takes_no_tokens() external {
        bytes32 id = opened(1000);
        closeAsPayee(id, 100);
        bytes4 reason = IEVMPaymentChannel.ChannelFinalized.selector;
        give(address(token), payer, 10);
        vm.prank(payer);
        vm.expectRevert(reason);
        escrow.topUp(id, 10);
        bytes32 nonce = topUpNonce(id, 10, payer, 1);
        bytes memory signed = authorized(address(token), PAYER_KEY, 10, nonce);
        vm.expectRevert(reason);
        escrow.topUpWithAuthorization(
            id, 10, payer, bytes32(uint256(1)), 0, DEADLINE, nonce, signed
        );
        signed = topUpPermit(id, PAYER_KEY, 10, 1);
        vm.expectRevert(reason);
        escrow.topUpWithPermit2(id, 10, payer, 1, DEADLINE, signed);
    }

    function test_k9_an_authorized_opening_opens_no_other_channel() external {
        token.mint(payer, 5000);
        bytes4 reason = IEVMPaymentChannel.NonceMismatch.selector;
        Opening memory changed = _authorizedOpening();
        changed.payee = stranger;
        _refusedByAuthorization(changed, reason);
        changed = _authorizedOpening();
        changed.token = deploy("Plain3009");
        _refusedByAuthorization(changed, reason);
        changed = _authorizedOpening();
        changed.salt = 0;
        _refusedByAuthorization(changed, reason);
        changed = _authorizedOpening();
        changed.signer = stranger;
        _refusedByAuthorization(changed, reason);
        changed = _authorizedOpening();
        changed.from = stranger;
        _refusedByAuthorization(changed, reason);
        equal(_byAuthorization(_authorizedOpening()), idOf(address(token), 1), "id");
    }

    function test_k9_another_nonce_amount_or_time_was_not_signed() external {
        token.mint(payer, 5000);
        bytes memory reason = abi.encodeWithSelector(Token3009.SignatureNotBy.selector, payer);
        Opening memory changed = _authorizedOpening();
        changed.deposit = 999;
        _refusedByAuthorization(changed, reason);
        changed = _authorizedOpening();
        changed.deadline = DEADLINE + 1;
        _refusedByAuthorization(changed, reason);
        // Who derives the right nonce for itself lacks the payer's signature over it.
        changed = _authorizedOpening();
        changed.payee = stranger;
        changed.nonce =
            keccak256(abi.encode(payer, stranger, changed.token, changed.salt, changed.signer));
        _refusedByAuthorization(changed, reason);
        equal(token.balanceOf(payer), 5000, "the payer's tokens");
    }

    function test_k9_an_authorization_is_of_use_to_the_escrow_only() external {
        token.mint(payer, 1000);
        bytes32 nonce = openNonce(address(token), 1);
        bytes memory signed = authorized(address(token), PAYER_KEY, 1000, nonce);
        vm.expectRevert(abi.encodeWithSelector(Token3009.CallerNotPayee.selector, address(this)));
        token.receiveWithAuthorization(payer, address(escrow), 1000, 0, DEADLINE, nonce, signed);
        vm.expectRevert(abi.encodeWithSelector(Token3009.SignatureNotBy.selector, payer));
        token.transferWithAuthorization(payer, address(escrow), 1000, 0, DEADLINE, nonce, signed);
    }

    function test_k9_an_authorized_top_up_goes_to_no_other_channel_amount_or_payer() external {
        bytes32 id = opened(1000);
        bytes32 other = opened(address(token), 2, 1000);
        token.mint(payer, 500);
        bytes32 salt = bytes32(uint256(1));
        bytes32 nonce = topUpNonce(id, 100, payer, 1);
        bytes memory signed = authorized(address(token), PAYER_KEY, 100, nonce);
        bytes4 reason = IEVMPaymentChannel.NonceMismatch.selector;
        vm.expectRevert(reason);
        escrow.topUpWithAuthorization(other, 100, payer, salt, 0, DEADLINE, nonce, signed);
        vm.expectRevert(reason);
        escrow.topUpWithAuthorization(id, 101, payer, salt, 0, DEADLINE, nonce, signed);
        vm.expectRevert(reason);
        escrow.topUpWithAuthorization(id, 100, stranger, salt, 0, DEADLINE, nonce, signed);
        vm.expectRevert(reason);
        escrow.topUpWithAuthorization(id, 100, payer, 0, 0, DEADLINE, nonce, signed);
        escrow.topUpWithAuthorization(id, 100, payer, salt, 0, DEADLINE, nonce, signed);
        vm.expectRevert(
            abi.encodeWithSelector(Token3009.AuthorizationUsedOrCanceled.selector, payer, nonce)
        );
        escrow.topUpWithAuthorization(id, 100, payer, salt, 0, DEADLINE, nonce, signed);
        has(id, 1100, 0, false);
    }

    function test_k9_a_permitted_opening_opens_no_other_channel() external {
        giveByPermit2(address(token), payer, 5000);
        bytes4 reason = ISignatureTransfer.InvalidSigner.selector;
        Opening memory changed = _permittedOpening();
        changed.payee = stranger;
        _refusedByPermit2(changed, reason);
        changed = _permittedOpening();
        changed.token = deploy("Plain3009");
        _refusedByPermit2(changed, reason);
        changed = _permittedOpening();
        changed.salt = 0;
        _refusedByPermit2(changed, reason);
        changed = _permittedOpening();
        changed.signer = stranger;
        _refusedByPermit2(changed, reason);
        changed = _permittedOpening();
        changed.from = stranger;
        _refusedByPermit2(changed, reason);
        changed = _permittedOpening();
        changed.deposit = 999;
        _refusedByPermit2(changed, reason);
        equal(_byPermit2(_permittedOpening()), idOf(address(token), 1), "id");
    }

    function test_k9_a_permitted_top_up_goes_to_no_other_channel_and_once() external {
        bytes32 id = opened(1000);
        bytes32 other = opened(address(token), 2, 1000);
        giveByPermit2(address(token), payer, 500);
        bytes memory signed = topUpPermit(id, PAYER_KEY, 100, 7);
        vm.expectRevert(ISignatureTransfer.InvalidSigner.selector);
        escrow.topUpWithPermit2(other, 100, payer, 7, DEADLINE, signed);
        escrow.topUpWithPermit2(id, 100, payer, 7, DEADLINE, signed);
        vm.expectRevert(ISignatureTransfer.InvalidNonce.selector);
        escrow.topUpWithPermit2(id, 100, payer, 7, DEADLINE, signed);
        has(id, 1100, 0, false);
    }

    function test_k10_a_deposit_of_every_size_is_kept_in_full() external {
        bytes32 id = opened(type(uint128).max);
        has(id, type(uint128).max, 0, false);
        closeAsPayee(id, type(uint128).max);
        has(id, type(uint128).max, type(uint128).max, true);
        equal(token.balanceOf(payee), type(uint128).max, "the payee's tokens");
    }

    function test_k10_a_top_up_over_the_bound_is_refused() external {
        bytes32 id = opened(type(uint128).max);
        bytes4 reason = IEVMPaymentChannel.DepositOverflow.selector;
        vm.prank(payer);
        vm.expectRevert(reason);
        escrow.topUp(id, 1);
        bytes32 nonce = topUpNonce(id, type(uint128).max, payer, 0);
        vm.expectRevert(reason);
        escrow.topUpWithAuthorization(id, type(uint128).max, payer, 0, 0, DEADLINE, nonce, "");
        vm.expectRevert(reason);
        escrow.topUpWithPermit2(id, 1, payer, 0, DEADLINE, "");
        has(id, type(uint128).max, 0, false);
    }

    /// @dev Around every bit at which an amount is cut in two.
    function testFuzz_k10_amounts_are_kept_in_full(
        uint128 deposit,
        uint128 added,
        uint128 settled,
        uint8 shift
    ) external {
        deposit = uint128(within(deposit >> (shift % 128), 1, type(uint128).max));
        bytes32 id = opened(deposit);
        added = uint128(within(added, 0, type(uint128).max - deposit));
        if (added != 0) {
            give(address(token), payer, added);
            vm.prank(payer);
            escrow.topUp(id, added);
        }
        requestCloseAsPayer(id);
        settled = uint128(within(settled, 0, deposit + added));
        if (settled != 0) settleAsPayee(id, settled);

        has(id, deposit + added, settled, false);
        IEVMPaymentChannel.Channel memory channel = escrow.getChannel(id);
        equal(channel.payer, payer, "payer");
        equal(channel.payee, payee, "payee");
        equal(channel.token, address(token), "token");
        equal(channel.authorizedSigner, voucherSigner, "signer");
        equal(channel.closeRequestedAt, vm.getBlockTimestamp(), "close requested");
    }

    function testFuzz_ids_are_one_to_a_channel(
        address p,
        address q,
        address t,
        bytes32 salt,
        address s,
        uint8 changed
    ) external view {
        bytes32 id = escrow.computeChannelId(p, q, t, salt, s);
        equal(id, keccak256(abi.encode(p, q, t, salt, s, address(escrow), block.chainid)), "id");
        changed = changed % 5;
        if (changed == 0) p = address(uint160(p) ^ 1);
        if (changed == 1) q = address(uint160(q) ^ 1);
        if (changed == 2) t = address(uint160(t) ^ 1);
        if (changed == 3) salt ^= bytes32(uint256(1));
        if (changed == 4) s = address(uint160(s) ^ 1);
        ensure(escrow.computeChannelId(p, q, t, salt, s) != id, "the same id");
    }

    function test_a_batch_reads_as_one_by_one() external {
        bytes32[] memory ids = new bytes32[](3);
        (ids[0], ids[2]) = (opened(1000), opened(address(token), 2, 50));
        IEVMPaymentChannel.Channel[] memory channels = escrow.getChannelsBatch(ids);
        for (uint256 i = 0; i < 3; ++i) {
            bytes32 alone = keccak256(abi.encode(escrow.getChannel(ids[i])));
            equal(keccak256(abi.encode(channels[i])), alone, "record");
        }
        equal(channels[1].payee, address(0), "no channel");
    }

    /// @dev Tries all three ways for channel 1.
    function _cannotBeOpened() private {
        bytes4 reason = IEVMPaymentChannel.ChannelAlreadyExists.selector;
        give(address(token), payer, 1000);
        vm.prank(payer);
        vm.expectRevert(reason);
        escrow.open(payee, address(token), 1000, bytes32(uint256(1)), voucherSigner);
        _refusedByAuthorization(_authorizedOpening(), reason);
        _refusedByPermit2(_permittedOpening(), reason);
    }

    function _authorizedOpening() private view returns (Opening memory) {
        bytes32 nonce = openNonce(address(token), 1);
        bytes memory signed = authorized(address(token), PAYER_KEY, 1000, nonce);
        bytes32 salt = bytes32(uint256(1));
        return
            Opening(
                payee, address(token), 1000, salt, voucherSigner, payer, DEADLINE, nonce, signed
            );
    }

    function _permittedOpening() private view returns (Opening memory) {
        bytes memory signed = openPermit(address(token), 1, 1000, 7);
        bytes32 salt = bytes32(uint256(1));
        bytes32 nonce = bytes32(uint256(7));
        return
            Opening(
                payee, address(token), 1000, salt, voucherSigner, payer, DEADLINE, nonce, signed
            );
    }

    function _byAuthorization(Opening memory o) private returns (bytes32) {
        return escrow.openWithAuthorization(
            o.payee,
            o.token,
            o.deposit,
            o.salt,
            o.signer,
            o.from,
            0,
            o.deadline,
            o.nonce,
            o.signature
        );
    }

    function _byPermit2(Opening memory o) private returns (bytes32) {
        return escrow.openWithPermit2(
            o.payee,
            o.token,
            o.deposit,
            o.salt,
            o.signer,
            o.from,
            uint256(o.nonce),
            o.deadline,
            o.signature
        );
    }

    function _refusedByAuthorization(Opening memory o, bytes4 reason) private {
        _refusedByAuthorization(o, abi.encodePacked(reason));
    }

    function _refusedByAuthorization(Opening memory o, bytes memory reason) private {
        vm.expectRevert(reason);
        _byAuthorization(o);
    }

    function _refusedByPermit2(Opening memory o, bytes4 reason) private {
        vm.expectRevert(reason);
        _byPermit2(o);
    }
}
