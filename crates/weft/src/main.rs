//! The weft command: see the library beside it.

fn main() -> std::process::ExitCode {
    weft::run()
}
