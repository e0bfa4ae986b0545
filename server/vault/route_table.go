package vault

import "slices"

// routeTable is everything that the API has outside mounts; of the routes that match a path, the first counts.
// POST means PUT as well, LIST means GET with ?list=true as well.
func routeTable() []route {
	return slices.Concat(
		sealRoutes(),
		mountRoutes(),
		authRoutes(),
		leaseRoutes(),
		hostRoutes(),
		policyRoutes(),
		wrappingRoutes(),
		tokenRoutes(),
		replicationRoutes(),
		divergenceRoutes(),
		operationRoutes(),
		performanceRoutes(),
		drRoutes(),
		legacyRoutes(),
	)
}

const repl = "sys/replication/"

// sealRoutes are those of seal, unseal, and what holders of shares do together.
func sealRoutes() []route {
	return []route{
		{"GET", "sys/seal-status", open | onDR | early, (*Core).sealStatus, nil},
		{"GET", "sys/leader", open | onDR | early, (*Core).leader, nil},
		{"GET", "sys/init", open | onDR | early, (*Core).initStatus, nil},
		{"POST", "sys/init", open | early, (*Core).initAgain, nil},
		{"POST", "sys/unseal", open | onDR | early, (*Core).unsealed, nil},
		{"POST", "sys/seal", sudo | onDR, (*Core).sealNow, nil},
		{"POST", "sys/step-down", sudo | onDR, (*Core).stepDown, nil},
		{"GET", "sys/key-status", 0, (*Core).keyStatus, nil},
		{"POST", "sys/rotate", sudo, (*Core).rotate, nil},
		{"GET", "sys/generate-root/attempt", ceremony, generateProgress(rootToken), nil},
		{"POST", "sys/generate-root/attempt", ceremony, in(generateBegin(rootToken)), nil},
		{"DELETE", "sys/generate-root/attempt", ceremony, generateCancel(rootToken), nil},
		{"POST", "sys/generate-root/update", ceremony, in(generateUpdate(rootToken)), nil},
		{"GET", "sys/rekey/init", ceremony, rekeyProgress(unsealShares), nil},
		{"POST", "sys/rekey/init", ceremony, in(rekeyBegin(unsealShares)), nil},
		{"DELETE", "sys/rekey/init", ceremony, rekeyCancel(unsealShares), nil},
		{"POST", "sys/rekey/update", ceremony, in(rekeyUpdate(unsealShares)), nil},
		{"GET", "sys/rekey/verify", ceremony, rekeyVerifyProgress(unsealShares), nil},
		{"POST", "sys/rekey/verify", ceremony, in(rekeyVerifyUpdate(unsealShares)), nil},
		{"DELETE", "sys/rekey/verify", ceremony, rekeyVerifyCancel(unsealShares), nil},
		{"GET", "sys/rekey-recovery-key/init", ceremony, rekeyProgress(recoveryShares), nil},
		{"POST", "sys/rekey-recovery-key/init", ceremony, in(rekeyBegin(recoveryShares)), nil},
		{"DELETE", "sys/rekey-recovery-key/init", ceremony, rekeyCancel(recoveryShares), nil},
		{"POST", "sys/rekey-recovery-key/update", ceremony, in(rekeyUpdate(recoveryShares)), nil},
		{"GET", "sys/rekey-recovery-key/verify", ceremony, rekeyVerifyProgress(recoveryShares), nil},
		{"POST", "sys/rekey-recovery-key/verify", ceremony, in(rekeyVerifyUpdate(recoveryShares)), nil},
		{"DELETE", "sys/rekey-recovery-key/verify", ceremony, rekeyVerifyCancel(recoveryShares), nil},
	}
}

// mountRoutes are those of mounts.
func mountRoutes() []route {
	return []route{
		{"GET", "sys/mounts", 0, (*Core).listMounts, nil},
		{"GET", "sys/mounts/*/tune", 0, (*Core).readTune, nil},
		{"POST", "sys/mounts/*/tune", toShared, in((*Core).tuneMount), (*Core).mountStays},
		{"GET", "sys/mounts/*", 0, (*Core).readMount, nil},
		{"POST", "sys/mounts/*", toShared, in((*Core).enableMount), (*Core).enableStays},
		{"DELETE", "sys/mounts/*", toShared, (*Core).disableMount, (*Core).mountStays},
		{"POST", "sys/remount", toShared | sudo, in((*Core).remount), (*Core).remountStays},
		{"GET", "sys/remount/status/*", 0, (*Core).remountStatus, nil},
		{"GET", "sys/internal/ui/mounts", open, (*Core).uiMounts, nil},
		{"GET", "sys/internal/ui/mounts/*", anyToken, (*Core).uiMount, nil},
		{"GET", "sys/internal/ui/resultant-acl", 0, (*Core).resultantACL, nil},
	}
}

