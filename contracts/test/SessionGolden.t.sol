// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EVMPaymentChannel} from "../src/EVMPaymentChannel.sol";
import {IEVMPaymentChannel} from "../src/interfaces/IEVMPaymentChannel.sol";
import {Plain3009} from "../src/tokens/Plain3009.sol";
import {Base} from "./Base.sol";

/// @title Takes any authorization that carries the nonce it was told to expect
contract NonceProbe {
    bytes32 public nonce;
    uint256 private held;

    function balanceOf(address) external view returns (uint256) {
        return held;
    }

    function receiveWithAuthorization(
        address,
        address,
        uint256 value,
        uint256,
        uint256,
        bytes32 nonce_,
        bytes calldata
    ) external {
        (nonce, held) = (nonce_, held + value);
    }
}

/// @title The hashes of a session that Solidity, viem and Python agreed on
/// @dev `vectors/evm_session_vectors.json`, each row at the escrow that it names.
contract SessionGoldenTest is Base {
    string private vectors = vm.readFile("../vectors/evm_session_vectors.json");
    EVMPaymentChannel private constant escrow =
        EVMPaymentChannel(0x1613beB3B2C4f22Ee086B2b38C1476A3cE7f78E8);

    function setUp() external {
        vm.etch(address(escrow), vm.getDeployedCode(artifact("EVMPaymentChannel")));
    }

    function test_k1_all_16_vectors_of_the_escrow_hold() external {
        uint256 held = 0;
        for (uint256 i = 0; i < 17; ++i) {
            bytes32 kind = keccak256(bytes(_text(i, "kind")));
            ++held;
            if (kind == keccak256("voucher")) _voucher(i);
            else if (kind == keccak256("openNonce")) _openNonce(i);
            else if (kind == keccak256("topUpNonce")) _topUpNonce(i);
            else if (kind == keccak256("settleAuth")) _order(i, true);
            else if (kind == keccak256("closeAuth")) _order(i, false);
            else --held;
        }
        equal(held, 16, "vectors");
    }

    function test_type_hashes_are_those_of_the_draft() external view {
        equal(
            escrow.SETTLE_AUTHORIZATION_TYPEHASH(),
            keccak256(
                "SettleAuthorization(bytes32 channelId,uint128 cumulativeAmount,uint256 nonce,uint256 deadline)"
            ),
            "SettleAuthorization"
        );
        equal(
            escrow.CLOSE_AUTHORIZATION_TYPEHASH(),
            keccak256(
                "CloseAuthorization(bytes32 channelId,uint128 cumulativeAmount,uint256 nonce,uint256 deadline)"
            ),
            "CloseAuthorization"
        );
        equal(
            escrow.VOUCHER_TYPEHASH(),
            keccak256("Voucher(bytes32 channelId,uint128 cumulativeAmount)"),
            "Voucher"
        );
        equal(
            escrow.CHANNEL_OPEN_WITNESS_TYPEHASH(),
            keccak256("ChannelOpenWitness(address payee,bytes32 salt,address authorizedSigner)"),
            "ChannelOpenWitness"
        );
        equal(
            escrow.CHANNEL_TOP_UP_WITNESS_TYPEHASH(),
            keccak256("ChannelTopUpWitness(bytes32 channelId)"),
            "ChannelTopUpWitness"
        );
    }

    function test_k1_the_domain_is_that_of_where_and_on_which_chain_the_code_runs() external {
        (, string memory name, string memory version, uint256 chain, address where,,) =
            escrow.eip712Domain();
        equal(keccak256(bytes(name)), keccak256("EVM Payment Channel"), "name");
        equal(keccak256(bytes(version)), keccak256("1"), "version");
        equal(chain, 31337, "chain");
        equal(where, address(escrow), "contract");
        bytes32 here = escrow.domainSeparator();
        equal(here, _separator(31337, address(escrow)), "here");
        EVMPaymentChannel other = EVMPaymentChannel(deploy("EVMPaymentChannel"));
        equal(other.domainSeparator(), _separator(31337, address(other)), "another address");
        vm.chainId(8453);
        equal(escrow.domainSeparator(), _separator(8453, address(escrow)), "another chain");
    }

    function test_k1_an_id_is_of_one_escrow_on_one_chain() external {
        EVMPaymentChannel other = EVMPaymentChannel(deploy("EVMPaymentChannel"));
        uint256[2] memory chains = [uint256(31337), 8453];
        for (uint256 i = 0; i < chains.length; ++i) {
            vm.chainId(chains[i]);
            _hasIds(escrow, chains[i]);
            _hasIds(other, chains[i]);
        }
    }

    function _hasIds(EVMPaymentChannel where, uint256 chain) private view {
        address party = address(1);
        bytes32 expected =
            keccak256(abi.encode(party, party, party, bytes32(0), party, where, chain));
        equal(where.computeChannelId(party, party, party, 0, party), expected, "id");
    }

    function _voucher(uint256 i) private {
        bytes32 id = _id(i);
        equal(_word(i, "channelId"), id, "channel id");
        uint128 amount = uint128(_number(i, "cumulativeAmount"));
        bytes32 digest = escrow.getVoucherDigest(id, amount);
        equal(digest, _word(i, "digest"), "digest");
        bytes memory signed = vm.parseJsonBytes(vectors, _at(i, "signature"));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(uint256(_word(i, "signerKey")), digest);
        equal(keccak256(signed), keccak256(abi.encodePacked(r, s, v)), "signature");
        if (amount != 0) _settles(i, id, amount, signed);
    }

    /// @dev The signature of the vector moves tokens.
    function _settles(uint256 i, bytes32 id, uint128 amount, bytes memory signed) private {
        address token = _account(i, "token");
        address payer = _account(i, "payer");
        vm.etch(token, vm.getDeployedCode(artifact("Plain3009")));
        if (escrow.getChannel(id).payee == address(0)) {
            Plain3009(token).mint(payer, 1000);
            vm.prank(payer);
            Plain3009(token).approve(address(escrow), 1000);
            bytes32 salt = _word(i, "salt");
            (address payee, address signer) =
                (_account(i, "payee"), _account(i, "authorizedSigner"));
            vm.prank(payer);
            equal(escrow.open(payee, token, 1000, salt, signer), id, "opened");
        }
        if (amount > 1000) vm.expectRevert(IEVMPaymentChannel.AmountExceedsDeposit.selector);
        vm.prank(_account(i, "payee"));
        escrow.settle(id, amount, signed);
    }

    /// @dev The vector's nonce is the one and only that the escrow lets through. At another
    /// escrow, where the channel is not open yet: its address is not in the nonce.
    function _openNonce(uint256 i) private {
        bytes32 nonce = _word(i, "nonce");
        address token = _account(i, "token");
        vm.etch(token, address(new NonceProbe()).code);
        address fresh = deploy("EVMPaymentChannel");
        (bool success, bytes memory reason) = fresh.call(_opening(i, bytes32(uint256(nonce) ^ 1)));
        ensure(!success, "opened with another nonce");
        equal(bytes32(reason), bytes32(IEVMPaymentChannel.NonceMismatch.selector), "reason");
        (success,) = fresh.call(_opening(i, nonce));
        ensure(success, "not opened");
        equal(NonceProbe(token).nonce(), nonce, "the nonce that the token sees");
    }

    function _opening(uint256 i, bytes32 nonce) private view returns (bytes memory) {
        return abi.encodeCall(
            escrow.openWithAuthorization,
            (
                _account(i, "payee"),
                _account(i, "token"),
                5,
                _word(i, "salt"),
                _account(i, "authorizedSigner"),
                _account(i, "payer"),
                0,
                1,
                nonce,
                ""
            )
        );
    }

    function _topUpNonce(uint256 i) private {
        bytes32 nonce = _word(i, "nonce");
        bytes32 id = _word(i, "channelId");
        uint128 amount = uint128(_number(i, "additionalDeposit"));
        (address from, bytes32 salt) = (_account(i, "from"), _word(i, "topUpSalt"));
        address token = escrow.getChannel(id).token;
        vm.etch(token, address(new NonceProbe()).code);
        vm.expectRevert(IEVMPaymentChannel.NonceMismatch.selector);
        escrow.topUpWithAuthorization(id, amount, from, salt, 0, 1, bytes32(uint256(nonce) ^ 1), "");
        escrow.topUpWithAuthorization(id, amount, from, salt, 0, 1, nonce, "");
        equal(NonceProbe(token).nonce(), nonce, "the nonce that the token sees");
    }

    function _order(uint256 i, bool settle) private view {
        bytes32 id = _word(i, "channelId");
        uint128 amount = uint128(_number(i, "cumulativeAmount"));
        (uint256 nonce, uint256 deadline) = (_number(i, "nonce"), _number(i, "deadline"));
        bytes32 digest = settle
            ? escrow.getSettleAuthorizationDigest(id, amount, nonce, deadline)
            : escrow.getCloseAuthorizationDigest(id, amount, nonce, deadline);
        equal(digest, _word(i, "digest"), "digest");
    }

    function _id(uint256 i) private view returns (bytes32) {
        return escrow.computeChannelId(
            _account(i, "payer"),
            _account(i, "payee"),
            _account(i, "token"),
            _word(i, "salt"),
            _account(i, "authorizedSigner")
        );
    }

    function _separator(uint256 chain, address where) private pure returns (bytes32) {
        bytes32 kind = keccak256(
            "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
        );
        return
            keccak256(
                abi.encode(kind, keccak256("EVM Payment Channel"), keccak256("1"), chain, where)
            );
    }

    function _at(uint256 i, string memory field) private pure returns (string memory) {
        return string.concat("$[", vm.toString(i), "].", field);
    }

    function _text(uint256 i, string memory field) private view returns (string memory) {
        return vm.parseJsonString(vectors, _at(i, field));
    }

    function _word(uint256 i, string memory field) private view returns (bytes32) {
        return vm.parseJsonBytes32(vectors, _at(i, field));
    }

    function _account(uint256 i, string memory field) private view returns (address) {
        return vm.parseJsonAddress(vectors, _at(i, field));
    }

    function _number(uint256 i, string memory field) private view returns (uint256) {
        return vm.parseJsonUint(vectors, _at(i, field));
    }
}
