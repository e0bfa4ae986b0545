package replication

import (
	"fmt"
	"strconv"
	"strings"
)

// parseVersion reads major and minor of a version like v1.4.2-dev+build.
func parseVersion(v string) (major, minor int, ok bool) {
	v = strings.TrimPrefix(v, "v")
	if i := strings.IndexAny(v, "-+"); i >= 0 {
		v = v[:i]
	}
	parts := strings.Split(v, ".")
	if len(parts) < 2 || len(parts) > 3 {
		return 0, 0, false
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	return major, minor, err1 == nil && err2 == nil && major >= 0 && minor >= 0
}

// versionsFit returns "" when a secondary of one version may follow a primary of another, else the sentence that says what to do: a secondary is never
// older than its primary, and at most one release (minor version) newer. Patch releases do not count.
func versionsFit(primary, secondary string) string {
	pMajor, pMinor, ok1 := parseVersion(primary)
	sMajor, sMinor, ok2 := parseVersion(secondary)
	switch {
	case !ok1 || !ok2:
		return fmt.Sprintf("the versions of primary (%.64q) and secondary (%.64q) cannot be compared", primary, secondary)
	case sMajor < pMajor || (sMajor == pMajor && sMinor < pMinor):
		return fmt.Sprintf("the secondary has version %s, older than the primary's %s: upgrade the secondary first", secondary, primary)
	case sMajor != pMajor || sMinor > pMinor+1:
		return fmt.Sprintf("the secondary has version %s, more than one release after the primary's %s: upgrade the primary first", secondary, primary)
	}
	return ""
}