// authRoutes are those of auth methods and the users that they lock out.
func authRoutes() []route {
	return []route{
		{"GET", "sys/auth", 0, (*Core).listAuth, nil},
		{"GET", "sys/auth/*/tune", sudo, onAuth((*Core).readTune), nil},
		{"POST", "sys/auth/*/tune", toShared | sudo, onAuth(in((*Core).tuneMount)), (*Core).authStays},
		{"GET", "sys/auth/*", sudo, onAuth((*Core).readMount), nil},
		{"POST", "sys/auth/*", toShared | sudo, in((*Core).enableAuth), (*Core).enableStays},
		{"DELETE", "sys/auth/*", toShared | sudo, onAuth((*Core).disableMount), (*Core).authStays},
		{"GET LIST", "sys/locked-users", 0, (*Core).listLocked, nil},
		{"GET LIST", "sys/locked-users/*", 0, (*Core).listLocked, nil},
		{"POST", "sys/locked-users/*", 0, (*Core).unlock, nil},
	}
}

// leaseRoutes are those of leases, under their present and their former paths.
func leaseRoutes() []route {
	return []route{
		{"POST", "sys/leases/lookup", 0, in((*Core).lookupLease), nil},
		{"LIST", "sys/leases/lookup", sudo, (*Core).listLeases, nil},
		{"LIST", "sys/leases/lookup/*", sudo, (*Core).listLeases, nil},
		{"POST", "sys/leases/renew", 0, in((*Core).renewLease), nil},
		{"POST", "sys/leases/renew/*", 0, in((*Core).renewLease), nil},
		{"POST", "sys/leases/revoke", 0, in((*Core).revokeLease), nil},
		{"POST", "sys/leases/revoke/*", 0, in((*Core).revokeLease), nil},
		{"POST", "sys/leases/revoke-prefix/*", sudo, in((*Core).revokePrefix), nil},
		{"POST", "sys/leases/revoke-force/*", sudo, in((*Core).revokePrefix), nil},
		{"POST", "sys/leases/tidy", 0, (*Core).tidy, nil},
		{"POST", "sys/renew", 0, in((*Core).renewLease), nil},
		{"POST", "sys/renew/*", 0, in((*Core).renewLease), nil},
		{"POST", "sys/revoke", 0, in((*Core).revokeLease), nil},
		{"POST", "sys/revoke/*", 0, in((*Core).revokeLease), nil},
		{"POST", "sys/revoke-prefix/*", sudo, in((*Core).revokePrefix), nil},
		{"POST", "sys/revoke-force/*", sudo, in((*Core).revokePrefix), nil},
	}
}

