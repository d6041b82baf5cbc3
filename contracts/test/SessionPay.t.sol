// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEVMPaymentChannel} from "../src/interfaces/IEVMPaymentChannel.sol";
import {PlainToken} from "../src/tokens/PlainToken.sol";
import {Wallet1271} from "../src/wallets/Wallet1271.sol";
import {SessionFixture} from "./SessionFixture.sol";

/// @title A token that lets anybody sign for anybody
contract GullibleToken is PlainToken {
    function receiveWithAuthorization(
        address,
        address to,
        uint256 value,
        uint256,
        uint256,
        bytes32,
        bytes calldata
    ) external {
        _mint(to, value);
    }
}

/// @title How the payee is paid: settle and close, by itself and relayed
contract SessionPayTest is SessionFixture {
    uint256 private constant OWNER_KEY = uint256(keccak256("owner"));

    function test_settling_pays_what_the_voucher_adds() external {
        bytes32 id = opened(1000);
        settleAsPayee(id, 300);
        bytes memory signed = voucher(id, 450);
        vm.expectEmit(address(escrow));
        emit IEVMPaymentChannel.Settled(id, payer, payee, 450, 150, 450);
        vm.prank(payee);
        escrow.settle(id, 450, signed);

        has(id, 1000, 450, false);
        equal(token.balanceOf(payee), 450, "the payee's tokens");
        equal(token.balanceOf(address(escrow)), 550, "escrow");
    }

    function test_closing_pays_both_sides_once() external {
        bytes32 id = opened(1000);
        settleAsPayee(id, 300);
        bytes memory signed = voucher(id, 450);
        vm.expectEmit(address(escrow));
        emit IEVMPaymentChannel.ChannelClosed(id, payer, payee, 450, 550);
        vm.prank(payee);
        escrow.close(id, 450, signed);

        has(id, 1000, 450, true);
        equal(token.balanceOf(payee), 450, "the payee's tokens");
        equal(token.balanceOf(payer), 550, "the payer's tokens");
        equal(token.balanceOf(address(escrow)), 0, "escrow");
    }

    function test_k2_everything_can_be_settled_and_no_more() external {
        bytes32 id = opened(1000);
        _settleFails(id, 1001, voucher(id, 1001), IEVMPaymentChannel.AmountExceedsDeposit.selector);
        settleAsPayee(id, 1000);
        closeAsPayee(id, 1000);
        has(id, 1000, 1000, true);
        equal(token.balanceOf(payee), 1000, "the payee's tokens");
    }

    function test_k2_an_equal_or_lower_voucher_settles_nothing() external {
        bytes32 id = opened(1000);
        settleAsPayee(id, 300);
        bytes4 reason = IEVMPaymentChannel.AmountNotIncreasing.selector;
        _settleFails(id, 300, voucher(id, 300), reason);
        _settleFails(id, 299, voucher(id, 299), reason);
        _settleFails(id, 0, voucher(id, 0), reason);
        has(id, 1000, 300, false);
    }

    function test_k2_closing_at_or_below_what_was_settled_takes_nothing_more() external {
        bytes32 id = opened(1000);
        settleAsPayee(id, 300);
        vm.prank(payee);
        escrow.close(id, 300, "");
        has(id, 1000, 300, true);
        bytes32 other = opened(address(token), 2, 1000);
        settleAsPayee(other, 300);
        vm.prank(payee);
        escrow.close(other, 0, "");
        has(other, 1000, 300, true);
        equal(token.balanceOf(payer), 1400, "the payer's tokens");
        equal(token.balanceOf(payee), 600, "the payee's tokens");
    }

    function test_k2_closing_above_the_deposit_is_refused() external {
        bytes32 id = opened(1000);
        bytes memory signed = voucher(id, 1001);
        vm.prank(payee);
        vm.expectRevert(IEVMPaymentChannel.AmountExceedsDeposit.selector);
        escrow.close(id, 1001, signed);
        vm.prank(payee);
        vm.expectRevert(IEVMPaymentChannel.InvalidSignature.selector);
        escrow.close(id, 1, "");
    }

    function test_only_the_payee_settles_and_closes() external {
        bytes32 id = opened(1000);
        bytes memory signed = voucher(id, 300);
        bytes4 reason = IEVMPaymentChannel.NotPayee.selector;
        address[3] memory others = [payer, voucherSigner, stranger];
        for (uint256 i = 0; i < others.length; ++i) {
            vm.prank(others[i]);
            vm.expectRevert(reason);
            escrow.settle(id, 300, signed);
            vm.prank(others[i]);
            vm.expectRevert(reason);
            escrow.close(id, 300, signed);
        }
    }

    function test_no_channel_settles_or_closes() external {
        bytes32 id = idOf(address(token), 1);
        bytes4 reason = IEVMPaymentChannel.ChannelNotFound.selector;
        vm.expectRevert(reason);
        escrow.settle(id, 1, "");
        vm.expectRevert(reason);
        escrow.close(id, 0, "");
        vm.expectRevert(reason);
        escrow.settleWithAuthorization(id, 1, 1, DEADLINE, "", "");
        vm.expectRevert(reason);
        escrow.closeWithAuthorization(id, 0, 1, DEADLINE, "", "");
    }

    function test_k6_a_closed_channel_pays_nobody() external {
        bytes32 id = opened(1000);
        opened(address(token), 2, 1000); // whose tokens could be taken
        closeAsPayee(id, 300);
        bytes4 reason = IEVMPaymentChannel.ChannelFinalized.selector;
        _settleFails(id, 1000, voucher(id, 1000), reason);
        bytes memory signed = voucher(id, 1000);
        vm.prank(payee);
        vm.expectRevert(reason);
        escrow.close(id, 1000, signed);
        bytes memory order = settleOrder(id, 1000, 1);
        vm.expectRevert(reason);
        escrow.settleWithAuthorization(id, 1000, 1, DEADLINE, order, signed);
        order = closeOrder(id, 1000, 1);
        vm.expectRevert(reason);
        escrow.closeWithAuthorization(id, 1000, 1, DEADLINE, order, signed);
        equal(token.balanceOf(address(escrow)), 1000, "escrow");
    }

    function test_k1_a_voucher_is_good_for_its_channel_escrow_and_chain_only() external {
        bytes32 id = opened(1000);
        bytes32 other = opened(address(token), 2, 1000);
        bytes memory signed = voucher(id, 300);
        bytes4 reason = IEVMPaymentChannel.InvalidSignature.selector;
        _settleFails(other, 300, signed, reason);
        _settleFails(id, 301, signed, reason);
        bytes32 structHash = keccak256(abi.encode(escrow.VOUCHER_TYPEHASH(), id, uint128(300)));
        _settleFails(
            id, 300, signature(VOUCHER_KEY, _under(structHash, 1, address(escrow))), reason
        );
        _settleFails(id, 300, signature(VOUCHER_KEY, _under(structHash, 31337, payer)), reason);
        bytes32 digest = _under(structHash, 31337, address(escrow));
        equal(digest, escrow.getVoucherDigest(id, 300), "digest");
        vm.chainId(1);
        _settleFails(id, 300, signed, reason);
        vm.chainId(31337);
        vm.prank(payee);
        escrow.settle(id, 300, signed);
    }

    function test_k3_malleable_cut_and_foreign_signatures_are_refused() external {
        bytes32 id = opened(1000);
        bytes32 digest = escrow.getVoucherDigest(id, 300);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(VOUCHER_KEY, digest);
        bytes[10] memory bad = [
            bytes(""),
            highS(VOUCHER_KEY, digest),
            abi.encodePacked(r, s),
            abi.encodePacked(r, bytes32(uint256(s) | (uint256(v - 27) << 255))),
            abi.encodePacked(r, s, v - 27),
            abi.encodePacked(r, s, v, uint8(0)),
            abi.encodePacked(r, s, v == 27 ? uint8(28) : uint8(27)),
            abi.encodePacked(bytes32(0), bytes32(0), uint8(27)),
            signature(PAYER_KEY, digest),
            signature(STRANGER_KEY, digest)
        ];
        for (uint256 i = 0; i < bad.length; ++i) {
            _settleFails(id, 300, bad[i], IEVMPaymentChannel.InvalidSignature.selector);
            vm.prank(payee);
            vm.expectRevert(IEVMPaymentChannel.InvalidSignature.selector);
            escrow.close(id, 300, bad[i]);
        }
    }

    function test_k3_what_nobody_signed_is_not_signed_by_the_zero_address() external {
        address gullible = address(new GullibleToken());
        bytes32 nonce = keccak256(abi.encode(address(0), payee, gullible, 0, address(0)));
        bytes32 id = escrow.openWithAuthorization(
            payee, gullible, 1000, 0, address(0), address(0), 0, DEADLINE, nonce, ""
        );
        has(id, 1000, 0, false);
        bytes4 reason = IEVMPaymentChannel.InvalidSignature.selector;
        _settleFails(id, 300, "", reason);
        _settleFails(id, 300, new bytes(65), reason);
        _settleFails(id, 300, signature(STRANGER_KEY, bytes32(0)), reason);
    }

    function testFuzz_k3_bytes_that_are_no_signature_are_refused(bytes calldata anything) external {
        bytes32 id = opened(1000);
        _settleFails(id, 300, anything, IEVMPaymentChannel.InvalidSignature.selector);
    }

    function test_k11_a_contract_signs_and_can_change_its_mind() external {
        vm.prank(vm.addr(OWNER_KEY));
        Wallet1271 wallet = Wallet1271(deploy("Wallet1271", abi.encode(vm.addr(OWNER_KEY))));
        give(address(token), payer, 1000);
        vm.prank(payer);
        bytes32 id = escrow.open(payee, address(token), 1000, bytes32(0), address(wallet));
        bytes memory signed = signature(OWNER_KEY, escrow.getVoucherDigest(id, 300));
        vm.prank(vm.addr(OWNER_KEY));
        wallet.refuse(true);
        _settleFails(id, 300, signed, IEVMPaymentChannel.InvalidSignature.selector);
        vm.prank(vm.addr(OWNER_KEY));
        wallet.refuse(false);
        vm.prank(payee);
        escrow.settle(id, 300, signed);
        equal(token.balanceOf(payee), 300, "the payee's tokens");
    }

    function test_a_contract_is_paid_by_its_owners_orders() external {
        Wallet1271 wallet = Wallet1271(deploy("Wallet1271", abi.encode(vm.addr(OWNER_KEY))));
        give(address(token), payer, 1000);
        vm.prank(payer);
        bytes32 id = escrow.open(address(wallet), address(token), 1000, bytes32(0), voucherSigner);
        bytes32 digest = escrow.getSettleAuthorizationDigest(id, 300, 1, DEADLINE);
        bytes memory order = signature(OWNER_KEY, digest);
        escrow.settleWithAuthorization(id, 300, 1, DEADLINE, order, voucher(id, 300));
        equal(token.balanceOf(address(wallet)), 300, "the payee's tokens");
    }

    function test_anyone_relays_what_the_payee_signed() external {
        bytes32 id = opened(1000);
        bytes memory order = settleOrder(id, 300, 7);
        bytes memory signed = voucher(id, 300);
        vm.expectEmit(address(escrow));
        emit IEVMPaymentChannel.Settled(id, payer, payee, 300, 300, 300);
        vm.prank(stranger);
        escrow.settleWithAuthorization(id, 300, 7, DEADLINE, order, signed);
        ensure(escrow.isNonceUsed(id, 7), "nonce 7 is not used");
        ensure(!escrow.isNonceUsed(id, 8), "nonce 8 is used");
        order = closeOrder(id, 450, 8);
        signed = voucher(id, 450);
        vm.expectEmit(address(escrow));
        emit IEVMPaymentChannel.ChannelClosed(id, payer, payee, 450, 550);
        vm.prank(stranger);
        escrow.closeWithAuthorization(id, 450, 8, DEADLINE, order, signed);
        equal(token.balanceOf(payee), 450, "the payee's tokens");
        equal(token.balanceOf(payer), 550, "the payer's tokens");
    }

    function test_a_relayed_close_without_a_voucher_takes_nothing_more() external {
        bytes32 id = opened(1000);
        settleAsPayee(id, 300);
        escrow.closeWithAuthorization(id, 300, 1, DEADLINE, closeOrder(id, 300, 1), "");
        has(id, 1000, 300, true);
        equal(token.balanceOf(payer), 700, "the payer's tokens");
    }

    function test_k12_an_order_is_used_once_to_settle_or_to_close() external {
        bytes32 id = opened(1000);
        bytes memory order = settleOrder(id, 300, 7);
        bytes memory closing = closeOrder(id, 450, 7);
        escrow.settleWithAuthorization(id, 300, 7, DEADLINE, order, voucher(id, 300));
        bytes4 reason = IEVMPaymentChannel.NonceAlreadyUsed.selector;
        bytes memory signed = voucher(id, 300);
        vm.expectRevert(reason);
        escrow.settleWithAuthorization(id, 300, 7, DEADLINE, order, signed);
        signed = voucher(id, 450);
        vm.expectRevert(reason);
        escrow.closeWithAuthorization(id, 450, 7, DEADLINE, closing, signed);
    }

    function test_k12_a_failed_order_can_be_tried_again() external {
        bytes32 id = opened(100);
        bytes memory order = settleOrder(id, 300, 7);
        bytes memory signed = voucher(id, 300);
        vm.expectRevert(IEVMPaymentChannel.AmountExceedsDeposit.selector);
        escrow.settleWithAuthorization(id, 300, 7, DEADLINE, order, signed);
        ensure(!escrow.isNonceUsed(id, 7), "nonce 7 is used");
        give(address(token), payer, 200);
        vm.prank(payer);
        escrow.topUp(id, 200);
        escrow.settleWithAuthorization(id, 300, 7, DEADLINE, order, signed);
        has(id, 300, 300, false);
    }

    function test_k12_nonces_of_one_channel_are_free_in_another() external {
        bytes32 id = opened(1000);
        bytes32 other = opened(address(token), 2, 1000);
        escrow.settleWithAuthorization(
            id, 300, 7, DEADLINE, settleOrder(id, 300, 7), voucher(id, 300)
        );
        escrow.settleWithAuthorization(
            other, 300, 7, DEADLINE, settleOrder(other, 300, 7), voucher(other, 300)
        );
        equal(token.balanceOf(payee), 600, "the payee's tokens");
    }

    function test_orders_bind_kind_channel_amount_nonce_deadline_and_signer() external {
        bytes32 id = opened(1000);
        bytes32 other = opened(address(token), 2, 1000);
        bytes memory order = settleOrder(id, 300, 7);
        bytes memory signed = voucher(id, 300);
        bytes4 reason = IEVMPaymentChannel.InvalidSignature.selector;
        vm.expectRevert(reason);
        escrow.closeWithAuthorization(id, 300, 7, DEADLINE, order, signed);
        vm.expectRevert(reason);
        escrow.settleWithAuthorization(id, 300, 8, DEADLINE, order, signed);
        vm.expectRevert(reason);
        escrow.settleWithAuthorization(id, 300, 7, DEADLINE + 1, order, signed);
        vm.expectRevert(reason);
        escrow.settleWithAuthorization(id, 300, 7, DEADLINE, signed, signed);
        bytes32 digest = escrow.getSettleAuthorizationDigest(id, 300, 7, DEADLINE);
        bytes memory malleated = highS(PAYEE_KEY, digest);
        vm.expectRevert(reason);
        escrow.settleWithAuthorization(id, 300, 7, DEADLINE, malleated, signed);
        signed = voucher(id, 301);
        vm.expectRevert(reason);
        escrow.settleWithAuthorization(id, 301, 7, DEADLINE, order, signed);
        signed = voucher(other, 300);
        vm.expectRevert(reason);
        escrow.settleWithAuthorization(other, 300, 7, DEADLINE, order, signed);
        // The payee's order alone moves nothing: the payer's voucher must be there too.
        vm.expectRevert(reason);
        escrow.settleWithAuthorization(id, 300, 7, DEADLINE, order, order);
    }

    function test_an_order_is_good_until_its_deadline() external {
        bytes32 id = opened(1000);
        uint256 deadline = vm.getBlockTimestamp();
        bytes memory order =
            signature(PAYEE_KEY, escrow.getSettleAuthorizationDigest(id, 300, 1, deadline));
        bytes memory signed = voucher(id, 300);
        pass(1);
        vm.expectRevert(IEVMPaymentChannel.AuthorizationExpired.selector);
        escrow.settleWithAuthorization(id, 300, 1, deadline, order, signed);
        order = signature(PAYEE_KEY, escrow.getCloseAuthorizationDigest(id, 300, 1, deadline));
        vm.expectRevert(IEVMPaymentChannel.AuthorizationExpired.selector);
        escrow.closeWithAuthorization(id, 300, 1, deadline, order, signed);
        deadline = vm.getBlockTimestamp();
        order = signature(PAYEE_KEY, escrow.getSettleAuthorizationDigest(id, 300, 1, deadline));
        escrow.settleWithAuthorization(id, 300, 1, deadline, order, signed);
        has(id, 1000, 300, false);
    }

    function testFuzz_vouchers_in_any_order_pay_the_highest(uint128[5] memory amounts) external {
        bytes32 id = opened(1000);
        uint128 highest = 0;
        for (uint256 i = 0; i < amounts.length; ++i) {
            uint128 amount = uint128(within(amounts[i], 0, 1000));
            bytes memory signed = voucher(id, amount);
            vm.prank(payee);
            if (amount <= highest) {
                vm.expectRevert(IEVMPaymentChannel.AmountNotIncreasing.selector);
            }
            escrow.settle(id, amount, signed);
            if (amount > highest) highest = amount;
            equal(token.balanceOf(payee), highest, "the payee's tokens");
        }
    }

    function _settleFails(bytes32 id, uint128 amount, bytes memory signed, bytes4 reason) private {
        vm.prank(payee);
        vm.expectRevert(reason);
        escrow.settle(id, amount, signed);
    }

    function _under(bytes32 structHash, uint256 chain, address contract_)
        private
        pure
        returns (bytes32)
    {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256(
                    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
                ),
                keccak256("EVM Payment Channel"),
                keccak256("1"),
                chain,
                contract_
            )
        );
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }
}
