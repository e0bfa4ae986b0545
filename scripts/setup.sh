#!/bin/sh
# Checks what building needs, says in one sentence what is missing and the
# line that installs it, then downloads modules and builds. Safe to repeat.
set -eu
cd "$(dirname "$0")/.."
GO=${GO:-go}
LOWEST=1.26.0 # the lowest Go that builds this; go.mod says the same

system() {
	case "$(uname -s)" in
	Darwin) echo macos ;;
	*)
		if command -v dnf >/dev/null 2>&1; then
			echo fedora
		elif command -v apt-get >/dev/null 2>&1; then
			echo debian
		else
			echo other
		fi
		;;
	esac
}

# missing TOOL WHY DEBIAN FEDORA MACOS OTHER
missing() {
	echo "missing: $1, $2. Install it with:" >&2
	case "$(system)" in
	debian) echo "    $3" >&2 ;;
	fedora) echo "    $4" >&2 ;;
	macos) echo "    $5" >&2 ;;
	*) echo "    $6" >&2 ;;
	esac
}

# older A B: A is a lower version than B
older() {
	[ "$1" != "$2" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -t. -k1,1n -k2,2n -k3,3n | head -n 1)" = "$1" ]
}

stop=0
echo "1/4 tools"
if ! command -v git >/dev/null 2>&1; then
	missing git "which names the commit that is built" \
		"sudo apt-get update && sudo apt-get install -y git" "sudo dnf install -y git" "xcode-select --install" \
		"your system's package of git"
	stop=1
else
	echo "    $(git --version)"
fi

getgo="see https://go.dev/dl/ for Go $LOWEST or later"
if ! command -v "$GO" >/dev/null 2>&1; then
	missing "Go $LOWEST or later" "which builds everything" \
		"curl -fsSL https://go.dev/dl/go1.26.8.linux-$(uname -m | sed 's/x86_64/amd64/;s/aarch64/arm64/').tar.gz | sudo tar -C /usr/local -xz && export PATH=\$PATH:/usr/local/go/bin" \
		"sudo dnf install -y golang   # if older than $LOWEST: $getgo" "brew install go" "$getgo"
	stop=1
else
	# Outside the module, so that this is the Go installed and not the one go.mod asks for.
	have=$(cd / && GOTOOLCHAIN=local "$GO" env GOVERSION | sed 's/^go//; s/[-+ ].*//; s/rc.*//')
	if older "$have" 1.21; then
		missing "Go $LOWEST or later" "this one is $have and too old to fetch a newer one by itself" \
			"curl -fsSL https://go.dev/dl/go1.26.8.linux-$(uname -m | sed 's/x86_64/amd64/;s/aarch64/arm64/').tar.gz | sudo tar -C /usr/local -xz && export PATH=/usr/local/go/bin:\$PATH" \
			"$getgo" "brew upgrade go" "$getgo"
		stop=1
	elif older "$have" "$LOWEST"; then
		if [ "$("$GO" env GOTOOLCHAIN)" = local ]; then
			missing "Go $LOWEST or later" "this one is $have and GOTOOLCHAIN=local forbids it to fetch a newer one" \
				"go env -w GOTOOLCHAIN=auto" "go env -w GOTOOLCHAIN=auto" "go env -w GOTOOLCHAIN=auto" "go env -w GOTOOLCHAIN=auto"
			stop=1
		else
			echo "    go $have, which downloads Go $LOWEST by itself"
		fi
	else
		echo "    go $have"
	fi
fi

if [ "$stop" = 0 ]; then
	if scripts/need-cc.sh 2>/dev/null; then
		echo "    C compiler: $("$GO" env CC)"
	else
		echo "    no C compiler: building and the demo work without; 'make test' will ask for one"
	fi
fi
[ "$stop" = 0 ] || exit 1

size() { du -sm "$("$GO" env GOMODCACHE)" 2>/dev/null | cut -f1; }
before=$(size)
echo "2/4 modules of the product"
"$GO" mod download
echo "3/4 modules of the tests"
(cd test && "$GO" mod download)
(cd bench && "$GO" mod download)
after=$(size)
echo "    $((${after:-0} - ${before:-0})) MB more in $("$GO" env GOMODCACHE)"

echo "4/4 build"
${MAKE:-make} --no-print-directory build
echo "ready: $(bin/lockstep version 2>/dev/null | head -n 1)"
echo "next:  make demo    three clusters replicate before your eyes"
echo "       make test    the tests"
