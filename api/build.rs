//! proto/*.proto → Rust, by protox: no protoc is needed. Maps are ordered, so that what is made of them is too.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = ["csi", "registration", "ringpv"].map(|name| format!("proto/{name}.proto"));
    let files = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .btree_map(".")
        .compile_fds(files)?;
    Ok(())
}