// hostRoutes are those of one node: audit, metrics, what it runs on, snapshots.
func hostRoutes() []route {
	return []route{
		{"GET", "sys/audit", sudo, (*Core).listAudit, nil},
		// Not toShared: a stolen performance secondary could have files written on its primary's host, or every request there refused.
		{"POST", "sys/audit/*", sudo, in((*Core).enableAudit), nil},
		{"DELETE", "sys/audit/*", sudo, (*Core).disableAudit, nil},
		{"POST", "sys/audit-hash/*", 0, in((*Core).auditHash), nil},
		{"GET", metricsPath, onDR | early, in((*Core).metrics), nil},
		{"GET", "sys/in-flight-req", onDR, (*Core).inFlightRequests, nil},
		{"GET", "sys/ha-status", onDR, (*Core).haStatus, nil},
		{"GET", "sys/host-info", onDR, (*Core).hostInfo, nil},
		{"GET", "sys/pprof", onDR | drHeader, (*Core).profile, nil},
		{"GET", "sys/pprof/*", onDR | drHeader, (*Core).profile, nil},
		{"GET", "sys/config/state/sanitized", onDR, (*Core).sanitized, nil},
		{"GET", "sys/storage/snapshot", sudo | onDR | drHeader, (*Core).takeSnapshot, nil},
		{"POST", "sys/storage/snapshot", sudo | rawBody, restoreSnapshot(false), nil},
		{"POST", "sys/storage/snapshot-force", sudo | rawBody, restoreSnapshot(true), nil},
		{"GET", "sys/storage/raft/snapshot", sudo | onDR | drHeader, (*Core).takeSnapshot, nil},
		{"POST", "sys/storage/raft/snapshot", sudo | rawBody, restoreSnapshot(false), nil},
		{"POST", "sys/storage/raft/snapshot-force", sudo | rawBody, restoreSnapshot(true), nil},
		{"GET", "sys/storage/scrub", onDR | drHeader, (*Core).scrubStatus, nil},
		{"LIST", "sys/version-history", 0, (*Core).versionHistory, nil},
		{"GET", "sys/license/status", onDR, (*Core).licenseStatus, nil},
	}
}

// policyRoutes are those of policies, under their present and their former paths, and what they allow.
func policyRoutes() []route {
	return []route{
		{"GET LIST", "sys/policies/acl", 0, (*Core).listPolicies, nil},
		{"GET", "sys/policies/acl/*", 0, (*Core).readPolicy, nil},
		{"POST", "sys/policies/acl/*", toShared, in((*Core).writePolicy), nil},
		{"DELETE", "sys/policies/acl/*", toShared, (*Core).deletePolicy, nil},
		{"GET LIST", "sys/policy", 0, (*Core).listPoliciesLegacy, nil},
		{"GET", "sys/policy/*", 0, (*Core).readPolicyLegacy, nil},
		{"POST", "sys/policy/*", toShared, in((*Core).writePolicy), nil},
		{"DELETE", "sys/policy/*", toShared, (*Core).deletePolicy, nil},
		{"POST", "sys/capabilities", 0, in((*Core).capabilities), nil},
		{"POST", "sys/capabilities-accessor", 0, in((*Core).capabilitiesAccessor), nil},
		{"POST", "sys/capabilities-self", 0, in((*Core).capabilitiesSelf), nil},
	}
}

// wrappingRoutes are those of wrapped answers.
func wrappingRoutes() []route {
	return []route{
		{"POST", "sys/wrapping/wrap", 0, (*Core).wrap, nil},
		{"POST GET", "sys/wrapping/lookup", open, in((*Core).wrapLookup), nil},
		{"POST", "sys/wrapping/unwrap", open, in((*Core).unwrap), nil},
		{"POST", "sys/wrapping/rewrap", open, in((*Core).rewrap), nil},
	}
}

// tokenRoutes are those of tokens.
func tokenRoutes() []route {
	return []route{
		{"POST", "auth/token/create", 0, in((*Core).createToken), nil},
		{"POST", "auth/token/create-orphan", 0, in((*Core).createOrphan), nil},
		{"POST", "auth/token/create/*", 0, in((*Core).createByRole), nil},
		{"LIST", "auth/token/roles", 0, (*Core).listTokenRoles, nil},
		{"GET", "auth/token/roles/*", 0, (*Core).readTokenRole, nil},
		{"POST", "auth/token/roles/*", toShared, (*Core).writeTokenRole, nil},
		{"DELETE", "auth/token/roles/*", toShared, (*Core).deleteTokenRole, nil},
		{"POST", "auth/token/tidy", 0, (*Core).tidy, nil},
		{"GET", "auth/token/lookup-self", 0, (*Core).lookupSelf, nil},
		{"POST", "auth/token/lookup-self", 0, (*Core).lookupSelf, nil},
		{"POST GET", "auth/token/lookup", 0, in((*Core).lookupToken), nil},
		{"POST", "auth/token/lookup-accessor", 0, in((*Core).lookupAccessor), nil},
		{"POST", "auth/token/renew", 0, in((*Core).renewToken), nil},
		{"POST", "auth/token/renew-self", 0, in((*Core).renewSelf), nil},
		{"POST", "auth/token/renew-accessor", 0, in((*Core).renewAccessor), nil},
		{"POST", "auth/token/revoke", 0, in((*Core).revokeToken), nil},
		{"POST", "auth/token/revoke-self", 0, (*Core).revokeSelf, nil},
		{"POST", "auth/token/revoke-accessor", 0, in((*Core).revokeAccessor), nil},
		{"POST", "auth/token/revoke-orphan", sudo, in((*Core).revokeOrphan), nil},
		{"LIST", "auth/token/accessors", sudo, (*Core).listAccessors, nil},
	}
}

