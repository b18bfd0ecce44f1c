//! Compiles the proto file with a compiler written in Rust, and keeps its description for gRPC reflection.
#![expect(clippy::disallowed_methods, reason = "a build script has no world")]

use prost::Message;

fn main() {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["headscale/v1/headscale.proto"], ["proto"]).expect("the proto file compiles");
    let folder = std::env::var_os("OUT_DIR").expect("cargo names the folder");
    let description = std::path::Path::new(&folder).join("headscale.bin");
    std::fs::write(description, files.encode_to_vec()).expect("the description is written");
    tonic_prost_build::configure()
        .build_client(true)
        .build_transport(false)
        .compile_fds(files)
        .expect("code for the proto file is generated");
}
