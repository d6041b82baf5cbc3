// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EVMPaymentChannel} from "../src/EVMPaymentChannel.sol";
import {IEVMPaymentChannel} from "../src/interfaces/IEVMPaymentChannel.sol";
import {Permit2} from "../src/Permit2.sol";
import {Plain3009} from "../src/tokens/Plain3009.sol";
import {Token3009} from "../src/tokens/Token3009.sol";
import {Parties} from "./Parties.sol";

/// @title The escrow of MPP sessions, its parties, and what they sign
/// @dev Placed by code alone, as on a local chain. Salts are numbers here.
abstract contract SessionFixture is Parties {
    EVMPaymentChannel internal constant escrow =
        EVMPaymentChannel(address(uint160(uint256(keccak256("session escrow")))));
    Permit2 internal constant permit2 = Permit2(0x000000000022D473030F116dDEE9F6B43aC78BA3);
    bytes32 private constant OPEN_PERMIT = keccak256(
        "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,ChannelOpenWitness witness)ChannelOpenWitness(address payee,bytes32 salt,address authorizedSigner)TokenPermissions(address token,uint256 amount)"
    );
    bytes32 private constant TOP_UP_PERMIT = keccak256(
        "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,ChannelTopUpWitness witness)ChannelTopUpWitness(bytes32 channelId)TokenPermissions(address token,uint256 amount)"
    );

    uint256 internal constant PAYEE_KEY = uint256(keccak256("payee"));
    address internal payee = vm.addr(PAYEE_KEY);
    uint256 internal constant DEADLINE = 1_900_000_000;

    function setUp() public virtual {
        vm.etch(address(escrow), vm.getDeployedCode(artifact("EVMPaymentChannel")));
        vm.etch(address(permit2), vm.getDeployedCode(artifact("Permit2")));
        token = Plain3009(deploy("Plain3009"));
    }

    function idOf(address token_, uint256 number) internal view returns (bytes32) {
        return escrow.computeChannelId(payer, payee, token_, bytes32(number), voucherSigner);
    }

    /// @dev Opens a channel of `payer` with tokens minted for it.
    function opened(address token_, uint256 number, uint128 deposit) internal returns (bytes32) {
        give(token_, payer, deposit);
        vm.prank(payer);
        return escrow.open(payee, token_, deposit, bytes32(number), voucherSigner);
    }

    function opened(uint128 deposit) internal returns (bytes32) {
        return opened(address(token), 1, deposit);
    }

    /// @dev Mints tokens and approves them to the escrow.
    function give(address token_, address who, uint256 amount) internal {
        Plain3009(token_).mint(who, amount);
        vm.prank(who);
        Plain3009(token_).approve(address(escrow), amount);
    }

    /// @dev Mints tokens and approves them to Permit2.
    function giveByPermit2(address token_, address who, uint256 amount) internal {
        Plain3009(token_).mint(who, amount);
        vm.prank(who);
        Plain3009(token_).approve(address(permit2), amount);
    }

    function voucher(bytes32 id, uint128 amount) internal view returns (bytes memory) {
        return signature(VOUCHER_KEY, escrow.getVoucherDigest(id, amount));
    }

    function settleOrder(bytes32 id, uint128 amount, uint256 nonce)
        internal
        view
        returns (bytes memory)
    {
        bytes32 digest = escrow.getSettleAuthorizationDigest(id, amount, nonce, DEADLINE);
        return signature(PAYEE_KEY, digest);
    }

    function closeOrder(bytes32 id, uint128 amount, uint256 nonce)
        internal
        view
        returns (bytes memory)
    {
        bytes32 digest = escrow.getCloseAuthorizationDigest(id, amount, nonce, DEADLINE);
        return signature(PAYEE_KEY, digest);
    }

    /// @dev An EIP-3009 authorization of tokens to the escrow.
    function authorized(address token_, uint256 key, uint256 amount, bytes32 nonce)
        internal
        view
        returns (bytes memory)
    {
        bytes32 digest = receiveDigest(
            Token3009(token_), vm.addr(key), address(escrow), amount, 0, DEADLINE, nonce
        );
        return signature(key, digest);
    }

    function openNonce(address token_, uint256 number) internal view returns (bytes32) {
        return keccak256(abi.encode(payer, payee, token_, bytes32(number), voucherSigner));
    }

    function topUpNonce(bytes32 id, uint128 amount, address from, uint256 salt)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(id, amount, from, bytes32(salt)));
    }

    function openByAuthorization(address token_, uint256 number, uint128 amount)
        internal
        returns (bytes32)
    {
        bytes32 nonce = openNonce(token_, number);
        bytes memory signed = authorized(token_, PAYER_KEY, amount, nonce);
        return escrow.openWithAuthorization(
            payee, token_, amount, bytes32(number), voucherSigner, payer, 0, DEADLINE, nonce, signed
        );
    }

    function topUpByAuthorization(bytes32 id, uint128 amount, uint256 key, uint256 salt) internal {
        address from = vm.addr(key);
        bytes32 nonce = topUpNonce(id, amount, from, salt);
        address token_ = escrow.getChannel(id).token;
        bytes memory signed = authorized(token_, key, amount, nonce);
        escrow.topUpWithAuthorization(id, amount, from, bytes32(salt), 0, DEADLINE, nonce, signed);
    }

    function openPermit(address token_, uint256 number, uint128 amount, uint256 nonce)
        internal
        view
        returns (bytes memory)
    {
        bytes32 witness = keccak256(
            abi.encode(
                keccak256(
                    "ChannelOpenWitness(address payee,bytes32 salt,address authorizedSigner)"
                ),
                payee,
                bytes32(number),
                voucherSigner
            )
        );
        return _permitted(PAYER_KEY, OPEN_PERMIT, token_, amount, nonce, witness);
    }

    function topUpPermit(bytes32 id, uint256 key, uint128 amount, uint256 nonce)
        internal
        view
        returns (bytes memory)
    {
        bytes32 witness =
            keccak256(abi.encode(keccak256("ChannelTopUpWitness(bytes32 channelId)"), id));
        address token_ = escrow.getChannel(id).token;
        return _permitted(key, TOP_UP_PERMIT, token_, amount, nonce, witness);
    }

    function _permitted(
        uint256 key,
        bytes32 kind,
        address token_,
        uint256 amount,
        uint256 nonce,
        bytes32 witness
    ) private view returns (bytes memory) {
        bytes32 permitted = keccak256(
            abi.encode(keccak256("TokenPermissions(address token,uint256 amount)"), token_, amount)
        );
        bytes32 structHash =
            keccak256(abi.encode(kind, permitted, address(escrow), nonce, DEADLINE, witness));
        bytes32 domain = permit2.DOMAIN_SEPARATOR();
        return signature(key, keccak256(abi.encodePacked(hex"1901", domain, structHash)));
    }

    function openByPermit2(address token_, uint256 number, uint128 amount, uint256 nonce)
        internal
        returns (bytes32)
    {
        bytes memory signed = openPermit(token_, number, amount, nonce);
        return escrow.openWithPermit2(
            payee, token_, amount, bytes32(number), voucherSigner, payer, nonce, DEADLINE, signed
        );
    }

    function topUpByPermit2(bytes32 id, uint128 amount, uint256 key, uint256 nonce) internal {
        bytes memory signed = topUpPermit(id, key, amount, nonce);
        escrow.topUpWithPermit2(id, amount, vm.addr(key), nonce, DEADLINE, signed);
    }

    function settleAsPayee(bytes32 id, uint128 amount) internal {
        bytes memory signed = voucher(id, amount);
        vm.prank(payee);
        escrow.settle(id, amount, signed);
    }

    function closeAsPayee(bytes32 id, uint128 amount) internal {
        bytes memory signed = voucher(id, amount);
        vm.prank(payee);
        escrow.close(id, amount, signed);
    }

    function requestCloseAsPayer(bytes32 id) internal {
        vm.prank(payer);
        escrow.requestClose(id);
    }

    function withdrawAsPayer(bytes32 id) internal {
        vm.prank(payer);
        escrow.withdraw(id);
    }

    /// @dev Compares the parts of a record that change.
    function has(bytes32 id, uint128 deposit, uint128 settled, bool finalized) internal view {
        IEVMPaymentChannel.Channel memory channel = escrow.getChannel(id);
        equal(channel.deposit, deposit, "deposit");
        equal(channel.settled, settled, "settled");
        ensure(channel.finalized == finalized, "finalized");
    }
}
