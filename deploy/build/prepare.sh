#!/usr/bin/env bash
# Makes a bare Debian 12 with Rust ready to build hsraft, and prints the environment Cargo needs as `export` lines.
#
#   eval "$(deploy/build/prepare.sh)"
#
# Installs what is missing (g++, libclang, make) with apt-get, through sudo when not root, and compiles RocksDB once
# into a cache outside the target folder: every profile and every target folder would compile it again otherwise.
# Everything it does is told on standard error; running it again costs nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { printf 'hsraft: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

command -v cargo >/dev/null || die "Rust is missing. Install it (Debian's rustup package, or your mirror of rustup), then run this again."

have_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    ls /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so* >/dev/null 2>&1
}
missing=()
command -v g++ >/dev/null || missing+=(g++)
command -v make >/dev/null || missing+=(make)
command -v flock >/dev/null || missing+=(util-linux)
# bindgen reads RocksDB's header with libclang; clang's own headers come along.
have_libclang || missing+=(libclang-dev)
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || die "please install: ${missing[*]} (this system has no apt-get)"
    sudo=""
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "please install as root: apt-get install ${missing[*]}"
        sudo=sudo
    fi
    say "installing ${missing[*]}"
    $sudo apt-get update -q >&2
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
fi

# The version in Cargo.lock decides which RocksDB; a new one gets a folder of its own.
version=$(awk '/^name = "librocksdb-sys"$/ { getline; gsub(/version = |"/, ""); print; exit }' Cargo.lock)
[ -n "$version" ] || die "Cargo.lock does not name librocksdb-sys; is the checkout complete?"

writable() { mkdir -p "$1" 2>/dev/null && [ -w "$1" ]; }
cache=${HSRAFT_CACHE:-${XDG_CACHE_HOME:-${HOME:-/nowhere}/.cache}/hsraft}
writable "$cache" || cache=$PWD/target/cache
writable "$cache" || die "no folder to build RocksDB in; set HSRAFT_CACHE to one that can be written"

lib=$cache/rocksdb-$version/lib
if [ ! -s "$lib/librocksdb.a" ]; then
    exec 9>"$cache/rocksdb.lock"
    flock 9
fi
if [ ! -s "$lib/librocksdb.a" ]; then
    build=$cache/rocksdb-$version/build
    say "compiling RocksDB once (librocksdb-sys $version; about 10 minutes on 2 cores) into $lib"
    mkdir -p "$build/src" "$lib"
    cat >"$build/Cargo.toml" <<TOML
[package]
name = "rocksdb-once"
version = "0.0.0"
edition = "2024"
publish = false
[workspace]
[dependencies]
librocksdb-sys = { version = "=${version%%+*}", default-features = false, features = ["bindgen-runtime"] }
[profile.release]
opt-level = 3
debug = false
TOML
    : >"$build/src/lib.rs"
    # Its own target folder and no inherited settings: what is built must not depend on who builds.
    (cd "$build" && env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC -u RUSTFLAGS CARGO_TARGET_DIR="$build/target" \
        cargo build --release --quiet >&2) || die "RocksDB did not compile; the lines above say why"
    built=$(ls -t "$build"/target/release/build/librocksdb-sys-*/out/librocksdb.a | head -n 1)
    cp "$built" "$lib/librocksdb.a.tmp"
    mv "$lib/librocksdb.a.tmp" "$lib/librocksdb.a"
    rm -rf "$build"
fi

printf 'export ROCKSDB_LIB_DIR=%q\n' "$lib"
printf 'export ROCKSDB_STATIC=1\n'
