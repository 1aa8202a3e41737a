//! Turns the protocol's `.proto` file into Rust, without `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let proto = "proto/kerbside/link/v1/link.proto";
    println!("cargo:rerun-if-changed={proto}");
    let files = protox::compile([proto], ["proto"])?;
    tonic_prost_build::configure()
        // Payloads are passed on, not looked into: shared buffers instead of copies.
        .bytes(".kerbside.link.v1")
        // Equal messages have equal bytes.
        .btree_map(".kerbside.link.v1")
        // Channels are made in `client::connect`, over connections whose TLS is ours.
        .build_transport(false)
        .codec_path("crate::codec::SmallCodec")
        .emit_rerun_if_changed(false)
        .compile_fds(files)?;
    Ok(())
}
