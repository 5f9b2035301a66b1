//! `weft completions`: what makes a shell finish weft's commands.

use crate::{cli::Cli, exit::Failure, output};
use clap::CommandFactory;
use clap_complete::Shell;

/// `weft completions SHELL`
pub fn run(shell: Shell) -> Result<(), Failure> {
    output::print(&script(shell))
}

fn script(shell: Shell) -> String {
    // By way of memory: clap_complete panics when its writer fails, as stdout does for `| head`.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "weft", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_shell_gets_a_script_that_knows_the_commands_and_the_flags() {
        for shell in Shell::value_variants() {
            let script = script(*shell);
            for word in ["network", "inspect", "completions", "cluster-store", "netns"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
