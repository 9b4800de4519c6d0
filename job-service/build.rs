//! Generates the control protocol between the job service, its agents and its job processes, and what a service stores.
//!
//! `protox` compiles it, so that no machine needs a `protoc`. Beam's own types in it are those of `ferrobeam-proto`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=../proto/beam");
    let mut compiler = protox::Compiler::new(["proto", "../proto/beam"])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_file("ferrobeam/control/v1/control.proto")?;
    compiler.open_file("ferrobeam/store/v1/job.proto")?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .extern_path(".org.apache.beam.model.pipeline.v1", "::ferrobeam_proto::pipeline")
        .emit_rerun_if_changed(false)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
