//! Compiles the fast path's programs (`bpf/*.c`) with clang. They are built into the crate: a host needs no compiler.

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
    process::Command,
};

/// One object file each, named after its program.
const PROGRAMS: [&str; 4] = ["from_container", "to_wire", "from_wire", "to_container"];

/// What the programs are compiled with. The third version of the instruction set is what every kernel has that can
/// attach them (tcx: Linux 6.6); packed headers are taken apart field by field, so addresses of their fields are fine.
const FLAGS: [&str; 8] =
    ["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror", "-Wno-address-of-packed-member"];

fn main() -> Result<(), Box<dyn Error>> {
    let sources = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../bpf");
    let objects = PathBuf::from(env::var("OUT_DIR")?);
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    println!("cargo::rerun-if-changed={}", sources.display());
    println!("cargo::rerun-if-env-changed=CLANG");
    for program in PROGRAMS {
        let source = sources.join(format!("{program}.c"));
        let mut command = Command::new(&clang);
        command.args(FLAGS).arg("-c").arg(&source).arg("-o").arg(objects.join(format!("{program}.o")));
        let compiled = command.status().map_err(|error| {
            format!("the fast path's programs need {clang} to be built (Debian: apt install clang): {error}")
        })?;
        if !compiled.success() {
            return Err(format!("{} does not compile: see above", source.display()).into());
        }
    }
    Ok(())
}
