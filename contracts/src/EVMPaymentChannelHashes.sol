// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC5267} from "@openzeppelin/contracts/interfaces/IERC5267.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {IEVMPaymentChannel} from "./interfaces/IEVMPaymentChannel.sol";

/// @title What is hashed and signed in MPP's `session` intent on EVM chains
/// @dev Ids and domain are computed where the code runs and nothing of them is kept from the
/// constructor, so the code also works where it was placed without running one.
abstract contract EVMPaymentChannelHashes is IEVMPaymentChannel, IERC5267 {
    string private constant NAME = "EVM Payment Channel";
    string private constant VERSION = "1";
    // Of literals, not of the constants above: only those are folded by the compiler.
    bytes32 private constant NAME_HASH = keccak256("EVM Payment Channel");
    bytes32 private constant VERSION_HASH = keccak256("1");
    bytes32 private constant DOMAIN_TYPEHASH = keccak256(
        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    );

    /// @notice The type of what the payer's side signs.
    bytes32 public constant VOUCHER_TYPEHASH =
        keccak256("Voucher(bytes32 channelId,uint128 cumulativeAmount)");

    /// @notice The type of a settlement that the payee signed.
    bytes32 public constant SETTLE_AUTHORIZATION_TYPEHASH = keccak256(
        "SettleAuthorization(bytes32 channelId,uint128 cumulativeAmount,uint256 nonce,uint256 deadline)"
    );

    /// @notice The type of a close that the payee signed.
    bytes32 public constant CLOSE_AUTHORIZATION_TYPEHASH = keccak256(
        "CloseAuthorization(bytes32 channelId,uint128 cumulativeAmount,uint256 nonce,uint256 deadline)"
    );

    /// @notice The type of what is signed along with a Permit2 transfer that opens a channel.
    bytes32 public constant CHANNEL_OPEN_WITNESS_TYPEHASH =
        keccak256("ChannelOpenWitness(address payee,bytes32 salt,address authorizedSigner)");

    /// @notice The type of what is signed along with a Permit2 transfer into a channel.
    bytes32 public constant CHANNEL_TOP_UP_WITNESS_TYPEHASH =
        keccak256("ChannelTopUpWitness(bytes32 channelId)");

    string internal constant OPEN_WITNESS_TYPE =
        "ChannelOpenWitness witness)ChannelOpenWitness(address payee,bytes32 salt,address authorizedSigner)TokenPermissions(address token,uint256 amount)";
    string internal constant TOP_UP_WITNESS_TYPE =
        "ChannelTopUpWitness witness)ChannelTopUpWitness(bytes32 channelId)TokenPermissions(address token,uint256 amount)";

    /// @inheritdoc IEVMPaymentChannel
    function computeChannelId(
        address payer,
        address payee,
        address token,
        bytes32 salt,
        address authorizedSigner
    ) public view returns (bytes32) {
        return keccak256(
            abi.encode(payer, payee, token, salt, authorizedSigner, address(this), block.chainid)
        );
    }

    /// @inheritdoc IEVMPaymentChannel
    function getVoucherDigest(bytes32 channelId, uint128 cumulativeAmount)
        public
        view
        returns (bytes32)
    {
        return _typedDigest(keccak256(abi.encode(VOUCHER_TYPEHASH, channelId, cumulativeAmount)));
    }

    /// @inheritdoc IEVMPaymentChannel
    function getSettleAuthorizationDigest(
        bytes32 channelId,
        uint128 cumulativeAmount,
        uint256 nonce,
        uint256 deadline
    ) public view returns (bytes32) {
        bytes32 typeHash = SETTLE_AUTHORIZATION_TYPEHASH;
        return
            _typedDigest(
                keccak256(abi.encode(typeHash, channelId, cumulativeAmount, nonce, deadline))
            );
    }

    /// @inheritdoc IEVMPaymentChannel
    function getCloseAuthorizationDigest(
        bytes32 channelId,
        uint128 cumulativeAmount,
        uint256 nonce,
        uint256 deadline
    ) public view returns (bytes32) {
        bytes32 typeHash = CLOSE_AUTHORIZATION_TYPEHASH;
        return
            _typedDigest(
                keccak256(abi.encode(typeHash, channelId, cumulativeAmount, nonce, deadline))
            );
    }

    /// @inheritdoc IEVMPaymentChannel
    function domainSeparator() public view returns (bytes32) {
        return keccak256(
            abi.encode(DOMAIN_TYPEHASH, NAME_HASH, VERSION_HASH, block.chainid, address(this))
        );
    }

    /// @inheritdoc IERC5267
    function eip712Domain()
        external
        view
        returns (
            bytes1 fields,
            string memory name,
            string memory version,
            uint256 chainId,
            address verifyingContract,
            bytes32 salt,
            uint256[] memory extensions
        )
    {
        // 0x0f: name, version, chainId and verifyingContract are present.
        return (hex"0f", NAME, VERSION, block.chainid, address(this), bytes32(0), new uint256[](0));
    }

    /// @dev The EIP-3009 nonce of an opening: nobody can open another channel with it.
    function _openNonce(
        address from,
        address payee,
        address token,
        bytes32 salt,
        address authorizedSigner
    ) internal pure returns (bytes32) {
        return keccak256(abi.encode(from, payee, token, salt, authorizedSigner));
    }

    /// @dev The EIP-3009 nonce of a top-up: nobody can top up another channel with it.
    function _topUpNonce(
        bytes32 channelId,
        uint128 additionalDeposit,
        address from,
        bytes32 topUpSalt
    ) internal pure returns (bytes32) {
        return keccak256(abi.encode(channelId, additionalDeposit, from, topUpSalt));
    }

    function _typedDigest(bytes32 structHash) private view returns (bytes32) {
        return MessageHashUtils.toTypedDataHash(domainSeparator(), structHash);
    }
}
