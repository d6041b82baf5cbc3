// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Payment channels of the x402 scheme `batch-settlement`
/// @notice A payer puts tokens into a channel once and then signs vouchers off chain, each
/// for a cumulative amount. The receiver's side claims many channels in one transaction,
/// which only updates the books, and `settle` then moves everything claimed at once.
/// @dev A channel is identified by the EIP-712 digest of its configuration. The
/// configuration is not stored: every call passes it in and the contract hashes it.
/// Tokens that take a fee on transfer are refused at deposit; tokens that change balances
/// by themselves are not safe here.
interface IX402BatchSettlement {
    /// @notice What a channel is; it can not be changed.
    /// @param payer Whose tokens these are; unclaimed ones go back to it.
    /// @param payerAuthorizer The key that signs vouchers (ECDSA only), or zero: the payer
    /// itself signs them, by ERC-1271 when it is a contract.
    /// @param receiver Where settled tokens go.
    /// @param receiverAuthorizer Who signs claims and refunds: a key or an ERC-1271 contract.
    /// @param token The ERC-20 token.
    /// @param withdrawDelay Seconds between the payer's request to leave and its payout.
    /// @param salt Tells channels of otherwise equal configuration apart.
    struct ChannelConfig {
        address payer;
        address payerAuthorizer;
        address receiver;
        address receiverAuthorizer;
        address token;
        uint40 withdrawDelay;
        bytes32 salt;
    }

    /// @param balance All deposits less withdrawals and refunds; what was claimed stays in.
    /// @param totalClaimed How much of `balance` belongs to the receiver. Never decreases.
    struct ChannelState {
        uint128 balance;
        uint128 totalClaimed;
    }

    /// @param amount The most that the withdrawal pays out.
    /// @param initiatedAt When it was requested (block time), zero when none is pending.
    struct WithdrawalState {
        uint128 amount;
        uint40 initiatedAt;
    }

    /// @param totalClaimed Everything ever claimed for a receiver in a token.
    /// @param totalSettled How much of it was sent.
    struct ReceiverState {
        uint128 totalClaimed;
        uint128 totalSettled;
    }

    /// @param channel The channel the voucher draws on.
    /// @param maxClaimableAmount The cumulative amount the payer allows.
    struct Voucher {
        ChannelConfig channel;
        uint128 maxClaimableAmount;
    }

    /// @param voucher What the payer allowed.
    /// @param signature The payer's signature of the voucher.
    /// @param totalClaimed What the receiver's side claims of it, cumulatively.
    struct VoucherClaim {
        Voucher voucher;
        bytes signature;
        uint128 totalClaimed;
    }

    /// @notice Tokens entered a channel that was empty and of which nothing was ever claimed.
    /// It can be emitted again for a channel that was emptied in between.
    event ChannelCreated(bytes32 indexed channelId, ChannelConfig config);

    /// @notice A channel of which nothing was ever claimed was emptied.
    event ChannelClosed(bytes32 indexed channelId, ChannelConfig config);

    /// @notice `sender` relayed a deposit.
    event Deposited(
        bytes32 indexed channelId, address indexed sender, uint128 amount, uint128 newBalance
    );

    /// @notice `sender` had `claimAmount` more assigned to the receiver.
    event Claimed(
        bytes32 indexed channelId,
        address indexed sender,
        uint128 claimAmount,
        uint128 newTotalClaimed
    );

    /// @notice `sender` had everything claimed and not yet sent transferred to the receiver.
    event Settled(
        address indexed receiver, address indexed token, address indexed sender, uint128 amount
    );

    /// @notice `sender` had unclaimed tokens returned to the payer with the receiver's consent.
    event Refunded(bytes32 indexed channelId, address indexed sender, uint128 amount);

    /// @notice The payer's side asked to leave; it can be paid from `finalizeAfter` on.
    event WithdrawInitiated(bytes32 indexed channelId, uint128 amount, uint40 finalizeAfter);

    /// @notice The payer's side left with `amount`.
    event WithdrawFinalized(bytes32 indexed channelId, address indexed sender, uint128 amount);

    /// @notice A party of the configuration is zero, or the caller is not on the payer's side.
    error InvalidChannel();
    /// @notice A deposit of nothing.
    error ZeroDeposit();
    /// @notice The balance would exceed 128 bits.
    error DepositOverflow();
    /// @notice A signature is not the one that is needed.
    error InvalidSignature();
    /// @notice The rows of a signed batch name different receiver authorizers.
    error NotReceiverAuthorizer();
    /// @notice The caller is neither receiver nor receiver authorizer of every row.
    error NotAuthorizedToClaim();
    /// @notice The caller is neither receiver nor receiver authorizer.
    error NotAuthorizedToRefund();
    /// @notice More is claimed than the voucher allows.
    error ClaimExceedsCeiling();
    /// @notice More is claimed than the channel holds.
    error ClaimExceedsBalance();
    /// @notice A withdrawal is pending already.
    error WithdrawalAlreadyPending();
    /// @notice No withdrawal is pending.
    error WithdrawalNotPending();
    /// @notice The caller is neither payer nor payer authorizer.
    error NotAuthorizedToFinalizeWithdraw();
    /// @notice The withdrawal can not be paid yet.
    error WithdrawDelayNotElapsed();
    /// @notice A withdrawal of nothing.
    error NothingToWithdraw();
    /// @notice More is asked for than is unclaimed.
    error WithdrawAmountExceedsAvailable();
    /// @notice The withdrawal delay is not within the allowed range.
    error WithdrawDelayOutOfRange();
    /// @notice A batch without rows.
    error EmptyBatch();
    /// @notice The collector did not deliver exactly the deposit.
    error DepositCollectionFailed();
    /// @notice The collector is not a contract.
    error InvalidCollector();
    /// @notice The refund was signed for another nonce.
    error InvalidRefundNonce();
    /// @notice A refund of nothing.
    error ZeroRefund();