// replicationRoutes are those of both sets.
func replicationRoutes() []route {
	return []route{
		{"GET", repl + "status", open | onDR | early, (*Core).statusAll, nil},
		{"GET", repl + "performance/status", open | onDR | early, statusOf(performance), nil},
		{"GET", repl + "dr/status", open | onDR | early, statusOf(dr), nil},
		{"POST", repl + "recover", onDR, (*Core).recoverSet, nil},
		{"POST", repl + "reindex", onDR | sudo, in((*Core).reindex), nil},
		{"POST", repl + "merkle-check", onDR, (*Core).merkleCheck, nil},
	}
}

// divergenceRoutes are those of what was lost and archived.
func divergenceRoutes() []route {
	return []route{
		{"GET LIST", repl + "divergence", 0, (*Core).listDivergence, nil},
		{"POST", repl + "divergence/replay", sudo, in((*Core).replayChanges), nil},
		{"GET", repl + "divergence/*/export", sudo, in((*Core).exportDivergence), nil},
		{"POST", repl + "divergence/*/replay", sudo, (*Core).replayDivergence, nil},
		{"GET", repl + "divergence/*", 0, in((*Core).showDivergence), nil},
		{"DELETE", repl + "divergence/*", sudo, in((*Core).discardDivergence), nil},
	}
}

// operationRoutes are those of the making of a DR operation token.
func operationRoutes() []route {
	const operation = repl + "dr/secondary/generate-operation-token/"
	return []route{
		{"GET", operation + "attempt", ceremony | onDR, generateProgress(operationToken), nil},
		{"POST", operation + "attempt", ceremony | onDR, in(generateBegin(operationToken)), nil},
		{"DELETE", operation + "attempt", ceremony | onDR, generateCancel(operationToken), nil},
		{"POST", operation + "update", ceremony | onDR, in(generateUpdate(operationToken)), nil},
	}
}

// performanceRoutes are those of the performance set.
func performanceRoutes() []route {
	return []route{
		{"POST", repl + "performance/primary/enable", 0, in(enablePrimary(performance, false)), nil},
		{"POST", repl + "performance/primary/secondary-token", sudo, in(secondaryToken(performance)), nil},
		{"POST", repl + "performance/primary/revoke-secondary", 0, in(revokeSecondary(performance)), nil},
		{"POST", repl + "performance/primary/demote", 0, in(demotePrimary(performance, false)), nil},
		{"POST", repl + "performance/primary/rotate-ca", sudo, changeRole(performance, false, rotateCA), nil},
		{"POST", repl + "performance/primary/disable", 0, changeRole(performance, false, disablePrimary), nil},
		{"GET", repl + "performance/primary/synchronous", 0, readSynchronous(performance), nil},
		{"POST", repl + "performance/primary/synchronous", sudo, in(setSynchronous(performance)), nil},
		{"POST", repl + "performance/secondary/generate-public-key", 0, generatePublicKey(performance), nil},
		{"POST", repl + "performance/secondary/promote", 0, in(promoteSecondary(false)), nil},
		{"GET", repl + "performance/secondary/promote/preflight", open | onDR, promotePreflight(performance), nil},
		{"POST", repl + "performance/secondary/disable", 0, changeRole(performance, false, disableSecondary), nil},
		{"POST", repl + "performance/secondary/update-primary", 0, in(updatePrimary(false)), nil},
		{"GET", repl + "performance/primary/paths-filter/*", 0, (*Core).readPathsFilter, nil},
		{"POST", repl + "performance/primary/paths-filter/*", 0, in((*Core).setPathsFilter), nil},
		{"DELETE", repl + "performance/primary/paths-filter/*", 0, (*Core).deletePathsFilter, nil},
		{"GET", repl + "performance/primary/dynamic-filter/*", 0, (*Core).dynamicFilter, nil},
		{"GET", repl + "performance/secondary/dynamic-filter/*", 0, (*Core).ownDynamicFilter, nil},
		{"GET LIST POST DELETE", repl + "performance/primary/mount-filter/*", 0, (*Core).mountFilter, nil},
		{"POST", repl + "performance/secondary/enable", onRevoked, in(enableSecondary(performance, false)), nil},
	}
}

