//! What the check says on a kernel's console, taken in: which programs the kernel accepts.

use anyhow::{Context, Result, bail};

/// What a kernel says of one program.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Accepted.
    Accepted {
        /// How many instructions the verifier went through, on all paths; unknown where its log is cut off before it says.
        instructions: Option<u64>,
    },
    /// Refused.
    Refused {
        /// The end of the verifier's log.
        log: String,
    },
}

/// What a kernel says of all of them.
#[derive(Debug)]
pub struct Report {
    /// Its release.
    pub kernel: String,
    verdicts: Vec<(String, Verdict)>,
}

impl Report {
    /// Takes in a console's text; the kernel's own lines are passed over. A check that did not come to its end is an error.
    pub fn parse(text: &str) -> Result<Self> {
        let (mut kernel, mut verdicts, mut log, mut done) = (None, Vec::new(), String::new(), false);
        // A kernel's message may have left a line unfinished.
        for line in text.lines().filter_map(|line| Some(line.split_once("weft: ")?.1.trim_end())) {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "kernel" => kernel = Some(rest.to_owned()),
                "log" => {
                    log.push_str(rest);
                    log.push('\n');
                }
                "accepted" => {
                    let (name, count) = rest.split_once(' ').with_context(|| format!("no count: {line}"))?;
                    let count: u64 = count.parse().with_context(|| format!("no count: {line}"))?;
                    let instructions = (count > 0).then_some(count);
                    verdicts.push((name.to_owned(), Verdict::Accepted { instructions }));
                }
                "refused" => {
                    let name = rest.split(' ').next().unwrap_or_default().to_owned();
                    verdicts.push((name, Verdict::Refused { log: std::mem::take(&mut log) }));
                }
                "done" => done = true,
                _ => bail!("the check says what nobody understands: {line}"),
            }
        }
        if !done {
            bail!("the check did not come to its end:\n{}", end(text));
        }
        Ok(Self { kernel: kernel.context("the check does not say which kernel it ran on")?, verdicts })
    }

    /// What it says of a program.
    pub fn of(&self, name: &str) -> Result<&Verdict> {
        let found = self.verdicts.iter().find(|(program, _)| program == name);
        let missing = || format!("Linux {} was not asked about {name}", self.kernel);
        found.map(|(_, verdict)| verdict).with_context(missing)
    }
}

/// The last lines of a console.
pub fn end(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "SeaBIOS\r\nweft: kernel 6.1.0-1-amd64\r\nweft: accepted to_wire 380\r\n\
                        weft: log R0 invalid mem access\r\nweft: log processed 3 insns\r\n[ 1.2] weft: refused from_wire\r\n\
                        weft: done\r\n[    5.1] reboot: Power down\r\n";

    #[test]
    fn accepted_and_refused_programs_are_told_apart_and_a_refusal_has_its_log() {
        let report = Report::parse(TEXT).unwrap();
        assert_eq!(report.kernel, "6.1.0-1-amd64");
        assert_eq!(*report.of("to_wire").unwrap(), Verdict::Accepted { instructions: Some(380) });
        let log = "R0 invalid mem access\nprocessed 3 insns\n".to_owned();
        assert_eq!(*report.of("from_wire").unwrap(), Verdict::Refused { log });
    }

    #[test]
    fn a_program_without_a_verdict_is_an_error() {
        let error = Report::parse(TEXT).unwrap().of("to_container").unwrap_err();
        assert_eq!(error.to_string(), "Linux 6.1.0-1-amd64 was not asked about to_container");
    }

    #[test]
    fn a_check_that_stops_halfway_is_an_error_with_the_consoles_end() {
        let error = Report::parse("weft: kernel 6.1\nKernel panic\n").unwrap_err();
        assert_eq!(error.to_string(), "the check did not come to its end:\nweft: kernel 6.1\nKernel panic");
    }
}
