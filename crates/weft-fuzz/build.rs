//! Compiles the answerers of the fast path (`bpf/discovery.h`) for this machine, with clang, which weft's build needs anyway.

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
    process::Command,
};

fn main() -> Result<(), Box<dyn Error>> {
    let source = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("src/discovery.c");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed={}", source.display());
    println!("cargo::rerun-if-changed={}", source.with_file_name("../../../bpf").display());
    println!("cargo::rerun-if-env-changed=CLANG");
    let mut compile = Command::new(env::var("CLANG").unwrap_or_else(|_| "clang".to_owned()));
    compile.args(["-O1", "-g", "-fPIC", "-Wall", "-Wno-address-of-packed-member", "-Wno-unused", "-c"]);
    if env::var_os("CARGO_CFG_FUZZING").is_some() {
        // What cargo-fuzz has rustc put into the other functions.
        compile.arg("-fsanitize-coverage=inline-8bit-counters,pc-table,trace-cmp");
    }
    run(compile.arg(&source).arg("-o").arg(out.join("discovery.o")))?;
    run(Command::new("ar").arg("crs").arg(out.join("libdiscovery.a")).arg(out.join("discovery.o")))?;
    println!("cargo::rustc-link-search=native={}", out.display());
    println!("cargo::rustc-link-lib=static=discovery");
    Ok(())
}

fn run(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let status = command.status().map_err(|error| format!("{command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}
