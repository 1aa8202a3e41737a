//! Turns what is read of a car's telemetry into Rust, without `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let (root, proto) = ("proto", "proto/telemetry.proto");
    println!("cargo:rerun-if-changed={proto}");
    let files = protox::compile([proto], [root])?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        .emit_rerun_if_changed(false)
        .compile_fds(files)?;
    Ok(())
}
