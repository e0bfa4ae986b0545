//go:build race

package engine_test

// fewer returns how many rounds a slow test makes: under the race detector, which makes each ten times as long, some of them.
func fewer(_, race int) int { return race }
