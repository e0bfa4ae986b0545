#!/bin/sh
# Runs every fuzz target of both modules for the given time each (10s).
# Minimising an interesting input is cut short: it would use up a short run.
set -eu
cd "$(dirname "$0")/.."
GO=${GO:-go}
each=${1:-10s}
targets=0

for module in . test; do
	for pkg in $(cd $module && $GO list ./...); do
		for target in $(cd $module && $GO test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
			echo "fuzz: $pkg $target for $each"
			(cd $module && $GO test -run '^$' -fuzz "^$target\$" -fuzztime "$each" -fuzzminimizetime 20x -timeout 10m "$pkg")
			targets=$((targets + 1))
		done
	done
done
echo "fuzz: $targets targets, $each each, nothing found"
[ "$targets" -gt 0 ]
