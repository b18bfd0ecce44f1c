//! Compiles the fault shim against the very headers of the RocksDB that is linked.

fn main() {
    let rocksdb = std::env::var("DEP_ROCKSDB_CARGO_MANIFEST_DIR").expect("librocksdb-sys is a direct dependency");
    println!("cargo::rustc-check-cfg=cfg(tokio_unstable)");
    println!("cargo:rerun-if-changed=src/fault.cc");
    cc::Build::new()
        .cpp(true)
        .file("src/fault.cc")
        .include(format!("{rocksdb}/rocksdb"))
        .include(format!("{rocksdb}/rocksdb/include"))
        .include(&rocksdb)
        .flag("-std=c++20")
        .flag("-include")
        .flag("cstdint")
        .flag("-Wno-unused-parameter")
        // The defines of librocksdb-sys that change the layout of classes; NDEBUG adds fields when it is missing.
        .define("NDEBUG", "1")
        .define("OS_LINUX", None)
        .define("ROCKSDB_PLATFORM_POSIX", None)
        .define("ROCKSDB_LIB_IO_POSIX", None)
        .define("HAVE_ALIGNED_NEW", None)
        .define("HAVE_UINT128_EXTENSION", None)
        .opt_level(1)
        .debug(false)
        .compile("chaosfault");
}
