package vault

import (
	"strings"

	"github.com/lockstepdb/lockstep/server/replication"
)

// handler answers one route. A nil reply without an error is 204.
type handler func(c *Core, r *request) (*reply, error)

// flags of a route.
const (
	open      = 1 << iota // needs no token: nothing is told that it should not, or the handler authorises by itself
	anyToken              // a valid token suffices, whatever its policies say: the handler looks at them
	sudo                  // needs the sudo capability too
	onDR                  // served on a DR secondary
	onRevoked             // served on a secondary that its primary revoked
	early                 // served before the cluster is initialised and while it is filled
	ceremony              // needs no token where the configuration says so: the shares authorise
	toShared              // writes replicated scope: a performance secondary forwards it
	rawBody               // its body is no JSON, and is read as it comes
	drHeader              // on a DR secondary X-Vault-Token is a DR operation token
)

// route is one line of the table. The path's '*' stands for one or more whole segments.
type route struct {
	methods string
	path    string
	flags   int
	run     handler
	stays   func(c *Core, r *request) (bool, error) // of toShared: whether this one writes local scope
}

// routeTable is everything that the API has outside mounts. POST means PUT as well, LIST means GET with ?list=true as well.
func routeTable() []route {
	const rep, legacy = "sys/replication/", "sys/replication/"
	const operation = rep + "dr/secondary/generate-operation-token/"
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

		{"GET", "sys/auth", 0, (*Core).listAuth, nil},
		{"GET", "sys/auth/*/tune", sudo, onAuth((*Core).readTune), nil},
		{"POST", "sys/auth/*/tune", toShared | sudo, onAuth(in((*Core).tuneMount)), (*Core).authStays},
		{"GET", "sys/auth/*", sudo, onAuth((*Core).readMount), nil},
		{"POST", "sys/auth/*", toShared | sudo, in((*Core).enableAuth), (*Core).enableStays},
		{"DELETE", "sys/auth/*", toShared | sudo, onAuth((*Core).disableMount), (*Core).authStays},
		{"GET LIST", "sys/locked-users", 0, (*Core).listLocked, nil},
		{"GET LIST", "sys/locked-users/*", 0, (*Core).listLocked, nil},
		{"POST", "sys/locked-users/*", 0, (*Core).unlock, nil},

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

		{"GET", "sys/audit", sudo, (*Core).listAudit, nil},
		// Not toShared: a stolen performance secondary could have files written on its primary's host, or every request there refused.
		{"POST", "sys/audit/*", sudo, in((*Core).enableAudit), nil},
		{"DELETE", "sys/audit/*", sudo, (*Core).disableAudit, nil},
		{"POST", "sys/audit-hash/*", 0, in((*Core).auditHash), nil},
		{"GET", metricsPath, onDR | early, in((*Core).metrics), nil},
		{"GET", "sys/in-flight-req", onDR, (*Core).inFlightRequests, nil},
		{"GET", "sys/ha-status", onDR, (*Core).haStatus, nil},
		{"GET", "sys/host-info", onDR, (*Core).hostInfo, nil},
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

		{"POST", "sys/wrapping/wrap", 0, (*Core).wrap, nil},
		{"POST GET", "sys/wrapping/lookup", open, in((*Core).wrapLookup), nil},
		{"POST", "sys/wrapping/unwrap", open, in((*Core).unwrap), nil},
		{"POST", "sys/wrapping/rewrap", open, in((*Core).rewrap), nil},

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

		{"GET", rep + "status", open | onDR | early, (*Core).statusAll, nil},
		{"GET", rep + "performance/status", open | onDR | early, statusOf(performance), nil},
		{"GET", rep + "dr/status", open | onDR | early, statusOf(dr), nil},
		{"POST", rep + "recover", onDR, (*Core).recoverSet, nil},
		{"POST", rep + "reindex", onDR | sudo, in((*Core).reindex), nil},
		{"POST", rep + "merkle-check", onDR, (*Core).merkleCheck, nil},

		{"GET LIST", rep + "divergence", 0, (*Core).listDivergence, nil},
		{"POST", rep + "divergence/replay", sudo, in((*Core).replayChanges), nil},
		{"GET", rep + "divergence/*/export", sudo, in((*Core).exportDivergence), nil},
		{"POST", rep + "divergence/*/replay", sudo, (*Core).replayDivergence, nil},
		{"GET", rep + "divergence/*", 0, in((*Core).showDivergence), nil},
		{"DELETE", rep + "divergence/*", sudo, in((*Core).discardDivergence), nil},

		{"GET", operation + "attempt", ceremony | onDR, generateProgress(operationToken), nil},
		{"POST", operation + "attempt", ceremony | onDR, in(generateBegin(operationToken)), nil},
		{"DELETE", operation + "attempt", ceremony | onDR, generateCancel(operationToken), nil},
		{"POST", operation + "update", ceremony | onDR, in(generateUpdate(operationToken)), nil},

		{"POST", rep + "performance/primary/enable", 0, in(enablePrimary(performance, false)), nil},
		{"POST", rep + "performance/primary/secondary-token", sudo, in(secondaryToken(performance)), nil},
		{"POST", rep + "performance/primary/revoke-secondary", 0, in(revokeSecondary(performance)), nil},
		{"POST", rep + "performance/primary/demote", 0, in(demotePrimary(performance, false)), nil},
		{"POST", rep + "performance/primary/rotate-ca", sudo, changeRole(performance, false, rotateCA), nil},
		{"POST", rep + "performance/primary/disable", 0, changeRole(performance, false, disablePrimary), nil},
		{"GET", rep + "performance/primary/synchronous", 0, readSynchronous(performance), nil},
		{"POST", rep + "performance/primary/synchronous", sudo, in(setSynchronous(performance)), nil},
		{"POST", rep + "performance/secondary/generate-public-key", 0, generatePublicKey(performance), nil},
		{"POST", rep + "performance/secondary/promote", 0, in(promoteSecondary(false)), nil},
		{"GET", rep + "performance/secondary/promote/preflight", open | onDR, promotePreflight(performance), nil},
		{"POST", rep + "performance/secondary/disable", 0, changeRole(performance, false, disableSecondary), nil},
		{"POST", rep + "performance/secondary/update-primary", 0, in(updatePrimary(false)), nil},
		{"GET", rep + "performance/primary/paths-filter/*", 0, (*Core).readPathsFilter, nil},
		{"POST", rep + "performance/primary/paths-filter/*", 0, in((*Core).setPathsFilter), nil},
		{"DELETE", rep + "performance/primary/paths-filter/*", 0, (*Core).deletePathsFilter, nil},
		{"GET", rep + "performance/primary/dynamic-filter/*", 0, (*Core).dynamicFilter, nil},
		{"GET", rep + "performance/secondary/dynamic-filter/*", 0, (*Core).ownDynamicFilter, nil},
		{"GET LIST POST DELETE", rep + "performance/primary/mount-filter/*", 0, (*Core).mountFilter, nil},
		{"POST", rep + "performance/secondary/enable", onRevoked, in(enableSecondary(performance, false)), nil},
		{"POST", rep + "dr/primary/enable", 0, in(enablePrimary(dr, false)), nil},
		{"POST", rep + "dr/primary/secondary-token", sudo, in(secondaryToken(dr)), nil},
		{"POST", rep + "dr/primary/revoke-secondary", 0, in(revokeSecondary(dr)), nil},
		{"POST", rep + "dr/primary/demote", 0, in(demotePrimary(dr, false)), nil},
		{"POST", rep + "dr/primary/rotate-ca", sudo, changeRole(dr, false, rotateCA), nil},
		{"POST", rep + "dr/primary/disable", 0, changeRole(dr, false, disablePrimary), nil},
		{"GET", rep + "dr/primary/synchronous", 0, readSynchronous(dr), nil},
		{"POST", rep + "dr/primary/synchronous", sudo, in(setSynchronous(dr)), nil},
		{"POST", rep + "dr/secondary/generate-public-key", onDR, generatePublicKey(dr), nil},
		{"POST", rep + "dr/secondary/promote", open | onDR, drCall((*Core).promoteDR), nil},
		{"GET", rep + "dr/secondary/promote/preflight", open | onDR, promotePreflight(dr), nil},
		{"POST", rep + "dr/secondary/update-primary", open | onDR, drCall((*Core).updatePrimaryDR), nil},
		{"POST", rep + "dr/secondary/disable", open | onDR, drCall((*Core).disableDR), nil},
		{"POST", rep + "dr/secondary/recover", open | onDR, drCall((*Core).recoverDR), nil},
		{"POST", rep + "dr/secondary/reindex", open | onDR, drCall((*Core).reindexDR), nil},
		{"POST", rep + "dr/secondary/merkle-check", open | onDR, drCall((*Core).merkleCheckDR), nil},
		{"POST", rep + "dr/secondary/operation-token/delete", open | onDR, drCall((*Core).deleteDROperation), nil},
		{"POST", rep + "dr/secondary/divergence", open | onDR, drCall((*Core).listDivergenceDR), nil},
		{"POST", rep + "dr/secondary/divergence/*/export", open | onDR, drCall((*Core).exportDivergenceDR), nil},
		{"POST", rep + "dr/secondary/divergence/*/discard", open | onDR, drCall((*Core).discardDivergenceDR), nil},
		{"POST", rep + "dr/secondary/divergence/*", open | onDR, drCall((*Core).showDivergenceDR), nil},
		{"GET", rep + "dr/secondary/license/status", open | onDR, (*Core).licenseStatus, nil},
		{"POST", rep + "dr/secondary/enable", onRevoked, in(enableSecondary(dr, false)), nil},

		{"POST", legacy + "primary/enable", 0, in(enablePrimary(performance, true)), nil},
		{"GET POST", legacy + "primary/secondary-token", sudo, in(secondaryToken(performance)), nil},
		{"POST", legacy + "primary/revoke-secondary", 0, in(revokeSecondary(performance)), nil},
		{"POST", legacy + "secondary/revoke-secondary", 0, in(revokeSecondary(performance)), nil},
		{"POST", legacy + "primary/demote", 0, in(demotePrimary(performance, true)), nil},
		{"POST", legacy + "primary/disable", 0, changeRole(performance, true, disablePrimary), nil},
		{"POST", legacy + "secondary/promote", 0, in(promoteSecondary(true)), nil},
		{"POST", legacy + "secondary/disable", 0, changeRole(performance, true, disableSecondary), nil},
		{"POST", legacy + "secondary/update-primary", 0, in(updatePrimary(true)), nil},
		{"POST", legacy + "secondary/enable", onRevoked, in(enableSecondary(performance, true)), nil},
	}
}

