// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {BatchSettlementHashes} from "./BatchSettlementHashes.sol";
import {IDepositCollector} from "./interfaces/IDepositCollector.sol";
import {IX402BatchSettlement} from "./interfaces/IX402BatchSettlement.sol";

/// @title Payment channels of the x402 scheme `batch-settlement`
/// @notice See `IX402BatchSettlement`. No owner, no upgrade, no constructor.
/// @dev Storage, one slot per channel and one per receiver and token:
///   slot 0  channels            id => totalClaimed (high 128) | balance (low 128)
///   slot 1  pendingWithdrawals  id => initiatedAt (40 bits above) | amount (low 128)
///   slot 2  refundNonce         id => uint256
///   slot 3  receivers           receiver => token => totalSettled (high) | totalClaimed (low)
/// What the contract owes in a token is the sum over channels of `balance - totalClaimed`
/// plus the sum over receivers of `totalClaimed - totalSettled`.
contract x402BatchSettlement is BatchSettlementHashes, Multicall, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// @notice The shortest withdrawal delay: time enough for the receiver to claim.
    uint256 public constant MIN_WITHDRAW_DELAY = 15 minutes;
    /// @notice The longest withdrawal delay: nobody's tokens are held for longer.
    uint256 public constant MAX_WITHDRAW_DELAY = 30 days;

    /// @inheritdoc IX402BatchSettlement
    mapping(bytes32 channelId => ChannelState) public override channels;
    /// @inheritdoc IX402BatchSettlement
    mapping(bytes32 channelId => WithdrawalState) public override pendingWithdrawals;
    /// @inheritdoc IX402BatchSettlement
    mapping(bytes32 channelId => uint256) public override refundNonce;
    /// @inheritdoc IX402BatchSettlement
    mapping(address receiver => mapping(address token => ReceiverState)) public override receivers;

    /// @inheritdoc IX402BatchSettlement
    function deposit(
        ChannelConfig calldata config,
        uint128 amount,
        address collector,
        bytes calldata collectorData
    ) external nonReentrant {
        if (amount == 0) revert ZeroDeposit();
        if (collector.code.length == 0) revert InvalidCollector();
        _requireUsable(config);
        bytes32 channelId = _channelId(_domainSeparator(), config);
        ChannelState storage channel = channels[channelId];
        (uint256 balance, uint256 claimed) = (channel.balance, channel.totalClaimed);
        uint256 newBalance = balance + amount;
        if (newBalance > type(uint128).max) revert DepositOverflow();

        channel.balance = uint128(newBalance);
        if (balance == 0 && claimed == 0) emit ChannelCreated(channelId, config);
        emit Deposited(channelId, msg.sender, amount, uint128(newBalance));

        IERC20 token = IERC20(config.token);
        uint256 heldBefore = token.balanceOf(address(this));
        // Nobody can deposit in between: the guard is closed during the call.
        // slither-disable-next-line reentrancy-balance
        IDepositCollector(collector)
            .collect(config.payer, address(token), amount, channelId, collectorData);
        if (token.balanceOf(address(this)) != heldBefore + amount) {
            revert DepositCollectionFailed();
        }
    }

    /// @inheritdoc IX402BatchSettlement
    function claim(VoucherClaim[] calldata voucherClaims) external nonReentrant {
        _claim(voucherClaims, _domainSeparator(), false);
    }

    /// @inheritdoc IX402BatchSettlement
    function claimWithSignature(
        VoucherClaim[] calldata voucherClaims,
        bytes calldata authorizerSignature
    ) external nonReentrant {
        bytes32 domain = _domainSeparator();
        (address authorizer, bytes32[] memory entries) = _claim(voucherClaims, domain, true);
        _requireSignature(authorizer, _claimBatchDigest(domain, entries), authorizerSignature);
    }

    /// @inheritdoc IX402BatchSettlement
    function settle(address receiver, address token) external nonReentrant {
        ReceiverState storage state = receivers[receiver][token];
        (uint128 claimed, uint128 settled) = (state.totalClaimed, state.totalSettled);
        uint128 amount = claimed - settled;
        if (amount == 0) return;
        state.totalSettled = claimed;
        emit Settled(receiver, token, msg.sender, amount);
        IERC20(token).safeTransfer(receiver, amount);
    }

    /// @inheritdoc IX402BatchSettlement
    function initiateWithdraw(ChannelConfig calldata config, uint128 amount) external nonReentrant {
        if (!_isPayerSide(config)) revert InvalidChannel();
        bytes32 channelId = _channelId(_domainSeparator(), config);
        if (pendingWithdrawals[channelId].initiatedAt != 0) revert WithdrawalAlreadyPending();
        if (amount == 0) revert NothingToWithdraw();
        if (amount > _unclaimed(channels[channelId])) revert WithdrawAmountExceedsAvailable();
        pendingWithdrawals[channelId] = WithdrawalState(amount, uint40(block.timestamp));
        emit WithdrawInitiated(channelId, amount, uint40(block.timestamp) + config.withdrawDelay);
    }

    /// @inheritdoc IX402BatchSettlement
    function finalizeWithdraw(ChannelConfig calldata config) external nonReentrant {
        if (!_isPayerSide(config)) revert NotAuthorizedToFinalizeWithdraw();
        bytes32 channelId = _channelId(_domainSeparator(), config);
        WithdrawalState memory pending = pendingWithdrawals[channelId];
        if (pending.initiatedAt == 0) revert WithdrawalNotPending();
        if (block.timestamp < uint256(pending.initiatedAt) + config.withdrawDelay) {
            revert WithdrawDelayNotElapsed();
        }
        delete pendingWithdrawals[channelId];
        uint128 amount = _smaller(pending.amount, _unclaimed(channels[channelId]));
        emit WithdrawFinalized(channelId, msg.sender, amount);
        _payBack(config, channelId, amount);
    }

    /// @inheritdoc IX402BatchSettlement
    function refund(ChannelConfig calldata config, uint128 amount) external nonReentrant {
        if (!_isReceiverSide(config)) revert NotAuthorizedToRefund();
        if (amount == 0) revert ZeroRefund();
        _refund(config, _channelId(_domainSeparator(), config), amount);
    }

    /// @inheritdoc IX402BatchSettlement
    function refundWithSignature(
        ChannelConfig calldata config,
        uint128 amount,
        uint256 nonce,
        bytes calldata receiverAuthorizerSignature
    ) external nonReentrant {
        if (amount == 0) revert ZeroRefund();
        bytes32 domain = _domainSeparator();
        bytes32 channelId = _channelId(domain, config);
        if (nonce != refundNonce[channelId]) revert InvalidRefundNonce();
        bytes32 digest = _refundDigest(domain, channelId, nonce, amount);
        _requireSignature(config.receiverAuthorizer, digest, receiverAuthorizerSignature);
        _refund(config, channelId, amount);
    }

    /// @dev Books every row, and a receiver's total once per run of rows with the same receiver
    /// and token. When `signed`, the caller must still check that the authorizer returned signed
    /// the entries returned: one pass over the rows is a tenth cheaper than two.
    function _claim(VoucherClaim[] calldata rows, bytes32 domain, bool signed)
        private
        returns (address authorizer, bytes32[] memory entries)
    {
        if (rows.length == 0) revert EmptyBatch();
        entries = new bytes32[](signed ? rows.length : 0);
        (address receiver, address token, uint128 sum) = (address(0), address(0), 0);
        for (uint256 i = 0; i < rows.length; ++i) {
            VoucherClaim calldata row = rows[i];
            ChannelConfig calldata config = row.voucher.channel;
            (uint128 ceiling, uint128 total) = (row.voucher.maxClaimableAmount, row.totalClaimed);
            bytes32 channelId = _channelId(domain, config);
            if (signed) {
                address rowAuthorizer = config.receiverAuthorizer;
                if (i == 0) authorizer = rowAuthorizer;
                if (rowAuthorizer != authorizer) revert NotReceiverAuthorizer();
                entries[i] = _claimEntryHash(channelId, ceiling, total);
            } else if (!_isReceiverSide(config)) {
                revert NotAuthorizedToClaim();
            }
            uint128 amount = _claimRow(domain, row, channelId, ceiling, total);
            (address rowReceiver, address rowToken) = (config.receiver, config.token);
            if (rowReceiver != receiver || rowToken != token) {
                _credit(receiver, token, sum);
                (receiver, token, sum) = (rowReceiver, rowToken, 0);
            }
            sum += amount;
        }
        _credit(receiver, token, sum);
    }

    function _claimRow(
        bytes32 domain,
        VoucherClaim calldata row,
        bytes32 channelId,
        uint128 ceiling,
        uint128 total
    ) private returns (uint128 amount) {
        if (total > ceiling) revert ClaimExceedsCeiling();
        ChannelState storage channel = channels[channelId];
        (uint128 balance, uint128 claimed) = (channel.balance, channel.totalClaimed);
        if (total <= claimed) return 0;
        if (total > balance) revert ClaimExceedsBalance();
        bytes32 digest = _voucherDigest(domain, channelId, ceiling);
        _requireVoucherSignature(row.voucher.channel, digest, row.signature);

        unchecked {
            amount = total - claimed;
        }
        // Both halves of the slot: the compiler then needs no second read of it.
        (channel.balance, channel.totalClaimed) = (balance, total);
        emit Claimed(channelId, msg.sender, amount, total);
    }

    function _credit(address receiver, address token, uint128 sum) private {
        if (sum != 0) receivers[receiver][token].totalClaimed += sum;
    }

    function _refund(ChannelConfig calldata config, bytes32 channelId, uint128 limit) private {
        ++refundNonce[channelId];
        uint128 amount = _smaller(limit, _unclaimed(channels[channelId]));
        if (amount == 0) return;
        WithdrawalState storage pending = pendingWithdrawals[channelId];
        uint128 pendingAmount = pending.amount;
        if (pendingAmount > amount) {
            pending.amount = pendingAmount - amount;
        } else if (pendingAmount != 0) {
            delete pendingWithdrawals[channelId];
        }
        emit Refunded(channelId, msg.sender, amount);
        _payBack(config, channelId, amount);
    }

    /// @dev Takes unclaimed tokens out of a channel and sends them to its payer.
    function _payBack(ChannelConfig calldata config, bytes32 channelId, uint128 amount) private {
        if (amount == 0) return;
        ChannelState storage channel = channels[channelId];
        uint128 newBalance = channel.balance - amount;
        channel.balance = newBalance;
        // Nothing is left, so nothing was ever claimed: what was claimed would still be in it.
        if (newBalance == 0) emit ChannelClosed(channelId, config);
        IERC20(config.token).safeTransfer(config.payer, amount);
    }

    function _isPayerSide(ChannelConfig calldata config) private view returns (bool) {
        return msg.sender == config.payer || msg.sender == config.payerAuthorizer;
    }

    function _isReceiverSide(ChannelConfig calldata config) private view returns (bool) {
        return msg.sender == config.receiver || msg.sender == config.receiverAuthorizer;
    }

    function _unclaimed(ChannelState storage channel) private view returns (uint128) {
        return channel.balance - channel.totalClaimed;
    }

    /// @dev A channel with a key of its own is verified by that key alone, so that a voucher
    /// which verified off chain verifies here too; a contract may change its mind.
    function _requireVoucherSignature(
        ChannelConfig calldata config,
        bytes32 digest,
        bytes calldata signature
    ) private view {
        address authorizer = config.payerAuthorizer;
        if (authorizer == address(0)) {
            _requireSignature(config.payer, digest, signature);
        } else if (_signer(digest, signature) != authorizer) {
            revert InvalidSignature();
        }
    }

    /// @dev By the key of the signer's address, else by the contract there (ERC-1271).
    function _requireSignature(address signer, bytes32 digest, bytes calldata signature)
        private
        view
    {
        address recovered = _signer(digest, signature);
        if (recovered == signer && recovered != address(0)) return;
        if (!SignatureChecker.isValidERC1271SignatureNowCalldata(signer, digest, signature)) {
            revert InvalidSignature();
        }
    }

    /// @dev Zero if nobody's: `s` must be low, `v` 27 or 28, the length 65.
    function _signer(bytes32 digest, bytes calldata signature)
        private
        pure
        returns (address signer)
    {
        // slither-disable-next-line unused-return
        (signer,,) = ECDSA.tryRecoverCalldata(digest, signature);
    }

    function _requireUsable(ChannelConfig calldata config) private pure {
        if (config.payer == address(0) || config.receiver == address(0)) revert InvalidChannel();
        if (config.receiverAuthorizer == address(0)) revert InvalidChannel();
        if (config.token == address(0)) revert InvalidChannel();
        uint256 delay = config.withdrawDelay;
        if (delay < MIN_WITHDRAW_DELAY || delay > MAX_WITHDRAW_DELAY) {
            revert WithdrawDelayOutOfRange();
        }
    }

    function _smaller(uint128 a, uint128 b) private pure returns (uint128) {
        return a < b ? a : b;
    }
}
