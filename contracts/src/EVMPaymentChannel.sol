// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {BitMaps} from "@openzeppelin/contracts/utils/structs/BitMaps.sol";
import {EVMPaymentChannelHashes} from "./EVMPaymentChannelHashes.sol";
import {IERC3009} from "./interfaces/IERC3009.sol";
import {IEVMPaymentChannel} from "./interfaces/IEVMPaymentChannel.sol";
import {ISignatureTransfer} from "./interfaces/ISignatureTransfer.sol";

/// @title Payment channels of MPP's `session` intent on EVM chains
/// @notice See `IEVMPaymentChannel`. No owner, no upgrade, no constructor.
/// @dev Storage, three slots per channel, four if somebody else than the payer signs:
///   slot 0  records     id => four words, see `Record`
///   slot 1  usedNonces  id => 256 nonces of the payee's authorizations per word
/// What the contract owes in a token is the sum of `deposit - settled` over the channels that
/// are not finalized. All else of a token that it holds, somebody sent here by mistake.
contract EVMPaymentChannel is EVMPaymentChannelHashes, ReentrancyGuardTransient {
    using BitMaps for BitMaps.BitMap;
    using SafeERC20 for IERC20;

    /// @dev From the lowest bit on:
    ///   word 0  payer 160, closeRequestedAt 64, depositHigh 32
    ///   word 1  payee 160, depositLow 96
    ///   word 2  token 160, settledLow 88, finalized 8
    ///   word 3  authorizedSigner 160, settledHigh 40
    /// Amounts are cut in two, since their low parts find room in words that every channel
    /// needs anyway. The high parts are zero below 2**88 base units (300 million tokens of 18
    /// decimals), and then a channel whose payer signs itself has no fourth word.
    struct Record {
        address payer;
        uint64 closeRequestedAt;
        uint32 depositHigh;
        address payee;
        uint96 depositLow;
        address token;
        uint88 settledLow;
        bool finalized;
        address authorizedSigner;
        uint40 settledHigh;
    }

    /// @notice How long the payee can still settle after the payer asked to leave.
    uint64 public constant CLOSE_GRACE_PERIOD = 15 minutes;

    /// @notice Permit2, at the same address on every chain.
    ISignatureTransfer public constant PERMIT2 =
        ISignatureTransfer(0x000000000022D473030F116dDEE9F6B43aC78BA3);

    mapping(bytes32 channelId => Record) private _records;
    mapping(bytes32 channelId => BitMaps.BitMap) private _usedNonces;

    /// @inheritdoc IEVMPaymentChannel
    function open(
        address payee,
        address token,
        uint128 deposit,
        bytes32 salt,
        address authorizedSigner
    ) external nonReentrant returns (bytes32 channelId) {
        channelId = _open(msg.sender, payee, token, deposit, salt, authorizedSigner);
        _pullApproved(token, deposit);
    }

    /// @inheritdoc IEVMPaymentChannel
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
    ) external nonReentrant returns (bytes32 channelId) {
        if (nonce != _openNonce(from, payee, token, salt, authorizedSigner)) {
            revert NonceMismatch();
        }
        channelId = _open(from, payee, token, deposit, salt, authorizedSigner);
        _pullAuthorized(token, from, deposit, validAfter, validBefore, nonce, signature);
    }

    /// @inheritdoc IEVMPaymentChannel
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
    ) external nonReentrant returns (bytes32 channelId) {
        channelId = _open(from, payee, token, deposit, salt, authorizedSigner);
        bytes32 witness =
            keccak256(abi.encode(CHANNEL_OPEN_WITNESS_TYPEHASH, payee, salt, authorizedSigner));
        ISignatureTransfer.PermitTransferFrom memory permit =
            _permit(token, deposit, nonce, deadline);
        _pullPermitted(permit, from, witness, OPEN_WITNESS_TYPE, signature);
    }

    /// @inheritdoc IEVMPaymentChannel
    function topUp(bytes32 channelId, uint128 additionalDeposit) external nonReentrant {
        Record storage record = _active(channelId);
        if (msg.sender != record.payer) revert NotPayer();
        _topUp(channelId, record, additionalDeposit, msg.sender);
        _pullApproved(record.token, additionalDeposit);
    }

    /// @inheritdoc IEVMPaymentChannel
    function topUpWithAuthorization(
        bytes32 channelId,
        uint128 additionalDeposit,
        address from,
        bytes32 topUpSalt,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external nonReentrant {
        if (nonce != _topUpNonce(channelId, additionalDeposit, from, topUpSalt)) {
            revert NonceMismatch();
        }
        Record storage record = _active(channelId);
        _topUp(channelId, record, additionalDeposit, from);
        address token = record.token;
        _pullAuthorized(token, from, additionalDeposit, validAfter, validBefore, nonce, signature);
    }

    /// @inheritdoc IEVMPaymentChannel
    function topUpWithPermit2(
        bytes32 channelId,
        uint128 additionalDeposit,
        address from,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external nonReentrant {
        Record storage record = _active(channelId);
        _topUp(channelId, record, additionalDeposit, from);
        bytes32 witness = keccak256(abi.encode(CHANNEL_TOP_UP_WITNESS_TYPEHASH, channelId));
        ISignatureTransfer.PermitTransferFrom memory permit =
            _permit(record.token, additionalDeposit, nonce, deadline);
        _pullPermitted(permit, from, witness, TOP_UP_WITNESS_TYPE, signature);
    }

    /// @inheritdoc IEVMPaymentChannel
    function settle(bytes32 channelId, uint128 cumulativeAmount, bytes calldata signature)
        external
        nonReentrant
    {
        Record storage record = _active(channelId);
        if (msg.sender != record.payee) revert NotPayee();
        _settle(channelId, record, cumulativeAmount, signature);
    }

    /// @inheritdoc IEVMPaymentChannel
    function settleWithAuthorization(
        bytes32 channelId,
        uint128 cumulativeAmount,
        uint256 nonce,
        uint256 deadline,
        bytes calldata payeeSignature,
        bytes calldata voucherSignature
    ) external nonReentrant {
        Record storage record = _active(channelId);
        bytes32 digest = getSettleAuthorizationDigest(channelId, cumulativeAmount, nonce, deadline);
        _useNonce(channelId, nonce, deadline);
        _requireSignature(record.payee, digest, payeeSignature);
        _settle(channelId, record, cumulativeAmount, voucherSignature);
    }

    /// @inheritdoc IEVMPaymentChannel
    function close(bytes32 channelId, uint128 cumulativeAmount, bytes calldata signature)
        external
        nonReentrant
    {
        Record storage record = _active(channelId);
        if (msg.sender != record.payee) revert NotPayee();
        _close(channelId, record, cumulativeAmount, signature);
    }

    /// @inheritdoc IEVMPaymentChannel
    function closeWithAuthorization(
        bytes32 channelId,
        uint128 cumulativeAmount,
        uint256 nonce,
        uint256 deadline,
        bytes calldata payeeSignature,
        bytes calldata voucherSignature
    ) external nonReentrant {
        Record storage record = _active(channelId);
        bytes32 digest = getCloseAuthorizationDigest(channelId, cumulativeAmount, nonce, deadline);
        _useNonce(channelId, nonce, deadline);
        _requireSignature(record.payee, digest, payeeSignature);
        _close(channelId, record, cumulativeAmount, voucherSignature);
    }

    /// @inheritdoc IEVMPaymentChannel
    function requestClose(bytes32 channelId) external nonReentrant {
        Record storage record = _active(channelId);
        if (msg.sender != record.payer) revert NotPayer();
        if (record.closeRequestedAt != 0) return;
        record.closeRequestedAt = uint64(block.timestamp);
        uint256 graceEnd = block.timestamp + CLOSE_GRACE_PERIOD;
        emit CloseRequested(channelId, msg.sender, record.payee, graceEnd);
    }

    /// @inheritdoc IEVMPaymentChannel
    function withdraw(bytes32 channelId) external nonReentrant {
        Record storage record = _active(channelId);
        if (msg.sender != record.payer) revert NotPayer();
        uint256 since = record.closeRequestedAt;
        if (since == 0 || block.timestamp < since + CLOSE_GRACE_PERIOD) revert CloseNotReady();
        uint128 settled = _settled(record);
        _finalize(channelId, record, settled, settled);
    }

    /// @inheritdoc IEVMPaymentChannel
    function getChannel(bytes32 channelId) public view returns (Channel memory) {
        Record storage record = _records[channelId];
        return Channel({
            payer: record.payer,
            payee: record.payee,
            token: record.token,
            authorizedSigner: record.authorizedSigner,
            deposit: _deposit(record),
            settled: _settled(record),
            closeRequestedAt: record.closeRequestedAt,
            finalized: record.finalized
        });
    }

    /// @inheritdoc IEVMPaymentChannel
    function getChannelsBatch(bytes32[] calldata channelIds)
        external
        view
        returns (Channel[] memory channels)
    {
        channels = new Channel[](channelIds.length);
        for (uint256 i = 0; i < channelIds.length; ++i) {
            channels[i] = getChannel(channelIds[i]);
        }
    }

    /// @inheritdoc IEVMPaymentChannel
    function isNonceUsed(bytes32 channelId, uint256 nonce) external view returns (bool) {
        return _usedNonces[channelId].get(nonce);
    }

    /// @dev Books a new channel; its tokens must still be fetched. There is a channel where
    /// there is a payee.
    function _open(
        address payer,
        address payee,
        address token,
        uint128 deposit,
        bytes32 salt,
        address authorizedSigner
    ) private returns (bytes32 channelId) {
        if (payee == address(0)) revert InvalidPayee();
        if (token.code.length == 0) revert InvalidToken();
        if (deposit == 0) revert ZeroDeposit();
        channelId = computeChannelId(payer, payee, token, salt, authorizedSigner);
        Record storage record = _records[channelId];
        if (record.payee != address(0)) revert ChannelAlreadyExists();
        (record.payer, record.depositHigh) = (payer, uint32(deposit >> 96));
        (record.payee, record.depositLow) = (payee, uint96(deposit));
        record.token = token;
        if (authorizedSigner != address(0)) record.authorizedSigner = authorizedSigner;
        emit ChannelOpened(channelId, payer, payee, token, authorizedSigner, salt, deposit);
    }

    /// @dev Books more tokens, which must still be fetched.
    function _topUp(bytes32 channelId, Record storage record, uint128 amount, address from)
        private
    {
        if (amount == 0) revert ZeroDeposit();
        (address payer, address payee) = (record.payer, record.payee);
        uint128 deposit = _deposit(record);
        uint256 newDeposit = uint256(deposit) + amount;
        if (newDeposit > type(uint128).max) revert DepositOverflow();
        bool cancelled = from == payer && record.closeRequestedAt != 0;
        if (cancelled) record.closeRequestedAt = 0;
        if (newDeposit >> 96 != deposit >> 96) record.depositHigh = uint32(newDeposit >> 96);
        record.depositLow = uint96(newDeposit);
        emit TopUp(channelId, payer, payee, amount, newDeposit);
        if (cancelled) emit CloseRequestCancelled(channelId, payer, payee);
    }

    function _settle(
        bytes32 channelId,
        Record storage record,
        uint128 cumulativeAmount,
        bytes calldata signature
    ) private {
        uint128 settled = _settled(record);
        if (cumulativeAmount <= settled) revert AmountNotIncreasing();
        _requireVoucher(channelId, record, cumulativeAmount, signature);
        uint128 amount = cumulativeAmount - settled;
        (address token, address payee) = (record.token, record.payee);
        _book(record, settled, cumulativeAmount, false);
        emit Settled(channelId, record.payer, payee, cumulativeAmount, amount, cumulativeAmount);
        IERC20(token).safeTransfer(payee, amount);
    }

    function _close(
        bytes32 channelId,
        Record storage record,
        uint128 cumulativeAmount,
        bytes calldata signature
    ) private {
        uint128 settled = _settled(record);
        if (cumulativeAmount <= settled) {
            cumulativeAmount = settled;
        } else {
            _requireVoucher(channelId, record, cumulativeAmount, signature);
        }
        _finalize(channelId, record, settled, cumulativeAmount);
    }

    /// @dev Closes a channel for good and pays both sides.
    function _finalize(
        bytes32 channelId,
        Record storage record,
        uint128 settled,
        uint128 newSettled
    ) private {
        (address payer, address payee, IERC20 token) =
            (record.payer, record.payee, IERC20(record.token));
        uint128 rest = _deposit(record) - newSettled;
        _book(record, settled, newSettled, true);
        emit ChannelClosed(channelId, payer, payee, newSettled, rest);
        if (newSettled != settled) token.safeTransfer(payee, newSettled - settled);
        if (rest != 0) token.safeTransfer(payer, rest);
    }

    function _book(Record storage record, uint128 settled, uint128 newSettled, bool finalized)
        private
    {
        // The whole word: the compiler then needs no second read of it.
        (record.token, record.settledLow, record.finalized) =
        (record.token, uint88(newSettled), finalized);
        if (newSettled >> 88 != settled >> 88) record.settledHigh = uint40(newSettled >> 88);
    }

    function _useNonce(bytes32 channelId, uint256 nonce, uint256 deadline) private {
        if (block.timestamp > deadline) revert AuthorizationExpired();
        BitMaps.BitMap storage used = _usedNonces[channelId];
        if (used.get(nonce)) revert NonceAlreadyUsed();
        used.set(nonce);
    }

    /// @dev Fetches what the caller approved to this contract.
    function _pullApproved(address token, uint128 amount) private {
        uint256 due = _balance(token) + amount;
        IERC20(token).safeTransferFrom(msg.sender, address(this), amount);
        _requireReceived(token, due);
    }

    /// @dev Fetches what `from` signed by EIP-3009.
    function _pullAuthorized(
        address token,
        address from,
        uint128 amount,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) private {
        uint256 due = _balance(token) + amount;
        IERC3009(token)
            .receiveWithAuthorization(
                from, address(this), amount, validAfter, validBefore, nonce, signature
            );
        _requireReceived(token, due);
    }

    /// @dev Fetches what `from` signed for Permit2.
    function _pullPermitted(
        ISignatureTransfer.PermitTransferFrom memory permit,
        address from,
        bytes32 witness,
        string memory witnessType,
        bytes calldata signature
    ) private {
        (address token, uint256 amount) = (permit.permitted.token, permit.permitted.amount);
        uint256 due = _balance(token) + amount;
        PERMIT2.permitWitnessTransferFrom(
            permit,
            ISignatureTransfer.SignatureTransferDetails(address(this), amount),
            from,
            witness,
            witnessType,
            signature
        );
        _requireReceived(token, due);
    }

    function _balance(address token) private view returns (uint256) {
        return IERC20(token).balanceOf(address(this));
    }

    /// @dev Nobody can deposit or be paid in between: the guard is closed during the call. A
    /// token that takes a fee fails here, and one that answers to everything and moves nothing.
    function _requireReceived(address token, uint256 due) private view {
        if (_balance(token) != due) revert DepositCollectionFailed();
    }

    /// @dev A channel that exists and is not closed.
    function _active(bytes32 channelId) private view returns (Record storage record) {
        record = _records[channelId];
        if (record.payee == address(0)) revert ChannelNotFound();
        if (record.finalized) revert ChannelFinalized();
    }

    function _deposit(Record storage record) private view returns (uint128) {
        return (uint128(record.depositHigh) << 96) | record.depositLow;
    }

    function _settled(Record storage record) private view returns (uint128) {
        return (uint128(record.settledHigh) << 88) | record.settledLow;
    }

    function _requireVoucher(
        bytes32 channelId,
        Record storage record,
        uint128 cumulativeAmount,
        bytes calldata signature
    ) private view {
        if (cumulativeAmount > _deposit(record)) {
            revert AmountExceedsDeposit();
        }
        address signer = record.authorizedSigner;
        if (signer == address(0)) signer = record.payer;
        _requireSignature(signer, getVoucherDigest(channelId, cumulativeAmount), signature);
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

    function _permit(address token, uint128 amount, uint256 nonce, uint256 deadline)
        private
        pure
        returns (ISignatureTransfer.PermitTransferFrom memory)
    {
        return ISignatureTransfer.PermitTransferFrom({
            permitted: ISignatureTransfer.TokenPermissions({token: token, amount: amount}),
            nonce: nonce,
            deadline: deadline
        });
    }
}
