// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEVMPaymentChannel} from "../src/interfaces/IEVMPaymentChannel.sol";
import {Plain3009} from "../src/tokens/Plain3009.sol";
import {SessionFixture} from "./SessionFixture.sol";

/// @title Two payers, two payees, two tokens and a stranger who do what they can with sessions
/// @dev Keeps books of what it did, from its own arguments and not from the contract's state.
contract SessionHandler is SessionFixture {
    uint256 public constant CHANNELS = 6;
    uint256 public constant TOKENS = 2;
    uint256 private constant OTHER_KEY = uint256(keccak256("other payer"));
    uint256 private constant SECOND_KEY = uint256(keccak256("second payee"));

    address[2] public tokens;
    bytes32[6] public ids;
    uint256[6] public deposited;
    uint256[6] public settled;
    uint256[6] public returned;
    bool[6] public closed;
    uint256[6] private leavingSince;
    uint256 public wronglyAllowed;
    bool public wentBackwards;
    uint256 private used;

    // Kept, since deriving addresses is most of the time that a run takes.
    address[2] private payers;
    address[2] private payees;

    /// @dev Whatever is called: totals only grow, terms stay, and closed is for ever.
    modifier growing() {
        IEVMPaymentChannel.Channel[] memory before = _look();
        _;
        IEVMPaymentChannel.Channel[] memory afterwards = _look();
        for (uint256 c = 0; c < CHANNELS; ++c) {
            if (afterwards[c].settled < before[c].settled) wentBackwards = true;
            if (afterwards[c].deposit < before[c].deposit) wentBackwards = true;
            if (before[c].finalized && !_same(before[c], afterwards[c])) wentBackwards = true;
        }
    }

    /// @dev The contracts are in place already.
    constructor() {
        tokens[0] = deploy("Plain3009");
        tokens[1] = deploy("Plain3009");
        payers = [payer, vm.addr(OTHER_KEY)];
        payees = [payee, vm.addr(SECOND_KEY)];
        for (uint256 c = 0; c < CHANNELS; ++c) {
            ids[c] = escrow.computeChannelId(
                payerOf(c), payeeOf(c), tokenOf(c), bytes32(c), signerOf(c)
            );
        }
    }

    function payerOf(uint256 c) public view returns (address) {
        return payers[c / 3];
    }

    function payeeOf(uint256 c) public view returns (address) {
        return payees[c / 2 % 2];
    }

    function tokenOf(uint256 c) public view returns (address) {
        return tokens[c % 2];
    }

    function signerOf(uint256 c) public view returns (address) {
        return c == 5 ? address(0) : voucherSigner;
    }

    function held(address token_, address who) external view returns (uint256) {
        return Plain3009(token_).balanceOf(who);
    }

    function open(uint256 c, uint128 amount, bool relayed) external growing {
        c = c % CHANNELS;
        amount = uint128(within(amount, 1, 1e12));
        bool exists = deposited[c] != 0;
        address from = payerOf(c);
        give(tokenOf(c), from, amount);
        bytes memory signed;
        bytes32 nonce = keccak256(abi.encode(from, payeeOf(c), tokenOf(c), bytes32(c), signerOf(c)));
        if (relayed) signed = authorized(tokenOf(c), _payerKey(c), amount, nonce);
        if (exists) vm.expectRevert(IEVMPaymentChannel.ChannelAlreadyExists.selector);
        if (relayed) {
            _openRelayed(c, amount, nonce, signed);
        } else {
            (address to, address asset, address signer) = (payeeOf(c), tokenOf(c), signerOf(c));
            vm.prank(from);
            escrow.open(to, asset, amount, bytes32(c), signer);
        }
        if (!exists) deposited[c] = amount;
    }

    /// @dev By the payer itself, by its authorization, or with a stranger's tokens.
    function topUp(uint256 c, uint128 amount, uint8 way) external growing {
        c = c % CHANNELS;
        if (deposited[c] == 0 || closed[c]) return;
        amount = uint128(within(amount, 1, 1e12));
        way = way % 3;
        if (way == 0) {
            give(tokenOf(c), payerOf(c), amount);
            vm.prank(payerOf(c));
            escrow.topUp(ids[c], amount);
        } else {
            uint256 key = way == 1 ? _payerKey(c) : STRANGER_KEY;
            Plain3009(tokenOf(c)).mint(vm.addr(key), amount);
            topUpByAuthorization(ids[c], amount, key, ++used);
        }
        deposited[c] += amount;
        if (way != 2) leavingSince[c] = 0;
    }

    /// @dev For any total up to a little above what is in the channel.
    function settle(uint256 c, uint128 total, bool relayed) external growing {
        c = c % CHANNELS;
        if (deposited[c] == 0) return;
        total = uint128(within(total, 0, deposited[c] * 11 / 10 + 1));
        bytes memory signed = _voucher(c, total);
        bytes memory order =
            _order(c, escrow.getSettleAuthorizationDigest(ids[c], total, ++used, DEADLINE));
        bytes4 reason = IEVMPaymentChannel.AmountExceedsDeposit.selector;
        if (total <= settled[c]) reason = IEVMPaymentChannel.AmountNotIncreasing.selector;
        if (closed[c]) reason = IEVMPaymentChannel.ChannelFinalized.selector;
        bool fails = closed[c] || total <= settled[c] || total > deposited[c];
        bytes32 id = ids[c];
        if (!relayed) vm.prank(payeeOf(c));
        if (fails) vm.expectRevert(reason);
        if (relayed) {
            escrow.settleWithAuthorization(id, total, used, DEADLINE, order, signed);
        } else {
            escrow.settle(id, total, signed);
        }
        if (!fails) settled[c] = total;
    }

    function close(uint256 c, uint128 total, bool relayed) external growing {
        c = c % CHANNELS;
        // Now and then only: nothing can be done with a closed channel.
        if (deposited[c] == 0 || closed[c] || total % 4 != 0) return;
        total = uint128(within(total / 4, 0, deposited[c]));
        bytes memory signed = _voucher(c, total);
        bytes memory order =
            _order(c, escrow.getCloseAuthorizationDigest(ids[c], total, ++used, DEADLINE));
        if (relayed) {
            escrow.closeWithAuthorization(ids[c], total, used, DEADLINE, order, signed);
        } else {
            vm.prank(payeeOf(c));
            escrow.close(ids[c], total, signed);
        }
        if (total > settled[c]) settled[c] = total;
        _isClosed(c);
    }

    function requestClose(uint256 c) external growing {
        c = c % CHANNELS;
        if (deposited[c] == 0 || closed[c]) return;
        vm.prank(payerOf(c));
        escrow.requestClose(ids[c]);
        if (leavingSince[c] == 0) leavingSince[c] = vm.getBlockTimestamp();
    }

    function withdraw(uint256 c, uint256 waited) external growing {
        c = c % CHANNELS;
        pass(within(waited, 0, 1200));
        if (deposited[c] == 0 || closed[c]) return;
        uint256 since = leavingSince[c];
        bool early = since == 0 || vm.getBlockTimestamp() < since + 900;
        bytes32 id = ids[c];
        vm.prank(payerOf(c));
        if (early) vm.expectRevert(IEVMPaymentChannel.CloseNotReady.selector);
        escrow.withdraw(id);
        if (!early) _isClosed(c);
    }

    /// @dev The stranger tries everything in its own name and with its own signature.
    function trespass(uint256 c, uint128 amount, uint8 way) external growing {
        bytes32 id = ids[c % CHANNELS];
        amount = uint128(within(amount, 1, 1e12));
        bytes memory signed = signature(STRANGER_KEY, escrow.getVoucherDigest(id, amount));
        bytes memory call;
        way = way % 7;
        if (way == 0) call = abi.encodeCall(escrow.settle, (id, amount, signed));
        if (way == 1) call = abi.encodeCall(escrow.close, (id, amount, signed));
        if (way == 2) call = abi.encodeCall(escrow.requestClose, (id));
        if (way == 3) call = abi.encodeCall(escrow.withdraw, (id));
        if (way == 4) call = abi.encodeCall(escrow.topUp, (id, amount));
        if (way > 4) {
            bytes32 digest = way == 5
                ? escrow.getSettleAuthorizationDigest(id, amount, 0, DEADLINE)
                : escrow.getCloseAuthorizationDigest(id, amount, 0, DEADLINE);
            bytes memory order = signature(STRANGER_KEY, digest);
            call = way == 5
                ? abi.encodeCall(
                    escrow.settleWithAuthorization, (id, amount, 0, DEADLINE, order, signed)
                )
                : abi.encodeCall(
                    escrow.closeWithAuthorization, (id, amount, 0, DEADLINE, order, signed)
                );
        }
        vm.prank(stranger);
        (bool success,) = address(escrow).call(call);
        if (success) ++wronglyAllowed;
    }

    function _openRelayed(uint256 c, uint128 amount, bytes32 nonce, bytes memory signed) private {
        escrow.openWithAuthorization(
            payeeOf(c),
            tokenOf(c),
            amount,
            bytes32(c),
            signerOf(c),
            payerOf(c),
            0,
            DEADLINE,
            nonce,
            signed
        );
    }

    function _isClosed(uint256 c) private {
        closed[c] = true;
        returned[c] = deposited[c] - settled[c];
    }

    function _voucher(uint256 c, uint128 total) private view returns (bytes memory) {
        uint256 key = c == 5 ? _payerKey(c) : VOUCHER_KEY;
        return signature(key, escrow.getVoucherDigest(ids[c], total));
    }

    function _order(uint256 c, bytes32 digest) private pure returns (bytes memory) {
        return signature(c / 2 % 2 == 0 ? PAYEE_KEY : SECOND_KEY, digest);
    }

    function _payerKey(uint256 c) private pure returns (uint256) {
        return c / 3 == 0 ? PAYER_KEY : OTHER_KEY;
    }

    function _look() private view returns (IEVMPaymentChannel.Channel[] memory) {
        bytes32[] memory all = new bytes32[](CHANNELS);
        for (uint256 c = 0; c < CHANNELS; ++c) {
            all[c] = ids[c];
        }
        return escrow.getChannelsBatch(all);
    }

    function _same(IEVMPaymentChannel.Channel memory a, IEVMPaymentChannel.Channel memory b)
        private
        pure
        returns (bool)
    {
        return keccak256(abi.encode(a)) == keccak256(abi.encode(b));
    }
}
