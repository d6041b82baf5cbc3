// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {Token3009} from "./Token3009.sol";

/// @title A token that behaves like USDC (FiatTokenV2_2), for tests and local chains
/// @notice EIP-3009 and EIP-2612 in both signature forms, ERC-1271 payers, blacklist, pause.
/// @dev The deployer is the admin. Where only the code was placed (`anvil_setCode`) nobody is,
/// and the first to call `takeAdmin` becomes it.
contract TestUSDC is Token3009 {
    bytes32 public constant PERMIT_TYPEHASH = keccak256(
        "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
    );

    /// @notice Who mints, blacklists and pauses.
    address public admin;
    /// @notice Whether every movement is stopped.
    bool public paused;
    /// @notice Who can neither send nor receive nor approve.
    mapping(address account => bool) public isBlacklisted;
    /// @notice The nonce of the owner's next permit.
    mapping(address owner => uint256) public nonces;

    event AdminChanged(address indexed newAdmin);
    event Blacklisted(address indexed account);
    event UnBlacklisted(address indexed account);
    event Pause();
    event Unpause();

    /// @notice The caller is not the admin.
    error NotAdmin(address caller);
    /// @notice There is an admin.
    error AdminExists(address admin);
    /// @notice Everything is stopped.
    error Paused();
    /// @notice The account is blacklisted.
    error AccountBlacklisted(address account);
    /// @notice The permit was valid until this time only.
    error PermitExpired(uint256 deadline);

    modifier onlyAdmin() {
        if (msg.sender != admin) revert NotAdmin(msg.sender);
        _;
    }

    constructor() {
        admin = msg.sender;
        emit AdminChanged(msg.sender);
    }

    /// @notice Makes the caller the admin where there is none.
    function takeAdmin() external {
        if (admin != address(0)) revert AdminExists(admin);
        admin = msg.sender;
        emit AdminChanged(msg.sender);
    }

    /// @notice Makes tokens out of nothing.
    function mint(address to, uint256 value) external onlyAdmin {
        _mint(to, value);
    }

    /// @notice Stops an account from sending, receiving and approving.
    function blacklist(address account) external onlyAdmin {
        isBlacklisted[account] = true;
        emit Blacklisted(account);
    }

    /// @notice Undoes `blacklist`.
    function unBlacklist(address account) external onlyAdmin {
        isBlacklisted[account] = false;
        emit UnBlacklisted(account);
    }

    /// @notice Stops every movement.
    function pause() external onlyAdmin {
        paused = true;
        emit Pause();
    }

    /// @notice Undoes `pause`.
    function unpause() external onlyAdmin {
        paused = false;
        emit Unpause();
    }

    /// @notice Approves as `owner` signed (EIP-2612); also for contract wallets (ERC-1271).
    function permit(
        address owner,
        address spender,
        uint256 value,
        uint256 deadline,
        bytes memory signature
    ) public {
        if (block.timestamp > deadline) revert PermitExpired(deadline);
        bytes32 structHash = keccak256(
            abi.encode(PERMIT_TYPEHASH, owner, spender, value, nonces[owner]++, deadline)
        );
        _requireSignature(owner, structHash, signature);
        _approve(owner, spender, value);
    }

    /// @notice The same with a split signature.
    function permit(
        address owner,
        address spender,
        uint256 value,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external {
        permit(owner, spender, value, deadline, abi.encodePacked(r, s, v));
    }

    /// @inheritdoc ERC20
    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        _requireNotBlacklisted(msg.sender);
        return super.transferFrom(from, to, value);
    }

    /// @inheritdoc Token3009
    function cancelAuthorization(address authorizer, bytes32 nonce, bytes memory signature)
        public
        override
    {
        if (paused) revert Paused();
        super.cancelAuthorization(authorizer, nonce, signature);
    }

    /// @inheritdoc ERC20
    function name() public pure override returns (string memory) {
        return "USDC";
    }

    /// @inheritdoc ERC20
    function symbol() public pure override returns (string memory) {
        return "USDC";
    }

    /// @inheritdoc Token3009
    function version() public pure override returns (string memory) {
        return "2";
    }

    /// @notice As USDC.
    function decimals() public pure override returns (uint8) {
        return 6;
    }

    function _update(address from, address to, uint256 value) internal override {
        if (paused) revert Paused();
        _requireNotBlacklisted(from);
        _requireNotBlacklisted(to);
        super._update(from, to, value);
    }

    function _approve(address owner, address spender, uint256 value, bool emitEvent)
        internal
        override
    {
        if (paused) revert Paused();
        _requireNotBlacklisted(owner);
        _requireNotBlacklisted(spender);
        super._approve(owner, spender, value, emitEvent);
    }

    function _requireNotBlacklisted(address account) private view {
        if (isBlacklisted[account]) revert AccountBlacklisted(account);
    }
}
