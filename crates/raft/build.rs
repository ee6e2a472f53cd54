//! Compiles the peer protocol without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto/raft.proto");
    let descriptors = protox::compile(["raft.proto"], ["../../proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        // Entries and records are opaque here, and stay out of every log line.
        .skip_debug([
            "quorate.raft.v1.AppendRequest",
            "quorate.raft.v1.SnapshotChunk",
            "quorate.raft.v1.SnapshotChunk.part",
        ])
        .compile_fds(descriptors)?;
    Ok(())
}