    /// @notice Puts tokens of the payer into a channel; anyone may send it, since the collector
    /// checks what the payer signed.
    /// @param config The channel.
    /// @param amount How much.
    /// @param collector Fetches the tokens from the payer; must deliver exactly `amount`.
    /// @param collectorData What the collector needs, such as the payer's signature.
    function deposit(
        ChannelConfig calldata config,
        uint128 amount,
        address collector,
        bytes calldata collectorData
    ) external;

    /// @notice Claims vouchers as their receiver or receiver authorizer.
    /// @dev Rows whose total is not above the recorded one are skipped; any other fault reverts
    /// the batch.
    /// @param voucherClaims The rows; the caller must be entitled in each.
    function claim(VoucherClaim[] calldata voucherClaims) external;

    /// @notice Claims vouchers on behalf of the receiver authorizer; anyone may send it.
    /// @dev As `claim`; all rows must name the same receiver authorizer.
    /// @param voucherClaims The rows.
    /// @param authorizerSignature Its signature of the `ClaimBatch` of exactly these rows.
    function claimWithSignature(
        VoucherClaim[] calldata voucherClaims,
        bytes calldata authorizerSignature
    ) external;

    /// @notice Sends a receiver everything that was claimed for it and not yet sent; anyone may.
    /// @dev Does nothing when there is nothing to send.
    function settle(address receiver, address token) external;

    /// @notice Asks to leave without the receiver's consent: starts the delay in which the
    /// receiver can still claim what it is owed. Callable by payer and payer authorizer.
    /// @param config The channel.
    /// @param amount How much to withdraw, at most what is unclaimed now.
    function initiateWithdraw(ChannelConfig calldata config, uint128 amount) external;

    /// @notice Pays a pending withdrawal after the delay, less what was claimed meanwhile.
    /// Callable by payer and payer authorizer.
    function finalizeWithdraw(ChannelConfig calldata config) external;

    /// @notice Returns unclaimed tokens to the payer, as receiver or receiver authorizer.
    /// @dev Advances the refund nonce first, even if nothing is left to return, so a refund
    /// signed for the previous nonce is void. Shrinks a pending withdrawal.
    /// @param config The channel.
    /// @param amount At most this much; less if less is unclaimed.
    function refund(ChannelConfig calldata config, uint128 amount) external;

    /// @notice Returns unclaimed tokens to the payer; anyone may send it.
    /// @dev As `refund`.
    /// @param config The channel.
    /// @param amount At most this much.
    /// @param nonce The channel's current refund nonce.
    /// @param receiverAuthorizerSignature The receiver authorizer's signature of the `Refund`.
    function refundWithSignature(
        ChannelConfig calldata config,
        uint128 amount,
        uint256 nonce,
        bytes calldata receiverAuthorizerSignature
    ) external;

    /// @notice What a channel holds.
    function channels(bytes32 channelId)
        external
        view
        returns (uint128 balance, uint128 totalClaimed);

    /// @notice A channel's pending withdrawal.
    function pendingWithdrawals(bytes32 channelId)
        external
        view
        returns (uint128 amount, uint40 initiatedAt);

    /// @notice The nonce that the next signed refund must carry.
    function refundNonce(bytes32 channelId) external view returns (uint256);

    /// @notice What was claimed for, and sent to, a receiver in a token.
    function receivers(address receiver, address token)
        external
        view
        returns (uint128 totalClaimed, uint128 totalSettled);

    /// @notice The id of a channel: the EIP-712 digest of its configuration.
    function getChannelId(ChannelConfig calldata config) external view returns (bytes32);

    /// @notice What the payer's side signs to allow an amount.
    function getVoucherDigest(bytes32 channelId, uint128 maxClaimableAmount)
        external
        view
        returns (bytes32);

    /// @notice What the receiver authorizer signs to allow a refund.
    function getRefundDigest(bytes32 channelId, uint256 nonce, uint128 amount)
        external
        view
        returns (bytes32);

    /// @notice What the receiver authorizer signs to allow a claim.
    function getClaimBatchDigest(VoucherClaim[] calldata voucherClaims)
        external
        view
        returns (bytes32);
}
