#!/bin/sh
# Runs every fuzz target of all modules for the given time each (10s).
# Minimising an interesting input is cut short: it would use up a short run.
set -eu
cd "$(dirname "$0")/.."
GO=${GO:-go}
each=${1:-10s}
targets=0
out=$(mktemp)
trap 'rm -f "$out"' EXIT

# fuzz runs one target. Before Go 1.27 the engine now and then reports the end
# of -fuzztime as a failure of the target, "context deadline exceeded", when its
# workers have not heard of it yet (go.dev/issue/75804). That, alone and with no
# input written to testdata, is no finding; anything beside it is.
fuzz() {
	before=$(written "$1" "$2" "$3")
	if (cd "$1" && $GO test -run '^$' -fuzz "^$3\$" -fuzztime "$each" -fuzzminimizetime 20x -timeout 10m "$2") >"$out" 2>&1; then
		grep '^fuzz: elapsed' "$out" | tail -n 1
		return 0
	fi
	cat "$out"
	[ "$before" = "$(written "$1" "$2" "$3")" ] && at_its_end "$3"
}

# written lists the failing inputs of a target that lie in testdata.
written() {
	ls "$(cd "$1" && $GO list -f '{{.Dir}}' "$2")/testdata/fuzz/$3" 2>/dev/null || true
}

# at_its_end tells whether the engine's own deadline is all that the output holds against the target.
at_its_end() {
	awk -v target="$1" '
		/^--- FAIL: / { fails++; ours = $3 == target; next }
		ours && /^ *context deadline exceeded$/ { deadline++; next }
		/^(fuzz|FAIL|exit status|ok)/ || /^$/ { next }
		{ other++ }
		END { exit !(fails == 1 && deadline == 1 && !other) }' "$out"
}

for module in . test bench; do
	for pkg in $(cd $module && $GO list ./...); do
		for target in $(cd $module && $GO test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
			echo "fuzz: $pkg $target for $each"
			fuzz "$module" "$pkg" "$target"
			targets=$((targets + 1))
		done
	done
done
echo "fuzz: $targets targets, $each each, nothing found"
[ "$targets" -gt 0 ]
