//! Compiles the proto file with a compiler written in Rust: no protoc on the build machine.
fn main() {
    println!("cargo:rerun-if-changed=proto/peers.proto");
    let files = protox::compile(["proto/peers.proto"], ["proto"]).expect("proto/peers.proto compiles");
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .compile_fds(files)
        .expect("code for proto/peers.proto is generated");
}
