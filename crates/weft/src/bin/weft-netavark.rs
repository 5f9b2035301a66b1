//! Podman's network driver, a plugin of netavark's: see [`weft_engines::podman`].

fn main() -> std::process::ExitCode {
    weft_engines::podman::main()
}
