// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ISignatureTransfer} from "../src/interfaces/ISignatureTransfer.sol";
import {FalseToken} from "../src/tokens/FalseToken.sol";
import {NoReturnToken} from "../src/tokens/NoReturnToken.sol";
import {ReentrantToken} from "../src/tokens/ReentrantToken.sol";
import {Wallet1271} from "../src/wallets/Wallet1271.sol";
import {Permit2Fixture} from "./Permit2Fixture.sol";

/// @title Permit2's transfers by signature; this contract is the spender
contract Permit2Test is Permit2Fixture {
    uint256 private constant NONCE = 0x402;
    bytes private constant FAILED =
        abi.encodeWithSignature("Error(string)", "TRANSFER_FROM_FAILED");
    string private constant WITNESS_TYPE =
        "Mail witness)Mail(bytes32 text)TokenPermissions(address token,uint256 amount)";

    function test_the_domain_is_of_this_chain_and_address() external {
        equal(
            permit2.DOMAIN_SEPARATOR(),
            keccak256(
                abi.encode(
                    keccak256(
                        "EIP712Domain(string name,uint256 chainId,address verifyingContract)"
                    ),
                    keccak256("Permit2"),
                    31337,
                    address(permit2)
                )
            ),
            "domain"
        );
        bytes32 before = permit2.DOMAIN_SEPARATOR();
        vm.chainId(8453);
        ensure(permit2.DOMAIN_SEPARATOR() != before, "another chain, another domain");
    }

    function testFuzz_tokens_move_as_signed(uint256 amount, uint256 requested, uint256 nonce)
        external
    {
        amount = within(amount, 0, 1000);
        requested = within(requested, 0, amount);
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), amount, nonce);
        bytes memory signed = _sign(permit);
        permit2.permitTransferFrom(permit, detailsOf(receiver, requested), payer, signed);
        equal(coin.balanceOf(receiver), requested, "received");
        equal(permit2.nonceBitmap(payer, nonce >> 8), 1 << (nonce & 255), "the nonce's bit");
    }

    function testFuzz_nonce_is_used_once(uint256 nonce, uint256 other) external {
        vm.assume(nonce != other);
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 10, nonce);
        bytes memory signed = _sign(permit);
        permit2.permitTransferFrom(permit, detailsOf(receiver, 10), payer, signed);
        vm.expectRevert(ISignatureTransfer.InvalidNonce.selector);
        permit2.permitTransferFrom(permit, detailsOf(receiver, 10), payer, signed);
        permit = permitOf(address(coin), 10, other);
        signed = _sign(permit);
        permit2.permitTransferFrom(permit, detailsOf(receiver, 10), payer, signed);
        equal(coin.balanceOf(receiver), 20, "received");
    }

    function testFuzz_invalidated_nonce_is_unusable(uint256 nonce) external {
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 10, nonce);
        bytes memory signed = _sign(permit);
        vm.expectEmit(address(permit2));
        emit ISignatureTransfer.UnorderedNonceInvalidation(payer, nonce >> 8, 1 << (nonce & 255));
        vm.prank(payer);
        permit2.invalidateUnorderedNonces(nonce >> 8, 1 << (nonce & 255));
        // Once more changes nothing.
        vm.prank(payer);
        permit2.invalidateUnorderedNonces(nonce >> 8, type(uint256).max);
        vm.expectRevert(ISignatureTransfer.InvalidNonce.selector);
        permit2.permitTransferFrom(permit, detailsOf(receiver, 10), payer, signed);
    }

    function test_nobody_invalidates_the_nonces_of_another() external {
        permit2.invalidateUnorderedNonces(0, type(uint256).max);
        equal(permit2.nonceBitmap(payer, 0), 0, "the payer's word");
    }

    function test_signature_is_for_one_spender() external {
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 10, NONCE);
        bytes memory signed = signature(PAYER_KEY, plainDigest(permit, stranger));
        vm.expectRevert(ISignatureTransfer.InvalidSigner.selector);
        permit2.permitTransferFrom(permit, detailsOf(receiver, 10), payer, signed);
        vm.prank(stranger);
        permit2.permitTransferFrom(permit, detailsOf(receiver, 10), payer, signed);
    }

    function test_signature_counts_until_its_deadline() external {
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 10, NONCE);
        bytes memory signed = _sign(permit);
        pass(301);
        vm.expectRevert(
            abi.encodeWithSelector(ISignatureTransfer.SignatureExpired.selector, permit.deadline)
        );
        permit2.permitTransferFrom(permit, detailsOf(receiver, 10), payer, signed);
        vm.warp(permit.deadline);
        permit2.permitTransferFrom(permit, detailsOf(receiver, 10), payer, signed);
    }

    function testFuzz_more_than_signed_is_refused(uint256 excess) external {
        excess = within(excess, 1, type(uint256).max - 10);
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 10, NONCE);
        bytes memory signed = _sign(permit);
        vm.expectRevert(abi.encodeWithSelector(ISignatureTransfer.InvalidAmount.selector, 10));
        permit2.permitTransferFrom(permit, detailsOf(receiver, 10 + excess), payer, signed);
    }

    function testFuzz_what_was_not_signed_is_refused(uint256 field, uint256 change) external {
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 10, NONCE);
        bytes memory signed = _sign(permit);
        change = within(change, 1, 1e9);
        field = within(field, 0, 3);
        if (field == 0) permit.permitted.amount += change;
        if (field == 1) permit.nonce += change;
        if (field == 2) permit.deadline += change;
        if (field == 3) permit.permitted.token = address(token);
        (bool moved, bytes memory reason) = address(permit2)
            .call(
                abi.encodeWithSignature(
                    "permitTransferFrom(((address,uint256),uint256,uint256),(address,uint256),address,bytes)",
                    permit,
                    detailsOf(receiver, 10),
                    payer,
                    signed
                )
            );
        ensure(!moved, "moved");
        // Of a garbled digest some keys are nobody's.
        bytes4 why = bytes4(reason);
        ensure(
            why == ISignatureTransfer.InvalidSigner.selector
                || why == ISignatureTransfer.InvalidSignature.selector,
            "reason"
        );
    }

    function test_k1_signature_of_another_chain_is_refused() external {
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 10, NONCE);
        bytes memory signed = _sign(permit);
        vm.chainId(8453);
        vm.expectRevert(ISignatureTransfer.InvalidSigner.selector);
        permit2.permitTransferFrom(permit, detailsOf(receiver, 10), payer, signed);
    }

    function test_k3_forms_of_a_signature() external {
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 10, NONCE);
        bytes32 digest = plainDigest(permit, address(this));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(PAYER_KEY, digest);
        bytes32 vs = bytes32(uint256(v - 27) << 255 | uint256(s));

        _refused(permit, abi.encodePacked(r, s), ISignatureTransfer.InvalidSigner.selector, v == 28);
        _refused(permit, "", ISignatureTransfer.InvalidSignatureLength.selector, true);
        bytes memory long = abi.encodePacked(r, s, v, uint8(0));
        _refused(permit, long, ISignatureTransfer.InvalidSignatureLength.selector, true);
        bytes memory raw = abi.encodePacked(r, s, v - 27);
        _refused(permit, raw, ISignatureTransfer.InvalidSignature.selector, true);
        bytes memory zero = abi.encodePacked(bytes32(0), bytes32(0), v);
        _refused(permit, zero, ISignatureTransfer.InvalidSignature.selector, true);
        bytes memory theirs = signature(STRANGER_KEY, digest);
        _refused(permit, theirs, ISignatureTransfer.InvalidSigner.selector, true);

        permit2.permitTransferFrom(permit, detailsOf(receiver, 10), payer, abi.encodePacked(r, vs));
        permit = permitOf(address(coin), 10, NONCE + 1);
        // As the deployed one: a nonce is used once, so a second form does no harm.
        bytes memory high = highS(PAYER_KEY, plainDigest(permit, address(this)));
        permit2.permitTransferFrom(permit, detailsOf(receiver, 10), payer, high);
        equal(coin.balanceOf(receiver), 20, "received");
    }

    function test_k3_zero_owner_has_no_signature() external {
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 0, NONCE);
        bytes memory zero = new bytes(65);
        vm.expectRevert(ISignatureTransfer.InvalidSignature.selector);
        permit2.permitTransferFrom(permit, detailsOf(receiver, 0), address(0), zero);
    }

    function test_t9_wallet_with_code_is_asked() external {
        Wallet1271 wallet = Wallet1271(deploy("Wallet1271", abi.encode(payer)));
        coin.mint(address(wallet), 10);
        vm.prank(payer);
        wallet.execute(address(coin), abi.encodeCall(coin.approve, (address(permit2), 10)));
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 10, NONCE);
        bytes memory signed = _sign(permit);
        vm.prank(payer);
        wallet.refuse(true);
        vm.expectRevert(ISignatureTransfer.InvalidContractSignature.selector);
        permit2.permitTransferFrom(permit, detailsOf(receiver, 10), address(wallet), signed);
        vm.prank(payer);
        wallet.refuse(false);
        permit2.permitTransferFrom(permit, detailsOf(receiver, 10), address(wallet), signed);
        equal(coin.balanceOf(receiver), 10, "received");
    }

    function test_t9_key_of_an_account_with_code_counts_as_far_as_its_code_says() external {
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 10, NONCE);
        bytes memory signed = _sign(permit);
        vm.etch(payer, vm.getDeployedCode(artifact("Wallet1271")));
        vm.expectRevert(ISignatureTransfer.InvalidContractSignature.selector);
        permit2.permitTransferFrom(permit, detailsOf(receiver, 10), payer, signed);
        vm.etch(payer, vm.getDeployedCode(artifact("Delegate7702")));
        permit2.permitTransferFrom(permit, detailsOf(receiver, 10), payer, signed);
        equal(coin.balanceOf(receiver), 10, "received");
    }

    function test_t4_refusals_of_tokens_are_one_error() external {
        FalseToken failing = FalseToken(deploy("FalseToken"));
        failing.mint(payer, 10);
        vm.prank(payer);
        failing.approve(address(permit2), 10);
        failing.setFailing(true);
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(failing), 10, NONCE);
        bytes memory signed = _sign(permit);
        vm.expectRevert(FAILED);
        permit2.permitTransferFrom(permit, detailsOf(receiver, 10), payer, signed);

        permit = permitOf(address(coin), 10, NONCE);
        signed = _sign(permit);
        _approve(9);
        vm.expectRevert(FAILED);
        permit2.permitTransferFrom(permit, detailsOf(receiver, 10), payer, signed);
    }

    function test_t4_token_that_returns_nothing_moves() external {
        NoReturnToken silent = NoReturnToken(deploy("NoReturnToken"));
        silent.mint(payer, 10);
        vm.prank(payer);
        silent.approve(address(permit2), 10);
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(silent), 10, NONCE);
        bytes memory signed = _sign(permit);
        permit2.permitTransferFrom(permit, detailsOf(receiver, 10), payer, signed);
        equal(silent.balanceOf(receiver), 10, "received");
    }

    function test_f4_success_without_a_token_moves_nothing() external {
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(stranger, 10, NONCE);
        bytes memory signed = _sign(permit);
        vm.recordLogs();
        permit2.permitTransferFrom(permit, detailsOf(receiver, 10), payer, signed);
        equal(vm.getRecordedLogs().length, 0, "nobody says that anything moved");
    }

    function test_k8_token_that_calls_back_can_not_use_the_nonce_again() external {
        ReentrantToken attacker = ReentrantToken(deploy("ReentrantToken"));
        attacker.mint(payer, 100);
        vm.prank(payer);
        attacker.approve(address(permit2), 100);
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(attacker), 10, NONCE);
        bytes memory signed = signature(PAYER_KEY, plainDigest(permit, address(attacker)));
        bytes memory call = abi.encodeWithSignature(
            "permitTransferFrom(((address,uint256),uint256,uint256),(address,uint256),address,bytes)",
            permit,
            detailsOf(receiver, 10),
            payer,
            signed
        );
        attacker.arm(address(permit2), call, true, false);
        vm.prank(address(attacker));
        permit2.permitTransferFrom(permit, detailsOf(receiver, 10), payer, signed);
        equal(attacker.calls(), 1, "called back");
        equal(
            bytes32(attacker.answer()), bytes32(ISignatureTransfer.InvalidNonce.selector), "reason"
        );
        equal(attacker.balanceOf(receiver), 10, "received once");
    }

    function testFuzz_witness_is_part_of_what_was_signed(bytes32 text, bytes32 other) external {
        vm.assume(text != other);
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 10, NONCE);
        bytes32 kind = keccak256(
            "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,Mail witness)Mail(bytes32 text)TokenPermissions(address token,uint256 amount)"
        );
        bytes32 witness = keccak256(abi.encode(keccak256("Mail(bytes32 text)"), text));
        bytes memory signed = signature(
            PAYER_KEY,
            typed(
                keccak256(
                    abi.encode(
                        kind,
                        hashOf(permit.permitted),
                        address(this),
                        permit.nonce,
                        permit.deadline,
                        witness
                    )
                )
            )
        );
        ISignatureTransfer.SignatureTransferDetails memory details = detailsOf(receiver, 10);
        bytes32 wrong = keccak256(abi.encode(keccak256("Mail(bytes32 text)"), other));
        vm.expectRevert(ISignatureTransfer.InvalidSigner.selector);
        permit2.permitWitnessTransferFrom(permit, details, payer, wrong, WITNESS_TYPE, signed);
        vm.expectRevert(ISignatureTransfer.InvalidSigner.selector);
        permit2.permitWitnessTransferFrom(permit, details, payer, witness, "Mail witness)", signed);
        permit2.permitWitnessTransferFrom(permit, details, payer, witness, WITNESS_TYPE, signed);
        equal(coin.balanceOf(receiver), 10, "received");
    }

    function test_batch_moves_each_token_as_signed() external {
        (ISignatureTransfer.PermitBatchTransferFrom memory permit, bytes memory signed) = _batch(
            "PermitBatchTransferFrom(TokenPermissions[] permitted,address spender,uint256 nonce,uint256 deadline)TokenPermissions(address token,uint256 amount)",
            0
        );
        ISignatureTransfer.SignatureTransferDetails[] memory details = _details(10, 20);
        details[1].requestedAmount = 21;
        vm.expectRevert(abi.encodeWithSelector(ISignatureTransfer.InvalidAmount.selector, 20));
        permit2.permitTransferFrom(permit, details, payer, signed);
        details[1].requestedAmount = 0;
        vm.recordLogs();
        permit2.permitTransferFrom(permit, details, payer, signed);
        equal(vm.getRecordedLogs().length, 1, "where nothing is asked for, nothing is called");
        equal(coin.balanceOf(receiver), 10, "received");
        vm.expectRevert(ISignatureTransfer.InvalidNonce.selector);
        permit2.permitTransferFrom(permit, details, payer, signed);
    }

    function test_batch_has_as_many_transfers_as_tokens() external {
        (ISignatureTransfer.PermitBatchTransferFrom memory permit, bytes memory signed) = _batch(
            "PermitBatchTransferFrom(TokenPermissions[] permitted,address spender,uint256 nonce,uint256 deadline)TokenPermissions(address token,uint256 amount)",
            0
        );
        ISignatureTransfer.SignatureTransferDetails[] memory details =
            new ISignatureTransfer.SignatureTransferDetails[](1);
        vm.expectRevert(ISignatureTransfer.LengthMismatch.selector);
        permit2.permitTransferFrom(permit, details, payer, signed);
        pass(301);
        vm.expectRevert(
            abi.encodeWithSelector(ISignatureTransfer.SignatureExpired.selector, permit.deadline)
        );
        permit2.permitTransferFrom(permit, details, payer, signed);
    }

    function test_batch_with_a_witness_moves_each_token_as_signed() external {
        bytes32 witness = keccak256(abi.encode(keccak256("Mail(bytes32 text)"), "hello"));
        (ISignatureTransfer.PermitBatchTransferFrom memory permit, bytes memory signed) = _batch(
            "PermitBatchWitnessTransferFrom(TokenPermissions[] permitted,address spender,uint256 nonce,uint256 deadline,Mail witness)Mail(bytes32 text)TokenPermissions(address token,uint256 amount)",
            witness
        );
        ISignatureTransfer.SignatureTransferDetails[] memory details = _details(10, 20);
        vm.expectRevert(ISignatureTransfer.InvalidSigner.selector);
        permit2.permitWitnessTransferFrom(
            permit, details, payer, keccak256("other"), WITNESS_TYPE, signed
        );
        permit2.permitWitnessTransferFrom(permit, details, payer, witness, WITNESS_TYPE, signed);
        equal(coin.balanceOf(receiver), 30, "received");
    }

    function _batch(string memory kind, bytes32 witness)
        private
        view
        returns (ISignatureTransfer.PermitBatchTransferFrom memory permit, bytes memory signed)
    {
        permit.permitted = new ISignatureTransfer.TokenPermissions[](2);
        permit.permitted[0] =
            ISignatureTransfer.TokenPermissions({token: address(coin), amount: 10});
        permit.permitted[1] =
            ISignatureTransfer.TokenPermissions({token: address(coin), amount: 20});
        permit.nonce = NONCE;
        permit.deadline = vm.getBlockTimestamp() + 300;
        bytes32 hashes =
            keccak256(abi.encodePacked(hashOf(permit.permitted[0]), hashOf(permit.permitted[1])));
        bytes memory words = abi.encode(
            keccak256(bytes(kind)), hashes, address(this), permit.nonce, permit.deadline
        );
        if (witness != 0) words = abi.encodePacked(words, witness);
        signed = signature(PAYER_KEY, typed(keccak256(words)));
    }

    function _details(uint256 first, uint256 second)
        private
        view
        returns (ISignatureTransfer.SignatureTransferDetails[] memory details)
    {
        details = new ISignatureTransfer.SignatureTransferDetails[](2);
        details[0] = detailsOf(receiver, first);
        details[1] = detailsOf(receiver, second);
    }

    function _sign(ISignatureTransfer.PermitTransferFrom memory permit)
        private
        view
        returns (bytes memory)
    {
        return signature(PAYER_KEY, plainDigest(permit, address(this)));
    }

    function _refused(
        ISignatureTransfer.PermitTransferFrom memory permit,
        bytes memory signed,
        bytes4 reason,
        bool applies
    ) private {
        if (!applies) return;
        vm.expectRevert(reason);
        permit2.permitTransferFrom(permit, detailsOf(receiver, 10), payer, signed);
    }
}
