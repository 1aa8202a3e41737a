//! Turns the databroker's protocol into Rust, both sides, without `protoc`. The agent's crate has the file: it is the one that ships.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let (root, proto) = (
        "../vehicle-agent/proto",
        "../vehicle-agent/proto/kuksa/val/v2/val.proto",
    );
    println!("cargo:rerun-if-changed={proto}");
    let files = protox::compile([proto], [root])?;
    tonic_prost_build::configure()
        // Channels are made where they are used.
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .compile_fds(files)?;
    Ok(())
}
