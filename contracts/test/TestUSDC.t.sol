// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC3009} from "../src/interfaces/IERC3009.sol";
import {TestUSDC} from "../src/tokens/TestUSDC.sol";
import {Token3009} from "../src/tokens/Token3009.sol";
import {Wallet1271} from "../src/wallets/Wallet1271.sol";
import {Base} from "./Base.sol";

contract TestUSDCTest is Base {
    uint256 private constant KEY = uint256(keccak256("payer"));
    uint256 private constant STRANGER_KEY = uint256(keccak256("stranger"));
    address private immutable payer = vm.addr(KEY);
    address private constant PAYEE = address(0xbee);
    bytes32 private constant NONCE = keccak256("nonce");

    TestUSDC private usdc;
    uint256 private now_;
    uint256 private later;

    function setUp() external {
        usdc = TestUSDC(deploy("TestUSDC"));
        usdc.mint(payer, 1000);
        now_ = vm.getBlockTimestamp();
        later = now_ + 60;
    }

    function test_it_is_what_clients_expect_of_usdc() external view {
        equal(keccak256(bytes(usdc.name())), keccak256("USDC"), "name");
        equal(keccak256(bytes(usdc.symbol())), keccak256("USDC"), "symbol");
        equal(keccak256(bytes(usdc.version())), keccak256("2"), "version");
        equal(usdc.decimals(), 6, "decimals");
        equal(usdc.totalSupply(), 1000, "supply");
        (
            bytes1 fields,
            string memory name,
            string memory version,
            uint256 chain,
            address verifier,,
        ) = usdc.eip712Domain();
        equal(bytes32(fields), bytes32(hex"0f"), "fields");
        bytes32 separator = keccak256(
            abi.encode(
                keccak256(
                    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
                ),
                keccak256(bytes(name)),
                keccak256(bytes(version)),
                chain,
                verifier
            )
        );
        equal(usdc.DOMAIN_SEPARATOR(), separator, "separator");
    }

    function test_code_alone_makes_a_token_whose_first_asker_is_admin() external {
        TestUSDC placed = TestUSDC(address(0x05dc));
        vm.etch(address(placed), address(usdc).code);
        vm.expectRevert(abi.encodeWithSelector(TestUSDC.NotAdmin.selector, address(this)));
        placed.mint(payer, 5);
        vm.prank(PAYEE);
        placed.takeAdmin();
        vm.expectRevert(abi.encodeWithSelector(TestUSDC.AdminExists.selector, PAYEE));
        placed.takeAdmin();
        vm.prank(PAYEE);
        placed.mint(payer, 5);
        equal(placed.balanceOf(payer), 5, "minted");
        equal(keccak256(bytes(placed.name())), keccak256("USDC"), "name");
        ensure(placed.DOMAIN_SEPARATOR() != usdc.DOMAIN_SEPARATOR(), "separator");
    }

    function testFuzz_only_the_admin_rules(address caller) external {
        vm.assume(caller != address(this));
        bytes[] memory calls = new bytes[](5);
        calls[0] = abi.encodeCall(usdc.mint, (caller, 1));
        calls[1] = abi.encodeCall(usdc.blacklist, (payer));
        calls[2] = abi.encodeCall(usdc.unBlacklist, (payer));
        calls[3] = abi.encodeCall(usdc.pause, ());
        calls[4] = abi.encodeCall(usdc.unpause, ());
        for (uint256 i = 0; i < calls.length; ++i) {
            vm.prank(caller);
            (bool success, bytes memory answer) = address(usdc).call(calls[i]);
            ensure(!success, "let in");
            bytes memory reason = abi.encodeWithSelector(TestUSDC.NotAdmin.selector, caller);
            equal(keccak256(answer), keccak256(reason), "reason");
        }
    }

    function test_anyone_relays_a_transfer_in_both_signature_forms() external {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(KEY, _transferDigest(PAYEE, 10, 0, later, NONCE));
        vm.expectEmit(address(usdc));
        emit IERC3009.AuthorizationUsed(payer, NONCE);
        usdc.transferWithAuthorization(payer, PAYEE, 10, 0, later, NONCE, v, r, s);
        bytes32 second = keccak256("second");
        bytes memory signed = _sign(KEY, _transferDigest(PAYEE, 5, 0, later, second));
        usdc.transferWithAuthorization(payer, PAYEE, 5, 0, later, second, signed);

        equal(usdc.balanceOf(PAYEE), 15, "received");
        ensure(usdc.authorizationState(payer, NONCE), "used");
    }

    function test_f3_only_the_payee_receives_in_both_signature_forms() external {
        bytes32 digest = _receiveDigest(PAYEE, 10, 0, later, NONCE);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(KEY, digest);
        bytes memory reason =
            abi.encodeWithSelector(Token3009.CallerNotPayee.selector, address(this));
        vm.expectRevert(reason);
        usdc.receiveWithAuthorization(payer, PAYEE, 10, 0, later, NONCE, v, r, s);
        vm.expectRevert(reason);
        usdc.receiveWithAuthorization(payer, PAYEE, 10, 0, later, NONCE, _sign(KEY, digest));
        vm.prank(PAYEE);
        usdc.receiveWithAuthorization(payer, PAYEE, 10, 0, later, NONCE, v, r, s);
        bytes32 second = keccak256("second");
        bytes memory signed = _sign(KEY, _receiveDigest(PAYEE, 5, 0, later, second));
        vm.prank(PAYEE);
        usdc.receiveWithAuthorization(payer, PAYEE, 5, 0, later, second, signed);

        equal(usdc.balanceOf(PAYEE), 15, "received");
    }

    function test_p3_a_transfer_is_not_a_receive() external {
        bytes memory signed = _sign(KEY, _transferDigest(PAYEE, 10, 0, later, NONCE));
        vm.expectRevert(abi.encodeWithSelector(Token3009.SignatureNotBy.selector, payer));
        vm.prank(PAYEE);
        usdc.receiveWithAuthorization(payer, PAYEE, 10, 0, later, NONCE, signed);
    }

    function test_t12_authorization_is_valid_strictly_between_its_times() external {
        bytes memory signed = _sign(KEY, _transferDigest(PAYEE, 10, now_, later, NONCE));
        vm.expectRevert(abi.encodeWithSelector(Token3009.AuthorizationNotYetValid.selector, now_));
        usdc.transferWithAuthorization(payer, PAYEE, 10, now_, later, NONCE, signed);
        vm.warp(later);
        vm.expectRevert(abi.encodeWithSelector(Token3009.AuthorizationExpired.selector, later));
        usdc.transferWithAuthorization(payer, PAYEE, 10, now_, later, NONCE, signed);
        vm.warp(later - 1);
        usdc.transferWithAuthorization(payer, PAYEE, 10, now_, later, NONCE, signed);
    }

    function test_t12_nonce_is_used_or_canceled_once() external {
        bytes memory reason =
            abi.encodeWithSelector(Token3009.AuthorizationUsedOrCanceled.selector, payer, NONCE);
        bytes memory signed = _sign(KEY, _transferDigest(PAYEE, 10, 0, later, NONCE));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(KEY, _cancelDigest(NONCE));
        vm.expectEmit(address(usdc));
        emit IERC3009.AuthorizationCanceled(payer, NONCE);
        usdc.cancelAuthorization(payer, NONCE, v, r, s);
        vm.expectRevert(reason);
        usdc.transferWithAuthorization(payer, PAYEE, 10, 0, later, NONCE, signed);
        vm.expectRevert(reason);
        usdc.cancelAuthorization(payer, NONCE, v, r, s);
    }

    function test_t12_only_the_owner_cancels() external {
        bytes memory signed = _sign(STRANGER_KEY, _cancelDigest(NONCE));
        vm.expectRevert(abi.encodeWithSelector(Token3009.SignatureNotBy.selector, payer));
        usdc.cancelAuthorization(payer, NONCE, signed);
        usdc.cancelAuthorization(payer, NONCE, _sign(KEY, _cancelDigest(NONCE)));
        ensure(usdc.authorizationState(payer, NONCE), "canceled");
    }

    function test_k3_signatures_with_another_s_or_v_are_refused() external {
        bytes32 digest = _transferDigest(PAYEE, 10, 0, later, NONCE);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(KEY, digest);
        uint256 order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        bytes memory reason = abi.encodeWithSelector(Token3009.SignatureNotBy.selector, payer);
        vm.expectRevert(reason);
        usdc.transferWithAuthorization(
            payer, PAYEE, 10, 0, later, NONCE, v == 27 ? 28 : 27, r, bytes32(order - uint256(s))
        );
        vm.expectRevert(reason);
        usdc.transferWithAuthorization(payer, PAYEE, 10, 0, later, NONCE, v - 27, r, s);
        usdc.transferWithAuthorization(payer, PAYEE, 10, 0, later, NONCE, v, r, s);
    }

    function testFuzz_transfer_moves_what_was_signed_only(
        address to,
        uint256 value,
        uint256 otherValue,
        bytes32 nonce
    ) external {
        vm.assume(to != address(0) && to != payer);
        value = within(value, 0, 1000);
        bytes memory signed = _sign(KEY, _transferDigest(to, value, 0, later, nonce));
        if (otherValue != value) {
            vm.expectRevert(abi.encodeWithSelector(Token3009.SignatureNotBy.selector, payer));
            usdc.transferWithAuthorization(payer, to, otherValue, 0, later, nonce, signed);
        }
        usdc.transferWithAuthorization(payer, to, value, 0, later, nonce, signed);
        equal(usdc.balanceOf(to), value, "received");
        equal(usdc.balanceOf(payer), 1000 - value, "left");
    }

    function test_permit_in_both_signature_forms_and_once() external {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(KEY, _permitDigest(payer, 7, 0));
        usdc.permit(payer, PAYEE, 7, later, v, r, s);
        equal(usdc.allowance(payer, PAYEE), 7, "allowance");
        vm.expectRevert(abi.encodeWithSelector(Token3009.SignatureNotBy.selector, payer));
        usdc.permit(payer, PAYEE, 7, later, v, r, s);
        usdc.permit(payer, PAYEE, 9, later, _sign(KEY, _permitDigest(payer, 9, 1)));
        equal(usdc.allowance(payer, PAYEE), 9, "allowance");
        equal(usdc.nonces(payer), 2, "nonce");
        vm.prank(PAYEE);
        usdc.transferFrom(payer, PAYEE, 9);
        equal(usdc.balanceOf(PAYEE), 9, "received");
    }

    function test_permit_expires() external {
        bytes memory signed = _sign(KEY, _permitDigest(payer, 7, 0));
        vm.warp(later + 1);
        vm.expectRevert(abi.encodeWithSelector(TestUSDC.PermitExpired.selector, later));
        usdc.permit(payer, PAYEE, 7, later, signed);
        vm.warp(later);
        usdc.permit(payer, PAYEE, 7, later, signed);
    }

    function test_t9_contract_wallet_pays_and_permits() external {
        Wallet1271 wallet = new Wallet1271(payer);
        usdc.mint(address(wallet), 100);
        bytes32 structHash = keccak256(
            abi.encode(
                usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(),
                address(wallet),
                PAYEE,
                uint256(10),
                uint256(0),
                later,
                NONCE
            )
        );
        bytes memory signed = _sign(KEY, _digest(structHash));
        vm.prank(payer);
        wallet.refuse(true);
        vm.expectRevert(abi.encodeWithSelector(Token3009.SignatureNotBy.selector, address(wallet)));
        usdc.transferWithAuthorization(address(wallet), PAYEE, 10, 0, later, NONCE, signed);
        vm.prank(payer);
        wallet.refuse(false);
        usdc.transferWithAuthorization(address(wallet), PAYEE, 10, 0, later, NONCE, signed);
        signed = _sign(KEY, _permitDigest(address(wallet), 3, 0));
        usdc.permit(address(wallet), PAYEE, 3, later, signed);

        equal(usdc.balanceOf(PAYEE), 10, "received");
        equal(usdc.allowance(address(wallet), PAYEE), 3, "allowance");
    }

    function test_wallet_acts_for_its_owner_only() external {
        Wallet1271 wallet = new Wallet1271(payer);
        usdc.mint(address(wallet), 100);
        bytes memory call = abi.encodeCall(usdc.transfer, (PAYEE, 5));
        bytes memory reason = abi.encodeWithSelector(Wallet1271.NotOwner.selector, address(this));
        vm.expectRevert(reason);
        wallet.execute(address(usdc), call);
        vm.expectRevert(reason);
        wallet.setOwner(address(this));
        vm.expectRevert(reason);
        wallet.refuse(true);
        vm.prank(payer);
        wallet.execute(address(usdc), call);
        equal(usdc.balanceOf(PAYEE), 5, "received");
    }

    function test_t2_blacklist_stops_both_ends_and_approvals() external {
        usdc.blacklist(payer);
        bytes memory reason = abi.encodeWithSelector(TestUSDC.AccountBlacklisted.selector, payer);
        bytes memory signed = _sign(KEY, _transferDigest(PAYEE, 10, 0, later, NONCE));
        vm.expectRevert(reason);
        usdc.transferWithAuthorization(payer, PAYEE, 10, 0, later, NONCE, signed);
        vm.expectRevert(reason);
        usdc.mint(payer, 1);
        vm.expectRevert(reason);
        vm.prank(payer);
        usdc.approve(PAYEE, 1);
        vm.expectRevert(reason);
        vm.prank(payer);
        usdc.transferFrom(PAYEE, address(this), 0);
        usdc.unBlacklist(payer);
        usdc.transferWithAuthorization(payer, PAYEE, 10, 0, later, NONCE, signed);
    }

    function test_t3_pause_stops_every_movement() external {
        bytes memory signed = _sign(KEY, _transferDigest(PAYEE, 10, 0, later, NONCE));
        bytes memory canceled = _sign(KEY, _cancelDigest(NONCE));
        usdc.pause();
        vm.expectRevert(TestUSDC.Paused.selector);
        usdc.transferWithAuthorization(payer, PAYEE, 10, 0, later, NONCE, signed);
        vm.expectRevert(TestUSDC.Paused.selector);
        usdc.cancelAuthorization(payer, NONCE, canceled);
        vm.expectRevert(TestUSDC.Paused.selector);
        vm.prank(payer);
        usdc.transfer(PAYEE, 1);
        vm.expectRevert(TestUSDC.Paused.selector);
        usdc.approve(PAYEE, 1);
        usdc.unpause();
        usdc.transferWithAuthorization(payer, PAYEE, 10, 0, later, NONCE, signed);
    }

    function _transferDigest(address to, uint256 value, uint256 after_, uint256 before, bytes32 n)
        private
        view
        returns (bytes32)
    {
        bytes32 kind = usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH();
        return _digest(keccak256(abi.encode(kind, payer, to, value, after_, before, n)));
    }

    function _receiveDigest(address to, uint256 value, uint256 after_, uint256 before, bytes32 n)
        private
        view
        returns (bytes32)
    {
        bytes32 kind = usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH();
        return _digest(keccak256(abi.encode(kind, payer, to, value, after_, before, n)));
    }

    function _cancelDigest(bytes32 nonce) private view returns (bytes32) {
        bytes32 kind = usdc.CANCEL_AUTHORIZATION_TYPEHASH();
        return _digest(keccak256(abi.encode(kind, payer, nonce)));
    }

    function _permitDigest(address owner, uint256 value, uint256 nonce)
        private
        view
        returns (bytes32)
    {
        bytes32 kind = usdc.PERMIT_TYPEHASH();
        return _digest(keccak256(abi.encode(kind, owner, PAYEE, value, nonce, later)));
    }

    function _digest(bytes32 structHash) private view returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", usdc.DOMAIN_SEPARATOR(), structHash));
    }

    function _sign(uint256 key, bytes32 digest) private pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }
}
