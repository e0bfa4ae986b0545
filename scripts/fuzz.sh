#!/bin/sh
# Runs every fuzz target of both modules for the given time each (10s).
# Minimising an interesting input is cut short: it would use up a short run.
set -eu
cd "$(dirname "$0")/.."
GO=${GO:-go}
each=${1:-10s}
targets=0
out=$(mktemp)
trap 'rm -f "$out"' EXIT

# fuzz runs one target. Go's engine sometimes reports its own time limit as a
# failure; what it finds it always writes to a file, and says so.
fuzz() {
	if (cd "$1" && $GO test -run '^$' -fuzz "^$3\$" -fuzztime "$each" -fuzzminimizetime 20x -timeout 10m "$2") >"$out" 2>&1; then
		grep '^fuzz: elapsed' "$out" | tail -n 1
		return 0
	fi
	cat "$out"
	grep -q '^ *context deadline exceeded$' "$out" && ! grep -q -e 'Failing input' -e 'panic' -e 'race detected' "$out"
}

for module in . test; do
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
