#!/bin/sh
# Generates proto/replicationpb from proto/*.proto with the tools pinned in
# tools/go.mod. With -check it generates beside and compares, changing nothing.
set -eu
cd "$(dirname "$0")/.."

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p .cache/tools
go build -modfile=tools/go.mod -o .cache/tools/ github.com/bufbuild/buf/cmd/buf \
	google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
PATH="$PWD/.cache/tools:$PATH"
(cd proto && buf lint && buf generate -o "$tmp")

if [ "${1-}" = -check ]; then
	mkdir -p "$tmp/have"
	cp proto/replicationpb/*.pb.go "$tmp/have/"
	if ! diff -ru "$tmp/have" "$tmp/replicationpb"; then
		echo "generated code is out of date: run 'make generate' and commit what it changes" >&2
		exit 1
	fi
	go run scripts/formats.go -check
	exit 0
fi
rm -f proto/replicationpb/*.pb.go
cp "$tmp"/replicationpb/*.pb.go proto/replicationpb/
go run scripts/formats.go
echo "generated: $(cd proto/replicationpb && ls ./*.pb.go | xargs)"
