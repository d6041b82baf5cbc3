// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ISignatureTransfer} from "../src/interfaces/ISignatureTransfer.sol";
import {PermitAttempt} from "../src/PermitAttempt.sol";
import {Permit2} from "../src/Permit2.sol";
import {x402ExactPermit2Proxy} from "../src/x402ExactPermit2Proxy.sol";
import {x402UptoPermit2Proxy} from "../src/x402UptoPermit2Proxy.sol";
import {PermitToken} from "../src/tokens/PermitToken.sol";
import {Fixture} from "./Fixture.sol";

/// @title Permit2 and its spenders at their canonical addresses, and what payers sign for them
/// @dev The type strings are written out here once more, as the specification has them.
abstract contract Permit2Fixture is Fixture {
    Permit2 internal constant permit2 = Permit2(0x000000000022D473030F116dDEE9F6B43aC78BA3);
    x402ExactPermit2Proxy internal constant exactProxy =
        x402ExactPermit2Proxy(0x402085c248EeA27D92E8b30b2C58ed07f9E20001);
    x402UptoPermit2Proxy internal constant uptoProxy =
        x402UptoPermit2Proxy(0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002);
    address internal constant permit2Collector = 0x4020425FAf3B746C082C2f942b4E5159887B0005;

    bytes32 private constant PERMITTED =
        keccak256("TokenPermissions(address token,uint256 amount)");

    PermitToken internal coin;
    address internal facilitator = address(uint160(uint256(keccak256("facilitator"))));

    function setUp() public virtual override {
        super.setUp();
        vm.etch(address(permit2), vm.getDeployedCode(artifact("Permit2")));
        bytes memory argument = abi.encode(address(permit2));
        vm.etch(address(exactProxy), deploy("x402ExactPermit2Proxy", argument).code);
        vm.etch(address(uptoProxy), deploy("x402UptoPermit2Proxy", argument).code);
        argument = abi.encode(address(settlement), address(permit2));
        vm.etch(permit2Collector, deploy("Permit2DepositCollector", argument).code);
        coin = PermitToken(deploy("PermitToken"));
        coin.mint(payer, 1000);
        _approve(1000);
    }

    function _approve(uint256 amount) internal {
        vm.prank(payer);
        coin.approve(address(permit2), amount);
    }

    function permitOf(address token_, uint256 amount, uint256 nonce)
        internal
        view
        returns (ISignatureTransfer.PermitTransferFrom memory)
    {
        return ISignatureTransfer.PermitTransferFrom({
            permitted: ISignatureTransfer.TokenPermissions({token: token_, amount: amount}),
            nonce: nonce,
            deadline: vm.getBlockTimestamp() + 300
        });
    }

    function detailsOf(address to, uint256 amount)
        internal
        pure
        returns (ISignatureTransfer.SignatureTransferDetails memory)
    {
        return ISignatureTransfer.SignatureTransferDetails({to: to, requestedAmount: amount});
    }

    function exactWitness() internal view returns (x402ExactPermit2Proxy.Witness memory) {
        return x402ExactPermit2Proxy.Witness({to: receiver, validAfter: 0});
    }

    function uptoWitness() internal view returns (x402UptoPermit2Proxy.Witness memory) {
        return x402UptoPermit2Proxy.Witness({to: receiver, facilitator: facilitator, validAfter: 0});
    }

    function signExact(
        ISignatureTransfer.PermitTransferFrom memory permit,
        x402ExactPermit2Proxy.Witness memory witness,
        uint256 key
    ) internal view returns (bytes memory) {
        return signature(key, exactDigest(permit, witness));
    }

    function exactDigest(
        ISignatureTransfer.PermitTransferFrom memory permit,
        x402ExactPermit2Proxy.Witness memory witness
    ) internal view returns (bytes32) {
        bytes32 kind = keccak256(
            "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,Witness witness)TokenPermissions(address token,uint256 amount)Witness(address to,uint256 validAfter)"
        );
        bytes32 hash = keccak256(
            abi.encode(
                keccak256("Witness(address to,uint256 validAfter)"), witness.to, witness.validAfter
            )
        );
        return _digest(kind, permit, address(exactProxy), hash);
    }

    function signUpto(
        ISignatureTransfer.PermitTransferFrom memory permit,
        x402UptoPermit2Proxy.Witness memory witness
    ) internal view returns (bytes memory) {
        bytes32 kind = keccak256(
            "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,Witness witness)TokenPermissions(address token,uint256 amount)Witness(address to,address facilitator,uint256 validAfter)"
        );
        bytes32 hash = keccak256(
            abi.encode(
                keccak256("Witness(address to,address facilitator,uint256 validAfter)"),
                witness.to,
                witness.facilitator,
                witness.validAfter
            )
        );
        return signature(PAYER_KEY, _digest(kind, permit, address(uptoProxy), hash));
    }

    function signDeposit(ISignatureTransfer.PermitTransferFrom memory permit, bytes32 channelId)
        internal
        view
        returns (bytes memory)
    {
        bytes32 kind = keccak256(
            "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,DepositWitness witness)DepositWitness(bytes32 channelId)TokenPermissions(address token,uint256 amount)"
        );
        bytes32 hash =
            keccak256(abi.encode(keccak256("DepositWitness(bytes32 channelId)"), channelId));
        return signature(PAYER_KEY, _digest(kind, permit, permit2Collector, hash));
    }

    /// @dev The digest of a transfer without a witness, for a spender of one's own.
    function plainDigest(ISignatureTransfer.PermitTransferFrom memory permit, address spender)
        internal
        view
        returns (bytes32)
    {
        bytes32 kind = keccak256(
            "PermitTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline)TokenPermissions(address token,uint256 amount)"
        );
        bytes32 structHash = keccak256(
            abi.encode(kind, hashOf(permit.permitted), spender, permit.nonce, permit.deadline)
        );
        return typed(structHash);
    }

    function hashOf(ISignatureTransfer.TokenPermissions memory permitted)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(PERMITTED, permitted.token, permitted.amount));
    }

    function typed(bytes32 structHash) internal view returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", permit2.DOMAIN_SEPARATOR(), structHash));
    }

    /// @dev A permit for Permit2 that `key` signed, of all that is to be transferred.
    function permit2612(PermitToken token_, uint256 value, uint256 key)
        internal
        view
        returns (PermitAttempt.EIP2612Permit memory permit)
    {
        address owner = vm.addr(PAYER_KEY);
        permit.value = value;
        permit.deadline = vm.getBlockTimestamp() + 300;
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256(
                    "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
                ),
                owner,
                address(permit2),
                value,
                token_.nonces(owner),
                permit.deadline
            )
        );
        bytes32 digest =
            keccak256(abi.encodePacked(hex"1901", token_.DOMAIN_SEPARATOR(), structHash));
        (permit.v, permit.r, permit.s) = vm.sign(key, digest);
    }

    function _digest(
        bytes32 kind,
        ISignatureTransfer.PermitTransferFrom memory permit,
        address spender,
        bytes32 witness
    ) private view returns (bytes32) {
        return typed(
            keccak256(
                abi.encode(
                    kind, hashOf(permit.permitted), spender, permit.nonce, permit.deadline, witness
                )
            )
        );
    }
}
