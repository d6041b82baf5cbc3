// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC5267} from "@openzeppelin/contracts/interfaces/IERC5267.sol";
import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {IERC3009} from "../interfaces/IERC3009.sol";

/// @title An ERC-20 token with EIP-3009, for tests and local chains
/// @dev Name, version and decimals are code and the domain is computed at run time, so a
/// token works wherever its code was placed, with or without its constructor having run.
abstract contract Token3009 is ERC20, IERC3009, IERC5267 {
    bytes32 private constant DOMAIN_TYPEHASH = keccak256(
        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    );
    // forgefmt: disable-start
    bytes32 public constant TRANSFER_WITH_AUTHORIZATION_TYPEHASH = keccak256(
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    bytes32 public constant RECEIVE_WITH_AUTHORIZATION_TYPEHASH = keccak256(
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    // forgefmt: disable-end
    bytes32 public constant CANCEL_AUTHORIZATION_TYPEHASH =
        keccak256("CancelAuthorization(address authorizer,bytes32 nonce)");

    /// @inheritdoc IERC3009
    mapping(address authorizer => mapping(bytes32 nonce => bool))
        public
        override authorizationState;

    /// @notice The authorization is valid after this time only.
    error AuthorizationNotYetValid(uint256 validAfter);
    /// @notice The authorization was valid before this time only.
    error AuthorizationExpired(uint256 validBefore);
    /// @notice The nonce was used or canceled.
    error AuthorizationUsedOrCanceled(address authorizer, bytes32 nonce);
    /// @notice Only the payee may send this.
    error CallerNotPayee(address caller);
    /// @notice The signature is not the signer's.
    error SignatureNotBy(address signer);

    /// @dev The fields of both kinds of authorization, in the order they are hashed in.
    struct Authorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }

    constructor() ERC20("", "") {}

    /// @notice The version in the EIP-712 domain.
    function version() public view virtual returns (string memory) {
        return "1";
    }

    /// @inheritdoc IERC3009
    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) public virtual {
        Authorization memory order = Authorization(from, to, value, validAfter, validBefore, nonce);
        _execute(TRANSFER_WITH_AUTHORIZATION_TYPEHASH, order, signature);
    }

    /// @inheritdoc IERC3009
    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external {
        bytes memory signature = abi.encodePacked(r, s, v);
        transferWithAuthorization(from, to, value, validAfter, validBefore, nonce, signature);
    }

    /// @inheritdoc IERC3009
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) public virtual {
        if (msg.sender != to) revert CallerNotPayee(msg.sender);
        Authorization memory order = Authorization(from, to, value, validAfter, validBefore, nonce);
        _execute(RECEIVE_WITH_AUTHORIZATION_TYPEHASH, order, signature);
    }

    /// @inheritdoc IERC3009
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external {
        bytes memory signature = abi.encodePacked(r, s, v);
        receiveWithAuthorization(from, to, value, validAfter, validBefore, nonce, signature);
    }

    /// @inheritdoc IERC3009
    function cancelAuthorization(address authorizer, bytes32 nonce, bytes memory signature)
        public
        virtual
    {
        if (authorizationState[authorizer][nonce]) {
            revert AuthorizationUsedOrCanceled(authorizer, nonce);
        }
        bytes32 structHash = keccak256(abi.encode(CANCEL_AUTHORIZATION_TYPEHASH, authorizer, nonce));
        _requireSignature(authorizer, structHash, signature);
        authorizationState[authorizer][nonce] = true;
        emit AuthorizationCanceled(authorizer, nonce);
    }

    /// @inheritdoc IERC3009
    function cancelAuthorization(address authorizer, bytes32 nonce, uint8 v, bytes32 r, bytes32 s)
        external
    {
        cancelAuthorization(authorizer, nonce, abi.encodePacked(r, s, v));
    }

    /// @notice The EIP-712 domain separator.
    function DOMAIN_SEPARATOR() public view returns (bytes32) {
        bytes32 nameHash = keccak256(bytes(name()));
        bytes32 versionHash = keccak256(bytes(version()));
        return
            keccak256(
                abi.encode(DOMAIN_TYPEHASH, nameHash, versionHash, block.chainid, address(this))
            );
    }

    /// @inheritdoc IERC5267
    function eip712Domain()
        external
        view
        returns (
            bytes1 fields,
            string memory domainName,
            string memory domainVersion,
            uint256 chainId,
            address verifyingContract,
            bytes32 salt,
            uint256[] memory extensions
        )
    {
        return (
            hex"0f", name(), version(), block.chainid, address(this), bytes32(0), new uint256[](0)
        );
    }

    function _execute(bytes32 typeHash, Authorization memory order, bytes memory signature)
        private
    {
        if (block.timestamp <= order.validAfter) {
            revert AuthorizationNotYetValid(order.validAfter);
        }
        if (block.timestamp >= order.validBefore) revert AuthorizationExpired(order.validBefore);
        if (authorizationState[order.from][order.nonce]) {
            revert AuthorizationUsedOrCanceled(order.from, order.nonce);
        }
        _requireSignature(order.from, keccak256(abi.encode(typeHash, order)), signature);
        authorizationState[order.from][order.nonce] = true;
        emit AuthorizationUsed(order.from, order.nonce);
        _transfer(order.from, order.to, order.value);
    }

    function _requireSignature(address signer, bytes32 structHash, bytes memory signature)
        internal
        view
    {
        bytes32 digest = MessageHashUtils.toTypedDataHash(DOMAIN_SEPARATOR(), structHash);
        if (!SignatureChecker.isValidSignatureNow(signer, digest, signature)) {
            revert SignatureNotBy(signer);
        }
    }
}
