#!/bin/sh
# Generates proto/replicationpb from proto/*.proto with the tools pinned in
# tools/go.mod. With -check it generates beside and compares, changing nothing.
set -eu
cd "$(dirname "$0")/.."

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
go tool -modfile=tools/go.mod buf generate proto --template proto/buf.gen.yaml -o "$tmp"

if [ "${1-}" = -check ]; then
	if ! diff -ru "$tmp/proto/replicationpb" proto/replicationpb; then
		echo "generated code is out of date: run 'make generate' and commit what it changes" >&2
		exit 1
	fi
	exit 0
fi
rm -f proto/replicationpb/*.pb.go
cp "$tmp"/proto/replicationpb/*.pb.go proto/replicationpb/
echo "generated: $(cd proto/replicationpb && ls ./*.pb.go | xargs)"
