// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Payment channels of MPP's `session` intent on EVM chains (`draft-evm-session-00`)
/// @notice A payer puts tokens into a channel and signs vouchers off chain, each for a
/// cumulative amount. The payee settles the highest when it likes and closes with the last one,
/// which returns the rest; a payer whose payee is silent leaves by itself after a grace period.
/// @dev Functions and errors are the draft's: its core and its whole relayed profile. Views and
/// events, which the draft leaves open, are those of the Tempo channel that it is modelled on.
/// A channel's record is kept for ever: an id is used once, so old vouchers never count again.
/// Tokens that take a fee on transfer are refused; tokens that change balances by themselves
/// are not safe here.
interface IEVMPaymentChannel {
    /// @param payer Whose tokens these are; what is not settled goes back to it.
    /// @param payee Who settles and closes, and where settled tokens go.
    /// @param token The ERC-20 token.
    /// @param authorizedSigner Who signs vouchers, or zero: the payer itself. A key, or a
    /// contract that accepts signatures (ERC-1271).
    /// @param deposit Everything that was ever put in.
    /// @param settled How much of it was paid to the payee. Never decreases.
    /// @param closeRequestedAt When the payer asked to leave (block time), or zero.
    /// @param finalized Whether the channel is closed, which it then stays.
    struct Channel {
        address payer;
        address payee;
        address token;
        address authorizedSigner;
        uint128 deposit;
        uint128 settled;
        uint64 closeRequestedAt;
        bool finalized;
    }

    /// @notice A channel was opened.
    event ChannelOpened(
        bytes32 indexed channelId,
        address indexed payer,
        address indexed payee,
        address token,
        address authorizedSigner,
        bytes32 salt,
        uint256 deposit
    );

    /// @notice `deltaPaid` was paid to the payee, `newSettled` in all.
    event Settled(
        bytes32 indexed channelId,
        address indexed payer,
        address indexed payee,
        uint256 cumulativeAmount,
        uint256 deltaPaid,
        uint256 newSettled
    );

    /// @notice Tokens were added to a channel.
    event TopUp(
        bytes32 indexed channelId,
        address indexed payer,
        address indexed payee,
        uint256 additionalDeposit,
        uint256 newDeposit
    );

    /// @notice The payer asked to leave; it can withdraw from `closeGraceEnd` on.
    event CloseRequested(
        bytes32 indexed channelId,
        address indexed payer,
        address indexed payee,
        uint256 closeGraceEnd
    );

    /// @notice The payer's request to leave is void, since it added tokens.
    event CloseRequestCancelled(
        bytes32 indexed channelId, address indexed payer, address indexed payee
    );

    /// @notice The channel is closed: this went to the payee in all, and this back to the payer.
    event ChannelClosed(
        bytes32 indexed channelId,
        address indexed payer,
        address indexed payee,
        uint256 settledToPayee,
        uint256 refundedToPayer
    );

    /// @notice There is a channel of this id, perhaps a closed one: take another salt.
    error ChannelAlreadyExists();
    /// @notice There is no channel of this id.
    error ChannelNotFound();
    /// @notice The channel is closed.
    error ChannelFinalized();
    /// @notice Only the channel's payee may do this.
    error NotPayee();
    /// @notice Only the channel's payer may do this.
    error NotPayer();
    /// @notice Nobody could ever settle a channel of this payee.
    error InvalidPayee();
    /// @notice There is no contract at the token's address.
    error InvalidToken();
    /// @notice No more than this was settled already.
    error AmountNotIncreasing();
    /// @notice More than is in the channel.
    error AmountExceedsDeposit();
    /// @notice The signature is not the voucher signer's, or not the payee's.
    error InvalidSignature();
    /// @notice The EIP-3009 nonce is not the one that is derived from the other arguments.
    error NonceMismatch();
    /// @notice The payee's authorization was used already, to settle or to close.
    error NonceAlreadyUsed();
    /// @notice The payee's authorization was valid until its deadline only.
    error AuthorizationExpired();
    /// @notice No close was requested, or its grace period is not over.
    error CloseNotReady();
    /// @notice A deposit of nothing.
    error ZeroDeposit();
    /// @notice More than a channel can hold.
    error DepositOverflow();
    /// @notice Another amount arrived than was to be deposited.
    error DepositCollectionFailed();

    /// @notice Opens a channel of the caller with tokens that it approved to this contract.
    /// @param payee Who will settle and close.
    /// @param token The ERC-20 token.
    /// @param deposit How much of it.
    /// @param salt Tells channels of otherwise equal terms apart.
    /// @param authorizedSigner Who signs vouchers, or zero: the payer itself.
    function open(
        address payee,
        address token,
        uint128 deposit,
        bytes32 salt,
        address authorizedSigner
    ) external returns (bytes32 channelId);

