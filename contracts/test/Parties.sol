// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IX402BatchSettlement} from "../src/interfaces/IX402BatchSettlement.sol";
import {Plain3009} from "../src/tokens/Plain3009.sol";
import {Token3009} from "../src/tokens/Token3009.sol";
import {x402BatchSettlement} from "../src/x402BatchSettlement.sol";
import {Base} from "./Base.sol";
import {Vm} from "./Vm.sol";

/// @title The parties of a channel, with their keys, and what they sign
abstract contract Parties is Base {
    x402BatchSettlement internal constant settlement =
        x402BatchSettlement(0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003);
    address internal constant collector = 0x4020806089470a89826cB9fB1f4059150b550004;

    uint256 internal constant PAYER_KEY = uint256(keccak256("payer"));
    uint256 internal constant VOUCHER_KEY = uint256(keccak256("voucher"));
    uint256 internal constant AUTHORIZER_KEY = uint256(keccak256("authorizer"));
    uint256 internal constant STRANGER_KEY = uint256(keccak256("stranger"));

    address internal payer = vm.addr(PAYER_KEY);
    address internal voucherSigner = vm.addr(VOUCHER_KEY);
    address internal authorizer = vm.addr(AUTHORIZER_KEY);
    address internal stranger = vm.addr(STRANGER_KEY);
    address internal receiver = address(uint160(uint256(keccak256("receiver"))));

    Plain3009 internal token;

    function configOf(address token_, uint256 number)
        internal
        view
        returns (IX402BatchSettlement.ChannelConfig memory)
    {
        return IX402BatchSettlement.ChannelConfig({
            payer: payer,
            payerAuthorizer: voucherSigner,
            receiver: receiver,
            receiverAuthorizer: authorizer,
            token: token_,
            withdrawDelay: 900,
            salt: keccak256(abi.encode("salt", number))
        });
    }

    function config() internal view returns (IX402BatchSettlement.ChannelConfig memory) {
        return configOf(address(token), 0);
    }

    function signature(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    /// @dev The same signature with the other `s`, which recovers to the same key.
    function highS(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        uint256 order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        return abi.encodePacked(r, bytes32(order - uint256(s)), v == 27 ? uint8(28) : uint8(27));
    }

    function receiveDigest(
        Token3009 token_,
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce
    ) internal view returns (bytes32) {
        bytes32 structHash = keccak256(
            abi.encode(
                token_.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(),
                from,
                to,
                value,
                validAfter,
                validBefore,
                nonce
            )
        );
        return keccak256(abi.encodePacked(hex"1901", token_.DOMAIN_SEPARATOR(), structHash));
    }

    /// @dev What the collector needs for a deposit that `key` signed.
    function collectorData(
        IX402BatchSettlement.ChannelConfig memory channel,
        uint128 amount,
        uint256 salt,
        uint256 key
    ) internal view returns (bytes memory) {
        bytes32 nonce = keccak256(abi.encode(settlement.getChannelId(channel), salt));
        uint256 validBefore = vm.getBlockTimestamp() + 300;
        bytes32 digest = receiveDigest(
            Token3009(channel.token), channel.payer, collector, amount, 0, validBefore, nonce
        );
        return abi.encode(uint256(0), validBefore, salt, signature(key, digest));
    }

    /// @dev Funds a channel of `payer` with tokens minted for it.
    function fund(IX402BatchSettlement.ChannelConfig memory channel, uint128 amount)
        internal
        returns (bytes32 id)
    {
        id = settlement.getChannelId(channel);
        (uint128 balance,) = settlement.channels(id);
        Plain3009(channel.token).mint(channel.payer, amount);
        uint256 salt = uint256(keccak256(abi.encode(id, balance, settlement.refundNonce(id))));
        bytes memory data = collectorData(channel, amount, salt, PAYER_KEY);
        settlement.deposit(channel, amount, collector, data);
    }

    function claimRow(
        IX402BatchSettlement.ChannelConfig memory channel,
        uint128 ceiling,
        uint128 total,
        uint256 key
    ) internal view returns (IX402BatchSettlement.VoucherClaim memory) {
        bytes32 id = settlement.getChannelId(channel);
        return IX402BatchSettlement.VoucherClaim({
            voucher: IX402BatchSettlement.Voucher({channel: channel, maxClaimableAmount: ceiling}),
            signature: signature(key, settlement.getVoucherDigest(id, ceiling)),
            totalClaimed: total
        });
    }

    /// @dev One row that claims its whole voucher, as a batch.
    function batch(IX402BatchSettlement.ChannelConfig memory channel, uint128 total)
        internal
        view
        returns (IX402BatchSettlement.VoucherClaim[] memory rows)
    {
        rows = new IX402BatchSettlement.VoucherClaim[](1);
        rows[0] = claimRow(channel, total, total, VOUCHER_KEY);
    }

    function authorization(IX402BatchSettlement.VoucherClaim[] memory rows)
        internal
        view
        returns (bytes memory)
    {
        return signature(AUTHORIZER_KEY, settlement.getClaimBatchDigest(rows));
    }

    function claimSigned(IX402BatchSettlement.VoucherClaim[] memory rows) internal {
        settlement.claimWithSignature(rows, authorization(rows));
    }

    /// @dev How many events of a kind the settlement contract emitted since `recordLogs`.
    function _count(bytes32 selector) internal returns (uint256 count) {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter == address(settlement) && logs[i].topics[0] == selector) ++count;
        }
    }
}