// kind is the set that a replication route is about.
func (rt *route) kind() replication.Kind {
	if strings.HasPrefix(rt.path, "sys/replication/dr/") {
		return dr
	}
	return performance
}

const metricsPath = "sys/metrics"

// openMetrics lets sys/metrics be read without a token.
func openMetrics(routes []route) {
	for i := range routes {
		if routes[i].path == metricsPath {
			routes[i].flags |= open
		}
	}
}

// in makes a handler of a function that takes typed parameters. Parameters that it does not know are named in a warning.
func in[P any](run func(c *Core, r *request, p *P) (*reply, error)) handler {
	return func(c *Core, r *request) (*reply, error) {
		p, unknown, err := params[P](r)
		if err != nil {
			return nil, err
		}
		rep, err := run(c, r, p)
		if rep != nil && len(unknown) > 0 && (r.op == opWrite || r.op == opPatch) {
			rep.warn("these parameters are not known here and were ignored: " + strings.Join(unknown, ", "))
		}
		return rep, err
	}
}

func params[P any](r *request) (p *P, unknown []string, err error) {
	f, err := r.fields()
	if err != nil {
		return nil, nil, err
	}
	p = new(P)
	unknown, err = f.decode(p)
	return p, unknown, err
}

// ownPath tells whether a path is the API's own, not one below a mount.
func ownPath(path string) bool {
	return strings.HasPrefix(path, "sys/") || strings.HasPrefix(path, "auth/")
}

