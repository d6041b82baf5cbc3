// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IX402BatchSettlement} from "../src/interfaces/IX402BatchSettlement.sol";
import {Plain3009} from "../src/tokens/Plain3009.sol";
import {Parties} from "./Parties.sol";

/// @title Two payers, two receivers, two tokens and a stranger who do what they can
/// @dev Keeps books of what it did, from its own arguments and not from the contract's state.
contract Handler is Parties {
    uint256 public constant CHANNELS = 6;
    uint256 public constant RECEIVERS = 2;
    uint256 public constant TOKENS = 2;
    uint256 private constant OTHER_KEY = uint256(keccak256("other payer"));

    address[2] public tokens;
    uint256[6] public deposited;
    uint256[6] public claimed;
    uint256[6] public returned;
    uint256[6] public refunds;
    uint256 public wronglyAllowed;
    bool public wentBackwards;

    // Kept, since deriving addresses and ids is most of the time that a run takes.
    bytes32[6] public ids;
    address private otherPayer;
    uint256 private salt;

    struct Seen {
        uint128 claimed;
        uint256 nonce;
    }

    /// @dev Whatever is called, totals and nonces of every channel only grow.
    modifier growing() {
        Seen[6] memory before = _look();
        _;
        Seen[6] memory afterwards = _look();
        for (uint256 c = 0; c < CHANNELS; ++c) {
            if (afterwards[c].claimed < before[c].claimed) wentBackwards = true;
            if (afterwards[c].nonce < before[c].nonce) wentBackwards = true;
        }
    }

    /// @dev The contracts are in place already.
    constructor() {
        tokens[0] = deploy("Plain3009");
        tokens[1] = deploy("Plain3009");
        otherPayer = vm.addr(OTHER_KEY);
        for (uint256 c = 0; c < CHANNELS; ++c) {
            ids[c] = settlement.getChannelId(channelOf(c));
        }
    }

    function channelOf(uint256 c) public view returns (IX402BatchSettlement.ChannelConfig memory) {
        IX402BatchSettlement.ChannelConfig memory channel = configOf(tokens[c % 2], c);
        if (_payerKey(c) == OTHER_KEY) channel.payer = otherPayer;
        channel.receiver = receiverOf(c / 2 % 2);
        if (c == 5) channel.payerAuthorizer = address(0);
        return channel;
    }

    function receiverOf(uint256 r) public view returns (address) {
        return r == 0 ? receiver : address(uint160(uint256(keccak256("second receiver"))));
    }

    function held(address token_, address who) external view returns (uint256) {
        return Plain3009(token_).balanceOf(who);
    }

    function escrowed(address token_) external view returns (uint256) {
        return Plain3009(token_).balanceOf(address(settlement));
    }

    function deposit(uint256 c, uint128 amount) external growing {
        c = c % CHANNELS;
        amount = uint128(within(amount, 1, 1e12));
        IX402BatchSettlement.ChannelConfig memory channel = channelOf(c);
        Plain3009(channel.token).mint(channel.payer, amount);
        bytes memory data = collectorData(channel, amount, ++salt, _payerKey(c));
        settlement.deposit(channel, amount, collector, data);
        deposited[c] += amount;
    }

    /// @dev Claims two channels of one authorizer in one batch, the second perhaps of the same
    /// receiver, for any totals up to a little above what is in them.
    function claim(uint256 c, uint256 d, uint128 first, uint128 second) external growing {
        (c, d) = (c % CHANNELS, d % CHANNELS);
        IX402BatchSettlement.VoucherClaim[] memory rows = new IX402BatchSettlement.VoucherClaim[](2);
        rows[0] = _row(c, first);
        rows[1] = _row(d, second);
        bytes memory signed = authorization(rows);
        try settlement.claimWithSignature(rows, signed) {
            _booked(c, rows[0].totalClaimed);
            _booked(d, rows[1].totalClaimed);
        } catch (bytes memory reason) {
            bool tooMuch = _above(c, rows[0].totalClaimed) || _above(d, rows[1].totalClaimed);
            ensure(tooMuch, "refused without need");
            equal(
                bytes32(reason),
                bytes32(IX402BatchSettlement.ClaimExceedsBalance.selector),
                "another reason"
            );
        }
    }

    function settle(uint256 r, uint256 t) external growing {
        settlement.settle(receiverOf(r % RECEIVERS), tokens[t % TOKENS]);
    }

    function refund(uint256 c, uint128 amount, bool signed) external growing {
        c = c % CHANNELS;
        amount = uint128(within(amount, 1, 2e12));
        IX402BatchSettlement.ChannelConfig memory channel = channelOf(c);
        uint256 back = _smaller(amount, deposited[c] - returned[c] - claimed[c]);
        if (signed) {
            bytes32 id = ids[c % CHANNELS];
            bytes32 digest = settlement.getRefundDigest(id, refunds[c], amount);
            settlement.refundWithSignature(
                channel, amount, refunds[c], signature(AUTHORIZER_KEY, digest)
            );
        } else {
            vm.prank(channel.receiver);
            settlement.refund(channel, amount);
        }
        ++refunds[c];
        returned[c] += back;
    }

    function initiateWithdraw(uint256 c, uint128 amount) external growing {
        c = c % CHANNELS;
        IX402BatchSettlement.ChannelConfig memory channel = channelOf(c);
        (, uint40 pendingSince) = settlement.pendingWithdrawals(ids[c]);
        uint256 most = deposited[c] - returned[c] - claimed[c];
        if (pendingSince != 0 || most == 0) return;
        amount = uint128(within(amount, 1, most));
        vm.prank(channel.payer);
        settlement.initiateWithdraw(channel, amount);
    }

    function finalizeWithdraw(uint256 c, uint256 waited) external growing {
        c = c % CHANNELS;
        waited = within(waited, 0, 2000);
        pass(waited);
        IX402BatchSettlement.ChannelConfig memory channel = channelOf(c);
        bytes32 id = ids[c % CHANNELS];
        (uint128 amount, uint40 since) = settlement.pendingWithdrawals(id);
        if (since == 0 || vm.getBlockTimestamp() < since + 900) return;
        uint256 back = _smaller(amount, deposited[c] - returned[c] - claimed[c]);
        vm.prank(channel.payer);
        settlement.finalizeWithdraw(channel);
        returned[c] += back;
    }

    /// @dev The stranger tries everything in its own name and with its own signature.
    function trespass(uint256 c, uint128 amount, uint8 way) external growing {
        IX402BatchSettlement.ChannelConfig memory channel = channelOf(c % CHANNELS);
        amount = uint128(within(amount, 1, 1e12));
        bytes32 id = ids[c % CHANNELS];
        IX402BatchSettlement.VoucherClaim[] memory rows = new IX402BatchSettlement.VoucherClaim[](1);
        rows[0] = claimRow(channel, type(uint128).max, amount, STRANGER_KEY);
        bytes32 digest = settlement.getClaimBatchDigest(rows);
        bytes memory call;
        way = way % 6;
        if (way == 0) call = abi.encodeCall(settlement.claim, (rows));
        if (way == 1) {
            bytes memory signed = signature(STRANGER_KEY, digest);
            call = abi.encodeCall(settlement.claimWithSignature, (rows, signed));
        }
        if (way == 2) call = abi.encodeCall(settlement.refund, (channel, amount));
        if (way == 3) {
            uint256 nonce = settlement.refundNonce(id);
            bytes32 refundDigest = settlement.getRefundDigest(id, nonce, amount);
            bytes memory signed = signature(STRANGER_KEY, refundDigest);
            call = abi.encodeCall(settlement.refundWithSignature, (channel, amount, nonce, signed));
        }
        if (way == 4) call = abi.encodeCall(settlement.initiateWithdraw, (channel, amount));
        if (way == 5) call = abi.encodeCall(settlement.finalizeWithdraw, (channel));
        vm.prank(stranger);
        (bool success,) = address(settlement).call(call);
        if (success) ++wronglyAllowed;
    }

    function _row(uint256 c, uint128 total)
        private
        view
        returns (IX402BatchSettlement.VoucherClaim memory)
    {
        total = uint128(within(total, 0, (deposited[c] - returned[c]) * 11 / 10 + 1));
        uint256 key = c == 5 ? _payerKey(c) : VOUCHER_KEY;
        return claimRow(channelOf(c), total, total, key);
    }

    function _booked(uint256 c, uint256 total) private {
        if (total > claimed[c]) claimed[c] = total;
    }

    function _above(uint256 c, uint256 total) private view returns (bool) {
        return total > deposited[c] - returned[c];
    }

    function _payerKey(uint256 c) private pure returns (uint256) {
        return c % 3 == 0 ? OTHER_KEY : PAYER_KEY;
    }

    function _look() private view returns (Seen[6] memory seen) {
        for (uint256 c = 0; c < CHANNELS; ++c) {
            (, seen[c].claimed) = settlement.channels(ids[c]);
            seen[c].nonce = settlement.refundNonce(ids[c]);
        }
    }

    function _smaller(uint256 a, uint256 b) private pure returns (uint256) {
        return a < b ? a : b;
    }
}
