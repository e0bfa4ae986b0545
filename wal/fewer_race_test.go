//go:build race

package wal_test

// fewer returns how many rounds a slow test makes: under the race detector, which makes each much longer, some of them.
func fewer(_, race int) int { return race }