    /// @notice Opens a channel of `from` with tokens that it authorized by EIP-3009; anyone may
    /// send it.
    /// @param nonce `keccak256(abi.encode(from, payee, token, salt, authorizedSigner))`, so that
    /// what was signed opens this channel and no other.
    /// @param signature Of a `ReceiveWithAuthorization` to this contract over `deposit`.
    function openWithAuthorization(
        address payee,
        address token,
        uint128 deposit,
        bytes32 salt,
        address authorizedSigner,
        address from,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external returns (bytes32 channelId);

    /// @notice Opens a channel of `from` with tokens that it approved to Permit2; anyone may
    /// send it.
    /// @param nonce Any Permit2 nonce that `from` has not used yet.
    /// @param deadline Until when the signature is good.
    /// @param signature Of a `PermitWitnessTransferFrom` with a `ChannelOpenWitness`.
    function openWithPermit2(
        address payee,
        address token,
        uint128 deposit,
        bytes32 salt,
        address authorizedSigner,
        address from,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external returns (bytes32 channelId);

    /// @notice Adds tokens that the payer, who is the caller, approved to this contract, and
    /// voids its request to close.
    function topUp(bytes32 channelId, uint128 additionalDeposit) external;

    /// @notice Adds tokens that `from` authorized by EIP-3009; anyone may send it.
    /// @dev `from` may be anybody, the channel stays the payer's. Only the payer's own tokens
    /// void its request to close: else one unit of another's would keep it from leaving.
    /// @param topUpSalt Tells equal top-ups apart.
    /// @param nonce `keccak256(abi.encode(channelId, additionalDeposit, from, topUpSalt))`.
    /// @param signature Of a `ReceiveWithAuthorization` to this contract.
    function topUpWithAuthorization(
        bytes32 channelId,
        uint128 additionalDeposit,
        address from,
        bytes32 topUpSalt,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;

    /// @notice Adds tokens that `from` approved to Permit2; anyone may send it.
    /// @dev As `topUpWithAuthorization`.
    /// @param signature Of a `PermitWitnessTransferFrom` with a `ChannelTopUpWitness`.
    function topUpWithPermit2(
        bytes32 channelId,
        uint128 additionalDeposit,
        address from,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external;

    /// @notice Pays the payee, who is the caller, what a voucher allows and was not paid yet.
    /// @param cumulativeAmount The voucher's amount: above what was settled, within the deposit.
    /// @param signature The voucher signer's.
    function settle(bytes32 channelId, uint128 cumulativeAmount, bytes calldata signature) external;

    /// @notice Settles as the payee signed; anyone may send it.
    /// @param nonce Any number that the payee has not used yet for this channel.
    /// @param deadline Until when the payee's signature is good, in Unix seconds.
    /// @param payeeSignature The payee's signature of the `SettleAuthorization`.
    /// @param voucherSignature The voucher signer's.
    function settleWithAuthorization(
        bytes32 channelId,
        uint128 cumulativeAmount,
        uint256 nonce,
        uint256 deadline,
        bytes calldata payeeSignature,
        bytes calldata voucherSignature
    ) external;

    /// @notice Closes the channel: pays the payee, who is the caller, what the last voucher
    /// allows, and returns the rest to the payer.
    /// @param cumulativeAmount The voucher's amount. Up to what was settled, the payee takes
    /// nothing more and the signature is not looked at.
    /// @param signature The voucher signer's.
    function close(bytes32 channelId, uint128 cumulativeAmount, bytes calldata signature) external;

    /// @notice Closes as the payee signed; anyone may send it.
    /// @dev As `settleWithAuthorization`, whose nonces it shares.
    /// @param payeeSignature The payee's signature of the `CloseAuthorization`.
    function closeWithAuthorization(
        bytes32 channelId,
        uint128 cumulativeAmount,
        uint256 nonce,
        uint256 deadline,
        bytes calldata payeeSignature,
        bytes calldata voucherSignature
    ) external;

    /// @notice Asks to leave without the payee's consent, as payer: starts the grace period, in
    /// which the payee can still settle. Asking again changes nothing.
    function requestClose(bytes32 channelId) external;

    /// @notice Returns what is not settled to the payer, who is the caller, after the grace
    /// period, and closes the channel.
    function withdraw(bytes32 channelId) external;

    /// @notice A channel's record; all zero where there is none.
    function getChannel(bytes32 channelId) external view returns (Channel memory);

    /// @notice The records of several channels.
    function getChannelsBatch(bytes32[] calldata channelIds)
        external
        view
        returns (Channel[] memory);

    /// @notice Whether the payee's authorization of this nonce was used.
    function isNonceUsed(bytes32 channelId, uint256 nonce) external view returns (bool);

    /// @notice The id of a channel: the hash of its terms, of this contract and of the chain.
    function computeChannelId(
        address payer,
        address payee,
        address token,
        bytes32 salt,
        address authorizedSigner
    ) external view returns (bytes32);

    /// @notice What the voucher signer signs to allow an amount.
    function getVoucherDigest(bytes32 channelId, uint128 cumulativeAmount)
        external
        view
        returns (bytes32);

    /// @notice What the payee signs so that anyone may settle for it.
    function getSettleAuthorizationDigest(
        bytes32 channelId,
        uint128 cumulativeAmount,
        uint256 nonce,
        uint256 deadline
    ) external view returns (bytes32);

    /// @notice What the payee signs so that anyone may close for it.
    function getCloseAuthorizationDigest(
        bytes32 channelId,
        uint128 cumulativeAmount,
        uint256 nonce,
        uint256 deadline
    ) external view returns (bytes32);

    /// @notice The EIP-712 domain separator.
    function domainSeparator() external view returns (bytes32);
}
