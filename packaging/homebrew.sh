#!/usr/bin/env bash
# Prints the Homebrew formula of a release: packaging/homebrew.sh SHA256SUMS
# For a tap, as Formula/cbroker.rb.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 SHA256SUMS" >&2; exit 2; }
sums=$1
version=$(sed -n 's/^.*  cbroker-\(.*\)-x86_64-apple-darwin\.tar\.gz$/\1/p' "$sums")
[ -n "$version" ] || { echo "$sums has no archive for macOS" >&2; exit 1; }

# block TARGET: the archive of a platform and its sum.
block() {
    local name=cbroker-$version-$1.tar.gz sum
    sum=$(awk -v name="$name" '$2 == name { print $1 }' "$sums")
    [ -n "$sum" ] || { echo "$sums has no $name" >&2; return 1; }
    echo "      url \"https://github.com/cbroker/cbroker/releases/download/v$version/$name\""
    echo "      sha256 \"$sum\""
}

# Each first, so that a missing one ends the script.
mac_arm=$(block aarch64-apple-darwin)
mac_intel=$(block x86_64-apple-darwin)
linux_arm=$(block aarch64-unknown-linux-musl)
linux_intel=$(block x86_64-unknown-linux-musl)
cat <<END
class Cbroker < Formula
  desc "Messages between terminal coding agents"
  homepage "https://github.com/cbroker/cbroker"
  version "$version"
  license "MIT"

  on_macos do
    on_arm do
$mac_arm
    end
    on_intel do
$mac_intel
    end
  end
  on_linux do
    on_arm do
$linux_arm
    end
    on_intel do
$linux_intel
    end
  end

  def install
    bin.install "bin/cbroker"
    man1.install "share/man/man1/cbroker.1"
    bash_completion.install "share/bash-completion/completions/cbroker"
    zsh_completion.install "share/zsh/site-functions/_cbroker"
    fish_completion.install "share/fish/vendor_completions.d/cbroker.fish"
  end

  service do
    run [opt_bin/"cbroker", "serve"]
    keep_alive crashed: true
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/cbroker --version")
    system bin/"cbroker", "demo"
  end
end
END
