//! Turns the protocols that the agent speaks in the car into Rust clients, without `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let protos = [
        "proto/runtime/v1/api.proto",
        "proto/grpc/health/v1/health.proto",
        "proto/kuksa/val/v2/val.proto",
    ];
    for proto in protos {
        println!("cargo:rerun-if-changed={proto}");
    }
    for proto in protos {
        let files = protox::compile([proto], ["proto"])?;
        tonic_prost_build::configure()
            // Tests are the other side; that of a databroker is a crate of its own.
            .build_server(proto.contains("health"))
            // Equal messages have equal bytes.
            .btree_map(".runtime.v1")
            // Channels are made where they are used: over a Unix socket, and over a connection into a Pod's network.
            .build_transport(false)
            .emit_rerun_if_changed(false)
            .compile_fds(files)?;
    }
    Ok(())
}