// drRoutes are those of the DR set.
func drRoutes() []route {
	return []route{
		{"POST", repl + "dr/primary/enable", 0, in(enablePrimary(dr, false)), nil},
		{"POST", repl + "dr/primary/secondary-token", sudo, in(secondaryToken(dr)), nil},
		{"POST", repl + "dr/primary/revoke-secondary", 0, in(revokeSecondary(dr)), nil},
		{"POST", repl + "dr/primary/demote", onDemoted, in(demotePrimary(dr, false)), nil},
		{"POST", repl + "dr/primary/rotate-ca", sudo, changeRole(dr, false, rotateCA), nil},
		{"POST", repl + "dr/primary/disable", 0, changeRole(dr, false, disablePrimary), nil},
		{"GET", repl + "dr/primary/synchronous", 0, readSynchronous(dr), nil},
		{"POST", repl + "dr/primary/synchronous", sudo, in(setSynchronous(dr)), nil},
		{"POST", repl + "dr/secondary/generate-public-key", onDR, generatePublicKey(dr), nil},
		{"POST", repl + "dr/secondary/promote", open | onDR, drCall((*Core).promoteDR), nil},
		{"GET", repl + "dr/secondary/promote/preflight", open | onDR, promotePreflight(dr), nil},
		{"POST", repl + "dr/secondary/update-primary", open | onDR, drCall((*Core).updatePrimaryDR), nil},
		{"POST", repl + "dr/secondary/disable", open | onDR, in((*Core).disableDR), nil},
		{"POST", repl + "dr/secondary/recover", open | onDR, drCall((*Core).recoverDR), nil},
		{"POST", repl + "dr/secondary/reindex", open | onDR, drCall((*Core).reindexDR), nil},
		{"POST", repl + "dr/secondary/merkle-check", open | onDR, drCall((*Core).merkleCheckDR), nil},
		{"POST", repl + "dr/secondary/operation-token/delete", open | onDR, drCall((*Core).deleteDROperation), nil},
		{"POST", repl + "dr/secondary/divergence", open | onDR, drCall((*Core).listDivergenceDR), nil},
		{"POST", repl + "dr/secondary/divergence/*/export", open | onDR, drCall((*Core).exportDivergenceDR), nil},
		{"POST", repl + "dr/secondary/divergence/*/discard", open | onDR, drCall((*Core).discardDivergenceDR), nil},
		{"POST", repl + "dr/secondary/divergence/*", open | onDR, drCall((*Core).showDivergenceDR), nil},
		{"GET", repl + "dr/secondary/license/status", open | onDR, (*Core).licenseStatus, nil},
		{"POST", repl + "dr/secondary/enable", onRevoked, in(enableSecondary(dr, false)), nil},
	}
}

// legacyRoutes are those of the performance set, under the paths that it had before there was DR.
func legacyRoutes() []route {
	return []route{
		{"POST", repl + "primary/enable", 0, in(enablePrimary(performance, true)), nil},
		{"GET POST", repl + "primary/secondary-token", sudo, in(secondaryToken(performance)), nil},
		{"POST", repl + "primary/revoke-secondary", 0, in(revokeSecondary(performance)), nil},
		{"POST", repl + "secondary/revoke-secondary", 0, in(revokeSecondary(performance)), nil},
		{"POST", repl + "primary/demote", 0, in(demotePrimary(performance, true)), nil},
		{"POST", repl + "primary/disable", 0, changeRole(performance, true, disablePrimary), nil},
		{"POST", repl + "secondary/promote", 0, in(promoteSecondary(true)), nil},
		{"POST", repl + "secondary/disable", 0, changeRole(performance, true, disableSecondary), nil},
		{"POST", repl + "secondary/update-primary", 0, in(updatePrimary(true)), nil},
		{"POST", repl + "secondary/enable", onRevoked, in(enableSecondary(performance, true)), nil},
	}
}
