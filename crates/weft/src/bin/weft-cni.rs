//! The CNI plugin: see [`weft_engines::cni`].

fn main() -> std::process::ExitCode {
    weft_engines::cni::main()
}