// findRoute returns the route of a path and what its '*' stands for. known says that the path exists, if only for other methods.
// Paths of mounts are not looked for in the table.
func (c *Core) findRoute(op operation, path string) (rt *route, rest string, known bool) {
	if !ownPath(path) {
		return nil, "", false
	}
	path = strings.TrimSuffix(path, "/")
	for i := range c.routes {
		rest, ok := matchRoute(c.routes[i].path, path)
		if !ok {
			continue
		}
		known = true
		if c.routes[i].accepts(op) {
			return &c.routes[i], rest, true
		}
	}
	return nil, "", known
}

func (rt *route) accepts(op operation) bool {
	for method := range strings.FieldsSeq(rt.methods) {
		if methodOps[method] == op {
			return true
		}
	}
	return false
}

var methodOps = map[string]operation{"GET": opRead, "LIST": opList, "POST": opWrite, "DELETE": opDelete, "PATCH": opPatch}

func matchRoute(pattern, path string) (rest string, ok bool) {
	before, after, wild := strings.Cut(pattern, "*")
	if !wild {
		return "", pattern == path
	}
	rest, ok = strings.CutPrefix(path, before)
	if !ok {
		return "", false
	}
	rest, ok = strings.CutSuffix(rest, after)
	return rest, ok && rest != ""
}
