#!/bin/sh
# The race detector needs cgo, and cgo a C compiler: say so in one sentence
# instead of letting the linker say it in fifty.
cc=${CC:-$(go env CC)}
command -v "${cc%% *}" >/dev/null 2>&1 && exit 0
echo "missing: a C compiler, which 'go test -race' needs. Install it with:" >&2
case "$(uname -s)" in
Darwin) echo "    xcode-select --install" >&2 ;;
*)
	if command -v dnf >/dev/null 2>&1; then
		echo "    sudo dnf install -y gcc" >&2
	elif command -v apt-get >/dev/null 2>&1; then
		echo "    sudo apt-get update && sudo apt-get install -y gcc libc6-dev" >&2
	else
		echo "    your system's package of gcc or clang, with the C library's headers" >&2
	fi
	;;
esac
exit 1
