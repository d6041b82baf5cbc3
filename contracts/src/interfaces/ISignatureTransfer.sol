// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Permit2: transfers of any ERC-20 token by signature
/// @notice The half of Permit2 that x402 uses. A holder approves Permit2 once; from then on
/// signatures move the tokens, each of them once, sent by the spender that it names.
interface ISignatureTransfer {
    /// @notice A token, and the most that may be moved of it.
    struct TokenPermissions {
        address token;
        uint256 amount;
    }

    /// @notice What is signed of one token, besides the spender and a witness.
    /// @dev Nonces have no order: bit `nonce % 256` of word `nonce / 256` is used up.
    struct PermitTransferFrom {
        TokenPermissions permitted;
        uint256 nonce;
        uint256 deadline;
    }

    /// @notice What is signed of several tokens.
    struct PermitBatchTransferFrom {
        TokenPermissions[] permitted;
        uint256 nonce;
        uint256 deadline;
    }

    /// @notice Where the spender wants the tokens, and how many.
    struct SignatureTransferDetails {
        address to;
        uint256 requestedAmount;
    }

    /// @notice The owner made nonces of a word unusable.
    event UnorderedNonceInvalidation(address indexed owner, uint256 word, uint256 mask);

    /// @notice More is requested than was signed for.
    error InvalidAmount(uint256 maxAmount);
    /// @notice As many transfers as tokens must be requested; an amount may be zero.
    error LengthMismatch();
    /// @notice The signature was valid until this time only.
    error SignatureExpired(uint256 signatureDeadline);
    /// @notice The nonce was used or invalidated.
    error InvalidNonce();
    /// @notice The signature of an account without code is 65 bytes, or 64 (EIP-2098).
    error InvalidSignatureLength();
    /// @notice No key matches the signature.
    error InvalidSignature();
    /// @notice The signature is somebody else's.
    error InvalidSigner();
    /// @notice The owner is a contract and does not accept the signature (ERC-1271).
    error InvalidContractSignature();

    /// @notice The used nonces of an owner, 256 a word.
    function nonceBitmap(address owner, uint256 word) external view returns (uint256);

    /// @notice The EIP-712 domain separator.
    function DOMAIN_SEPARATOR() external view returns (bytes32);

    /// @notice Moves a token as `owner` signed; the caller is the spender.
    function permitTransferFrom(
        PermitTransferFrom calldata permit,
        SignatureTransferDetails calldata transferDetails,
        address owner,
        bytes calldata signature
    ) external;

    /// @notice Moves several tokens as `owner` signed; the caller is the spender.
    function permitTransferFrom(
        PermitBatchTransferFrom calldata permit,
        SignatureTransferDetails[] calldata transferDetails,
        address owner,
        bytes calldata signature
    ) external;

    /// @notice The same, with something more that was signed.
    /// @param witness The hash of what more was signed.
    /// @param witnessTypeString The rest of the EIP-712 type, from the witness's field on:
    /// `Witness witness)TokenPermissions(address token,uint256 amount)Witness(...)`.
    function permitWitnessTransferFrom(
        PermitTransferFrom calldata permit,
        SignatureTransferDetails calldata transferDetails,
        address owner,
        bytes32 witness,
        string calldata witnessTypeString,
        bytes calldata signature
    ) external;

    /// @notice The same of several tokens.
    function permitWitnessTransferFrom(
        PermitBatchTransferFrom calldata permit,
        SignatureTransferDetails[] calldata transferDetails,
        address owner,
        bytes32 witness,
        string calldata witnessTypeString,
        bytes calldata signature
    ) external;

    /// @notice Makes the caller's nonces of a word unusable that are set in `mask`.
    function invalidateUnorderedNonces(uint256 wordPos, uint256 mask) external;
}
